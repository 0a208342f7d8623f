"""Scorers rate endpoints: a list of floats in 0..1 beside the list of endpoints, 1 is best.

A dict keyed by endpoint would cost six times as much at 100 endpoints.  Figures that are stale or were never
scraped are unknown, and an unknown endpoint scores as the median of the others.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..endpoint import Endpoint
from ..rendezvous import rendezvous
from ..request import InferenceRequest
from .affinity import PrefixAffinityScorer, PrefixHashScorer, SessionAffinityScorer
from .outstanding_work import OutstandingWorkScorer
from .plugin import Plugin, Weight, estimated_loads, fill_unknown, prefer_low


class QueueScorer(Plugin, frozen=True, tag="queue"):
    """Prefers short queues: `vllm:num_requests_waiting`, and what we sent behind them since."""

    weight: Weight = 1.0

    def score(self, request: InferenceRequest, endpoints: Sequence[Endpoint], now: float) -> list[float]:
        # where nobody waits, and that is most of the time, the property need not be asked
        queues = [(e.waiting and e.queue) if e.queue_fresh_until > now else None for e in endpoints]
        return prefer_low(fill_unknown(queues))


class RunningScorer(Plugin, frozen=True, tag="running"):
    """Prefers few running requests: `vllm:num_requests_running`, as last scraped."""

    weight: Weight = 1.0

    def score(self, request: InferenceRequest, endpoints: Sequence[Endpoint], now: float) -> list[float]:
        return prefer_low(fill_unknown([e.running if e.fresh_until > now else None for e in endpoints]))


class InFlightScorer(Plugin, frozen=True, tag="in-flight"):
    """Prefers few requests in flight: ours counted exactly, others' as the last scrape told.

    It moves with every request, so a burst between two scrapes spreads evenly.
    """

    weight: Weight = 1.0

    def score(self, request: InferenceRequest, endpoints: Sequence[Endpoint], now: float) -> list[float]:
        return prefer_low(estimated_loads(endpoints, now))


class KvCacheScorer(Plugin, frozen=True, tag="kv-cache"):
    """Prefers free KV cache: 1 - `vllm:kv_cache_usage_perc`."""

    weight: Weight = 1.0

    def score(self, request: InferenceRequest, endpoints: Sequence[Endpoint], now: float) -> list[float]:
        usage = fill_unknown([e.kv_usage if e.kv_fresh_until > now else None for e in endpoints])
        return [1.0 - value for value in usage]


class LoraAffinityScorer(Plugin, frozen=True, tag="lora-affinity"):
    """Prefers endpoints that have the target's adapter loaded, then those with a free adapter slot.

    1 where it runs, 0.8 where a slot is free (or no adapter was ever reported), 0.6 where it waits, 0 where
    another must be evicted.  Where it runs nowhere, one of those with a free slot gets 0.9, or where all are taken
    one gets 0.4: always the same one, so that it does not spread over all, and may still be in that server's memory.
    All equal for a model that is not known as an adapter: base models need no slot, and must not be kept away from
    endpoints whose slots are taken.
    """

    weight: Weight = 1.0

    def score(self, request: InferenceRequest, endpoints: Sequence[Endpoint], now: float) -> list[float]:
        model = request.target_model
        if not request.is_adapter:
            return [1.0] * len(endpoints)
        known = [
            (_lora_score(model, e) if e.max_loras else FREE_SLOT) if e.fresh_until > now else None
            for e in endpoints
        ]
        scores = list(fill_unknown(known))
        best = max((score for score in known if score is not None), default=None)
        if best in HOME_SCORES:
            ranks = rendezvous(model.encode("utf-8", "surrogatepass"), endpoints)
            home = max((index for index, score in enumerate(known) if score == best), key=ranks.__getitem__)
            scores[home] = HOME_SCORES[best]
        return scores


FREE_SLOT = 0.8
"""Also where no adapter was reported yet: vLLM tells of adapters once it has run one."""
HOME_SCORES = {FREE_SLOT: 0.9, 0.0: 0.4}
"""The best score where an adapter runs nowhere, and what the one gets that is to load it."""


def _lora_score(model: str, endpoint: Endpoint) -> float:
    running, waiting = endpoint.running_loras, endpoint.waiting_loras
    if model in running:
        return 1.0
    if len(running | waiting if waiting else running) < endpoint.max_loras:
        return FREE_SLOT
    return 0.6 if model in waiting else 0.0


Scorer = (
    OutstandingWorkScorer
    | QueueScorer
    | RunningScorer
    | InFlightScorer
    | KvCacheScorer
    | LoraAffinityScorer
    | PrefixAffinityScorer
    | PrefixHashScorer
    | SessionAffinityScorer
)
