"""Runs that are compared with each other: the same workload, load and number of routers, all policies and seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from msgspec import Struct

from extproc.benchmark.measures import Measures
from extproc.benchmark.report.style import in_order
from extproc.benchmark.results import Capacity, Cell, Report
from extproc.benchmark.statistics import Mean, Ratio, mean, paired_ratio

Getter = Callable[[Measures], float]


class Group(Struct, frozen=True):
    workload: str
    load: float
    closed: bool
    routers: int
    cells: dict[str, tuple[Cell, ...]]
    """By policy, in the order in which they are shown; by seed."""

    @property
    def load_label(self) -> str:
        load = f"{self.load:g} clients" if self.closed else f"{100 * self.load:.0f} % of capacity"
        if any(cell.given for cells in self.cells.values() for cell in cells):
            load = f"{self.load:g} calls/s"
        return load if self.routers == 1 else f"{load}, {self.routers} routers"

    @property
    def label(self) -> str:
        return f"{self.workload}, {self.load_label}"

    def mean(self, policy: str, get: Getter) -> Mean:
        return mean([get(cell.measures) for cell in self.cells[policy]])

    def ratio(self, policy: str, baseline: str, get: Getter) -> Ratio | None:
        """Over the seeds that both have.  None: there are none, or a value is 0."""
        ours = {cell.seed: get(cell.measures) for cell in self.cells.get(policy, ())}
        theirs = {cell.seed: get(cell.measures) for cell in self.cells.get(baseline, ())}
        return _ratio(ours, theirs)

    def ttft_quantiles(self, policy: str) -> list[float]:
        """Seconds, at QUANTILE_LEVELS: means over the seeds in which something was served."""
        rows = [cell.ttft_quantiles for cell in self.cells[policy] if cell.ttft_quantiles]
        return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def groups(report: Report) -> list[Group]:
    """Workloads in the report's order, then by routers and load."""
    keys = {(cell.workload, cell.closed, cell.routers, cell.load) for cell in report.cells}
    order = workload_names(report)
    return [_group(report, *key) for key in sorted(keys, key=lambda key: (order.index(key[0]), *key[1:]))]


def workload_names(report: Report) -> list[str]:
    """Those with a note first."""
    names = [note.name for note in report.workloads]
    names += [cell.workload for cell in report.cells] + [item.workload for item in report.capacities]
    return list(dict.fromkeys(names))


def capacity_ratio(capacities: Iterable[Capacity], workload: str, policy: str, baseline: str) -> Ratio | None:
    """With one router each.  None: not both were sought."""
    by_policy = {
        item.policy: dict(zip(item.seeds, item.rates, strict=True))
        for item in capacities
        if item.workload == workload and item.routers == 1
    }
    return _ratio(by_policy.get(policy, {}), by_policy.get(baseline, {}))


def geometric_mean(values: Iterable[float]) -> float:
    """Raises ValueError where there are none, or one is not positive."""
    logs = [math.log(value) for value in values]
    return math.exp(mean(logs).value)


def _group(report: Report, workload: str, closed: bool, routers: int, load: float) -> Group:
    cells: dict[str, list[Cell]] = {}
    for cell in report.cells:
        if (cell.workload, cell.closed, cell.routers, cell.load) == (workload, closed, routers, load):
            cells.setdefault(cell.policy, []).append(cell)
    by_policy = {policy: tuple(sorted(cells[policy], key=_seed)) for policy in in_order(cells)}
    return Group(workload, load, closed, routers, by_policy)


def _seed(cell: Cell) -> int:
    return cell.seed


def _ratio(ours: dict[int, float], theirs: dict[int, float]) -> Ratio | None:
    seeds = sorted(ours.keys() & theirs.keys())
    pairs = [(ours[seed], theirs[seed]) for seed in seeds]
    if not pairs or min(min(pair) for pair in pairs) <= 0:
        return None
    return paired_ratio([pair[0] for pair in pairs], [pair[1] for pair in pairs])
