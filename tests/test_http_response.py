"""Reading an HTTP response from whatever pieces it comes in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.http_response import (
    MAX_CHUNK_LINE_BYTES,
    MAX_CHUNKS,
    MAX_HEAD_BYTES,
    MAX_TRAILER_BYTES,
    GetError,
    Response,
)

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
MAX_BYTES = 20

COMPLETE = {
    "length": (OK + b"Content-Length: 5\r\n\r\nhello", True),
    "empty": (OK + b"content-length: 0\r\n\r\n", True),
    "header without space": (OK + b"a:b\r\ncontent-length:5\r\n\r\nhello", True),
    "the same length twice": (OK + b"content-length: 5\r\nCONTENT-LENGTH:\t5 \r\n\r\nhello", True),
    "plain by name": (OK + b"content-encoding: identity\r\ncontent-length: 5\r\n\r\nhello", True),
    "no reason": (b"HTTP/1.1 200\r\ncontent-length: 5\r\n\r\nhello", True),
    "close": (OK + b"connection: Close\r\ncontent-length: 5\r\n\r\nhello", False),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello", False),
    "HTTP/1.0 kept": (
        b"HTTP/1.0 200 OK\r\nconnection: Keep-Alive\r\ncontent-length: 5\r\n\r\nhello",
        True,
    ),
    "more than asked for": (OK + b"content-length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\n", False),
    "chunks": (CHUNKED + b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", True),
    "chunk extension": (CHUNKED + b"00005 ;a=b\r\nhello\r\n0;c\r\n\r\n", True),
    "trailers": (CHUNKED + b"5\r\nhello\r\n0\r\na: b\r\nc: d\r\n\r\n", True),
    "line ends in a chunk": (CHUNKED + b"9\r\n\r\n0\r\n\r\nab\r\n0\r\n\r\n", True),
    "chunks and a length": (
        OK + b"content-length: 99\r\ntransfer-encoding: Chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        True,
    ),
}
BODIES = {"empty": b"", "line ends in a chunk": b"\r\n0\r\n\r\nab"}


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    ends = sorted({cut % (len(data) + 1) for cut in cuts} | {len(data)})
    return [data[a:b] for a, b in zip([0, *ends], ends, strict=False)]


def feed_all(response: Response, parts: list[bytes]) -> bool:
    complete = False
    for part in parts:
        complete = response.feed(part)
    return complete


@pytest.mark.parametrize("name", COMPLETE)
def test_complete_responses(name: str) -> None:
    data, keep_alive = COMPLETE[name]
    response = Response(MAX_BYTES)
    assert response.feed(data)
    assert (response.body, response.keep_alive) == (BODIES.get(name, b"hello"), keep_alive)


@given(st.sampled_from(sorted(set(COMPLETE) - {"more than asked for"})), st.lists(st.integers(0, 200)))
def test_the_pieces_make_no_difference(name: str, cuts: list[int]) -> None:
    data, keep_alive = COMPLETE[name]
    response = Response(MAX_BYTES)
    assert feed_all(response, pieces(data, cuts))
    assert (response.body, response.keep_alive) == (BODIES.get(name, b"hello"), keep_alive)


@pytest.mark.parametrize("name", sorted(set(COMPLETE) - {"more than asked for"}))
def test_byte_by_byte_it_is_complete_with_the_last_one_only(name: str) -> None:
    data, _ = COMPLETE[name]
    response = Response(MAX_BYTES)
    assert [response.feed(data[i : i + 1]) for i in range(len(data))] == [False] * (len(data) - 1) + [True]


@given(st.lists(st.integers(0, 200)))
def test_a_body_without_a_length_goes_on_to_the_end_of_the_connection(cuts: list[int]) -> None:
    response = Response(MAX_BYTES)
    assert not feed_all(response, pieces(OK + b"\r\nhello", cuts))
    assert response.end()
    assert (response.body, response.keep_alive) == (b"hello", False)


LARGE = "too_large: the page is larger than 20 bytes"


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "http_status: HTTP 503"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "http_status: HTTP 100"),
        (b"HTTP/1.1 204 \r\n\r\n", "http_status: HTTP 204"),
        (OK + b"content-length: 21\r\n\r\n", LARGE),
        (OK + b"\r\n" + b"x" * 21, LARGE),
        (CHUNKED + b"15\r\n", LARGE),
        (CHUNKED + b"FFFFFFFF\r\n", LARGE),
        (CHUNKED + b"a\r\n0123456789\r\nb\r\n", LARGE),
        (b"SSH-2.0-x\r\n", "invalid: not HTTP: no status line"),
        (b"\x16\x03\x01", "invalid: not HTTP: no status line"),
        (b"HTTP/2 200\r\n\r\n", "invalid: not HTTP: no status line"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "invalid: not HTTP: no status line"),
        (b"HTTP/1.1 200 O\nK\r\n\r\n", "invalid: not HTTP: no status line"),
        (
            OK + b"Content-Encoding: gzip\r\ncontent-length: 5\r\n\r\n\x1f\x8b\x08\x00\x00",
            "invalid: the page is compressed (gzip), though asked for as it is",
        ),
        (OK + b"a\r\n\r\n", "invalid: not HTTP: a malformed header"),
        (OK + b": a\r\n\r\n", "invalid: not HTTP: a malformed header"),
        (OK + b"a: b\r\n c\r\n\r\n", "invalid: not HTTP: a malformed header"),
        (OK + b"content-length : 5\r\n\r\n", "invalid: not HTTP: a malformed header"),
        (OK + b"content-length: +5\r\n\r\n", "invalid: not HTTP: content-length is no number"),
        (OK + b"content-length: 5, 5\r\n\r\n", "invalid: not HTTP: content-length is no number"),
        (
            OK + b"content-length: " + b"9" * 5000 + b"\r\n\r\n",
            "invalid: not HTTP: content-length is no number",
        ),
        (
            OK + b"content-length: 5\r\ncontent-length: 6\r\n\r\n",
            "invalid: not HTTP: two of content-length",
        ),
        (
            OK + b"transfer-encoding: gzip, chunked\r\n\r\n",
            "invalid: not HTTP: a transfer-encoding other than chunked",
        ),
        (CHUNKED + b"\r\n", "invalid: not HTTP: no chunk size"),
        (CHUNKED + b"-1\r\n", "invalid: not HTTP: no chunk size"),
        (CHUNKED + b"0x1\r\n", "invalid: not HTTP: no chunk size"),
        (CHUNKED + b"000000001\r\n", "invalid: not HTTP: no chunk size"),
        (CHUNKED + b"2\r\nhello", "invalid: not HTTP: a chunk longer than its size"),
        (
            CHUNKED + b"1" * MAX_CHUNK_LINE_BYTES,
            f"invalid: not HTTP: a line of over {MAX_CHUNK_LINE_BYTES} bytes",
        ),
        (CHUNKED + b"0\r\n" + b"a: b\r\n" * MAX_TRAILER_BYTES, "invalid: not HTTP: endless trailers"),
        (
            CHUNKED + b"0\r\n" + b"a" * MAX_TRAILER_BYTES,
            f"invalid: not HTTP: a line of over {MAX_TRAILER_BYTES} bytes",
        ),
        (
            OK + b"a: " + b"b" * MAX_HEAD_BYTES,
            f"invalid: not HTTP: no end of the headers within {MAX_HEAD_BYTES} bytes",
        ),
    ],
)
def test_faulty_responses_are_refused_however_they_come(data: bytes, error: str) -> None:
    for size in (len(data), 1000, 7):
        response = Response(MAX_BYTES)
        with pytest.raises(GetError) as caught:
            feed_all(response, [data[i : i + size] for i in range(0, len(data), size)])
        assert str(caught.value) == error


def test_a_status_other_than_200_is_told() -> None:
    with pytest.raises(GetError) as caught:
        Response(MAX_BYTES).feed(b"HTTP/1.1 404 Not Found\r\ncontent-length: 5\r\n\r\nhello")
    assert (caught.value.reason, caught.value.detail, caught.value.status) == ("http_status", "HTTP 404", 404)


def test_a_page_of_tiny_chunks_is_refused() -> None:
    chunk = b"1\r\nx\r\n"
    response = Response(MAX_CHUNKS)
    assert response.feed(CHUNKED + chunk * (MAX_CHUNKS - 1) + b"0\r\n\r\n")
    assert response.body == b"x" * (MAX_CHUNKS - 1)
    with pytest.raises(GetError, match=f"over {MAX_CHUNKS} chunks"):
        Response(2 * MAX_CHUNKS).feed(CHUNKED + chunk * (MAX_CHUNKS + 1))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        OK,
        OK + b"content-length: 5\r\n\r\nhell",
        CHUNKED + b"5\r\nhello\r\n",
        CHUNKED + b"5\r\nhello\r\n0\r\n",
    ],
)
def test_a_response_that_breaks_off_is_a_failure(data: bytes) -> None:
    response = Response(MAX_BYTES)
    assert not response.feed(data)
    with pytest.raises(GetError, match="other: the server closed the connection"):
        response.end()


@given(st.binary(max_size=200), st.sampled_from([b"", b"HTTP/1.1 ", OK, CHUNKED]))
def test_garbage_is_refused_or_bounded_never_a_crash(garbage: bytes, start: bytes) -> None:
    response = Response(MAX_BYTES)
    try:
        response.feed(start + garbage)
    except GetError:
        return
    assert len(response.body) <= MAX_BYTES
