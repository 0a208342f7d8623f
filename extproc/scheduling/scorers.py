"""Scorers rate endpoints: a list of floats in 0..1 beside the list of endpoints, 1 is best.

A dict keyed by endpoint would cost six times as much at 100 endpoints.  Figures that are stale or were never
scraped are unknown, and an unknown endpoint scores as the median of the others.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..endpoint import Endpoint
from ..request import InferenceRequest
from .plugin import Plugin, Weight, fill_unknown, prefer_low


class QueueScorer(Plugin, frozen=True, tag="queue"):
    """Prefers short queues: `vllm:num_requests_waiting`, and what we sent behind them since."""

    weight: Weight = 1.0

    def score(self, request: InferenceRequest, endpoints: Sequence[Endpoint], now: float) -> list[float]:
        return prefer_low(fill_unknown([e.queue if e.fresh_until > now else None for e in endpoints]))


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
        external = fill_unknown([e.external if e.fresh_until > now else None for e in endpoints])
        return prefer_low([e.in_flight + x for e, x in zip(endpoints, external, strict=True)])


class KvCacheScorer(Plugin, frozen=True, tag="kv-cache"):
    """Prefers free KV cache: 1 - `vllm:kv_cache_usage_perc`."""

    weight: Weight = 1.0

    def score(self, request: InferenceRequest, endpoints: Sequence[Endpoint], now: float) -> list[float]:
        usage = fill_unknown([e.kv_usage if e.fresh_until > now else None for e in endpoints])
        return [1.0 - value for value in usage]


class LoraAffinityScorer(Plugin, frozen=True, tag="lora-affinity"):
    """Prefers endpoints that have the target's adapter loaded, then those with a free adapter slot.

    1 where it runs, 0.8 where a slot is free, 0.6 where it waits, 0 where another must be evicted.  All equal
    for a model that no endpoint reports as an adapter and where none reports adapters at all.
    """

    weight: Weight = 1.0

    def score(self, request: InferenceRequest, endpoints: Sequence[Endpoint], now: float) -> list[float]:
        return [_lora_score(request.target_model, e) for e in endpoints]


def _lora_score(model: str, endpoint: Endpoint) -> float:
    if not endpoint.max_loras or model in endpoint.running_loras:
        return 1.0
    if len(endpoint.running_loras | endpoint.waiting_loras) < endpoint.max_loras:
        return 0.8
    return 0.6 if model in endpoint.waiting_loras else 0.0


Scorer = QueueScorer | RunningScorer | InFlightScorer | KvCacheScorer | LoraAffinityScorer
