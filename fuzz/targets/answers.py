"""Answers of model servers: read alike however they are cut, and passed on byte for byte but for the model's name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from msgspec.structs import replace

from extproc.answers import AnswerReader, Figures, Restoring, Shape, Usage
from extproc.body import Piece

from ..choices import Choices, pieces
from ..target import Target, words

TARGET_NAME = "qwq-32b"
CLIENT_NAMES = ("abc-32d", 'my "qwq"\n')
"""One as long as the target's, so that bytes can be counted; and one that JSON spells otherwise."""
MOST_HELD_BYTES = 6 * len(TARGET_NAME) + 2
"""A name spelled with \\uXXXX, and its quotes."""
REASONS = {None, "stop", "length", "tool_calls", "content_filter", "error", "other"}
PATHS = {("model",), ("message", "model"), ("response", "model")}
"""Where an answer names its model."""


def run(data: bytes) -> None:
    choices = Choices(data)
    shape, client = choices.of(list(Shape)), choices.of(CLIENT_NAMES)
    rule, body = choices.byte(), choices.rest()
    chunks, restoring = pieces(body, rule), Restoring(TARGET_NAME, client)
    looked, restored = _pass(shape, None, chunks), _pass(shape, restoring, chunks)
    assert looked == _pass(shape, None, [body]), "the chunking matters"
    assert restored == _pass(shape, restoring, [body]), "the chunking matters"
    assert restored[1] == looked[1], "what is restored changes what is read"
    assert looked[0] == body, "bytes changed that were only to be looked at"
    if b"\\" not in body and TARGET_NAME.encode() not in body:
        assert restored[0] == body, "bytes changed though the name is nowhere"
    _check_restored(shape, client, body, restored[0])


def _pass(shape: Shape, restore: Restoring | None, chunks: list[bytes]) -> tuple[bytes, Figures]:
    """What went on, and what was read, without the times, which the chunking decides on."""
    reader = AnswerReader(shape, restore)
    counts = restore is not None and restore.client == CLIENT_NAMES[0] and b"\\" not in b"".join(chunks)
    out: list[Piece] = []
    held = 0
    for now, chunk in enumerate(chunks):
        passed = reader.feed(chunk, float(now))
        assert restore is not None or passed is None
        out += [chunk] if passed is None else passed
        held += 0 if passed is None else len(chunk) - sum(map(len, passed))
        assert not counts or 0 <= held <= MOST_HELD_BYTES, f"{held} bytes are held back"
    out += reader.finish(float(len(chunks)))
    return b"".join(out), _checked(reader.figures, float(len(chunks)))


def _checked(figures: Figures, ended: float) -> Figures:
    """*figures* without the times."""
    assert figures.finish_reason in REASONS, figures.finish_reason
    usage = figures.usage or Usage()
    for tokens in (usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens):
        assert tokens is None or tokens >= 0
    assert 0 <= figures.untold_events <= figures.content_events
    first, last = figures.first_token_at, figures.last_token_at
    assert (first is None) is (last is None) is (figures.content_events == 0)
    assert first is None or last is None or 0 <= first <= last <= ended
    assert figures.time_per_token_s is None or figures.time_per_token_s >= 0
    return replace(figures, first_token_at=None, last_token_at=None)


def _check_restored(shape: Shape, client: str, before: bytes, after: bytes) -> None:
    """Parsed by others, only the names differ."""
    texts = [[before], [after]] if shape is Shape.JSON else [list(events(text)) for text in (before, after)]
    assert len(texts[0]) == len(texts[1]), "an event more or less"
    for one, other in zip(*texts, strict=True):
        try:
            expected = _restored(_parsed(one), client, ())
        except (ValueError, RecursionError):
            continue
        assert _parsed(other) == expected, "parsed, another name, or something else, has changed"


class Members(list[tuple[str, Any]]):
    """An object's members, in order; one may be there twice."""


def _parsed(text: bytes) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(constant)

    return json.loads(
        text.decode(), object_pairs_hook=Members, parse_constant=refuse, parse_int=str, parse_float=str
    )


def _restored(value: Any, client: str, path: tuple[str, ...]) -> Any:
    if isinstance(value, Members):
        return Members((key, _restored(each, client, (*path, key))) for key, each in value)
    return client if path in PATHS and value == TARGET_NAME else value


