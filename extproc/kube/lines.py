"""Cuts a stream of bytes into lines of bounded length, wherever the stream was split."""

from __future__ import annotations


class LineTooLong(ValueError):
    """A line is longer than allowed."""


class Lines:
    """The unfinished line is kept as the pieces it came in: joining them each time would be quadratic."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._pieces: list[bytes] = []
        self._held = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that *chunk* completes, without their line feed; empty ones left out.  Raises LineTooLong."""
        first, *rest = chunk.split(b"\n")
        self._pieces.append(first)
        self._held += len(first)
        if self._held > self._max_bytes:
            raise LineTooLong(f"a line of more than {self._max_bytes} bytes")
        if not rest:
            return []
        lines = [b"".join(self._pieces), *rest[:-1]]
        if max(map(len, rest)) > self._max_bytes:
            raise LineTooLong(f"a line of more than {self._max_bytes} bytes")
        self._pieces, self._held = [rest[-1]], len(rest[-1])
        return [line for line in lines if line.strip()]
