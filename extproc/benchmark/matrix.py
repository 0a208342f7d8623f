"""What is run: workloads at loads under policies, and where capacities are sought."""

from __future__ import annotations

from msgspec import Struct

from extproc.benchmark.policies import (
    GO_PICKER,
    LATE_BINDING,
    P2C,
    RANDOM,
    ROUND_ROBIN,
    TIERED,
    OwnConfig,
)
from extproc.benchmark.results import LEAST_REQUEST, ORACLE, OURS

MAIN = (OURS, LEAST_REQUEST, P2C, ROUND_ROBIN, GO_PICKER, ORACLE)


class Case(Struct, frozen=True, kw_only=True):
    """A workload at some loads."""

    workload: str
    loads: tuple[float, ...] = (0.8,)
    """Shares of least-request's capacity; of a closed loop, the clients."""
    closed: bool = False
    policies: tuple[str, ...] = MAIN
    routers: tuple[int, ...] = ()
    """Numbers of routers besides one, with our policy."""
    several_at: tuple[float, ...] = ()
    """At which loads; empty: at all."""
    duration_s: float | None = None
    """Of simulated time; None: the workload's own."""
    given: bool = False
    """The loads are calls a second, whatever the capacity."""
    own: OwnConfig | None = None
    """What the policy OWN is."""
    series: bool = False
    """Whether the KV usage of the first seed is kept for the report."""


class Search(Struct, frozen=True, kw_only=True):
    """Capacities to seek."""

    workload: str
    policies: tuple[str, ...]
    seeds: int
    duration_s: float | None = None


class Matrix(Struct, frozen=True, kw_only=True):
    """All of it."""

    seeds: int
    searches: tuple[Search, ...]
    cases: tuple[Case, ...]


COMPARED = (LEAST_REQUEST, OURS, GO_PICKER)
ONLY_LOAD = (LEAST_REQUEST,)
"""For workloads whose capacity only says at which rates to compare."""

QUICK = Matrix(
    seeds=10,
    searches=(
        Search(workload="mooncake-conv", policies=COMPARED, seeds=10, duration_s=600),
        Search(workload="mooncake-conv", policies=(ORACLE,), seeds=4, duration_s=600),
        Search(workload="agents", policies=COMPARED, seeds=10, duration_s=240),
        Search(workload="azure-conv", policies=COMPARED, seeds=4, duration_s=180),
        Search(workload="azure-code", policies=ONLY_LOAD, seeds=6),
        Search(workload="lora", policies=COMPARED, seeds=4, duration_s=240),
        Search(workload="mixed-gpus", policies=COMPARED, seeds=4, duration_s=240),
        Search(workload="servegen", policies=ONLY_LOAD, seeds=4),
    ),
    cases=(
        Case(
            workload="seed", loads=(60,), closed=True, policies=(*MAIN, RANDOM), duration_s=1160, series=True
        ),
        Case(workload="azure-conv", loads=(0.6, 0.8, 0.95), routers=(2, 4), several_at=(0.8,)),
        Case(workload="azure-code", loads=(0.5, 0.8)),
        Case(workload="mooncake-conv", routers=(2, 4), series=True),
        Case(workload="agents", routers=(2, 4)),
        Case(workload="lora"),
        Case(workload="mixed-gpus", series=True),
        Case(workload="servegen"),
        Case(
            workload="tidal",
            loads=(7.5,),
            given=True,
            policies=(OURS, TIERED, LEAST_REQUEST),
            duration_s=1200,
        ),
        Case(
            workload="priorities",
            loads=(45.0,),
            given=True,
            policies=(OURS, LATE_BINDING, LEAST_REQUEST),
            duration_s=120,
        ),
    ),
)
"""Minutes on two cores."""

FULL = Matrix(
    seeds=20,
    searches=tuple(
        Search(workload=workload, policies=(*MAIN, RANDOM), seeds=10)
        for workload in dict.fromkeys(search.workload for search in QUICK.searches)
    ),
    cases=tuple(
        Case(
            workload=case.workload,
            loads=case.loads if case.closed or case.given else (0.5, 0.6, 0.8, 0.95),
            closed=case.closed,
            policies=tuple(dict.fromkeys((*case.policies, *MAIN, RANDOM))),
            routers=() if case.closed or case.given else (2, 4),
            given=case.given,
            series=case.series,
        )
        for case in QUICK.cases
    ),
)
"""Everything at full length; hours."""
