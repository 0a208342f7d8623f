"""Reports with made-up figures, to see how they are shown."""

from __future__ import annotations

import random

import numpy as np

from extproc.benchmark.measures import QUANTILE_LEVELS, Latency, Measures
from extproc.benchmark.results import Capacity, Cell, Report, Series, Verdict, WorkloadNote

FACTORS = {
    "extproc": 0.45,
    "round robin": 1.7,
    "random": 2.3,
    "least-request": 1.0,
    "P2C (Envoy default)": 1.25,
    "Go picker default": 0.8,
    "oracle (bound)": 0.35,
}
"""How long calls wait under each policy."""
LOADS = {
    "seed": (60.0,),
    "azure-conv": (0.6, 0.8, 0.95),
    "azure-code": (0.5, 0.8),
    "mooncake-conv": (0.8,),
    "agents": (0.8,),
    "lora": (0.8,),
    "mixed-gpus": (0.8,),
    "tidal": (0.9,),
}
LEVELS = np.array(QUANTILE_LEVELS)


def made_up_report(seeds: int = 10) -> Report:
    """The same each time."""
    draw = random.Random(7)
    return Report(
        version="0.2.0",
        made_at="2026-01-01T12:00:00Z",
        full=False,
        command="make bench-routing",
        workloads=tuple(
            WorkloadNote(
                name=name,
                what="conversations of several turns with long shared prefixes <and an escape>",
                fleet="5 replicas of 4×A10",
            )
            for name in LOADS
        ),
        cells=tuple(
            _cell(name, load, policy, seed, draw)
            for name, loads in LOADS.items()
            for load in loads
            for policy in FACTORS
            for seed in range(seeds)
        ),
        capacities=tuple(
            Capacity(
                workload=name,
                policy=policy,
                seeds=tuple(range(seeds)),
                rates=tuple(12 / factor**0.4 * draw.uniform(0.93, 1.07) for _ in range(seeds)),
            )
            for name in ("azure-conv", "mooncake-conv", "agents")
            for policy, factor in FACTORS.items()
        ),
        verdicts=VERDICTS,
        series=tuple(_series(policy, draw) for policy in ("extproc", "least-request")),
        simulated_s=640_000,
        wall_s=412,
    )


VERDICTS = (
    Verdict(
        figure="seed: mean TTFT against random placement",
        reach="≤ 0.60×",
        value=0.483,
        low=0.46,
        high=0.507,
        holds=True,
    ),
    Verdict(
        figure="mooncake-conv at 80 %: P99 TTFT against least-request",
        reach="≤ 0.50×",
        value=0.61,
        low=0.57,
        high=0.65,
        holds=False,
        note="the oracle reaches 0.55×",
    ),
    Verdict(
        figure="azure-code at 50 %: P99 TTFT no worse than least-request",
        reach="≤ 1.00×",
        value=0.98,
        low=0.93,
        high=1.03,
        holds=None,
    ),
    Verdict(figure="Decision at 100 endpoints, 32 KB prompt", reach="≤ 250 µs", value=187, holds=True),
)


def _cell(workload: str, load: float, policy: str, seed: int, draw: random.Random) -> Cell:
    wait = FACTORS[policy] * draw.uniform(0.85, 1.15) * (1.2 if load > 0.9 else 0.6)
    quantiles = 0.08 + 0.25 * wait * (-np.log(np.maximum(1 - LEVELS, 5e-5))) ** 1.3
    ttft = Latency(mean_s=0.08 + 0.27 * wait, median_s=0.25 * wait, p90_s=0.7 * wait, p99_s=2.1 * wait)
    measures = Measures(
        calls=3000,
        ttft=ttft,
        tpot=Latency(mean_s=0.063 + wait / 500, median_s=0.06, p90_s=0.08, p99_s=0.11),
        e2e=Latency(mean_s=21 + wait, median_s=18.2, p90_s=44.1, p99_s=81.3),
        output_tokens_per_s=1500 - 40 * wait,
        requests_per_s=8.1 - wait / 5,
        goodput=max(0.0, 1 - 0.03 * wait),
        refused_share=0.0,
        hit_ratio=0.55 if policy == "extproc" else 0.31,
        kv_spread=0.05 + 0.06 * wait,
        preemptions_per_call=0.01 * wait,
        replica_shares=(0.2, 0.21, 0.19, 0.22, 0.18),
        held_p99_s=0.0,
    )
    return Cell(
        workload=workload,
        load=load,
        closed=load > 1,
        policy=policy,
        seed=seed,
        rate=8.0,
        measures=measures,
        ttft_quantiles=tuple(quantiles.round(6).tolist()),
    )


def _series(policy: str, draw: random.Random) -> Series:
    noise = 0.04 if policy == "extproc" else 0.16
    rows, levels = [], [0.5] * 5
    for _ in range(600):
        levels = [
            min(max(0.5 + 0.97 * (level - 0.5) + draw.gauss(0, noise / 3), 0.0), 1.0) for level in levels
        ]
        rows.append(tuple(levels))
    at_s = tuple(float(second) for second in range(600))
    return Series(workload="mooncake-conv", load=0.8, policy=policy, seed=0, at_s=at_s, usage=tuple(rows))
