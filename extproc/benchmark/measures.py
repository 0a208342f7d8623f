"""What a run was like: latencies, throughput, goodput, and how evenly the replicas were used."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import TypeAlias

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from extproc.benchmark.outcome import Outcome, Run

TTFT_LIMIT_S = 2.0
"""A call whose first token comes later is not good."""
TPOT_LIMIT_S = 0.1
"""A call whose tokens come slower is not good: about as fast as people read."""
THROUGHPUT_SHARE = 0.95
"""Throughput is taken until this share of the served calls had ended: while the last few drain the fleet idles, and
how long the longest answer takes says nothing of it."""
QUANTILE_LEVELS = (
    *(step / 100 for step in range(99)),
    *(step / 10_000 for step in range(9_900, 10_000)),
    1.0,
)
"""A hundred to 0.99 and another hundred beyond it: the tail is what a CDF is looked at for."""

_Column: TypeAlias = NDArray[np.float64]


class Latency(Struct, frozen=True, kw_only=True):
    """Seconds, over the calls that were served."""

    mean_s: float
    median_s: float
    p90_s: float
    p99_s: float


class Measures(Struct, frozen=True, kw_only=True):
    """One run.  Latencies are of the served calls only: read them beside `refused_share` and `goodput`."""

    calls: int
    """Served or refused."""
    ttft: Latency
    """From sending to the first token."""
    tpot: Latency
    """Time per output token after the first, of answers of at least two; all 0 where there is none."""
    e2e: Latency
    """From sending to the last token."""
    output_tokens_per_s: float
    """From the first call to the end of THROUGHPUT_SHARE of those served."""
    requests_per_s: float
    """The same of calls."""
    goodput: float
    """Share of the calls, refused ones too, that were served within TTFT_LIMIT_S and TPOT_LIMIT_S."""
    refused_share: float
    hit_ratio: float
    """Share of the prompts' tokens that were in the cache of the replica."""
    kv_spread: float
    """How much fuller the fullest KV cache was than the mean of all (0..1), on average over the time in which calls
    were sent; 0 is even.  The difference and not the coefficient of variation: that grows without bound where all
    caches are nearly empty, where being uneven costs nothing."""
    preemptions_per_call: float
    replica_shares: tuple[float, ...]
    """Of the served calls, by replica."""
    held_p99_s: float
    """How long the router held calls, refused ones too."""


class _Columns(Struct, frozen=True):
    sent_s: _Column
    first_token_s: _Column
    finished_s: _Column
    output_tokens: _Column
    replica: _Column

    @property
    def served(self) -> NDArray[np.bool_]:
        return self.replica >= 0


def measure(run: Run) -> Measures:
    """Raises ValueError where no call was served."""
    columns = _columns(run.outcomes)
    served = columns.served
    if not served.any():
        raise ValueError("no call was served")
    replica, tokens = columns.replica[served].astype(np.intp), columns.output_tokens[served]
    sent, finished = columns.sent_s[served], columns.finished_s[served]
    prompts, cached = (
        _column(run.outcomes, "prompt_tokens")[served],
        _column(run.outcomes, "cached_tokens")[served],
    )
    calls_per_s, tokens_per_s = _throughput(columns.sent_s.min(), finished, tokens)
    replicas = len(run.kv_usage[0][1]) if run.kv_usage else 0
    return Measures(
        calls=len(run.outcomes),
        ttft=_latency(columns.first_token_s[served] - sent),
        tpot=_latency(_tpot(columns)[served & (columns.output_tokens >= 2)]),
        e2e=_latency(finished - sent),
        output_tokens_per_s=tokens_per_s,
        requests_per_s=calls_per_s,
        goodput=_goodput(columns),
        refused_share=1 - float(served.mean()),
        hit_ratio=float(cached.sum() / max(prompts.sum(), 1)),
        kv_spread=_kv_spread(run, columns),
        preemptions_per_call=float(_column(run.outcomes, "preemptions")[served].mean()),
        replica_shares=tuple((np.bincount(replica, minlength=replicas) / len(replica)).tolist()),
        held_p99_s=float(np.quantile(_column(run.outcomes, "queued_s"), 0.99)),
    )


def goodput(outcomes: Sequence[Outcome]) -> float:
    """Share of the calls that were served within TTFT_LIMIT_S and TPOT_LIMIT_S; 1 of no calls."""
    return _goodput(_columns(outcomes)) if outcomes else 1.0


def ttft_quantiles(outcomes: Sequence[Outcome]) -> tuple[float, ...]:
    """TTFT in seconds, to the microsecond, at each of QUANTILE_LEVELS, of the served calls; () if there is none."""
    columns = _columns(outcomes)
    ttft = (columns.first_token_s - columns.sent_s)[columns.served]
    return tuple(np.quantile(ttft, QUANTILE_LEVELS).round(6).tolist()) if len(ttft) else ()


def _columns(outcomes: Sequence[Outcome]) -> _Columns:
    return _Columns(*(_column(outcomes, name) for name in _Columns.__struct_fields__))


def _column(outcomes: Sequence[Outcome], name: str) -> _Column:
    return np.fromiter(map(attrgetter(name), outcomes), np.float64, len(outcomes))


def _tpot(columns: _Columns) -> _Column:
    """0 of answers of one token: they have no second that could be late."""
    gaps = np.maximum(columns.output_tokens - 1, 1)
    return np.where(columns.output_tokens >= 2, (columns.finished_s - columns.first_token_s) / gaps, 0.0)


def _goodput(columns: _Columns) -> float:
    prompt = columns.first_token_s - columns.sent_s <= TTFT_LIMIT_S
    return float((columns.served & prompt & (_tpot(columns) <= TPOT_LIMIT_S)).mean())


def _latency(values_s: _Column) -> Latency:
    if not len(values_s):
        return Latency(mean_s=0.0, median_s=0.0, p90_s=0.0, p99_s=0.0)
    median, p90, p99 = np.quantile(values_s, (0.5, 0.9, 0.99)).tolist()
    return Latency(mean_s=float(values_s.mean()), median_s=median, p90_s=p90, p99_s=p99)


def _throughput(start_s: float, finished_s: _Column, tokens: _Column) -> tuple[float, float]:
    """Calls and tokens a second."""
    end_s = np.quantile(finished_s, THROUGHPUT_SHARE, method="higher")
    counted = finished_s <= end_s
    elapsed_s = max(float(end_s - start_s), 1e-9)
    return float(counted.sum()) / elapsed_s, float(tokens[counted].sum()) / elapsed_s


def _kv_spread(run: Run, columns: _Columns) -> float:
    """0 where no sample was taken while calls were sent."""
    first_s, last_s = columns.sent_s.min(), columns.sent_s.max()
    usage = np.array([usage for at_s, usage in run.kv_usage if first_s <= at_s <= last_s])
    return float((usage.max(axis=1) - usage.mean(axis=1)).mean()) if len(usage) else 0.0
