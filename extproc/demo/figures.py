"""What was measured, summed up: pure."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from extproc.demo.plan import UNKNOWN, PlannedRequest


@dataclass(frozen=True)
class Outcome:
    """What a client saw of one request. Times in seconds, from sending it."""

    request: PlannedRequest
    status: int
    """0: no answer at all."""
    ttft_s: float | None = None
    """Time to the first token; only of streamed answers that came."""
    duration_s: float = 0.0
    served_model: str | None = None
    """The model that the answer names, which is the pod's own word for what answered."""
    error: str | None = None
    """What went wrong, in words."""


@dataclass(frozen=True)
class Spread:
    """A distribution in three figures, in seconds."""

    mean: float
    p50: float
    p99: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """None of no values."""
        if not values:
            return None
        return cls(sum(values) / len(values), percentile(values, 0.50), percentile(values, 0.99))


@dataclass(frozen=True)
class BurstFigures:
    """One way of sending the burst."""

    sent: int
    answered: int
    ttft: Spread | None
    ttft_short: Spread | None
    """Of the short prompts, which suffer most from long ones before them."""
    duration: Spread | None


def percentile(values: Sequence[float], ratio: float) -> float:
    """The smallest value that at least `ratio` (0..1) of the values do not exceed (nearest rank)."""
    return sorted(values)[max(0, math.ceil(ratio * len(values)) - 1)]


def burst_figures(outcomes: Sequence[Outcome]) -> BurstFigures:
    answered = [outcome for outcome in outcomes if outcome.status == 200 and outcome.error is None]
    return BurstFigures(
        sent=len(outcomes),
        answered=len(answered),
        ttft=Spread.of([o.ttft_s for o in answered if o.ttft_s is not None]),
        ttft_short=Spread.of([o.ttft_s for o in answered if o.ttft_s is not None and not o.request.is_long]),
        duration=Spread.of([outcome.duration_s for outcome in answered]),
    )


def shares(outcomes: Iterable[Outcome], alias: str) -> Mapping[str, int]:
    """How many answers to `alias` each model gave."""
    return Counter(
        o.served_model for o in outcomes if o.request.model == alias and o.served_model is not None
    )


def models_by_user(outcomes: Iterable[Outcome]) -> Mapping[str, set[str]]:
    """Which models answered each user that was named."""
    seen: defaultdict[str, set[str]] = defaultdict(set)
    for outcome in outcomes:
        if outcome.request.user is not None and outcome.served_model is not None:
            seen[outcome.request.user].add(outcome.served_model)
    return seen


def failures(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Those that did not end as they should; unknown models should be refused with 404."""
    return [o for o in outcomes if o.error is not None or o.status != expected_status(o.request)]


def expected_status(request: PlannedRequest) -> int:
    return 404 if request.model == UNKNOWN else 200


def change(before: float, after: float) -> str:
    """The difference in percent of `before`, with its sign: `-29 %`."""
    return f"{round((after / before - 1) * 100):+d} %" if before else "–"
