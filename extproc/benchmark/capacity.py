"""The highest rate at which a policy serves 99 % of the calls well: by bisection, each seed for itself."""

from __future__ import annotations

from collections.abc import Callable

GOOD_SHARE = 0.99
"""Of the calls that must be within the limits of `measures`."""
STEP = 1.25
"""Between the rates that are tried until one is too high and the one below is not."""
PRECISION = 0.03
"""The answer is within this share below the true value, if goodput falls with the rate."""
MAX_STEPS = 24
"""Steps to either side before the search is given up: a factor of 200."""


class NoCapacity(Exception):
    """No rate is low enough, or none too high."""


def seek(goodput_at: Callable[[float], float], start: float) -> float:
    """The capacity in calls a second; *goodput_at* a rate is the share of good calls.

    Raises NoCapacity.
    """
    low, high = _bracket(goodput_at, start)
    while high / low > 1 + PRECISION:
        middle = (low * high) ** 0.5
        if goodput_at(middle) >= GOOD_SHARE:
            low = middle
        else:
            high = middle
    return low


def _bracket(goodput_at: Callable[[float], float], start: float) -> tuple[float, float]:
    """A rate that is served well, and one STEP above it that is not."""
    rate = start
    well = goodput_at(rate) >= GOOD_SHARE
    for _ in range(MAX_STEPS):
        beside = rate * STEP if well else rate / STEP
        if (goodput_at(beside) >= GOOD_SHARE) is not well:
            return (rate, beside) if well else (beside, rate)
        rate = beside
    raise NoCapacity(f"no capacity between {min(start, rate):g} and {max(start, rate):g} calls a second")
