"""Replays one workload live, in rounds: in each the same calls in every way, one way after the other."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np

from extproc.benchmark.measures import measure
from extproc.benchmark.outcome import Outcome, Run
from extproc.benchmark.workload import Call, Workload
from extproc.benchmark.workloads import WORKLOADS

from .client import Seen, play
from .fleet import Counts, Fleet, running_fleet
from .load import Meter
from .plan import WAYS, Setting, Way
from .results import Figures, Overhead, Result
from .simulated import simulated
from .texts import Script

GRACE_S = 15.0
"""Real seconds that first tokens may take after the last call was sent."""
PROBES = 15
"""Calls so far apart that none waits for another, for the overhead of one."""
PROBE_EVERY_S = 0.05
PROBE = Call(prompt_tokens=64, output_tokens=1)
PROBE_WITHIN_S = 10.0


def workload_of(setting: Setting, seed: int) -> Workload:
    return WORKLOADS[setting.workload].make(seed, setting.rate, setting.duration_s, setting.warmup_s)


async def replay(
    setting: Setting, rounds: int, directory: Path, tell: Callable[[str], None]
) -> AsyncIterator[Result | Overhead]:
    """The overheads first.  Every round has another seed, and begins with another way: what changes slowly on the
    machine then hits all alike."""
    replicas = WORKLOADS[setting.workload].replicas
    async with running_fleet(replicas, setting.speed, directory) as fleet:
        for way in WAYS:
            yield await _overhead(fleet, way, setting)
        for number in range(1, rounds + 1):
            workload = workload_of(setting, number)
            script = Script(workload.calls)
            for way in _rotated(WAYS, number):
                tell(f"{setting.workload}, round {number} of {rounds}: {way.name}")
                yield await _round(fleet, way, setting, workload, script, number)
                await fleet.wait_idle()


def _rotated(ways: Sequence[Way], by: int) -> Sequence[Way]:
    by %= len(ways)
    return [*ways[by:], *ways[:by]]


async def _round(
    fleet: Fleet, way: Way, setting: Setting, workload: Workload, script: Script, number: int
) -> Result:
    label = f"{setting.workload}-{number}-{way.slug}"
    predicted = simulated(workload, way)
    due = [call.at_s / setting.speed for call in workload.calls]
    before = await fleet.counts()
    meter = Meter({**fleet.pids(way), "client": [os.getpid()]})
    within_s = workload.duration_s / setting.speed + GRACE_S
    seen = await play(
        fleet.envoys[way.slug].listen, due, lambda call: script.body(call, label), label, within_s
    )
    load = meter.read(float(np.quantile([entry.late_s for entry in seen], 0.99)))
    answered = Counter(fleet.replica_of[entry.server] for entry in seen if entry.server)
    return Result(
        workload=setting.workload,
        round=number,
        policy=way.name,
        live=_figures(seen, workload, setting.speed, fleet.replica_of, (await fleet.counts()).since(before)),
        simulated=predicted,
        replica_shares=tuple(
            answered[replica] / max(1, answered.total()) for replica in range(len(fleet.sims))
        ),
        load=load,
    )


def _figures(
    seen: Sequence[Seen],
    workload: Workload,
    speed: float,
    replica_of: dict[str, int],
    counts: Counts,
) -> Figures:
    outcomes = [
        _outcome(entry, workload.calls[entry.call], replica_of, speed)
        for entry in seen
        if workload.calls[entry.call].at_s >= workload.warmup_s
    ]
    measured_s = workload.duration_s - workload.warmup_s
    measures = measure(
        Run(outcomes=outcomes, measured_s=measured_s, kv_usage=[], simulated_s=0.0, wall_s=0.0)
    )
    return Figures(
        calls=measures.calls,
        failed_share=measures.refused_share,
        ttft=measures.ttft,
        tpot=measures.tpot,
        hit_ratio=counts.hit_ratio,
        server_ttft_s=counts.mean_ttft_s * speed,
    )


def _outcome(entry: Seen, call: Call, replica_of: dict[str, int], speed: float) -> Outcome:
    """In the workload's seconds.  One that did not get all that it asked for, or what was not asked for, failed."""
    tokens = entry.tokens
    wrong = entry.complete and tokens != call.output_tokens
    failed = entry.first_s is None or entry.error != "" or wrong
    first_s = entry.due_s if entry.first_s is None else entry.first_s
    return Outcome(
        call=entry.call,
        sent_s=entry.due_s * speed,
        replica=-1 if failed else replica_of[entry.server],
        first_token_s=first_s * speed,
        finished_s=max(entry.last_s, first_s) * speed,
        prompt_tokens=call.prompt_tokens,
        output_tokens=tokens,
    )


async def _overhead(fleet: Fleet, way: Way, setting: Setting) -> Overhead:
    step_s = WORKLOADS[setting.workload].replicas[0].engine.profile.step_s(PROBE.prompt_tokens, 0, 1)
    script = Script([PROBE] * PROBES)
    due = [number * PROBE_EVERY_S for number in range(PROBES)]
    label = f"probe-{way.slug}"
    seen = await play(
        fleet.envoys[way.slug].listen, due, lambda call: script.body(call, label), label, PROBE_WITHIN_S
    )
    took_s = [(entry.first_s or PROBE_WITHIN_S) - entry.due_s for entry in seen]
    return Overhead(
        workload=setting.workload, policy=way.name, median_s=median(took_s) - step_s / setting.speed
    )
