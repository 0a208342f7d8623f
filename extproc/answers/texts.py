"""Reads a JSON text that comes in pieces, in memory that is bounded whatever its size."""

from typing import Final

from .fields import Fields, decoded
from .skeleton import Skeleton

HELD_MAX_BYTES: Final = 32 * 1024
"""A text up to this size is held and decoded at its end, which takes about 1 ns a byte: an event, or an answer of
some thousand tokens. A larger one is cut down as it comes. The size alone decides, so that it makes no difference
how a text is cut into pieces."""


class TextReader:
    """Reads one text."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._skeleton: Skeleton | None = None
        """What a large text is cut down by."""

    @property
    def held_bytes(self) -> int:
        return len(self._held) + (self._skeleton.held_bytes if self._skeleton is not None else 0)

    @property
    def held(self) -> bytearray:
        """The text so far, while it is not a large one."""
        return self._held

    @property
    def failed(self) -> bool:
        """The text is no JSON: known of a large one, and after `finish`."""
        return self._skeleton is not None and self._skeleton.failed

    def feed(self, piece: bytes, pos: int, end: int) -> None:
        if self._skeleton is None:
            if len(self._held) + end - pos <= HELD_MAX_BYTES:
                self._held += piece[pos:end]
                return
            self._skeleton = Skeleton()
            self._skeleton.feed(bytes(self._held), 0, len(self._held))
            self._held.clear()
        self._skeleton.feed(piece, pos, end)

    def finish(self) -> Fields | None:
        """What the text says, which has come to its end; None if it is no JSON, or not the whole of it."""
        if self._skeleton is None:
            text = bytes(self._held)
            fields = decoded(text)
            if fields is not None:
                return fields
            self._skeleton = Skeleton()
            self._skeleton.feed(text, 0, len(text))
        return self._skeleton.finish()


def read(text: bytes) -> Fields | None:
    """What a whole text says."""
    if len(text) <= HELD_MAX_BYTES:
        fields = decoded(text)
        if fields is not None:
            return fields
    reader = TextReader()
    reader.feed(text, 0, len(text))
    return reader.finish()
