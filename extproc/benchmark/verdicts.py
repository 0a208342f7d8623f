"""The figures that the default has to reach, held against what came out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from extproc.benchmark.measures import Measures
from extproc.benchmark.policies import GO_PICKER, RANDOM, ROUND_ROBIN, TIERED
from extproc.benchmark.report.groups import Group, capacity_ratio
from extproc.benchmark.results import LEAST_REQUEST, ORACLE, OURS, Capacity, Verdict
from extproc.benchmark.statistics import Ratio, ratio_of_means

BETTER_OF_TWO = "the better of the two"
"""Of least-request and the Go picker, whose mean over the seeds is lower."""
Getter = Callable[[Measures], float]


def ttft_mean(measures: Measures) -> float:
    return measures.ttft.mean_s


def ttft_p99(measures: Measures) -> float:
    return measures.ttft.p99_s


def throughput(measures: Measures) -> float:
    return measures.output_tokens_per_s


def refused(measures: Measures) -> float:
    return measures.refused_share


MEAN, P99 = "mean TTFT", "P99 TTFT"
GETTERS: dict[str, Getter] = {MEAN: ttft_mean, P99: ttft_p99}

LATENCY_REACH = (
    ("seed", MEAN, RANDOM, 0.60),
    ("seed", P99, RANDOM, 0.30),
    ("mooncake-conv", P99, LEAST_REQUEST, 0.50),
    ("mooncake-conv", P99, GO_PICKER, 0.80),
    ("agents", P99, LEAST_REQUEST, 0.50),
    ("agents", P99, GO_PICKER, 0.80),
    ("azure-conv", MEAN, LEAST_REQUEST, 0.90),
    ("azure-conv", MEAN, GO_PICKER, 0.75),
    ("azure-code", MEAN, LEAST_REQUEST, 0.90),
    ("lora", P99, BETTER_OF_TWO, 0.80),
    ("mixed-gpus", P99, BETTER_OF_TWO, 0.80),
)
"""Workload, figure, against whom, and at most how many times theirs; at every load that was run."""
CAPACITY_REACH = (
    ("mooncake-conv", LEAST_REQUEST, 1.30),
    ("mooncake-conv", GO_PICKER, 1.10),
    ("agents", LEAST_REQUEST, 1.30),
    ("agents", GO_PICKER, 1.10),
)
KEPT_REACH = 0.90
"""Of the gain over least-request, with several routers that share nothing."""
TIERED_REACH = 1.10
"""P99 TTFT with tiers, times that of the same fleet without."""
NEVER_WORSE = "never worse than the better of round robin and least-request"


def verdicts(groups: Sequence[Group], capacities: Sequence[Capacity]) -> Iterator[Verdict]:
    """All that the runs can tell."""
    alone = [group for group in groups if group.routers == 1]
    for workload, what, rival, reach in LATENCY_REACH:
        for group in alone:
            if group.workload == workload and OURS in group.cells:
                yield from _latency(group, what, rival, reach)
    for workload, rival, reach in CAPACITY_REACH:
        ratio = capacity_ratio(capacities, workload, OURS, rival)
        if ratio is not None:
            bound = capacity_ratio(capacities, workload, ORACLE, rival)
            note = f"the oracle: {bound.value:.2f}" if bound else ""
            yield _verdict(
                f"{workload}: capacity over {rival}'s", f"≥ {reach:.2f}", ratio, ratio.at_least(reach), note
            )
    for group in alone:
        yield from _not_worse(group)
        yield from _tiered(group)
    for group in groups:
        if group.routers > 1:
            yield from _kept(group, alone)


def _latency(group: Group, what: str, rival: str, reach: float) -> Iterator[Verdict]:
    get = GETTERS[what]
    name = _better(group, get) if rival == BETTER_OF_TWO else rival
    ratio = group.ratio(OURS, name, get) if name in group.cells else None
    if ratio is not None:
        bound = group.ratio(ORACLE, name, get) if ORACLE in group.cells else None
        note = f"the oracle: {bound.value:.2f}" if bound else ""
        yield _verdict(
            f"{group.label}: {what} over {name}'s", f"≤ {reach:.2f}", ratio, ratio.at_most(reach), note
        )


def _better(group: Group, get: Getter) -> str:
    """BETTER_OF_TWO; least-request where there is neither."""
    present = [name for name in (LEAST_REQUEST, GO_PICKER) if name in group.cells]
    return min(present, key=lambda name: group.mean(name, get).value, default=LEAST_REQUEST)


def _not_worse(group: Group) -> Iterator[Verdict]:
    """One verdict a group, of its worst figure.  Throughput counts where ours served all, as the others do."""
    simple = [name for name in (ROUND_ROBIN, LEAST_REQUEST) if name in group.cells]
    if OURS not in group.cells or not simple:
        return
    figures = [(MEAN, ttft_mean, True), (P99, ttft_p99, True)]
    if group.mean(OURS, refused).value == 0:
        figures.append(("throughput", throughput, False))
    ratios = []
    for what, get, low in figures:
        rival = (min if low else max)(simple, key=lambda name: group.mean(name, get).value)
        ratio = group.ratio(OURS, rival, get) if low else group.ratio(rival, OURS, get)
        if ratio is not None:
            ratios.append((ratio, f"{what} against {rival}"))
    if ratios:
        ratio, note = max(ratios, key=lambda pair: pair[0].low if pair[0].low is not None else pair[0].value)
        holds = None if ratio.low is None else ratio.low <= 1
        yield _verdict(f"{group.label}: {NEVER_WORSE}", "≤ 1 (interval)", ratio, holds, f"the worst: {note}")


def _tiered(group: Group) -> Iterator[Verdict]:
    ratio = group.ratio(TIERED, OURS, ttft_p99) if {TIERED, OURS} <= group.cells.keys() else None
    if ratio is not None:
        yield _verdict(
            f"{group.label}: P99 TTFT with tiers over that without",
            f"≤ {TIERED_REACH:.2f}",
            ratio,
            ratio.at_most(TIERED_REACH),
        )


def _kept(group: Group, alone: Sequence[Group]) -> Iterator[Verdict]:
    """Of what one router gains over least-request, the share that several keep; none where it gains nothing."""
    one = next(
        (g for g in alone if (g.workload, g.load, g.closed) == (group.workload, group.load, group.closed)),
        None,
    )
    if one is None or LEAST_REQUEST not in one.cells or OURS not in group.cells:
        return
    for what, get in GETTERS.items():
        rival = {cell.seed: get(cell.measures) for cell in one.cells[LEAST_REQUEST]}
        single = {cell.seed: get(cell.measures) for cell in one.cells[OURS]}
        several = {cell.seed: get(cell.measures) for cell in group.cells[OURS]}
        seeds = sorted(rival.keys() & single.keys() & several.keys())
        gain = [rival[seed] - single[seed] for seed in seeds]
        kept = [rival[seed] - several[seed] for seed in seeds]
        ratio = ratio_of_means(kept, gain) if seeds else None
        if ratio is not None:
            yield _verdict(
                f"{group.label}: share kept of the gain in {what}",
                f"≥ {KEPT_REACH:.2f}",
                ratio,
                ratio.at_least(KEPT_REACH),
            )


def _verdict(figure: str, reach: str, ratio: Ratio, holds: bool | None, note: str = "") -> Verdict:
    return Verdict(
        figure=figure, reach=reach, value=ratio.value, low=ratio.low, high=ratio.high, holds=holds, note=note
    )
