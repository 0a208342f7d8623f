"""Reads the model of a request body, and writes another in its place: every other byte stays the client's."""

import re
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Final, Protocol

import msgspec

from extproc.jsonscan import ModelFound, ModelScanner, name_in

FAST_PATH_MAX_BYTES: Final = 512 * 1024
"""Up to this size a body is read in one go, at the end. It costs at most about 4 ns a byte (a UTF-8 check and
the longest search included), 2 ms in all, which is what the event loop may stand still."""
SLICE_BYTES: Final = 2 * 1024
"""The most that is scanned between two looks at the work done: 2 ms at 900 ns a byte, the worst texts known (one
level up or down with every token; small requests are still dearer by the byte). A slice has 2 µs of its own."""
STEP_COST_BYTES: Final = 32
"""A scanner's step in Python takes as long as its patterns take for this many bytes of short tokens (1.3 µs)."""
WORK_BYTES: Final = 24 * 1024
"""Work between two turns: 1 ms at 40 ns a byte, as short tokens take."""


Piece = bytes | memoryview
"""Some bytes of a body; a memoryview where they are part of something larger that is not copied."""
JOIN_MAX_BYTES: Final = 64 * 1024
"""A spliced chunk up to this size is joined again (a few µs); of a larger one the parts are handed on uncopied."""


Value = msgspec.Raw | msgspec.UnsetType
"""The JSON of one value, which refers to the body; of several with the same key it is the last."""


class Fields(msgspec.Struct, gc=False):
    """What is read of a body's top level.  OpenAI's names, Anthropic's (`system`) and vLLM's own."""

    model: Value = msgspec.UNSET
    # What a prompt says.
    messages: Value = msgspec.UNSET
    prompt: Value = msgspec.UNSET
    input: Value = msgspec.UNSET
    token_ids: Value = msgspec.UNSET
    # What chat templates put before the messages.
    tools: Value = msgspec.UNSET
    functions: Value = msgspec.UNSET
    system: Value = msgspec.UNSET
    instructions: Value = msgspec.UNSET
    documents: Value = msgspec.UNSET
    # What keeps equal prompts apart.
    cache_salt: Value = msgspec.UNSET
    mm_processor_kwargs: Value = msgspec.UNSET
    previous_response_id: Value = msgspec.UNSET
    # How long the answer may be.
    max_tokens: Value = msgspec.UNSET
    max_completion_tokens: Value = msgspec.UNSET
    max_output_tokens: Value = msgspec.UNSET


_DECODER: Final = msgspec.json.Decoder(Fields)
_KEY: Final = b'"model"'
_ESCAPE: Final = b"\\u006"
"""m, o, d, e and l are U+0064 to U+006F: without it no key says `model` in other letters."""
_LARGE: Final = tuple((name, b'"%b"' % name.encode()) for name in ("messages", "prompt", "input", "tools"))
"""Most bytes of a body are in one of these."""
_COLON: Final = re.compile(rb"[ \t\n\r]*:[ \t\n\r]*")
_ABSENT: Final = ModelFound(is_object=True)


class Reader(Protocol):
    """Collects a body's chunks and reads its model.

    `feed` and `finish` give way to others at each turn of the iterator they return, which has to be run to its end;
    small bodies have no turns. Both raise InvalidBody as soon as the fault is known.
    """

    @property
    def chunks(self) -> list[Piece]:
        """The body, neither joined nor copied."""

    @property
    def size(self) -> int:
        """Bytes in `chunks`."""

    @property
    def json(self) -> "BodyReader | None":
        """What reads it as JSON, where that is what it is."""

    def feed(self, chunk: Piece) -> Iterable[None]:
        """Takes the next chunk; the iterator of the one before has come to its end."""

    def finish(self) -> Generator[None, None, ModelFound]:
        """The body is complete: the iterator's value (that of `yield from`) is what it says."""

    def encode(self, name: str) -> bytes:
        """What is written in place of a value of `model`."""


