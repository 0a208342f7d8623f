"""Where an answer names its model, and the client's name put there."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from extproc.body import Piece, encode_name

from .fields import Fields, Inner
from .scanner import ValueScanner, Wanted, wanted_object

_KEEP: Final = Wanted(keep=True)
_INNER: Final = wanted_object({"model": _KEEP})
_MODELS: Final = wanted_object({"model": _KEEP, "message": _INNER, "response": _INNER})
"""OpenAI and Messages; the first event of Messages; events of Responses."""
_KEY: Final = b'"model"'
_COLON: Final = re.compile(rb"[ \t\n\r]*+:[ \t\n\r]*+")
_QUOTE: Final = b'"'


class Restoring(Struct, frozen=True):
    """Puts the client's model name back."""

    target: str
    """The name that the server was asked for, and answers with."""
    client: str
    """The name that the client wrote. Encodable in UTF-8 (no lone surrogates)."""


class _ModelScanner(ValueScanner):
    """Finds the values that are the target's name, in any spelling."""

    def __init__(self, target: str) -> None:
        # A longer string is another name however this one is spelled: \\uXXXX takes six bytes for one, and two are
        # quotes.
        super().__init__(_MODELS, 6 * len(target.encode()) + 2)
        self._target = target
        self.spans: list[tuple[int, int]] = []
        """Of those found in the last pieces: offsets in the text, quotes included."""

    @property
    def open_bytes(self) -> int:
        """How much of a string has come that may turn out to be the target's name."""
        return len(self._kept) if self._kept and self._kept.startswith(_QUOTE) else 0

    def _found(self, start: int, end: int, raw: bytes | None) -> None:
        if raw is not None and raw.startswith(_QUOTE) and _string(raw) == self._target:
            self.spans.append((start, end))


def _string(raw: bytes) -> str | None:
    try:
        text: str = json.loads(raw)
        return text
    except ValueError:  # no such escape, or no UTF-8
        return None


class Restorer:
    """Rewrites the pieces of one answer.

    Of each piece first every part that belongs to a JSON text is looked at, in order; then `rewrite` gives what goes
    on in its place. Only a value that is not complete is held back, from its opening quote.
    """

    def __init__(self, restoring: Restoring) -> None:
        self._target = restoring.target
        self._plain = encode_name(restoring.target)
        self._replacement = encode_name(restoring.client)
        self._scanner: _ModelScanner | None = None
        """Of the text that has begun."""
        self._held = b""
        self._spans: list[tuple[int, int]] = []
        """In the piece in hand; negative offsets lie in what is held."""

    @property
    def held_bytes(self) -> int:
        return len(self._held) + (self._scanner.held_bytes if self._scanner is not None else 0)

    def look(self, piece: bytes, pos: int, end: int) -> None:
        """Takes `piece[pos:end]` as the next part of the text."""
        scanner = self._scanner
        if scanner is None:
            scanner = self._scanner = _ModelScanner(self._target)
        shift = pos - scanner.fed_bytes
        scanner.feed(piece, pos, end)
        if scanner.spans:
            self._spans += [(start + shift, stop + shift) for start, stop in scanner.spans]
            scanner.spans.clear()

    def line_ends(self) -> None:
        """The text goes on in another line: a string that is still open is none."""
        if self._scanner is not None:
            self._scanner.feed(b"\n", 0, 1)

    def text_ends(self) -> None:
        self._scanner = None

    def look_at_whole(self, piece: bytes, pos: int, end: int, fields: Fields | None) -> None:
        """Takes a text that `piece[pos:end]` holds as a whole, and that says these fields (None: it is not known).

        As `look` and `text_ends`, but at once where the only `model` is plain to see.
        """
        key = piece.find(_KEY, pos, end)
        escaped = piece.find(b"\\u006", pos, end) >= 0  # m, o, d, e and l are U+0064 to U+006F
        if key < 0 and not escaped:
            return
        name = None if fields is None or escaped else _model(fields)
        if name is not None and piece.find(_KEY, key + len(_KEY), end) < 0:
            if name != self._target:
                return
            colon = _COLON.match(piece, key + len(_KEY), end)
            if colon is not None and piece.startswith(self._plain, colon.end()):
                self._spans.append((colon.end(), colon.end() + len(self._plain)))
                return
        self.look(piece, pos, end)
        self.text_ends()

    def rewrite(self, piece: bytes) -> Sequence[Piece] | None:
        """What goes on instead of the piece; None: as it came."""
        keep = self._scanner.open_bytes if self._scanner is not None else 0
        if not (self._spans or self._held or keep):
            return None
        start = -len(self._held)
        whole = self._held + piece
        parts: list[bytes] = []
        for span_start, span_end in self._spans:
            parts += (whole[start + len(self._held) : span_start + len(self._held)], self._replacement)
            start = span_end
        parts.append(whole[start + len(self._held) : len(whole) - keep])
        self._held = whole[len(whole) - keep :]
        self._spans.clear()
        rewritten = b"".join(parts)
        return (rewritten,) if rewritten else ()

    def finish(self) -> Sequence[Piece]:
        """What is still held back."""
        held, self._held = self._held, b""
        self._scanner = None
        return (held,) if held else ()


def _model(fields: Fields) -> object:
    """The name of a model in a text, at whichever path it stands."""
    if fields.model is not None:
        return fields.model
    for inner in (fields.message, fields.response):
        if isinstance(inner, Inner) and inner.model is not None:
            return inner.model
    return None
