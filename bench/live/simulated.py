"""What the routing simulator says of the same calls."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from extproc.benchmark.measures import Latency, measure
from extproc.benchmark.simulation import World
from extproc.benchmark.workload import Workload

from .plan import Way
from .results import Figures

DRAWS = 5
"""Policies draw, ties at least: simulated so often, as the mean is what a live run is to be compared with."""


def simulated(workload: Workload, way: Way) -> Figures:
    runs = [_simulated(workload, way, seed) for seed in range(DRAWS)]
    return Figures(
        calls=runs[0].calls,
        failed_share=fmean(run.failed_share for run in runs),
        ttft=_mean([run.ttft for run in runs]),
        tpot=_mean([run.tpot for run in runs]),
        hit_ratio=fmean(run.hit_ratio for run in runs),
        server_ttft_s=fmean(run.server_ttft_s for run in runs),
    )


def _simulated(workload: Workload, way: Way, seed: int) -> Figures:
    world = World(workload, way.simulated(seed))
    measures = measure(world.run())
    stats = [engine.stats for engine in world.engines]
    return Figures(
        calls=measures.calls,
        failed_share=measures.refused_share,
        ttft=measures.ttft,
        tpot=measures.tpot,
        hit_ratio=sum(s.prefix_cache_hits for s in stats)
        / max(1, sum(s.prefix_cache_queries for s in stats)),
        server_ttft_s=sum(s.ttft.sum for s in stats) / max(1, sum(s.ttft.count for s in stats)),
    )


def _mean(latencies: Sequence[Latency]) -> Latency:
    fields = Latency.__struct_fields__
    return Latency(**{name: fmean(getattr(latency, name) for latency in latencies) for name in fields})
