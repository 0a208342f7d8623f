"""Reads one HTTP/1.1 response to a GET from whatever pieces it comes in; no I/O.

RFC 9112, as far as a metrics page needs it: a length, chunks, or everything up to the end of the connection;
any status other than 200 is a failure, interim ones too (no server sends them for such a request).
"""

from __future__ import annotations

import re
from typing import Literal

Failure = Literal["timeout", "refused", "http_status", "too_large", "invalid", "empty", "other"]
"""Why there are no figures: the closed set that metrics use as a label.  `empty`: the server has had no request yet."""

MAX_HEAD_BYTES = 16 * 1024
"""Status line and headers: model servers send 200 bytes, what proxies add is held to 8 KiB by most servers."""

MAX_CHUNK_LINE_BYTES = 256
"""A chunk's size and its extensions, which nobody sends."""

MAX_CHUNKS = 4096
"""Of one page: servers send kilobytes at a time, and a page of one-byte chunks would stall the event loop."""

MAX_TRAILER_BYTES = MAX_HEAD_BYTES

_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-5]\d\d)(?: [^\r\n\0]*)?")
_CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,8})[ \t]*(?:;[^\r\n]*)?")
_LENGTH = re.compile(rb"\d{1,15}")


class GetError(Exception):
    """There is no page; `status` is the HTTP status where the server answered with another than 200."""

    def __init__(self, reason: Failure, detail: str, status: int | None = None) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: Failure = reason
        self.detail = detail
        self.status = status


def invalid(detail: str) -> GetError:
    return GetError("invalid", f"not HTTP: {detail}")


class Response:
    """`feed` it until it says that the response is complete; then `body` and `keep_alive` hold."""

    def __init__(self, max_bytes: int) -> None:
        self.keep_alive = False
        """Whether another request may follow on the connection."""
        self._max_bytes = max_bytes
        self._buffer = bytearray()
        self._parts: list[bytes] = []
        self._have = 0
        self._step = self._head
        self._left = 0
        self._chunks = 0
        self.started = False
        """Whether anything has come."""

    @property
    def body(self) -> bytes:
        return b"".join(self._parts)

    def feed(self, data: bytes) -> bool:
        """True once the response is complete.  Raises GetError, also for any status other than 200."""
        self.started = True
        self._buffer += data
        while self._step():
            if self._step == self._done:
                return self._done()
        return False

    def end(self) -> bool:
        """The connection has ended: True if that ends the response.  Raises GetError if it does not."""
        if self._step == self._until_end:
            return True
        raise GetError("other", "the server closed the connection")

    # Each step takes what it can from the buffer; False: more must come first.

    def _head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES)
        if end < 0:
            if len(self._buffer) >= MAX_HEAD_BYTES:
                raise invalid(f"no end of the headers within {MAX_HEAD_BYTES} bytes")
            if not b"HTTP/1.".startswith(self._buffer[:7]):
                raise invalid("no status line")
            return False
        status_line, *lines = bytes(self._buffer[:end]).split(b"\r\n")
        del self._buffer[: end + 4]
        found = _STATUS.fullmatch(status_line)
        if not found:
            raise invalid("no status line")
        status = int(found[2])
        if status != 200:
            raise GetError("http_status", f"HTTP {status}", status)
        headers = _headers(lines)
        compressed = headers.get(b"content-encoding", b"").decode("latin-1").lower()
        if compressed not in ("", "identity"):
            raise GetError(
                "invalid", f"the page is compressed ({compressed[:20]}), though asked for as it is"
            )
        self._frame(headers, minor=found[1])
        return True

    def _frame(self, headers: dict[bytes, bytes], minor: bytes) -> None:
        """Choose how the body ends, RFC 9112 section 6.3."""
        connection = headers.get(b"connection", b"").lower()
        self.keep_alive = b"close" not in connection and (minor == b"1" or b"keep-alive" in connection)
        coding, length = headers.get(b"transfer-encoding"), headers.get(b"content-length")
        if coding is not None:
            if coding.lower() != b"chunked":
                raise invalid("a transfer-encoding other than chunked")
            self._step = self._chunk_size
        elif length is not None:
            if not _LENGTH.fullmatch(length):
                raise invalid("content-length is no number")
            self._left = int(length)
            self._limit(self._left)
            self._step = self._sized
        else:
            self.keep_alive = False
            self._step = self._until_end

    def _sized(self) -> bool:
        self._left -= self._take(self._left)
        if self._left:
            return False
        self._step = self._done
        return True

    def _until_end(self) -> bool:
        self._limit(len(self._buffer))
        self._take(len(self._buffer))
        return False

    def _chunk_size(self) -> bool:
        line = self._line(MAX_CHUNK_LINE_BYTES)
        if line is None:
            return False
        found = _CHUNK_SIZE.fullmatch(line)
        if not found:
            raise invalid("no chunk size")
        self._chunks += 1
        if self._chunks > MAX_CHUNKS:
            raise invalid(f"over {MAX_CHUNKS} chunks")
        self._left = int(found[1], 16)
        self._limit(self._left)
        self._step = self._chunk if self._left else self._trailer
        return True

    def _chunk(self) -> bool:
        self._left -= self._take(self._left)
        if self._left or len(self._buffer) < 2:
            return False
        if self._buffer[:2] != b"\r\n":
            raise invalid("a chunk longer than its size")
        del self._buffer[:2]
        self._step = self._chunk_size
        return True

    def _trailer(self) -> bool:
        line = self._line(MAX_TRAILER_BYTES)
        if line is None:
            return False
        self._left += len(line) + 2
        if self._left > MAX_TRAILER_BYTES:
            raise invalid("endless trailers")
        if not line:
            self._step = self._done
        return True

    def _done(self) -> bool:
        if self._buffer:
            self.keep_alive = False  # whatever that is, it answers nothing we asked
        return True

    def _line(self, most: int) -> bytes | None:
        end = self._buffer.find(b"\r\n", 0, most)
        if end < 0:
            if len(self._buffer) >= most:
                raise invalid(f"a line of over {most} bytes")
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    def _take(self, most: int) -> int:
        """Move up to *most* bytes to the body; how many."""
        part = bytes(self._buffer) if most >= len(self._buffer) else bytes(self._buffer[:most])
        del self._buffer[:most]
        if part:
            self._parts.append(part)
            self._have += len(part)
        return len(part)

    def _limit(self, more: int) -> None:
        if self._have + more > self._max_bytes:
            raise GetError("too_large", f"the page is larger than {self._max_bytes} bytes")


def _headers(lines: list[bytes]) -> dict[bytes, bytes]:
    """By name in lower case; raises GetError where one that frames the body comes twice and differently."""
    headers: dict[bytes, bytes] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not name or name != name.strip():
            raise invalid("a malformed header")
        name, value = name.lower(), value.strip(b" \t")
        if name in (b"content-length", b"transfer-encoding") and headers.get(name, value) != value:
            raise invalid(f"two of {name.decode()}")
        headers[name] = value
    return headers
