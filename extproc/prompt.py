"""Reads the prompt of a request body: how long it is, and how it begins.

Raw JSON is measured and hashed, not decoded text: a client writes the same conversation the same way each time, and
of a longer one all bytes but the closing ones stand at the beginning.  What chat templates put before the messages
comes first wherever it stands in the body, and has to be equal as a whole for anything to be shared.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Sequence
from typing import Final

import msgspec

from .body import BodyReader, Fields, Piece, Value
from .prompt_text import BLOCK_BYTES, BYTES_PER_TOKEN, PromptText
from .request import Prompt

WINDOW_BYTES: Final = 32 * BLOCK_BYTES
"""How much of a large body is copied and looked at in one go: 50 µs."""
WINDOWS_A_TURN: Final = 8
"""Between two turns: half a millisecond."""
MAX_CHUNKS: Final = 4096
"""A large body in more chunks than this is not looked at: Envoy's have 16 KiB or so, and each takes 0.4 µs."""

_HEAD: Final = ("tools", "functions", "system", "instructions", "documents")
"""What chat templates put before the messages."""
_APART: Final = (*_HEAD, "cache_salt", "mm_processor_kwargs", "previous_response_id")
"""Nothing is shared where one of these differs."""
_CONTENT: Final = ("messages", "prompt", "input", "token_ids")
"""Where the prompt itself is; the first that is a string or an array counts."""
_LIMITS: Final = ("max_completion_tokens", "max_output_tokens", "max_tokens")
"""In vLLM's order."""

_OPENING: Final = re.compile(rb"[\[ \t\n\r]*")
_ENDING: Final = b'] \t\n\r"'
ENDING_MAX_BYTES: Final = 64
"""More brackets and white space at the end of a prompt may count as text."""
_NOTHING: Final = memoryview(b"")
_POSITIVE: Final = re.compile(rb"[1-9][0-9]{0,8}")
_CONTENT_STARTS: Final = tuple(
    (name, re.compile(rb'"%b"[ \t\n\r]*:[ \t\n\r]*(?=["\[])[\[ \t\n\r]*' % name))
    for name in (each.encode() for each in _CONTENT)
)


def read_prompt(reader: BodyReader) -> Generator[None, None, Prompt]:
    """The prompt of a body that is complete and valid.  Gives way to others as the reader does; never raises.

    A body that the reader has no fields of is read less well: what stands before the messages counts, but sets nothing
    apart; what comes after them counts as part of them; the client's limit stays unknown.
    """
    if reader.fields is not None:
        return _read_fields(reader.fields, reader.size)
    return (yield from _read_chunks(reader.chunks, reader.size))


def _read_fields(fields: Fields, size: int) -> Prompt:
    limit = _limit(fields)
    for name in _CONTENT:
        content = _json(getattr(fields, name))
        if content[:1].tobytes() in (b"[", b'"'):
            break
    else:
        return Prompt(size // BYTES_PER_TOKEN, max_output_tokens=limit)
    head: list[Piece] = []
    seed: list[Piece] = [name.encode()]
    for apart in _APART:
        if value := _json(getattr(fields, apart)):
            seed += (b"\0", apart.encode(), b"\0", value)
            if apart in _HEAD:
                head.append(value)
    text = PromptText(b"".join(seed), b"".join(head))
    text.feed(_inside(content))
    return Prompt(*text.measure(), limit)


def _inside(content: memoryview) -> bytes:
    """What goes on unchanged when more is said: an array without its brackets, a string without its last quote."""
    opening = _OPENING.match(content)
    assert opening is not None  # it matches the empty string
    ending = bytes(content[-ENDING_MAX_BYTES:])
    return bytes(content[opening.end() : len(content) - len(ending) + len(ending.rstrip(_ENDING))])


def _json(value: Value) -> memoryview:
    """A field's JSON, uncopied; empty for one that is absent or null."""
    if isinstance(value, msgspec.UnsetType):
        return _NOTHING
    raw = memoryview(value)
    return _NOTHING if raw[:5].tobytes() == b"null" else raw


def _limit(fields: Fields) -> int | None:
    for name in _LIMITS:
        value = getattr(fields, name)
        if isinstance(value, msgspec.Raw) and _POSITIVE.fullmatch(value):
            return int(bytes(value))
    return None


def _read_chunks(chunks: Sequence[Piece], size: int) -> Generator[None, None, Prompt]:
    if len(chunks) > MAX_CHUNKS:
        return Prompt(size // BYTES_PER_TOKEN)
    found = _start_of_content(next(_windows(chunks), b""))
    if found is None:
        return Prompt(size // BYTES_PER_TOKEN)
    name, before, start = found
    text = PromptText(name)
    for turn, window in enumerate(_windows(chunks, start), 1):
        text.feed(window)
        if turn % WINDOWS_A_TURN == 0:
            yield
    tokens, prefix = text.measure()
    return Prompt(tokens + before // BYTES_PER_TOKEN, prefix)


def _start_of_content(beginning: bytes) -> tuple[bytes, int, int] | None:
    """(name, where its key stands, where its value says something) of the prompt itself, at whatever depth."""
    for name, pattern in _CONTENT_STARTS:
        if found := pattern.search(beginning):
            return name, found.start(), found.end()
    return None


def _windows(chunks: Sequence[Piece], start: int = 0) -> Iterator[bytes]:
    """The concatenation from *start* in pieces of WINDOW_BYTES, but for the last; never more than that is copied."""
    held: list[Piece] = []
    size = -start
    for chunk in chunks:
        at = 0
        while at < len(chunk):
            end = at + (-size if size < 0 else WINDOW_BYTES - size)
            piece = chunk if at == 0 and end >= len(chunk) else memoryview(chunk)[at:end]
            at = end
            size += len(piece)
            if size > 0:
                held.append(piece)
            if size == WINDOW_BYTES:
                yield b"".join(held)
                held, size = [], 0
    if held:
        yield b"".join(held)
