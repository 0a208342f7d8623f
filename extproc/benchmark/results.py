"""All results of a benchmark, as they are written to its JSON file and shown in its report."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from extproc.benchmark.measures import Measures

OURS = "extproc"
LEAST_REQUEST = "least-request"
ORACLE = "oracle (bound)"
"""Not a policy that one could run: it knows what no router knows."""
POLICIES = (
    OURS,
    "round robin",
    "random",
    LEAST_REQUEST,
    "P2C (Envoy default)",
    "Go picker default",
    ORACLE,
)
"""In the order in which they are shown.  Other names are fine too and come after these."""


class WorkloadNote(Struct, frozen=True, kw_only=True):
    """What a reader is told of a workload."""

    name: str
    what: str
    """One line: who calls with what."""
    fleet: str
    """One line: how many replicas of what."""


class Cell(Struct, frozen=True, kw_only=True):
    """One run: a workload at a load, under one policy, from one seed."""

    workload: str
    load: float
    """Of an open loop: the rate as a share of the capacity under full least-request.  Of a closed one: the clients."""
    closed: bool = False
    given: bool = False
    """The load is a rate in calls a second, which was given and not derived from a capacity."""
    policy: str
    routers: int = 1
    """Router replicas, without shared state."""
    seed: int
    rate: float
    """Calls sent a second; of a closed loop, those that ended."""
    measures: Measures
    ttft_quantiles: tuple[float, ...]
    """In seconds at measures.QUANTILE_LEVELS."""


class Capacity(Struct, frozen=True, kw_only=True):
    """The highest rates at which 99 % of the calls are good."""

    workload: str
    policy: str
    routers: int = 1
    seeds: tuple[int, ...]
    rates: tuple[float, ...]
    """Calls a second, by seed."""


class Verdict(Struct, frozen=True, kw_only=True):
    """A figure to reach, and what came out."""

    figure: str
    """What is measured, as a reader would say it."""
    reach: str
    """Such as `≤ 0.60`."""
    value: float
    low: float | None = None
    """95 % interval, as `high`; None where there is none."""
    high: float | None = None
    holds: bool | None
    """None: the interval holds both."""
    note: str = ""


class Series(Struct, frozen=True, kw_only=True):
    """KV-cache usage over the time of one run."""

    workload: str
    load: float
    closed: bool = False
    policy: str
    seed: int
    at_s: tuple[float, ...]
    usage: tuple[tuple[float, ...], ...]
    """0..1; one row for each time, one column for each replica."""


class Report(Struct, frozen=True, kw_only=True):
    """A whole benchmark."""

    version: str
    """Of extproc."""
    made_at: str
    """RFC 3339."""
    full: bool
    """False: the quick matrix."""
    command: str
    """What makes it again."""
    workloads: tuple[WorkloadNote, ...]
    """In the order in which they are shown."""
    cells: tuple[Cell, ...]
    capacities: tuple[Capacity, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    series: tuple[Series, ...] = ()
    simulated_s: float = 0.0
    wall_s: float = 0.0


def encode(report: Report) -> bytes:
    """JSON."""
    return msgspec.json.encode(report)


def decode(data: bytes) -> Report:
    """Raises msgspec.DecodeError (ValidationError where it is JSON, but of something else)."""
    return msgspec.json.decode(data, type=Report)
