"""The time of one decision with the built-in default, by number of endpoints."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from time import thread_time

from extproc.config import parse_config
from extproc.fleet import Fleet
from extproc.request import InferenceRequest
from extproc.vllm import EngineMetrics

from .figure import Figure

REACH_US = {5: None, 100: 100.0, 1_000: 1_000.0}
ROUNDS = 15


def measure(directory: Path) -> Iterator[Figure]:
    for count, reach in REACH_US.items():
        yield Figure(
            f"a decision among {count} endpoints",
            _decision_s(count) * 1e6,
            "µs",
            reach,
            f"CPU, best of {ROUNDS}",
        )


def _decision_s(count: int) -> float:
    fleet, rng = Fleet(), random.Random(1)
    endpoints = ", ".join(f"10.{i // 65536}.{i // 256 % 256}.{i % 256}:8000" for i in range(count))
    router = fleet.apply(
        parse_config(
            f"{{pools: [{{name: p, endpoints: [{endpoints}]}}], models: [{{name: m, pool: p}}]}}".encode()
        )
    )
    for _, endpoint in fleet.endpoints():
        endpoint.observe(
            EngineMetrics(
                waiting=rng.randrange(3), running=rng.randrange(40), kv_cache_usage=rng.random(), max_loras=4
            ),
            0.0,
        )
        endpoint.in_flight = rng.randrange(40)
    calls = 20_000 // count + 20
    return min(
        _round_s(router.decide, calls, rng) for _ in range(ROUNDS)
    )  # the least disturbed, as timeit does


def _round_s(decide: object, calls: int, rng: random.Random) -> float:
    begun = thread_time()
    for _ in range(calls):
        decide(InferenceRequest({}, "m"), 1.0, rng)  # type: ignore[operator]
    return (thread_time() - begun) / calls