class BodyReader:
    """Reads a JSON body; the interface of `Reader`.  Raises InvalidJson."""

    def __init__(self) -> None:
        self.chunks: list[Piece] = []
        self.size = 0
        self.fields: Fields | None = None
        """Known when `finish` is done, but for bodies that only the scanner can read: too large or not plain."""
        self._scanner: ModelScanner | None = None
        self._work = 0

    @property
    def json(self) -> "BodyReader":
        return self

    def encode(self, name: str) -> bytes:
        return encode_name(name)

    def feed(self, chunk: Piece) -> Iterable[None]:
        self.chunks.append(chunk)
        self.size += len(chunk)
        if self._scanner is not None:
            return self._scan(self._scanner, (chunk,))
        if self.size <= FAST_PATH_MAX_BYTES:
            return ()
        self._scanner = ModelScanner()
        return self._scan(self._scanner, tuple(self.chunks))

    def finish(self) -> Generator[None, None, ModelFound]:
        if self._scanner is None:
            body = b"".join(self.chunks)  # no copy where it is one object of bytes
            self.fields = _decode(body)
            found = _plain_model(body, self.fields) if self.fields is not None else None
            if found is not None:
                return found
            self._scanner = ModelScanner()
            yield from self._scan(self._scanner, (body,))
        return self._scanner.finish()

    def _scan(self, scanner: ModelScanner, chunks: Iterable[Piece]) -> Iterator[None]:
        for chunk in chunks:
            view = memoryview(chunk)
            for start in range(0, len(chunk), SLICE_BYTES):
                piece = view[start : start + SLICE_BYTES]
                self._work += len(piece) + STEP_COST_BYTES * scanner.feed(piece)
                if self._work >= WORK_BYTES:
                    self._work = 0
                    yield


def _decode(body: bytes) -> Fields | None:
    """A body's fields; None for what is no JSON object, and for some that are.

    msgspec lets invalid UTF-8 pass in what it skips; and refuses deep nesting and lone surrogates, which are valid
    JSON.
    """
    try:
        if not body.isascii():
            body.decode()
        return _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _plain_model(body: bytes, fields: Fields) -> ModelFound | None:
    """What a body says about its model, where that is plain to see; None leaves it to the scanner.

    msgspec takes the last of several keys and does not say where it stands.
    """
    value = fields.model
    if isinstance(value, msgspec.UnsetType):
        return _ABSENT
    key = _only_key(body, *_large_value(body, fields))
    if key is None:
        return None
    colon = _COLON.match(body, key + len(_KEY))
    assert colon is not None  # the only one is the key
    raw = bytes(value)
    name, unusable = name_in(raw)
    start = colon.end()
    return ModelFound(True, ((start, start + len(raw)),), (name,), unusable)


def _only_key(body: bytes, start: int, end: int) -> int | None:
    """Where `"model"` stands, if but once and in no other letters; from *start* to *end* it is not looked for."""
    if body.find(_ESCAPE, 0, start) >= 0 or body.find(_ESCAPE, end) >= 0:
        return None
    before, after = body.count(_KEY, 0, start), body.count(_KEY, end)
    if before + after != 1:
        return None
    return body.find(_KEY, 0, start) if before else body.find(_KEY, end)


def _large_value(body: bytes, fields: Fields) -> tuple[int, int]:
    """(start, end) of a whole value, best the largest: no key of the top level is in it.

    In valid JSON a value follows wherever a quoted name and a colon stand, be it on another level.
    """
    largest, key = memoryview(b""), b""
    for name, quoted in _LARGE:
        value = getattr(fields, name)
        if isinstance(value, msgspec.Raw) and len(raw := memoryview(value)) > len(largest):
            largest, key = raw, quoted
    found = body.find(key)
    colon = _COLON.match(body, found + len(key)) if found >= 0 else None
    if colon is None or not body.startswith(largest, colon.end()):
        return 0, 0
    return colon.end(), colon.end() + len(largest)


def encode_name(name: str) -> bytes:
    """A model name as a JSON string in UTF-8. Raises UnicodeEncodeError for a lone surrogate."""
    return msgspec.json.encode(name)


def splice(chunks: Sequence[Piece], spans: Iterable[tuple[int, int]], replacement: bytes) -> list[Piece]:
    """The chunks with `replacement` in place of each span (start, end) of their concatenation.

    Spans are in order, not empty, and apart from each other. Chunks that no span touches are the same objects; a
    small chunk is joined anew, of a large one the parts follow each other. Nothing empty is added.
    """
    waiting = deque(spans)
    result: list[Piece] = []
    offset = 0
    for chunk in chunks:
        touching = []
        while waiting and waiting[0][0] < offset + len(chunk):
            start, end = waiting[0]
            touching.append((start - offset, end - offset))
            if end > offset + len(chunk):
                break  # it goes on in the next chunk
            waiting.popleft()
        offset += len(chunk)
        if touching:
            result += _splice_chunk(chunk, touching, replacement)
        else:
            result.append(chunk)
    return result


def _splice_chunk(chunk: Piece, spans: Sequence[tuple[int, int]], replacement: bytes) -> list[Piece]:
    """A span that starts before the chunk has been replaced there."""
    view = memoryview(chunk)
    parts: list[Piece] = []
    kept_from = 0
    for start, end in spans:
        if start >= 0:
            parts += (view[kept_from:start], replacement)
        kept_from = end
    parts.append(view[kept_from:])
    if len(chunk) <= JOIN_MAX_BYTES:
        parts = [b"".join(parts)]
    return [part for part in parts if part]
