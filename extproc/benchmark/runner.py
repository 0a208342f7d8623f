"""Runs a matrix on all cores.  Every run is a function of its seed, so the order in which they end does not matter."""

from __future__ import annotations

import math
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from typing import TypeVar

from msgspec import Struct

from extproc.benchmark.capacity import NoCapacity, seek
from extproc.benchmark.matrix import Case, Matrix, Search
from extproc.benchmark.measures import goodput, measure, ttft_quantiles
from extproc.benchmark.outcome import Run
from extproc.benchmark.policies import make
from extproc.benchmark.results import LEAST_REQUEST, OURS, Capacity, Cell, Series
from extproc.benchmark.simulation import simulate
from extproc.benchmark.workload import Workload
from extproc.benchmark.workloads.spec import WorkloadSpec

A = TypeVar("A")
T = TypeVar("T")
PARENT_WATCHED_S = 1.0
"""How often a process looks whether the one that began it is still there."""
SERIES_POINTS = 300
"""Of KV usage over time, at most: as many as a plot is wide."""
SERIES_POLICIES = (OURS, LEAST_REQUEST)

Specs = Mapping[str, WorkloadSpec]


class RunError(Exception):
    """A run says nothing; the text says which one, and why."""


class _Runs(Struct, frozen=True):
    """What one process does in one go: the same calls under several policies."""

    case: Case
    load: float
    rate: float
    seed: int
    spec: WorkloadSpec


class _Seek(Struct, frozen=True):
    search: Search
    policy: str
    seed: int
    spec: WorkloadSpec


class Results(Struct):
    """What came out."""

    cells: list[Cell]
    capacities: list[Capacity]
    series: list[Series]
    simulated_s: float
    """Of the runs that are in `cells`."""


def run(
    matrix: Matrix, specs: Specs, progress: Callable[[int, int], None], processes: int | None = None
) -> Results:
    """Everything in *matrix*; *progress* is told of how many of how many parts are done.

    Raises RunError.
    """
    context = multiprocessing.get_context("spawn")  # forks of a process with threads may hang
    with ProcessPoolExecutor(processes or os.cpu_count(), context, _end_with, (os.getpid(),)) as pool:
        seeks = [
            _Seek(search, policy, seed, specs[search.workload])
            for search in matrix.searches
            for policy in search.policies
            for seed in range(1, search.seeds + 1)
        ]
        total = len(seeks) + sum(len(case.loads) for case in matrix.cases) * matrix.seeds
        done = _Counter(total, progress)
        try:
            rates = list(_map(pool, _capacity, seeks, done))
            capacities = _collect(rates)
            runs = list(_runs(matrix, specs, capacities))
            parts = list(_map(pool, _cells, runs, done))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    cells = [cell for part in parts for cell in part.cells]
    series = [each for part in parts for each in part.series]
    return Results(cells, capacities, series, math.fsum(part.simulated_s for part in parts))


def _end_with(parent: int) -> None:
    """Have this process end soon after *parent* did, which may be killed and then tells nobody."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_WATCHED_S)
        os._exit(1)

    threading.Thread(target=watch, name="watch-parent", daemon=True).start()


class _Counter:
    def __init__(self, total: int, progress: Callable[[int, int], None]) -> None:
        self._done, self._total, self._progress = 0, total, progress
        progress(0, total)

    def one(self) -> None:
        self._done += 1
        self._progress(self._done, self._total)


def _map(
    pool: ProcessPoolExecutor, function: Callable[[A], T], arguments: Iterable[A], done: _Counter
) -> Iterator[T]:
    """In the order of *arguments*, counting as they end."""
    futures: list[Future[T]] = [pool.submit(function, argument) for argument in arguments]
    for future in as_completed(futures):
        future.result()
        done.one()
    for future in futures:
        yield future.result()


def _collect(found: Iterable[tuple[_Seek, float]]) -> list[Capacity]:
    by_name: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for item, rate in found:
        by_name.setdefault((item.search.workload, item.policy), []).append((item.seed, rate))
    return [
        Capacity(
            workload=workload,
            policy=policy,
            seeds=tuple(seed for seed, _ in rates),
            rates=tuple(rate for _, rate in rates),
        )
        for (workload, policy), rates in by_name.items()
    ]


def _runs(matrix: Matrix, specs: Specs, capacities: list[Capacity]) -> Iterator[_Runs]:
    for case in matrix.cases:
        spec = specs[case.workload]
        full = 1.0 if case.given else _least_request_capacity(case.workload, capacities, spec)
        for load in case.loads:
            rate = load if case.closed else load * full
            for seed in range(1, matrix.seeds + 1):
                yield _Runs(case, load, rate, seed, spec)


def _least_request_capacity(workload: str, capacities: list[Capacity], spec: WorkloadSpec) -> float:
    """The mean over seeds; without a search, the workload's own rate."""
    for item in capacities:
        if item.workload == workload and item.policy == LEAST_REQUEST:
            return math.fsum(item.rates) / len(item.rates)
    return spec.rate


def _capacity(item: _Seek) -> tuple[_Seek, float]:
    duration_s = item.search.duration_s

    def goodput_at(rate: float) -> float:
        workload = item.spec.make(item.seed, rate, duration_s)
        return goodput(simulate(workload, make(item.policy, item.seed)).outcomes)

    try:
        return item, seek(goodput_at, item.spec.rate)
    except NoCapacity as error:
        raise RunError(f"{item.spec.name} under {item.policy}, seed {item.seed}: {error}") from None


def _cells(item: _Runs) -> Results:
    case = item.case
    workload = item.spec.make(item.seed, item.rate, case.duration_s)
    wanted = [(policy, 1) for policy in case.policies]
    if item.load in (case.several_at or case.loads):
        wanted += [(OURS, routers) for routers in case.routers]
    results = Results([], [], [], 0.0)
    for policy, routers in wanted:
        run = simulate(workload, make(policy, item.seed, routers, case.own))
        results.simulated_s += run.simulated_s
        results.cells.append(_cell(item, workload, policy, routers, run))
        if case.series and item.seed == 1 and routers == 1 and policy in SERIES_POLICIES:
            results.series.append(_series(item, policy, run))
    return results


def _cell(item: _Runs, workload: Workload, policy: str, routers: int, run: Run) -> Cell:
    try:
        measures = measure(run)
    except ValueError as error:
        raise RunError(f"{item.spec.name} under {policy}, seed {item.seed}: {error}") from None
    return Cell(
        workload=item.case.workload,
        load=item.load,
        closed=item.case.closed,
        given=item.case.given,
        policy=policy,
        routers=routers,
        seed=item.seed,
        rate=measures.requests_per_s if workload.concurrency else item.rate,
        measures=measures,
        ttft_quantiles=tuple(ttft_quantiles(run.outcomes)),
    )


def _series(item: _Runs, policy: str, run: Run) -> Series:
    points = run.kv_usage[:: max(1, math.ceil(len(run.kv_usage) / SERIES_POINTS))]
    return Series(
        workload=item.case.workload,
        load=item.load,
        closed=item.case.closed,
        policy=policy,
        seed=item.seed,
        at_s=tuple(at for at, _ in points),
        usage=tuple(usage for _, usage in points),
    )