_LINE_END = re.compile(rb"\r\n|\n|\r")


def events(text: bytes) -> Iterator[bytes]:
    """The data of each event, as the HTML standard (section 9.2.6) has it."""
    lines = _LINE_END.split(text.removeprefix(b"\xef\xbb\xbf"))
    data: list[bytes] = []
    for line in lines[:-1]:
        name, _, value = line.partition(b":")
        if not line:
            if data:
                yield b"\n".join(data)
            data = []
        elif name == b"data":
            data.append(value.removeprefix(b" "))


def _event(value: object, end: bytes = b"\n\n", name: str = "") -> bytes:
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + json.dumps(value).encode() + end


_USAGE = {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}
_CHUNK = {"id": "c", "object": "chat.completion.chunk", "model": TARGET_NAME}
_MESSAGE = {"model": TARGET_NAME, "usage": {"input_tokens": 3, "cache_read_input_tokens": 5}}


def _openai() -> bytes:
    called = {"delta": {"tool_calls": [{}]}, "finish_reason": "tool_calls"}
    return (
        _event({**_CHUNK, "choices": [{"delta": {"role": "assistant"}, "finish_reason": None}]})
        + _event({**_CHUNK, "choices": [{"delta": {"content": "é"}}], "usage": _USAGE})
        + _event({**_CHUNK, "choices": [called]}, b"\r\n\r\n")
        + _event({**_CHUNK, "choices": [], "usage": _USAGE}, b"\r\r")
        + b"data:[DONE]\n\n"
    )


def _anthropic() -> bytes:
    delta = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 7}}
    return (
        _event({"type": "message_start", "message": _MESSAGE}, name="message_start")
        + _event({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "hi"}})
        + b": ping\n\n"
        + _event(delta)
        + _event({"type": "message_stop"})
    )


def _responses() -> bytes:
    usage = {"input_tokens": 3, "input_tokens_details": {"cached_tokens": 1}, "output_tokens": 2}
    why = {"reason": "max_output_tokens"}
    done = {"model": TARGET_NAME, "status": "incomplete", "incomplete_details": why, "usage": usage}
    return (
        _event({"type": "response.created", "response": {"model": TARGET_NAME}})
        + _event({"type": "response.output_text.delta", "delta": "hi"})
        + _event({"type": "response.incomplete", "response": done})
    )


def _seeds() -> list[bytes]:
    odd = b'\xef\xbb\xbfdata: {"model":\ndata:"qwq\\u002d32b"}\n\nid\ndata\n\n: \r\ndata: {"model":"qwq-32b"'
    jsons = [
        json.dumps({**_CHUNK, "choices": [{"finish_reason": "length"}], "usage": _USAGE}).encode(),
        json.dumps({"type": "message", **_MESSAGE, "stop_reason": "max_tokens"}, indent=1).encode(),
        b'{"error":{"message":"x"},"model":"qwq-32\\u0062","model":"qwq-32b","a":' + b"[" * 70,
        b'{"response":{"model":"qwq-32b"},"message":{"model":"other"}}',
        b"[1,2]",
    ]
    cut = [(name, rule) for name in (0, 1) for rule in (0, 1, 77)]
    streams = (_openai(), _anthropic(), _responses(), odd)
    seeds = [bytes((1, name, rule)) + text for name, rule in cut for text in streams]
    return seeds + [bytes((0, name, rule)) + text for name, rule in cut for text in jsons]


TARGET = Target(
    run,
    _seeds,
    words(
        b'"model" "qwq-32b" qwq "usage" "prompt_tokens" "completion_tokens" "cached_tokens" "choices" "delta" '
        b'"content" "finish_reason" "stop" "message" "response" "input_tokens" "output_tokens" "type" "error" [DONE] '
        b"data: data:{ event: id: : { } [ ] , null 1e400 -1 99999999999999999999 \\u0071 \\ud800 \xef\xbb\xbf \xff",
        b"\n\n",
        b"\r\r",
        b"\r\n\r\n",
        b"\r",
        b"\n",
        b"\n\ndata: ",
        b'"message_start"',
        b'"response.completed"',
        b'"status"',
    ),
    max_bytes=1200,
)
