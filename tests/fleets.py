"""Builds endpoints and fleets in the state that a test is about."""

from __future__ import annotations

import random
from collections import Counter

from extproc.config import parse_config
from extproc.endpoint import Endpoint
from extproc.engine_metrics import EngineMetrics
from extproc.fleet import Fleet
from extproc.request import InferenceRequest
from extproc.router import Decision, Router

NOW = 100.0
"""Seconds, monotonic: when a test's figures were scraped and its requests come."""


def metrics(
    running: int = 0,
    waiting: int = 0,
    kv: float = 0.0,
    loras: str = "",
    wait_loras: str = "",
    max_loras: int = 0,
) -> EngineMetrics:
    return EngineMetrics(
        running=running,
        waiting=waiting,
        kv_cache_usage=kv,
        running_loras=frozenset(loras.split()),
        waiting_loras=frozenset(wait_loras.split()),
        max_loras=max_loras,
    )


def endpoint(figures: EngineMetrics | None = None, number: int = 1, in_flight: int = 0) -> Endpoint:
    """The endpoint 10.0.0.*number*:8000; *figures* None: never scraped.  What we sent came after the scrape."""
    made = Endpoint(f"10.0.0.{number}:8000")
    if figures is not None:
        made.observe(figures, NOW)
    for _ in range(in_flight):
        made.acquire()
    return made


def endpoints(*figures: EngineMetrics | None) -> list[Endpoint]:
    return [endpoint(each, number) for number, each in enumerate(figures, 1)]


def fleet(text: str) -> Fleet:
    """A fleet under the config *text*, nothing scraped."""
    made = Fleet()
    made.apply(parse_config(text.encode()))
    return made


def router(text: str) -> Router:
    made = fleet(text).router
    assert made is not None
    return made


def request(model: str | None = "m", **fields: object) -> InferenceRequest:
    return InferenceRequest(**{"headers": {}, "model": model} | fields)  # type: ignore[arg-type]


def decide(router: Router, model: str | None = "m", seed: int = 1, **fields: object) -> Decision:
    return router.decide(request(model, **fields), NOW, random.Random(seed))


def tally(
    router: Router, count: int, model: str = "m", seed: int = 1, **fields: object
) -> Counter[str | None]:
    """How often each target model was chosen, of *count* requests."""
    rng = random.Random(seed)
    decisions = (router.decide(request(model, **fields), NOW, rng) for _ in range(count))
    return Counter(decision.target_model for decision in decisions)
