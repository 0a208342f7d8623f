"""Whatever a server sends: nothing raised, little held, work in proportion."""

import pytest
from answer_texts import RECORDED, cut, cuts, read, shape_of
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.answers import AnswerReader, Restoring, Shape, Usage
from extproc.answers.events import EventSplitter
from extproc.answers.model_values import Restorer
from extproc.answers.skeleton import KEEP_MAX_BYTES, SKELETON_MAX_BYTES, Skeleton
from extproc.answers.texts import HELD_MAX_BYTES

LONG = 1 << 20
RESTORE = Restoring("target", "client")
HELD_IN_ALL_BYTES = HELD_MAX_BYTES + SKELETON_MAX_BYTES + 2 * KEEP_MAX_BYTES
FRAGMENTS = st.sampled_from(
    b'{ } [ ] : , " \\ "model" "target" "usage" "choices" "delta" "response" "message" tar null 1 1e NaN \\u00 \xff '
    b"\x00 \xef\xbb\xbf data: data [DONE] event: \r \n \n\n \r\n".split(b" ")
) | st.just(b" ")

TEXTS = {
    "openers": b"[" * LONG,
    "objects": b'{"a":' * (LONG // 5),
    "wanted objects": b'{"response":' * (LONG // 12),
    "closers": b"{" + b'"a":' + b"]" * LONG,
    "a bomb in a member": b'{"a":'
    + b"[" * (LONG // 2)
    + b"]" * (LONG // 2)
    + b',"usage":{"prompt_tokens":1}}',
    "up and down": b'{"a":[' + b"[[[[[],1]]]],[" * (LONG // 14),
    "deep up and down": b'{"a":' + b"[" * 1000 + b"[[[[[[]]]]]]," * (LONG // 13),
    "a string": b'{"a":"' + b"x" * LONG,
    "escapes": b'{"a":"' + b"\\n" * (LONG // 2),
    "a key": b'{"' + b"k" * LONG,
    "a name": b'{"model":"' + b"t" * LONG,
    "a name in escapes": b'{"model":"' + b"\\u0074" * (LONG // 6),
    "usage": b'{"usage":{"a":"' + b"x" * LONG,
    "usages": b'{"usage":{},' * (LONG // 12),
    "models": b'{"model":"target",' + b'"model":"target",' * (LONG // 17),
    "choices": b'{"choices":[' + b'{"delta":{"content":"a"}},' * (LONG // 26),
    "numbers": b'{"data":[{"embedding":[' + b"-0.0123456789," * (LONG // 14),
    "a number": b'{"a":' + b"1" * LONG,
    "white space": b"{" + b" " * LONG,
    "line feeds": b"\n" * LONG,
    "carriage returns": b"\r" * LONG,
    "empty lines of data": b"data:\n" * (LONG // 6),
    "comments": b":\n" * (LONG // 2),
    "bad UTF-8": b'{"a":"' + b"\xff" * LONG,
}


@pytest.mark.parametrize("size", [100, 4096, LONG])
@pytest.mark.parametrize("lead", [b"", b"data:"])
@pytest.mark.parametrize("name", sorted(TEXTS))
def test_little_is_held_of_a_text_without_end(name, lead, size):
    body = lead + TEXTS[name]
    out = 0
    reader = AnswerReader(Shape.EVENTS if lead else Shape.JSON, RESTORE)
    for piece in cut(body, range(size, len(body), size)):
        instead = reader.feed(piece, 1.0)
        out += len(piece) if instead is None else sum(map(len, instead))
        assert reader.held_bytes <= HELD_IN_ALL_BYTES
    out += sum(map(len, reader.finish(1.0)))
    assert out == len(body)  # the two names are of the same length


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_steps_grow_no_faster_than_the_text(name):
    for size in (LONG // 16, LONG // 8):
        text = TEXTS[name][:size]
        for piece in (100, size):
            skeleton = Skeleton()
            steps = sum(
                skeleton.feed(text, start, min(start + piece, size)) for start in range(0, size, piece)
            )
            assert steps <= 0.5 * size + 10


@pytest.mark.parametrize("name", ["line feeds", "carriage returns", "comments"])
def test_what_is_between_events_is_passed_over_at_once(name):
    assert list(EventSplitter().split(TEXTS[name], 0)) == []


@settings(deadline=None)
@given(st.lists(FRAGMENTS, max_size=30).map(b"".join) | st.binary(max_size=80), st.data())
def test_any_bytes_pass_as_they_came_and_read_the_same_however_they_are_cut(body, data):
    for shape in Shape:
        whole = read(shape, [body])
        assert whole[1] == body
        assert read(shape, data.draw(cuts(body))) == whole
        assert read(shape, data.draw(cuts(body)), RESTORE) == (whole[0], read(shape, [body], RESTORE)[1])


@settings(deadline=None)
@given(st.sampled_from(sorted(RECORDED)), st.data())
def test_a_recorded_answer_that_is_damaged_reads_the_same_however_it_is_cut(name, data):
    body, restore = RECORDED[name], Restoring("qwq-32b", "client")
    at = data.draw(st.integers(0, len(body)))
    body = body[:at] + data.draw(FRAGMENTS) + body[at + data.draw(st.integers(0, 3)) :]
    whole = read(shape_of(name), [body], restore)
    assert read(shape_of(name), data.draw(cuts(body)), restore) == whole


def test_usage_after_megabytes_is_found_with_little_held():
    numbers = b"-0.01234567," * (LONG // 12)
    item = b'{"object":"embedding","embedding":[' + numbers + b'0],"index":0},'
    body = b'{"model":"target","data":[' + item * 3 + b'{}],"usage":{"prompt_tokens":9,"total_tokens":9}}'
    reader = AnswerReader(Shape.JSON, RESTORE)
    most = 0
    for piece in cut(body, range(16384, len(body), 16384)):
        reader.feed(piece, 1.0)
        most = max(most, reader.held_bytes)
    reader.finish(1.0)
    assert (reader.figures.usage, reader.figures.complete, most) == (Usage(9), True, HELD_MAX_BYTES)


def test_what_is_held_back_is_bounded_by_the_name():
    reader = Restorer(RESTORE)
    held = 0
    for byte in b'{"model":"' + b"\\u0074" * 100:
        piece = bytes((byte,))
        reader.look(piece, 0, 1)
        instead = reader.rewrite(piece)
        held += 1 - (1 if instead is None else sum(map(len, instead)))
        assert held <= 6 * len("target") + 2
