"""Server-sent events, as the HTML standard has them."""

import re

import pytest
from answer_texts import cut, cuts, events, read
from hypothesis import example, given, settings
from hypothesis import strategies as st

from extproc.answers import Restoring, Shape, Usage
from extproc.answers.events import EventSplitter, Part

CHUNK = '{"usage":{"prompt_tokens":1}}'
LINES = st.sampled_from(
    [
        *(
            b"data:",
            b"data: ",
            b"data",
            b"data:x",
            b"data: y z",
            b"data::",
            b"dat",
            b"datas:x",
            b" data:x",
            b"Data:x",
        ),
        *(b"", b"", b"", b":", b": data:x", b"event: a", b"id", b"\xef\xbb\xbfdata:b", b"\xef\xbb", b"\x00"),
    ]
)
ENDS = st.sampled_from([b"\n", b"\n", b"\r\n", b"\r"])


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    lines = draw(st.lists(st.tuples(LINES, ENDS).map(b"".join), max_size=12))
    return draw(st.sampled_from([b"", b"", b"\xef\xbb\xbf"])) + b"".join(lines) + draw(LINES)


def by_the_standard(body: bytes) -> list[bytes]:
    """Data of the events dispatched, each line with a line feed, and the space before it. A line `data` without a
    colon, which adds an empty line, is left out: it means nothing in JSON."""
    lines = re.split(rb"\r\n|\r|\n", body.removeprefix(b"\xef\xbb\xbf"))
    dispatched, data = [], b""
    for line in lines[:-1]:
        if line == b"":
            dispatched += [data] if data else []
            data = b""
        elif line.startswith(b"data:"):
            data += line.removeprefix(b"data:") + b"\n"
    return dispatched


def split(pieces: list[bytes]) -> list[bytes]:
    splitter, found, data = EventSplitter(), [], b""
    for piece in pieces:
        for part, start, end in splitter.split(piece, 0):
            if part is Part.EVENT_END:
                found.append(data)
                data = b""
            else:
                data += piece[start:end] if part is Part.DATA else b"\n"
    return found


@settings(deadline=None)
@given(st.data())
def test_events_are_those_of_the_standard_however_they_are_cut(data):
    body = data.draw(streams())
    assert split(data.draw(cuts(body))) == by_the_standard(body)


@settings(deadline=None)
@given(
    st.binary(max_size=60) | st.lists(st.sampled_from([b"\r", b"\n", b"d", b"a", b"t", b":"])).map(b"".join)
)
@example(b"data:a\r\r\n\ndata:b\n\r\n")
def test_so_are_those_of_any_bytes(body):
    assert split(cut(body, range(1, len(body)))) == by_the_standard(body)


@settings(deadline=None)
@given(st.data())
def test_whole_events_in_one_piece_read_as_single_bytes_do(data):
    lines = data.draw(
        st.lists(
            st.sampled_from(
                [
                    *(b"data: ", b"data:" + CHUNK.encode(), b'data:{"model":"a",', b'data:"model":"a"}'),
                    *(b"data: [DONE]", b"", b"", b"event: x", b": y", b"x"),
                ]
            ),
            max_size=10,
        )
    )
    body = b"".join(line + data.draw(ENDS) for line in lines)
    restore = Restoring("a", "b")
    whole = read(Shape.EVENTS, [body], restore)
    assert read(Shape.EVENTS, data.draw(cuts(body)), restore) == whole


@pytest.mark.parametrize(
    "body",
    [
        f"data:{CHUNK}\n\n",
        f"data: {CHUNK}\r\n\r\n",
        f"data:\t {CHUNK} \r\r",
        f"\ufeffdata:{CHUNK}\n\n",
        f":\n\ndata:{CHUNK}\n\n",
        f"id: 7\nevent: x\nretry: 5\ndata: {CHUNK}\n\n",
        f"data: {CHUNK[:10]}\ndata:{CHUNK[10:]}\n\n",
        f"data: {CHUNK[:10]}\r\n: comment\r\ndata:{CHUNK[10:]}\r\n\r\n",
        f"data: {CHUNK[:10]}\n: comment\nevent: x\ndata\r\ndata:{CHUNK[10:]}\r\n\n",
        f"data: {CHUNK}\nid: 7\n\n",
    ],
)
def test_usage_in_an_event_of_any_form(body):
    whole = body.encode()
    for places in (range(1, len(whole)), *([place] for place in range(len(whole)))):
        assert read(Shape.EVENTS, cut(whole, places))[0].usage == Usage(1)


@pytest.mark.parametrize(
    "body", [f"data:{CHUNK}", f"data:{CHUNK}\n", f"Data:{CHUNK}\n\n", f" data:{CHUNK}\n\n"]
)
def test_what_is_no_event_yet_or_never_says_nothing(body):
    assert read(Shape.EVENTS, [body.encode()])[0].usage is None


def test_a_byte_order_mark_stands_at_the_very_start_only():
    marked = f"\ufeffdata: {CHUNK}\n\n".encode()
    for pieces in ([b"data: {}\n\n", marked], [b"data: {}\n\n" + marked], [b"\n", marked]):
        assert read(Shape.EVENTS, pieces)[0].usage is None


def test_a_line_end_ends_a_number():
    body = b'data: {"usage":{"prompt_tokens":1\ndata:2}}\n\n'
    assert read(Shape.EVENTS, [body])[0].usage is None
    assert read(Shape.EVENTS, cut(body, range(1, len(body))))[0].usage is None


def test_many_events_and_a_half_in_one_piece():
    body = events(*({"usage": {"completion_tokens": n}} for n in range(40)))
    half = len(body) - 17
    assert read(Shape.EVENTS, [body[:half]])[0].usage == Usage(None, None, 38)
    assert read(Shape.EVENTS, [body[:half], body[half:]])[0].usage == Usage(None, None, 39)
