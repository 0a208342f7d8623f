"""What a body says about its prompt: how long it is, how it begins, how long the answer may be."""

from __future__ import annotations

import base64
import json
import random
import tracemalloc
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
from ext_proc_service import CHAT, serving
from hypothesis import example, given
from hypothesis import strategies as st
from json_texts import ANY_TEXTS

from extproc.body import FAST_PATH_MAX_BYTES, BodyReader
from extproc.jsonscan import InvalidJson
from extproc.prompt import MAX_CHUNKS, read_prompt
from extproc.request import CHECKPOINTS, NO_PROMPT, InferenceRequest, Prompt
from extproc.router import Decision, Router

TOOLS = [{"type": "function", "function": {"name": f"tool_{n}", "parameters": {}}} for n in range(20)]
LONG = FAST_PATH_MAX_BYTES + 100_000


def read(*chunks: bytes) -> Prompt:
    return read_with_turns(chunks)[0]


def read_with_turns(chunks: Iterable[bytes]) -> tuple[Prompt, int]:
    """(prompt, how often it gave way).  Raises InvalidJson."""
    reader = BodyReader()
    for chunk in chunks:
        list(reader.feed(chunk))
    list(reader.finish())
    reading, turns = read_prompt(reader), 0
    while True:
        try:
            next(reading)
        except StopIteration as end:
            return end.value, turns
        turns += 1


def prompt(**body: Any) -> Prompt:
    return read(json.dumps(body).encode())


def words(count: int, seed: int = 0) -> str:
    """Text of about *count* tokens, unlike that of other seeds."""
    rng = random.Random(seed)
    return " ".join(f"{rng.getrandbits(12):03x}" for _ in range(count))


def chat(*turns: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(turns)]


def image(size: int, seed: int = 0) -> str:
    return base64.b64encode(random.Random(seed).randbytes(size)).decode()


def url(data: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}


def claude_image(data: str) -> dict[str, Any]:
    return {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": data}}


def audio(data: str) -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}


def shared_tokens(one: Prompt, other: Prompt) -> int:
    """How long their common beginning is."""
    equal = [a == b for a, b in zip(one.prefix, other.prefix, strict=False)]
    count = equal.index(False) if False in equal else len(equal)
    assert not any(equal[count:]), "after the place where two prompts part, nothing is equal"
    return CHECKPOINTS[count - 1] if count else 0


def hashes(tokens: int) -> int:
    """How many checkpoints so many tokens have."""
    return sum(checkpoint <= tokens for checkpoint in CHECKPOINTS)


def test_what_is_known_of_a_chat() -> None:
    known = prompt(model="qwq", messages=chat("x" * 1200), max_tokens=7)
    assert (known.tokens, len(known.prefix), known.max_output_tokens) == (307, 4, 7)
    assert len(set(known.prefix)) == 4
    assert all(0 <= each < 2**64 for each in known.prefix)


# -- what each API says -------------------------------------------------------------------------------------

TEXT = "x" * 4000
IDS = list(range(10_000, 11_000))
APIS = [
    ({"messages": chat(TEXT)}, 1008),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": TEXT}]}]}, 1014),
    ({"prompt": TEXT}, 1000),
    ({"prompt": [TEXT]}, 1000),
    ({"prompt": [TEXT, TEXT]}, 2001),
    ({"prompt": IDS}, 1000),
    ({"prompt": [IDS]}, 1000),
    ({"prompt": [IDS, IDS]}, 2000),
    ({"token_ids": IDS, "sampling_params": {}}, 1000),
    ({"input": TEXT}, 1000),
    ({"input": [TEXT, TEXT]}, 2001),
    ({"input": chat(TEXT)}, 1008),
    ({"instructions": TEXT, "input": TEXT}, 2000),
    ({"prompt": {"id": "pmpt_1"}, "input": TEXT}, 1000),
    ({"system": TEXT, "messages": chat(TEXT)}, 2009),
    ({"system": None, "tools": None, "messages": chat(TEXT)}, 1008),
    ({"tools": [{"x": TEXT}], "messages": chat(TEXT)}, 2011),
    ({"functions": [{"x": TEXT}], "messages": chat(TEXT)}, 2011),
    ({"documents": [{"x": TEXT}], "messages": chat(TEXT)}, 2011),
    ({"messages": chat(TEXT), "cache_salt": TEXT, "user": TEXT, "response_format": TEXT}, 1008),
]


