"""How many bytes of request bodies all streams together hold."""

from __future__ import annotations

from .errors import Reason, Rejected

RETRY_AFTER_S = 1
"""Bodies are held for milliseconds: a second later there is room, or the gateway needs more memory."""

BURST_BYTES = 64 * 2**20
"""Hundreds of requests of 100 KB at once: usual traffic holds a few."""


class BodyBudget:
    """Bytes held now, of at most `max_bytes`."""

    def __init__(self) -> None:
        self.held_bytes = 0
        self._most_bytes = 0

    def take(self, size: int, max_bytes: int) -> None:
        """Count *size* more bytes; raises Rejected where they would exceed *max_bytes*."""
        if self.held_bytes + size > max_bytes:
            raise Rejected(
                Reason.OVERLOADED, "Too many request bodies are held at once.", retry_after_s=RETRY_AFTER_S
            )
        self.held_bytes += size
        self._most_bytes = max(self._most_bytes, self.held_bytes)

    def give_back(self, size: int) -> None:
        self.held_bytes -= size

    def burst_ended(self) -> bool:
        """Much more was held than is now; says so once."""
        if self._most_bytes < BURST_BYTES or self.held_bytes > self._most_bytes // 4:
            return False
        self._most_bytes = self.held_bytes
        return True
