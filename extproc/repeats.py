"""What happens again and again is told once in a while, with the number of those in between."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from msgspec import Struct


class _Kind(Struct):
    told_at: float
    untold: int = 0


class Repeats:
    """Which of those that happen are told.  How many kinds there are must be a matter of code: each is remembered."""

    def __init__(self, interval_s: float, clock: Callable[[], float]) -> None:
        self._interval_s = interval_s
        self._clock = clock
        self._kinds: dict[Hashable, _Kind] = {}

    def happened(self, kind: Hashable = None) -> int | None:
        """How many of *kind* were not told since one was; None: nor is this one, as that was within the interval."""
        now = self._clock()
        known = self._kinds.setdefault(kind, _Kind(now - self._interval_s))
        if now - known.told_at < self._interval_s:
            known.untold += 1
            return None
        untold, known.untold, known.told_at = known.untold, 0, now
        return untold
