import json
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from json_texts import ANY_TEXTS, BODIES

from extproc.body import (
    FAST_PATH_MAX_BYTES,
    JOIN_MAX_BYTES,
    SLICE_BYTES,
    WORK_BYTES,
    BodyReader,
    encode_name,
    splice,
)
from extproc.jsonscan import InvalidJson, ModelFound, ModelScanner


class Read:
    """A body read to its end, and how often the reader gave way."""

    def __init__(self, chunks: list[bytes]) -> None:
        self.reader = BodyReader()
        self.turns_fed = sum(1 for chunk in chunks for _ in self.reader.feed(chunk))
        self.turns_finished = 0
        self.found = self._finish()

    def _finish(self) -> ModelFound:
        turns = self.reader.finish()
        while True:
            try:
                next(turns)
            except StopIteration as end:
                return end.value
            self.turns_finished += 1


def scanned(body: bytes) -> ModelFound:
    scanner = ModelScanner()
    scanner.feed(body)
    return scanner.finish()


def outcome(read, *args) -> ModelFound | str:
    try:
        return read(*args)
    except InvalidJson as fault:
        return str(fault)


def cut(body: bytes, places: list[int]) -> list[bytes]:
    return [body[start:end] for start, end in pairwise([0, *places, len(body)])]


def chat(length: int) -> bytes:
    """A chat request of about `length` bytes, the model last."""
    turn = b'{"role": "user", "content": "What is \\u00e9 in \\"caf\\u00e9\\"?"}, '
    return b'{"messages": [' + turn * (length // len(turn)) + b'{}], "model": "qwq"}'


@given(ANY_TEXTS)
@example(b'{"model":"a","x":"\\u006dodel"}')
@example(b'{"mod\\u0065l":"a"}')
@example(b'{"x":"model"}')
@example(b'{"x":{"model":1},"model":2}')
@example(b'{"messages":{"model":1},"model":2}')
@example(b'{"messages":{"model":1},"model":2,"messages":{"model":1}}')
@example(b'{"messages":[{"model":1}],"model":2,"messages":[]}')
@example(b'{"x":{"messages":{"model":1}},"model":2,"messages":{"model":1}}')
@example(b'{"messages":"\\u006dodel","model":"a"}')
@example(b'{"messages":"messages","\\u006dodel":"a","model":"b"}')
@example(b'{"x":"messages","messages" : ["\\"model\\":"],"model":"b"}')
@example(b'{"x":{"messages":1},"model":2,"messages":["' + b"x" * 20 + b'"],"model":3}')
@example(b'{"\\u006dodel":"a","model":"b","messages":["x"]}')
@example(b'{"prompt":"","messages":[1,2],"model":"b"}')
@example(b'{"a\\"messages":{"model":1},"messages":{"model":1},"model":"b"}')
@example(b'{"x":"\xff","model":2}')
@example(b'{"x":"\\ud800","model":2}')
@example(b'{"model":"' + b"x" * 2000 + b'"}')
@example(b"[" * 5000 + b"]" * 5000)
def test_a_small_body_reads_as_the_scanner_reads_it(body):
    expected = outcome(scanned, body)
    assert outcome(lambda: Read([body]).found) == expected


@given(ANY_TEXTS, st.data())
def test_chunks_read_as_the_whole_does(body, data):
    chunks = cut(body, sorted(data.draw(st.sets(st.integers(0, len(body))))))
    assert outcome(lambda: Read(chunks).found) == outcome(scanned, body)


@pytest.mark.parametrize("length", [1000, FAST_PATH_MAX_BYTES - 1000, FAST_PATH_MAX_BYTES + 1000, 1_500_000])
@pytest.mark.parametrize("chunk", [999, 65536, 10_000_000])
def test_the_model_is_found_in_bodies_of_all_sizes(length, chunk):
    body = chat(length)
    chunks = cut(body, list(range(chunk, len(body), chunk)))
    read = Read(chunks)
    assert read.found == ModelFound(True, ((len(body) - 6, len(body) - 1),), ("qwq",))
    assert read.reader.size == len(body)
    assert all(kept is given for kept, given in zip(read.reader.chunks, chunks, strict=True))


@pytest.mark.parametrize("space", [" ", "\t", "\n", "\r", " \r\n\t"])
def test_white_space_of_any_kind_may_stand_around_the_colon(space):
    body = f'{{"model"{space}:{space}"qwq","messages"{space}:{space}["\\"model\\":"]}}'.encode()
    read = Read([body])
    assert read.found == scanned(body)
    assert read.reader.fields is not None


def test_an_empty_body_is_no_json():
    assert outcome(lambda: Read([]).found) == outcome(lambda: Read([b"", b""]).found)
    assert outcome(lambda: Read([]).found) == "unexpected end of JSON at byte 0"


def test_a_fault_in_a_big_body_is_told_before_its_end():
    reader = BodyReader()
    with pytest.raises(InvalidJson, match=r"^expected a value at byte 1$"):
        list(reader.feed(b"[x" + b" " * FAST_PATH_MAX_BYTES))


def test_plain_bodies_up_to_the_fast_path_never_give_way():
    read = Read([chat(FAST_PATH_MAX_BYTES - 1000).ljust(FAST_PATH_MAX_BYTES)])
    assert (read.turns_fed, read.turns_finished) == (0, 0)


@pytest.mark.parametrize(
    "text", [b'{"a":"' + b"x" * 2_000_000 + b'"}', b"[" + b"1," * 1_000_000 + b"1]", chat(2_000_000)]
)
@pytest.mark.parametrize("chunk", [1000, 10_000_000])
def test_big_bodies_give_way_by_their_size(text, chunk):
    read = Read(cut(text, list(range(chunk, len(text), chunk))))
    assert read.turns_fed >= len(text) // (WORK_BYTES + SLICE_BYTES)
    assert read.turns_finished == 0


def test_texts_that_take_many_steps_give_way_more_often():
    text = b"[" + b"[[[[[0]]]]]," * 50_000 + b"1]"
    assert Read([text]).turns_fed > 3 * len(text) / WORK_BYTES


@pytest.mark.parametrize("said", ['{"model": "other"}', '"\\u006dodel"', '"\\"model\\": 1"'])
def test_what_a_prompt_says_of_models_leaves_its_body_plain(said):
    body = f'{{"messages": [{"0, " * 9000}{said}], "model": "qwq"}}'.encode()
    read = Read([body])
    assert read.found.names == ("qwq",)
    assert read.turns_finished == 0


def test_small_bodies_that_are_not_plain_give_way_at_the_end():
    text = b"[" + b"[[[[[0]]]]]," * 20_000 + b"1]"
    read = Read([text])
    assert read.turns_fed == 0
    assert read.turns_finished > 3 * len(text) / WORK_BYTES


SPLICES = [
    ([b"abcdef"], [(2, 4)], [b"abXYZef"]),
    ([b"abcdef"], [(0, 1), (1, 2), (5, 6)], [b"XYZXYZcdeXYZ"]),
    ([b"ab", b"cd", b"ef"], [(2, 4)], [b"ab", b"XYZ", b"ef"]),
    ([b"ab", b"cd", b"ef"], [(1, 5)], [b"aXYZ", b"f"]),
    ([b"ab", b"cd", b"ef"], [(1, 2), (3, 4)], [b"aXYZ", b"cXYZ", b"ef"]),
    ([b"ab", b"cd", b"ef"], [(1, 3), (3, 5)], [b"aXYZ", b"XYZ", b"f"]),
    ([b"", b"ab", b""], [(0, 2)], [b"", b"XYZ", b""]),
    ([b"ab", b"", b"cd"], [(1, 3)], [b"aXYZ", b"d"]),
    ([b"ab"], [], [b"ab"]),
    ([], [], []),
]


@pytest.mark.parametrize(("chunks", "spans", "expected"), SPLICES)
def test_spans_are_replaced_where_they_start(chunks, spans, expected):
    assert splice(chunks, spans, b"XYZ") == expected


def test_chunks_without_a_span_are_not_copied():
    chunks = [b"ab" * 2, b"cd" * 2, b"ef" * 2]
    spliced = splice(chunks, [(5, 6)], b"X")
    assert spliced[0] is chunks[0]
    assert spliced[2] is chunks[2]


def test_a_large_chunk_is_not_copied_where_its_span_is_replaced():
    chunk = b"x" * JOIN_MAX_BYTES
    assert splice([chunk], [(1, 3)], b"X") == [b"xX" + chunk[3:]]
    large = chunk + b"x"
    spliced = splice([large], [(1, 3)], b"X")
    assert spliced == [b"x", b"X", large[3:]]
    assert isinstance(spliced[2], memoryview)
    assert spliced[2].obj is large


@given(BODIES, st.text(st.characters(exclude_categories=["Cs"]), max_size=8), st.data())
def test_only_the_model_changes_however_the_body_is_cut(body, name, data):
    spans = Read([body]).found.spans
    chunks = cut(body, sorted(data.draw(st.sets(st.integers(0, len(body))))))
    spliced = b"".join(splice(chunks, spans, encode_name(name)))

    edges = [0, *(place for span in spans for place in span), len(body)]
    kept = [body[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True)]
    assert spliced == encode_name(name).join(kept)
    assert Read([spliced]).found.names == (name,) * len(spans)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_name_is_encoded_as_json_in_utf_8(name):
    assert json.loads(encode_name(name).decode()) == name


def test_a_plain_name_is_encoded_as_it_is():
    assert encode_name("org/modèle-32b") == '"org/modèle-32b"'.encode()
