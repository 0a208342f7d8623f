"""Encoded bodies: decoded as the libraries do in one go, or refused; and never more held than was allowed."""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Callable, Iterable

import brotli

from extproc.content_coding import (
    BROTLI_WINDOW_BYTES,
    CODINGS,
    PIECE_BYTES,
    DecodingReader,
    coding_of,
)
from extproc.errors import InvalidBody
from extproc.form import FormReader
from extproc.formgrammar import FormType

from ..choices import Choices, pieces
from ..steps import result_of
from ..target import Target

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MOST_BYTES = 256 * 1024
"""What a request may hold here."""
ENCODE: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstd.compress,
}


class TooMuch(Exception):
    """The budget says no."""


class Opaque(FormReader):
    """Keeps what is decoded, and makes nothing of it."""

    def __init__(self) -> None:
        super().__init__(FormType(b""))

    def feed(self, chunk: bytes | memoryview) -> Iterable[None]:  # type: ignore[override]
        self.chunks.append(chunk)
        self.size += len(chunk)
        return ()


class Budget:
    """Counts what the reader says that it holds, before it does."""

    def __init__(self) -> None:
        self.held = 0

    def __call__(self, more: int, size: int) -> None:
        if size > MOST_BYTES:
            raise TooMuch
        self.held += more


def run(data: bytes) -> None:
    choices = Choices(data)
    coding, rule, make = choices.of(CODINGS), choices.byte(), choices.flag()
    text = choices.rest()
    assert coding_of(f" {coding.upper()} ") == coding
    body = ENCODE[coding](text) if make else text
    decoded, whole = _decoded(coding, pieces(body, rule)), _decoded(coding, [body])
    # Given a frame in one go, libzstd refuses content of another size than its header says; else not always (an empty
    # last block).
    if coding != "zstd" or (decoded is not None and whole is not None):
        assert decoded == whole, "the chunking matters"
    if make:
        assert decoded == text, "what was encoded does not come back"
    elif whole is not None:
        assert whole == _in_one_go(coding, body), "the library reads something else"


def _decoded(coding: str, chunks: Iterable[bytes]) -> bytes | None:
    """None: refused."""
    budget, inner = Budget(), Opaque()
    reader = DecodingReader(coding, inner, budget)
    try:
        for chunk in chunks:
            for _ in reader.feed(chunk):
                assert inner.size <= budget.held
            assert all(len(piece) <= 2 * PIECE_BYTES for piece in inner.chunks), "too much in one go"
        try:
            result_of(reader.finish())
        except InvalidBody as fault:
            if fault.expected == coding:
                return None  # its end is missing; the form's own faults are no matter here
    except (InvalidBody, TooMuch):
        assert inner.size <= MOST_BYTES
        assert budget.held <= MOST_BYTES + BROTLI_WINDOW_BYTES
        return None
    assert inner.size == budget.held, "what was held is not what was told"
    return b"".join(inner.chunks)


def _in_one_go(coding: str, body: bytes) -> bytes:
    match coding:
        case "gzip":
            return gzip.decompress(body)
        case "deflate":
            return zlib.decompress(body)
        case "br":
            decoded: bytes = brotli.decompress(body)
            return decoded
    return zstd.decompress(body)


def _seeds() -> list[bytes]:
    text = b'{"model":"qwq","messages":[{"role":"user","content":"What is it?"}]}'
    seeds = []
    for index, coding in enumerate(CODINGS):
        encoded = ENCODE[coding](text)
        bomb = ENCODE[coding](bytes(4 * MOST_BYTES))
        small_bomb = ENCODE[coding](bytes(MOST_BYTES - 1))
        bodies = (
            encoded,
            encoded[:-3],
            encoded + encoded,
            encoded + b"x",
            bomb,
            small_bomb,
            ENCODE[coding](b""),
        )
        for body in bodies:
            seeds += [bytes((index, rule, 0)) + body for rule in (0, 1, 99)]
        seeds.append(bytes((index, 7, 1)) + text)
    return seeds


TARGET = Target(
    run, _seeds, (b"\x1f\x8b\x08", b"\x78\x9c", b"\x28\xb5\x2f\xfd", b"\x00\x00\xff\xff", b"\x50\x2a\x4d\x18")
)
