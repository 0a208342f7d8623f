"""Your own trace as a workload; `trace_file` says what may stand in it."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from random import Random

import msgspec

from extproc.benchmark.trace_file import TraceError, read_trace
from extproc.benchmark.workload import Call, Replica
from extproc.benchmark.workloads.spec import WorkloadSpec


def trace_workload(path: Path, replicas: tuple[Replica, ...], *, jitter_s: float = 0.0) -> WorkloadSpec:
    """The trace as a workload for *replicas*; by default at its own rate, once from its start to its end.

    At another rate its times are stretched.  A run longer than the trace begins it again, with contents and sessions
    of its own.  Requests that the smallest replica could never hold are left out (the description counts them).
    *jitter_s* moves each time by up to so much, drawn from the seed.  Raises TraceError, OSError.
    """
    read = read_trace(path)
    longest = min(replica.engine.max_tokens for replica in replicas)
    calls = [call for call in read if call.prompt_tokens + call.output_tokens <= longest]
    if not calls:
        raise TraceError(f"{path}: every request is longer than the {longest} tokens that fit in a replica")
    duration_s = _duration_s(calls) + jitter_s
    left_out = len(read) - len(calls)
    return WorkloadSpec(
        name=path.stem,
        description=f"{len(calls)} calls of {path.name}"
        + (f", {left_out} left out: over {longest} tokens" if left_out else ""),
        replicas=replicas,
        calls=partial(_replay, calls, duration_s, jitter_s),  # unlike a lambda, it goes to other processes
        rate=len(calls) / duration_s,
        duration_s=duration_s,
        warmup_s=0.0,
    )


def _duration_s(calls: list[Call]) -> float:
    """With the mean interval after the last call, so that the rate is calls over duration."""
    last = calls[-1].at_s
    return last * len(calls) / (len(calls) - 1) if last > 0 else 1.0


def _replay(
    calls: list[Call], own_s: float, jitter_s: float, key: str, rate: float, run_s: float
) -> list[Call]:
    stretch = len(calls) / own_s / rate
    past_blocks = 1 + max((piece.stop for call in calls for piece in call.blocks), default=0)
    rng = Random(f"{key}/jitter")
    replayed: list[Call] = []
    for again in range(math.ceil(run_s / (own_s * stretch))):
        for call in calls:
            at_s = (again * own_s + call.at_s + rng.random() * jitter_s) * stretch
            if at_s < run_s:
                replayed.append(_shifted(call, at_s, again, past_blocks))
    return sorted(replayed, key=lambda call: call.at_s)


def _shifted(call: Call, at_s: float, again: int, past_blocks: int) -> Call:
    if not again:
        return msgspec.structs.replace(call, at_s=at_s)
    shift = again * past_blocks
    return msgspec.structs.replace(
        call,
        at_s=at_s,
        blocks=tuple(range(piece.start + shift, piece.stop + shift) for piece in call.blocks),
        session=f"{call.session}/{again}" if call.session else "",
    )
