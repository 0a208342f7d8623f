"""Metrics pages of which only the counters matter."""

from __future__ import annotations

from fleets import metrics
from msgspec.structs import replace

from extproc.engine_metrics import EngineMetrics

EMPTY = replace(metrics(), requests_finished_total=0.0, prompt_tokens_total=0.0, prefix_cache_hits_total=0.0)


def page(finished: float, tokens: float = 0.0, cached: float = 0.0) -> EngineMetrics:
    """Counters since the engine's start."""
    return replace(
        EMPTY, requests_finished_total=finished, prompt_tokens_total=tokens, prefix_cache_hits_total=cached
    )
