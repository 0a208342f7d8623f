"""A day in 40 minutes, own machines and rented ones (`tidal`)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from random import Random

from extproc.benchmark.workload import Call
from extproc.benchmark.workloads import azure
from extproc.benchmark.workloads.arrivals import Segment, follow, renewal
from extproc.benchmark.workloads.fleets import fleet
from extproc.benchmark.workloads.spec import WorkloadSpec

DAY_S = 2400.0
PEAK_TO_TROUGH = 4.0
"""Azure's week-long traces of 2024 and the tidal fleets of Alibaba Cloud's guides have 3 to 5."""
STEPS = 240
"""Of the day curve: level for 10 s each."""


def calls(key: str, rate: float, duration_s: float) -> list[Call]:
    """Azure's chats along a day curve of mean *rate*: a trough at the start and at the end, the peak in the middle.

    A shorter run is a faster day.
    """
    even = renewal(Random(f"{key}/arrivals"), rate, duration_s, azure.CONV_CV)
    return azure.chats(key, follow(day(duration_s), even, duration_s))


def day(duration_s: float) -> Iterator[Segment]:
    """One wave: highest over lowest intensity is PEAK_TO_TROUGH."""
    swing = (PEAK_TO_TROUGH - 1) / (PEAK_TO_TROUGH + 1)
    for step in range(STEPS):
        yield Segment(duration_s / STEPS, 1 - swing * math.cos(2 * math.pi * (step + 0.5) / STEPS))


SPEC = WorkloadSpec(
    name="tidal",
    description="Azure's chats over a day in 40 min, peak 4 times the trough; 4 own replicas and 2 in the cloud",
    replicas=(
        *fleet(4, "a100x2-codellama-34b", labels={"tier": "idc"}),
        *fleet(2, "a100x2-codellama-34b", labels={"tier": "cloud"}),
    ),
    calls=calls,
    rate=9.0,
    duration_s=DAY_S,
    warmup_s=60.0,
)