@pytest.mark.parametrize(("body", "tokens"), APIS)
def test_a_prompt_is_as_long_as_the_text_that_counts(body: dict[str, Any], tokens: int) -> None:
    known = prompt(model="m", **body)
    assert abs(known.tokens - tokens) <= 1, known.tokens
    assert abs(len(known.prefix) - hashes(tokens)) <= 1
    assert CHECKPOINTS[len(known.prefix) - 1] <= known.tokens


@pytest.mark.parametrize(
    "body",
    [
        {"text_1": TEXT, "text_2": [TEXT]},
        {"query": TEXT, "documents": [TEXT]},
        {"messages": {"content": TEXT * 2}},
        {"prompt": None, "x": TEXT * 2},
        {"input": 1, "messages": True, "x": TEXT * 2},
    ],
)
def test_of_other_bodies_only_the_size_is_known(body: dict[str, Any]) -> None:
    text = json.dumps({"max_tokens": 5} | body).encode()
    assert read(text) == Prompt(len(text) // 4, (), 5)


@pytest.mark.parametrize("text", [b"[1, 2, 3]", b'"a string"', b"12345678"])
def test_of_json_that_is_no_object_only_the_size_is_known(text: bytes) -> None:
    assert read(text) == Prompt(len(text) // 4)


@pytest.mark.parametrize("body", [{"messages": []}, {"prompt": ""}, {"prompt": [[]]}, {"input": []}])
def test_an_empty_prompt_has_nothing(body: dict[str, Any]) -> None:
    assert prompt(model="m", **body) == NO_PROMPT


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ('"max_tokens": 100', 100),
        ('"max_completion_tokens": 100', 100),
        ('"max_output_tokens": 100', 100),
        ('"max_tokens": 1, "max_completion_tokens": 2', 2),
        ('"max_completion_tokens": null, "max_tokens": 3', 3),
        ('"max_tokens": 1, "max_tokens": 2', 2),
        ('"max_tok\\u0065ns": 4', 4),
        ('"max_tokens": 999999999', 999_999_999),
        ('"max_tokens": 1000000000', None),
        ('"max_tokens": ' + "9" * 100_000, None),
        ('"max_tokens": 0', None),
        ('"max_tokens": -5', None),
        ('"max_tokens": 5.0', None),
        ('"max_tokens": 1e3', None),
        ('"max_tokens": "5"', None),
        ('"max_tokens": true', None),
        ('"max_tokens": [5]', None),
        ('"sampling_params": {"max_tokens": 5}', None),
    ],
)
def test_the_limit_of_the_answer_is_a_whole_number(limits: str, expected: int | None) -> None:
    assert read(b'{"model": "m", "prompt": "", %b}' % limits.encode()).max_output_tokens == expected


# -- prompts that begin alike -------------------------------------------------------------------------------

TURN = st.text(st.sampled_from('abc \n"\\é中\U0001f600'), max_size=600)
OPTIONS = st.sampled_from([{}, {"indent": 1}, {"separators": (",", ":")}])
HEADS = st.sampled_from([{}, {"tools": TOOLS}, {"system": words(100)}])


@given(st.lists(TURN, min_size=1, max_size=6), st.integers(1, 5), HEADS, OPTIONS, st.booleans())
def test_a_longer_conversation_keeps_all_its_checkpoints(
    turns: list[str], count: int, head: dict[str, Any], options: dict[str, Any], ascii_only: bool
) -> None:
    def known(turns: list[str]) -> Prompt:
        body = {"messages": chat(*turns), **head, "max_tokens": len(turns)}
        return read(json.dumps(body, ensure_ascii=ascii_only, **options).encode())

    shorter, longer = known(turns[:count]), known(turns)
    assert longer.prefix[: len(shorter.prefix)] == shorter.prefix
    assert longer.tokens >= shorter.tokens


@given(TURN, TURN, st.booleans())
def test_a_longer_text_keeps_all_its_checkpoints(one: str, more: str, in_list: bool) -> None:
    shorter, longer = (prompt(prompt=[text] if in_list else text) for text in (one, one + more))
    assert longer.prefix[: len(shorter.prefix)] == shorter.prefix


@given(st.lists(st.integers(0, 200_000), max_size=900), st.integers(0, 900), st.booleans())
def test_a_longer_list_of_token_ids_keeps_all_its_checkpoints(
    ids: list[int], count: int, nested: bool
) -> None:
    shorter, longer = (prompt(prompt=[part] if nested else part) for part in (ids[:count], ids))
    assert longer.prefix[: len(shorter.prefix)] == shorter.prefix
    assert longer.tokens == len(ids)


