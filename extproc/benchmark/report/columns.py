"""What the tables show of a run, and how figures are written."""

from __future__ import annotations

import math
from typing import Literal

from msgspec import Struct

from extproc.benchmark.measures import Latency, Measures
from extproc.benchmark.report.groups import Getter, Group
from extproc.benchmark.results import ORACLE
from extproc.benchmark.statistics import Mean


class Column(Struct, frozen=True):
    """A measure in a table."""

    family: str
    """Such as `TTFT`; columns of one family stand together."""
    label: str
    """Within the family."""
    unit: str
    get: Getter
    """In the unit shown."""
    better: Literal["low", "high", ""] = "low"
    decimals: int | None = None
    """None: three significant digits."""

    @property
    def title(self) -> str:
        return f"{self.family} {self.label}".strip()

    def text(self, figure: Mean) -> tuple[str, str]:
        """The mean, and how far its interval goes to each side ("" where there is one seed)."""
        decimals = _decimals(figure.value) if self.decimals is None else self.decimals
        margin = figure.half_width
        return f"{figure.value:,.{decimals}f}", "" if margin is None else f"±{margin:,.{decimals}f}"


def _latency(family: str, label: str, field: str, unit: str = "s") -> Column:
    attribute, scale = family.lower().replace("end to end", "e2e"), 1000 if unit == "ms" else 1

    def get(measures: Measures) -> float:
        latency: Latency = getattr(measures, attribute)
        value: float = getattr(latency, field)
        return value * scale

    return Column(family, label, unit, get)


_QUARTET = (("mean", "mean_s"), ("P50", "median_s"), ("P90", "p90_s"), ("P99", "p99_s"))
_TTFT = tuple(_latency("TTFT", label, field) for label, field in _QUARTET)
_TPOT = tuple(_latency("TPOT", label, field, "ms") for label, field in _QUARTET)
_E2E = tuple(_latency("End to end", label, field) for label, field in _QUARTET)
_TOKENS = Column("Output", "", "tok/s", lambda measures: measures.output_tokens_per_s, "high", 0)
_GOODPUT = Column("Goodput", "", "%", lambda measures: 100 * measures.goodput, "high", 1)
_HITS = Column("Prefix", "hits", "%", lambda measures: 100 * measures.hit_ratio, "high", 1)
_KV = Column("KV", "spread", "pt", lambda measures: 100 * measures.kv_spread, "low", 1)

TTFT_MEAN, TTFT_P99 = _TTFT[0], _TTFT[3]
MAIN = (*_TTFT, _TPOT[0], _E2E[0], _TOKENS, _GOODPUT, _HITS, _KV)
NARROW = (TTFT_MEAN, TTFT_P99, _TPOT[0], _TOKENS, _GOODPUT, _HITS, _KV)
"""For terminals of 80 columns."""
ALL = (
    *(*_TTFT, *_TPOT, *_E2E, _TOKENS),
    Column("Calls", "", "/s", lambda measures: measures.requests_per_s, "high"),
    *(_GOODPUT, Column("Refused", "", "%", lambda measures: 100 * measures.refused_share, "low", 1)),
    Column("Held", "P99", "s", lambda measures: measures.held_p99_s, ""),
    *(_HITS, _KV),
    Column("Preemptions", "", "/100 calls", lambda measures: 100 * measures.preemptions_per_call, "low", 1),
    Column("Fullest", "replica", "% of calls", lambda measures: 100 * max(measures.replica_shares), "", 1),
)


def best(group: Group, column: Column) -> set[str]:
    """The policies with the best mean, as far as the figures shown tell; none where all show the same.  The bound
    does not compete."""
    shown = {
        policy: (group.mean(policy, column.get).value, column.text(group.mean(policy, column.get))[0])
        for policy in group.cells
        if policy != ORACLE
    }
    if not column.better or len({text for _, text in shown.values()}) < 2:
        return set()
    pick = min if column.better == "low" else max
    winner = pick(shown.values())[1]
    return {policy for policy, (_, text) in shown.items() if text == winner}


def times(value: float) -> str:
    """A ratio."""
    return f"{value:.2f}×"


def significant(value: float) -> str:
    """Three digits, never with an exponent."""
    return f"{value:,.{_decimals(value)}f}"


def _decimals(value: float) -> int:
    if not value or not math.isfinite(value):
        return 0
    return min(max(0, 2 - math.floor(math.log10(abs(value)))), 4)
