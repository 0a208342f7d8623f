"""Scorers rate endpoints: a list of floats in 0..1 beside the list of endpoints, 1 is best.

A dict keyed by endpoint would cost six times as much at 100 endpoints.  Figures that are stale or were never
scraped are unknown, and an unknown endpoint scores as the median of the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median, median_low

from ..endpoint import Endpoint
from ..request import InferenceRequest
from .plugin import Plugin, Weight, fill_unknown, prefer_low


class QueueScorer(Plugin, frozen=True, tag="queue"):
    """Prefers short queues: `vllm:num_requests_waiting`, and what we sent behind them since."""

    weight: Weight = 1.0

    def score(self, request: InferenceRequest, endpoints: Sequence[Endpoint], now: float) -> list[float]:
        # where nobody waits, and that is most of the time, the property need not be asked
        queues = [(e.waiting and e.queue) if e.fresh_until > now else None for e in endpoints]
        return prefer_low(fill_unknown(queues))


class RunningScorer(Plugin, frozen=True, tag="running"):
    """Prefers few running requests: `vllm:num_requests_running`, as last scraped."""

    weight: Weight = 1.0

    def score(self, request: InferenceRequest, endpoints: Sequence[Endpoint], now: float) -> list[float]:
        return prefer_low(fill_unknown([e.running if e.fresh_until > now else None for e in endpoints]))


class InFlightScorer(Plugin, frozen=True, tag="in-flight"):
    """Prefers few requests in flight: ours counted exactly, others' as the last scrape told.

    It moves with every request, so a burst between two scrapes spreads evenly.  Where the others' are
    unknown they count as the median; and an unknown endpoint never counts as less loaded than the median of the
    known: that we sent nothing there does not prove that it is free.
    """

    weight: Weight = 1.0

    def score(self, request: InferenceRequest, endpoints: Sequence[Endpoint], now: float) -> list[float]:
        loads = [e.load if e.fresh_until > now else None for e in endpoints]
        if None in loads:
            return prefer_low(self._estimated(endpoints, loads, now))
        return prefer_low(loads)  # type: ignore[arg-type]

    @staticmethod
    def _estimated(endpoints: Sequence[Endpoint], loads: Sequence[int | None], now: float) -> Sequence[float]:
        known = [load for load in loads if load is not None]
        if not known:
            return [e.in_flight for e in endpoints]
        least = median_low(known)  # the lower: between two, the median would be above the one that is free
        external = median(e.external for e in endpoints if e.fresh_until > now)
        return [
            max(e.in_flight + external, least) if load is None else load
            for e, load in zip(endpoints, loads, strict=True)
        ]


class KvCacheScorer(Plugin, frozen=True, tag="kv-cache"):
    """Prefers free KV cache: 1 - `vllm:kv_cache_usage_perc`."""

    weight: Weight = 1.0

    def score(self, request: InferenceRequest, endpoints: Sequence[Endpoint], now: float) -> list[float]:
        usage = fill_unknown([e.kv_usage if e.fresh_until > now else None for e in endpoints])
        return [1.0 - value for value in usage]


class LoraAffinityScorer(Plugin, frozen=True, tag="lora-affinity"):
    """Prefers endpoints that have the target's adapter loaded, then those with a free adapter slot.

    1 where it runs, 0.8 where a slot is free (or no adapter was ever reported), 0.6 where it waits, 0 where
    another must be evicted.  All equal for a model that no endpoint reports as an adapter: base models need no
    slot, and must not be kept away from endpoints whose slots are taken.
    """

    weight: Weight = 1.0

    def score(self, request: InferenceRequest, endpoints: Sequence[Endpoint], now: float) -> list[float]:
        model = request.target_model
        fresh = [e for e in endpoints if e.fresh_until > now]
        if not any(model in e.running_loras or model in e.waiting_loras for e in fresh):
            return [1.0] * len(endpoints)
        scores = [
            (_lora_score(model, e) if e.max_loras else FREE_SLOT) if e.fresh_until > now else None
            for e in endpoints
        ]
        return list(fill_unknown(scores))


FREE_SLOT = 0.8
"""Also where no adapter was reported yet: vLLM tells of adapters once it has run one."""


def _lora_score(model: str, endpoint: Endpoint) -> float:
    if model in endpoint.running_loras:
        return 1.0
    if len(endpoint.running_loras | endpoint.waiting_loras) < endpoint.max_loras:
        return FREE_SLOT
    return 0.6 if model in endpoint.waiting_loras else 0.0


Scorer = QueueScorer | RunningScorer | InFlightScorer | KvCacheScorer | LoraAffinityScorer