@pytest.mark.parametrize("tokens", [300, 3000, 30_000])
def test_two_prompts_part_at_the_last_checkpoint_before_they_differ(tokens: int) -> None:
    common = words(tokens)
    one, other = (prompt(messages=chat(common, words(tokens, seed))) for seed in (1, 2))
    parted = len(json.dumps(chat(common))) // 4
    assert shared_tokens(one, other) == CHECKPOINTS[hashes(parted) - 1]


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("tools", TOOLS, [*TOOLS[:-1], {}]),
        ("tools", TOOLS, None),
        ("functions", TOOLS, TOOLS[1:]),
        ("documents", [{"text": "a"}], [{"text": "b"}]),
        ("system", words(500) + "a", words(500) + "b"),
        ("instructions", "a", "b"),
        ("cache_salt", "a", "b"),
        ("cache_salt", "a", None),
        ("mm_processor_kwargs", {"fps": 1}, {"fps": 2}),
        ("previous_response_id", "resp_1", "resp_2"),
    ],
)
def test_what_stands_before_the_messages_sets_apart_as_a_whole(name: str, one: Any, other: Any) -> None:
    messages = chat(words(2000))
    first, second, again = (
        prompt(**{"messages": messages, name: value, "temperature": n})
        for n, value in enumerate((one, other, one))
    )
    assert first.prefix
    assert not set(first.prefix) & set(second.prefix)
    assert first == again


def test_a_field_that_is_null_is_absent() -> None:
    messages = chat(words(500))
    absent = dict.fromkeys(["tools", "system", "cache_salt", "prompt", "max_tokens"])
    assert prompt(messages=messages, **absent) == prompt(messages=messages)


def test_two_fields_do_not_stand_for_each_other() -> None:
    messages = chat(words(500))
    kinds = [prompt(messages=messages, **{name: "a"}) for name in ("system", "instructions", "cache_salt")]
    kinds += [prompt(input=messages), prompt(messages=messages)]
    assert len({known.prefix[0] for known in kinds}) == 5


@given(st.permutations(["model", "messages", "tools", "system", "cache_salt", "max_tokens", "stream"]))
def test_the_order_of_keys_does_not_matter(keys: list[str]) -> None:
    body = {
        "model": "m",
        "messages": chat(words(300), words(50, 1)),
        "tools": TOOLS,
        "system": "Be kind.",
        "cache_salt": "s",
        "max_tokens": 9,
        "stream": True,
    }
    assert prompt(**{key: body[key] for key in keys}) == prompt(**body)


def test_white_space_between_the_keys_does_not_matter() -> None:
    messages = json.dumps(chat(words(300))).encode()
    plain = read(b'{"messages":%b,"tools":[{}],"max_tokens":5}' % messages)
    assert read(b' { "tools" : [{}] ,\n "max_tokens":\t5 , "messages" : %b\r}\n' % messages) == plain


def test_of_a_key_that_stands_twice_the_last_counts() -> None:
    once = prompt(messages=chat(words(300)))
    twice = b'{"messages": [], "m\\u0065ssages": %b}' % json.dumps(chat(words(300))).encode()
    assert read(twice) == once


# -- how long, and in proportion ----------------------------------------------------------------------------

SCRIPTS = [
    "plain words, nothing else. ",
    "大语言模型的推理服务",
    "Маршрутизатор ",
    "def f(x):\n\treturn 'x'\n",
]


@pytest.mark.parametrize("ascii_only", [False, True])
@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_what_is_shared_is_in_proportion_to_the_whole(script: str, ascii_only: bool, share: float) -> None:
    common = script * int(share * 4000)
    one, other = (
        read(
            json.dumps(
                {"prompt": common + rest * (4000 - int(share * 4000))}, ensure_ascii=ascii_only
            ).encode()
        )
        for rest in (script, script[::-1])
    )
    assert shared_tokens(one, other) / one.tokens == pytest.approx(share, rel=0.08)


@pytest.mark.parametrize("width", [1, 10, 1000, 100_000])
def test_token_ids_are_in_proportion_however_long_they_are(width: int) -> None:
    ids = [width] * 4000
    one, other = (prompt(prompt=ids + [rest] * 4000) for rest in (width, width + 1))
    assert one.tokens == 8000
    assert shared_tokens(one, other) / one.tokens == pytest.approx(0.5, rel=0.08)


