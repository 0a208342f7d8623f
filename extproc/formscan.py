"""Finds the field `model` of a multipart/form-data body that comes in pieces, and checks its frame (RFC 7578).

One pass in linear time; held are at most the headers of one part and a name.  A delimiter begins with a line feed,
which no boundary contains, so that a search for it looks at each byte once, whatever the boundary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from .formgrammar import FormType, InvalidForm, PartHeaders, codec_of_model, model_name, part_headers
from .jsonscan import NAME_MAX_BYTES, ModelFound

PART_HEADERS_MAX_BYTES: Final = 4096
"""python-multipart takes that much in a header; file names have 255 bytes, three times as many percent-encoded."""
MAX_PARTS: Final = 256
"""OpenAI's forms have up to twenty fields, some of them repeated."""


class FormScanner:
    """Scans a body that is fed in pieces of any size.  After an InvalidForm it is spent."""

    def __init__(self, form: FormType) -> None:
        self._form_codec = form.codec
        self._dashes = b"--" + form.boundary
        self._delimiter = b"\n" + self._dashes
        self._step: Callable[[FormScanner, bytes, int], int] = FormScanner._opening
        """Takes what stands at a position, and returns the position after it; ~position where more must come first."""
        self._carry = b""
        self._base = 0
        """Offset in the body of the buffer in hand."""
        self._parts = 0
        self._value_start = 0
        """Offset in the body of the part's data."""
        self._codec: str | None = None
        """Of the part in hand, where it is the model."""
        self._spans: list[tuple[int, int]] = []
        self._names: list[str | None] = []

    def feed(self, data: bytes | memoryview) -> int:
        """Takes the next piece, and returns how many steps it took.  Raises InvalidForm."""
        buffer = self._carry + data if self._carry else bytes(data)
        pos = steps = 0
        while 0 <= pos < len(buffer):
            pos = self._step(self, buffer, pos)
            steps += 1
        kept_from = pos if pos >= 0 else ~pos
        self._carry = buffer[kept_from:]
        self._base += kept_from
        return steps

    def finish(self) -> ModelFound:
        """What the whole body says.  Raises InvalidForm if it is not complete."""
        if self._step != FormScanner._epilogue:
            raise self._fault("an unexpected end", len(self._carry))
        unusable = bool(self._names) and self._names[-1] is None
        return ModelFound(True, tuple(self._spans), tuple(self._names), unusable)

    def _opening(self, buffer: bytes, pos: int) -> int:
        # Starlette's parser takes no preamble, others skip any.
        for opening in (self._dashes, b"\r" + self._delimiter):
            if buffer.startswith(opening):
                self._step = FormScanner._after_delimiter
                return len(opening)
            if opening.startswith(buffer):
                return ~pos
        raise self._fault("no boundary where it begins", pos)

    def _after_delimiter(self, buffer: bytes, pos: int) -> int:
        after = buffer[pos : pos + 2]
        if after == b"\r\n":
            self._step = FormScanner._headers
            return pos + 2
        if after == b"--":
            self._step = FormScanner._epilogue
            return pos + 2
        if after in (b"\r", b"-"):
            return ~pos
        raise self._fault("a line that only begins with the boundary", pos)

    def _headers(self, buffer: bytes, pos: int) -> int:
        end = buffer.find(b"\r\n\r\n", pos, pos + PART_HEADERS_MAX_BYTES)
        if end < 0:
            if len(buffer) - pos >= PART_HEADERS_MAX_BYTES:
                raise self._fault(f"a part whose headers exceed {PART_HEADERS_MAX_BYTES} bytes", pos)
            return ~pos
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise self._fault(f"more than {MAX_PARTS} parts", pos)
        try:
            self._begin_part(part_headers(buffer[pos:end]))
        except InvalidForm as fault:
            raise self._fault(fault, pos) from None
        self._value_start = self._base + end + 4
        self._step = FormScanner._data
        return end + 2  # the line break before the data may be the one before a delimiter

    def _begin_part(self, headers: PartHeaders) -> None:
        if headers.name == "_charset_":  # RFC 7578 §4.6: it says how the others are to be read
            raise InvalidForm("a field `_charset_`")
        self._codec = codec_of_model(headers, self._form_codec) if headers.name == "model" else None

    def _data(self, buffer: bytes, pos: int) -> int:
        start = buffer.find(self._delimiter, pos)
        value_at = self._value_start - self._base
        if start < 0:
            if self._codec is not None and len(buffer) - value_at <= NAME_MAX_BYTES + len(self._delimiter):
                return ~pos  # the name is kept until it is whole
            return ~max(pos, len(buffer) - len(self._delimiter))
        if not buffer.endswith(b"\r", 0, start):
            raise self._fault("a boundary after a bare line feed", start)
        if start - 1 < value_at:
            raise self._fault("a boundary where data begin", start)
        if self._codec is not None:
            self._model_done(self._codec, buffer, value_at, start - 1)
        self._step = FormScanner._after_delimiter
        return start + len(self._delimiter)

    def _model_done(self, codec: str, buffer: bytes, start: int, end: int) -> None:
        name = None
        if end - start <= NAME_MAX_BYTES:  # of a longer one the buffer need not have all
            try:
                name = model_name(buffer[start:end], codec)
            except InvalidForm as fault:
                raise self._fault(fault, start) from None
        if self._names and self._names[-1] != name:
            raise self._fault("another `model`", end)  # some servers take the first, some the last
        self._names.append(name)
        self._spans.append((self._value_start, self._base + end))

    def _epilogue(self, buffer: bytes, pos: int) -> int:
        rest = buffer[pos:].lstrip(b"\r\n")
        if rest:
            raise self._fault("something after its end", len(buffer) - len(rest))
        return len(buffer)

    def _fault(self, what: object, pos: int) -> InvalidForm:
        return InvalidForm(f"{what} at byte {self._base + pos}")
