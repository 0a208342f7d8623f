"""Reads bodies that came with a content-encoding (RFC 9110 §8.4.1): decoded piece by piece, never more than wanted.

Model servers (uvicorn, Starlette) do not decode what they are sent, so that nothing is ever encoded again: what is
changed goes on plain.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Generator, Iterator
from typing import Final, Protocol

import brotli

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

from .body import BodyReader, Piece, Reader
from .errors import InvalidBody
from .jsonscan import ModelFound

PIECE_BYTES: Final = 64 * 1024
"""What is decoded in one go (brotli may give half as much more): 0.1 to 0.4 ms."""
SLICE_BYTES: Final = 4 * 1024
"""What a decoder is given in one go.  Input costs more than output where it says how to read what follows, and of
deflate's what is left over is copied for each piece."""
INPUT_COST_BYTES: Final = 16
"""A byte of input may take as long as this many of output."""
RESTART_COST_BYTES: Final = 16 * 1024
"""So many bytes could be decoded while a decoder is made for the next member (13 µs)."""
MAX_MEMBERS: Final = 4096
"""bgzip, which writes the smallest, makes one of each 64 KiB.  Without a limit a body of nothing but empty members of
8 bytes would take a minute."""
WORK_BYTES: Final = 256 * 1024
"""Work between two turns: about 1 ms."""
BROTLI_WINDOW_BYTES: Final = 16 * 1024 * 1024
"""RFC 7932's largest.  Brotli fills its window ahead of what it is asked for (14 bytes do that); the others do not."""
ZSTD_WINDOW_LOG: Final = 23
"""RFC 9659: a content coding's window has at most 8 MiB."""


class InvalidCoding(InvalidBody):
    """The body is not encoded as its content-encoding says, or its end is missing, or something follows it."""

    def __init__(self, coding: str, what: str) -> None:
        super().__init__(what)
        self.expected = coding


class _Stream(Protocol):
    """One member of an encoded body (a gzip member, a frame of zstd, all of the others)."""

    def pieces(self, data: Piece) -> Iterator[bytes]:
        """Decodes *data*; pieces of at most about PIECE_BYTES.  Raises what the library does."""

    @property
    def ended(self) -> bool: ...
    @property
    def rest(self) -> bytes:
        """Once ended: the data that follow."""


class _Zlib:
    """gzip (RFC 1952) or zlib (RFC 1950, which is HTTP's `deflate`)."""

    def __init__(self, wbits: int) -> None:
        self._stream = zlib.decompressobj(wbits)

    def pieces(self, data: Piece) -> Iterator[bytes]:
        # What it still has of a match when it stops comes with the next data: a trailer follows in both formats.
        while data and not self._stream.eof:
            yield self._stream.decompress(data, PIECE_BYTES)
            data = self._stream.unconsumed_tail

    @property
    def ended(self) -> bool:
        return self._stream.eof

    @property
    def rest(self) -> bytes:
        return self._stream.unused_data


class _Brotli:
    """RFC 7932; the library refuses what follows the end."""

    rest = b""

    def __init__(self) -> None:
        self._stream = brotli.Decompressor()

    def pieces(self, data: Piece) -> Iterator[bytes]:
        piece = self._stream.process(data, output_buffer_limit=PIECE_BYTES)
        # It says that it accepts more data while it still has output of what it took.
        while piece or not self._stream.can_accept_more_data():
            yield piece
            piece = self._stream.process(b"", output_buffer_limit=PIECE_BYTES)

    @property
    def ended(self) -> bool:
        ended: bool = self._stream.is_finished()
        return ended


class _Zstd:
    """RFC 8878."""

    def __init__(self) -> None:
        self._stream = zstd.ZstdDecompressor(
            options={zstd.DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG}
        )

    def pieces(self, data: Piece) -> Iterator[bytes]:
        yield self._stream.decompress(data, max_length=PIECE_BYTES)
        while not self._stream.needs_input and not self._stream.eof:
            yield self._stream.decompress(b"", max_length=PIECE_BYTES)

    @property
    def ended(self) -> bool:
        return self._stream.eof

    @property
    def rest(self) -> bytes:
        return self._stream.unused_data