def test_a_character_counts_the_same_escaped_or_not() -> None:
    body = {"prompt": "大语言模型的推理服务" * 500}
    plain = read(json.dumps(body, ensure_ascii=False).encode())
    escaped = read(json.dumps(body).encode())
    assert (plain.tokens, escaped.tokens) == (3750, pytest.approx(3750, rel=0.05))


@pytest.mark.parametrize("count", range(30, 60))
def test_no_checkpoint_lies_beyond_the_end(count: int) -> None:
    known = prompt(prompt="中" * count)
    assert CHECKPOINTS[len(known.prefix) - 1] <= known.tokens if known.prefix else known.tokens < 64


@pytest.mark.parametrize("part", [url, claude_image, audio])
@pytest.mark.parametrize("size", [8_000, 100_000, 300_000, 3_000_000])
def test_an_image_counts_about_a_thousand_tokens_whatever_its_size(part: Any, size: int) -> None:
    content = [{"type": "text", "text": words(400)}, part(image(size))]
    known = prompt(messages=[{"role": "user", "content": content}])
    assert known.tokens - 450 == pytest.approx(1000, abs=550)
    assert len(known.prefix) == pytest.approx(hashes(known.tokens), abs=1)


@pytest.mark.parametrize("part", [url, claude_image, audio])
@pytest.mark.parametrize("size", [100_000, 1_000_000])
def test_the_same_image_is_the_same_beginning_and_another_is_not(part: Any, size: int) -> None:
    def known(data: str, question: str) -> Prompt:
        content = [{"type": "text", "text": words(400)}, part(data), {"type": "text", "text": question}]
        return prompt(messages=[{"role": "user", "content": content}])

    data = image(size)
    changed = data[: size // 2] + ("A" if data[size // 2] != "A" else "B") + data[size // 2 + 1 :]
    first = known(data, words(1000, 1))
    assert shared_tokens(first, known(data, words(1000, 2))) > 700
    assert shared_tokens(first, known(changed, words(1000, 1))) <= 450 + 512


@pytest.mark.parametrize("before", range(63_000, 67_000, 250))
def test_an_image_is_known_wherever_it_begins(before: int) -> None:
    content = [{"type": "text", "text": "x " * (before // 2)}, url(image(600_000))]
    known = prompt(messages=[{"role": "user", "content": content}])
    assert known.tokens - before // 4 == pytest.approx(1000, abs=550)


def test_several_images_count_each() -> None:
    content = [url(image(50_000, seed)) for seed in range(5)]
    assert prompt(messages=[{"role": "user", "content": content}]).tokens == pytest.approx(5000, rel=0.5)


@pytest.mark.parametrize("text", ["x" * 50_000, "0123456789abcdef" * 3000, "data:;base64 " + "y " * 25_000])
def test_what_only_looks_like_base64_is_text(text: str) -> None:
    assert prompt(prompt=text).tokens == len(text) // 4


# -- large bodies, and those that are not plain -------------------------------------------------------------


def large(*turns: str, **beside: Any) -> bytes:
    body = json.dumps({"model": "m", "messages": chat(*turns), **beside}).encode()
    assert len(body) > FAST_PATH_MAX_BYTES
    return body


def test_of_a_large_body_the_beginning_is_hashed_like_that_of_a_small_one() -> None:
    turns = [words(30_000), words(30_000, 1), words(100_000, 2)]
    known, turns_given = read_with_turns([large(*turns, max_tokens=5)])
    small = prompt(messages=chat(*turns[:2]))
    assert known.prefix[: len(small.prefix)] == small.prefix
    assert known.tokens == pytest.approx(160_000, rel=0.01)
    assert len(known.prefix) == len(CHECKPOINTS)
    assert known.max_output_tokens is None
    assert turns_given == 1


def test_what_stands_before_the_messages_of_a_large_body_counts_and_sets_nothing_apart() -> None:
    text, tools = words(LONG // 4), json.dumps(TOOLS)
    known = read(b'{"tools": %b, %b' % (tools.encode(), large(text)[1:]))
    plain = read(large(text))
    assert known.prefix == plain.prefix
    assert known.tokens == pytest.approx(plain.tokens + len(f'"tools": {tools}, ') // 4, abs=1)


def test_a_large_body_without_a_prompt_near_its_start_has_only_its_size() -> None:
    body = json.dumps({"x": words(LONG // 4), "messages": []}).encode()
    assert read(body) == Prompt(len(body) // 4)


def test_a_large_body_in_very_many_chunks_has_only_its_size() -> None:
    body = large(words(LONG // 4))
    size = len(body) // (MAX_CHUNKS + 1)
    chunks = [body[at : at + size] for at in range(0, len(body), size)]
    assert read(*chunks) == Prompt(len(body) // 4)


def test_a_body_that_is_too_deep_to_decode_is_read_like_a_large_one() -> None:
    deep = b'{"model": "m", "messages": %b, "x": %b}' % (
        json.dumps(chat(words(1000))).encode(),
        b"[" * 5000 + b"]" * 5000,
    )
    known = read(deep)
    plain = prompt(messages=chat(words(1000)))
    assert known.prefix[: len(plain.prefix)] == plain.prefix
    assert known.tokens == pytest.approx(len(deep) // 4, abs=5)


def test_of_a_large_body_only_a_small_part_is_copied() -> None:
    body = large(words(12_000_000 // 4))
    reader = BodyReader()
    list(reader.feed(body))
    list(reader.finish())
    tracemalloc.start()
    try:
        list(read_prompt(reader))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000


def cut(body: bytes, places: Iterable[int]) -> list[bytes]:
    return [body[start:end] for start, end in pairwise([0, *places, len(body)])]


SMALL = json.dumps({"messages": chat(words(60), "é"), "max_tokens": 5}).encode()
LARGE = large(image(1000), words(LONG // 8), words(LONG // 8, 1), json.dumps([url(image(9_000))]))
LARGE_IMAGES = json.dumps(
    {"messages": [{"role": "user", "content": [url(image(200_000, seed)) for seed in range(4)]}]}
).encode()


@pytest.mark.parametrize("at", range(len(SMALL) + 1))
def test_a_small_body_may_be_cut_anywhere(at: int) -> None:
    assert read(*cut(SMALL, [at])) == read(SMALL)


@pytest.mark.parametrize("body", [LARGE, LARGE_IMAGES])
@pytest.mark.parametrize("size", [1000, 16 * 1024, 65 * 1024, 1_000_000])
def test_a_large_body_may_be_cut_anywhere(body: bytes, size: int) -> None:
    assert read_with_turns(cut(body, range(size, len(body), size))) == read_with_turns([body])


@given(st.sets(st.integers(0, len(LARGE)), max_size=5))
@example({1, 2, 3})
def test_a_large_body_may_be_cut_in_pieces_of_any_sizes(places: set[int]) -> None:
    assert read(*cut(LARGE, sorted(places))) == read(LARGE)


@given(ANY_TEXTS, st.sampled_from([b'"messages"', b'"prompt"', b'"max_tokens"', b'"tools"', b'"input"']))
def test_whatever_is_json_has_a_prompt(text: bytes, key: bytes) -> None:
    text = text.replace(b'"models"', key)
    try:
        known = read(text)
    except InvalidJson:
        return
    assert 0 <= known.tokens <= len(text)
    assert len(known.prefix) <= hashes(known.tokens)


# -- as decided ---------------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[InferenceRequest]:
    """What routers are asked."""
    requests: list[InferenceRequest] = []
    decide = Router.draw

    def note(self: Router, request: InferenceRequest, *arguments: Any) -> Decision:
        requests.append(request)
        return decide(self, request, *arguments)  # type: ignore[return-value]

    monkeypatch.setattr(Router, "draw", note)
    return requests


@pytest.mark.parametrize("turns", [[words(500)], [words(LONG // 4)]])
async def test_a_served_request_is_decided_with_its_prompt(
    asked: list[InferenceRequest], turns: list[str]
) -> None:
    body = json.dumps({"messages": chat(*turns), "model": "qwq"}).encode()
    async with serving() as (_, envoy):
        stream = envoy.stream()
        await stream.request_headers(CHAT)
        await stream.reply()
        await stream.request_body(body)
        await stream.reply()
        await stream.end()
    assert [(each.model, each.body_bytes, each.prompt) for each in asked] == [("qwq", len(body), read(body))]


async def test_a_request_whose_body_is_not_ours_to_read_has_no_prompt(asked: list[InferenceRequest]) -> None:
    async with serving() as (_, envoy):
        stream = envoy.stream()
        await stream.request_headers({":method": "POST", ":path": "/upload", "content-type": "image/png"})
        await stream.reply()
        await stream.request_body(b'{"prompt": "x"}')
        await stream.reply()
        await stream.end()
    assert [each.prompt for each in asked] == [NO_PROMPT]
