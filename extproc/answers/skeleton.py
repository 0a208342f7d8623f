"""JSON texts that are too large to be held, or too odd for the decoder, cut down to the fields that are read."""

from typing import Final

from .fields import Fields, decoded
from .scanner import ValueScanner, Wanted, wanted_object

KEEP_MAX_BYTES: Final = 4 * 1024
"""The longest value that is kept as it is: a `usage` with every detail known has 600 bytes."""
SKELETON_MAX_BYTES: Final = 64 * 1024
"""Room for over a thousand choices. A text that has more to be kept is not read."""

_QUOTE, _ARRAY, _OBJECT, _END_ARRAY, _COMMA = b'"[{],'
_KEEP: Final = Wanted(keep=True)
_DELTA_CONTENT: Final = (
    *("content", "reasoning_content", "reasoning", "tool_calls", "function_call", "refusal"),
    *("text", "thinking", "partial_json"),
)
_PRESENCE: Final = frozenset(name.encode() for name in (*_DELTA_CONTENT, "delta", "error"))
"""Of these matters only whether something is there."""
_DETAILS: Final = wanted_object({"reason": _KEEP}, keep=True)
_OUTPUT: Final = Wanted(keep=True, items=wanted_object({"type": _KEEP}, keep=True))
_INNER: Final = wanted_object(
    {"usage": _KEEP, "status": _KEEP, "incomplete_details": _DETAILS, "output": _OUTPUT}, keep=True
)
_DELTA: Final = wanted_object(dict.fromkeys((*_DELTA_CONTENT, "stop_reason"), _KEEP), keep=True)
_CHOICE: Final = wanted_object({"delta": _DELTA, "finish_reason": _KEEP, "text": _KEEP}, keep=True)
_FIELDS: Final = wanted_object(
    {
        "type": _KEEP,
        "choices": Wanted(keep=True, items=_CHOICE),
        "usage": _KEEP,
        "delta": _DELTA,
        "message": _INNER,
        "response": _INNER,
        "error": _KEEP,
        "stop_reason": _KEEP,
        "status": _KEEP,
        "incomplete_details": _DETAILS,
        "output": _OUTPUT,
    }
)
"""The paths of `Fields`, but for names of models."""


class Skeleton(ValueScanner):
    """Writes the wanted members of a text, and nothing else, as a small text of the same meaning."""

    def __init__(self) -> None:
        super().__init__(_FIELDS, KEEP_MAX_BYTES)
        self._out = bytearray()

    @property
    def held_bytes(self) -> int:
        return super().held_bytes + len(self._out)

    def finish(self) -> Fields | None:
        """What the text says; None if it is no JSON (`failed`), or not the whole of it."""
        self.feed(b" ", 0, 1)  # ends a number at top level, changes nothing else
        if not self.closed:
            return None
        fields = decoded(bytes(self._out.rstrip(b",")) or b"{}")
        self.failed = fields is None
        return fields

    def _found(self, start: int, end: int, raw: bytes | None) -> None:
        if self._name in _PRESENCE:
            raw = _presence(raw)
        # Null, too, has to be written: it counts instead of a value before it with the same key.
        self._write((raw or b"null") + b",")

    def _entered(self, bracket: int) -> None:
        self._write(bytes((bracket,)))

    def _left(self, bracket: int) -> None:
        if self._out[-1] == _COMMA:
            self._out.pop()
        self._out += bytes((bracket, _COMMA))

    def _write(self, text: bytes) -> None:
        if self._frames and self._frames[-1].items is None:
            self._out += b'"' + self._name + b'":'
        self._out += text
        if len(self._out) > SKELETON_MAX_BYTES:
            self.failed = True


def _presence(raw: bytes | None) -> bytes:
    """Something short that is as empty, or not, as the value."""
    if raw is None:
        return b"true"
    if raw[0] == _QUOTE:
        return b"true" if len(raw) > 2 else b'""'
    if raw[0] in (_ARRAY, _OBJECT):
        return b"true" if raw[1:-1].strip() else b"null"
    return raw
