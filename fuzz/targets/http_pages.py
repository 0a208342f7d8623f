"""HTTP responses of model servers to a scrape: the same page however it is cut, or a GetError of the closed set."""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_args

from extproc.http_response import Failure, GetError, Response

from ..choices import pieces
from ..target import Target

MOST_BYTES = 1024
FAILURES = get_args(Failure)
Page = tuple[bytes, bool]
"""(body, whether the connection goes on)."""


def run(data: bytes) -> None:
    rule, response = data[0] if data else 0, data[1:]
    got = _got(pieces(response, rule))
    whole = _got([response])
    if isinstance(got, str) or isinstance(whole, str):
        assert got == whole, "the chunking matters"
        return
    assert got[0] == whole[0], "the chunking matters"
    assert len(got[0]) <= MOST_BYTES
    assert whole[1] <= got[1], "bytes nobody asked for are forgiven"


def _got(chunks: Iterable[bytes]) -> Page | str:
    response = Response(MOST_BYTES)
    try:
        for chunk in chunks:
            if response.feed(chunk):
                return response.body, response.keep_alive
        assert response.end()
    except GetError as error:
        return _reason(error)
    return response.body, response.keep_alive


def _reason(error: GetError) -> str:
    assert error.reason in FAILURES
    assert (error.reason == "http_status") is (error.status is not None)
    return error.reason


def _seeds() -> list[bytes]:
    head = b"HTTP/1.1 200 OK\r\nServer: uvicorn\r\n"
    responses = [
        head + b"Content-Length: 5\r\n\r\nhello",
        head + b"content-length: 5\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello more",
        head + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n3;x=y\r\nabc\r\n0\r\nTrailer: x\r\n\r\n",
        head + b"\r\nuntil the end",
        head + b"\r\n" + b"x" * (MOST_BYTES + 1),
        b"HTTP/1.0 200\r\nConnection: keep-alive\r\n\r\n",
        b"HTTP/1.1 503 Service Unavailable\r\n\r\n",
        head + b"Content-Length: 99999999\r\n\r\n",
        head + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
    ]
    return [bytes([rule]) + response for rule in (0, 1, 77) for response in responses]


TARGET = Target(
    run,
    _seeds,
    (
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.0 ",
        b"Content-Length: ",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: keep-alive\r\n",
        b"\r\n",
        b"\r\n\r\n",
        b"0\r\n\r\n",
        b"FFFFFFFF\r\n",
        b"+5",
        b"-1",
    ),
)
