"""Decisions out of an input's bytes: the same bytes, the same decisions, with every engine and in a replay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")
UNEVEN = 12
"""Rules from here on cut pieces of uneven sizes."""


class Choices:
    """Takes decisions from the front of an input; once it is used up, every decision is the first option."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def byte(self) -> int:
        if self._at >= len(self._data):
            return 0
        self._at += 1
        return self._data[self._at - 1]

    def flag(self) -> bool:
        return bool(self.byte() & 1)

    def of(self, options: Sequence[T]) -> T:
        return options[self.byte() % len(options)]

    def some(self) -> bytes:
        """Up to 255 bytes, as the byte before them says."""
        size = self.byte()
        taken = self._data[self._at : self._at + size]
        self._at += len(taken)
        return taken

    def rest(self) -> bytes:
        taken = self._data[self._at :]
        self._at = len(self._data)
        return taken


def pieces(data: bytes, rule: int) -> list[bytes]:
    """*data* cut by a *rule* of 0..255: 0 not at all, then every so many bytes, then unevenly."""
    if rule == 0 or len(data) < 2:
        return [data]
    if rule < UNEVEN:
        return [data[at : at + rule] for at in range(0, len(data), rule)]
    cut, at, state = [], 0, rule
    while at < len(data):
        state = (state * 1103515245 + 12345) & 0x7FFFFFFF  # C's rand(): any sequence will do
        size = 1 + (state >> 16) % 40
        cut.append(data[at : at + size])
        at += size
    return cut
