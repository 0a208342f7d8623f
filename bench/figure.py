"""One measured figure and the reach it is held against."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from msgspec import Struct


class Figure(Struct, frozen=True):
    """A figure; `value` and `reach` in `unit`."""

    name: str
    value: float
    unit: str
    reach: float | None = None
    """At most this; None: reported only."""
    note: str = ""

    @property
    def within(self) -> bool | None:
        return None if self.reach is None else self.value <= self.reach


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of ratios taken pair by pair, as the machine's speed drifts between pairs."""
    return median(one / other for one, other in zip(ours, theirs, strict=True))