_STREAMS: Final[dict[str, Callable[[], _Stream]]] = {
    "gzip": lambda: _Zlib(wbits=31),
    "deflate": lambda: _Zlib(wbits=15),
    "br": _Brotli,
    "zstd": _Zstd,
}
CODINGS: Final = tuple(_STREAMS)
_SEVERAL: Final = ("gzip", "zstd")
"""Codings of which several members may follow each other."""


def coding_of(content_encoding: str) -> str | None:
    """The coding to undo, "" for none; None where it can't be: unknown, or more than one."""
    coding = content_encoding.strip().lower()
    if coding in ("", "identity"):
        return ""
    coding = "gzip" if coding == "x-gzip" else coding  # RFC 9110 §8.4.1.3
    return coding if coding in _STREAMS else None


class DecodingReader:
    """Decodes a body for another reader; the interface of `body.Reader`, about the decoded body.

    *hold* is told (how many bytes more are held, size of the decoded body with them) before any more are decoded; a
    negative number gives back.  What it raises ends the reading.
    """

    def __init__(self, coding: str, inner: Reader, hold: Callable[[int, int], None]) -> None:
        self._coding = coding
        self._inner = inner
        self._hold = hold
        self._stream = _STREAMS[coding]()
        self._members = 0
        """That have ended and been followed by another."""
        self._window = 0
        """Bytes that the decoder holds besides."""
        self._work = 0

    @property
    def chunks(self) -> list[Piece]:
        return self._inner.chunks

    @property
    def size(self) -> int:
        return self._inner.size

    @property
    def json(self) -> BodyReader | None:
        return self._inner.json

    def encode(self, name: str) -> bytes:
        return self._inner.encode(name)

    def feed(self, chunk: Piece) -> Iterator[None]:
        """Takes the next chunk; raises InvalidBody."""
        view = memoryview(chunk)
        for start in range(0, len(chunk), SLICE_BYTES):
            piece = view[start : start + SLICE_BYTES]
            self._work += INPUT_COST_BYTES * len(piece)
            yield from self._decode(piece)

    def finish(self) -> Generator[None, None, ModelFound]:
        """The body is complete; raises InvalidBody."""
        if not self._stream.ended:
            raise InvalidCoding(self._coding, f"an unexpected end after {self.size} bytes")
        del self._stream
        self._hold(-self._window, self.size)
        return (yield from self._inner.finish())

    def _decode(self, data: Piece) -> Iterator[None]:
        while data:
            self._next_member()
            for piece in self._pieces(data):
                self._work += len(piece)
                if piece:
                    self._hold(len(piece), self.size + len(piece))
                    yield from self._inner.feed(piece)
                if len(piece) >= PIECE_BYTES and self._coding == "br" and not self._window:
                    self._window = BROTLI_WINDOW_BYTES
                    self._hold(self._window, self.size)
                if self._work >= WORK_BYTES:
                    self._work = 0
                    yield
            data = self._stream.rest if self._stream.ended else b""

    def _next_member(self) -> None:
        if not self._stream.ended:
            return
        if self._coding not in _SEVERAL:
            raise InvalidCoding(self._coding, f"something follows its end after {self.size} bytes")
        self._members += 1
        if self._members == MAX_MEMBERS:
            raise InvalidCoding(self._coding, f"more than {MAX_MEMBERS} members")
        self._stream = _STREAMS[self._coding]()
        self._work += RESTART_COST_BYTES

    def _pieces(self, data: Piece) -> Iterator[bytes]:
        try:
            yield from self._stream.pieces(data)
        except (zlib.error, brotli.error, zstd.ZstdError):
            raise InvalidCoding(self._coding, f"it is corrupt after {self.size} bytes") from None
