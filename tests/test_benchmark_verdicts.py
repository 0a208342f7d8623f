"""Figures to reach held against made-up runs: reached, missed, unclear, and which are told at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pytest

from extproc.benchmark.matrix import QUICK
from extproc.benchmark.measures import Latency, Measures
from extproc.benchmark.policies import GO_PICKER, RANDOM, ROUND_ROBIN, TIERED
from extproc.benchmark.report.groups import groups
from extproc.benchmark.results import LEAST_REQUEST, ORACLE, OURS, Capacity, Cell, Report, Verdict
from extproc.benchmark.verdicts import CAPACITY_REACH, LATENCY_REACH, verdicts

SPREAD = (0.98, 1.0, 1.02)
"""How many times its value a figure is in each of three seeds, for all policies alike."""


class Made(tuple[float, float, float]):
    """Mean TTFT, P99 TTFT and output tokens a second."""


def made(mean: float, p99: float | None = None, tokens: float = 1000.0) -> Made:
    return Made((mean, 4 * mean if p99 is None else p99, tokens))


def latency(mean_s: float = 0.0, p99_s: float = 0.0) -> Latency:
    return Latency(mean_s=mean_s, median_s=0.0, p90_s=0.0, p99_s=p99_s)


def cell(workload: str, policy: str, seed: int, figures: Made, **more: object) -> Cell:
    mean, p99, tokens = figures
    measures = Measures(
        calls=100,
        ttft=latency(mean, p99),
        tpot=latency(),
        e2e=latency(),
        output_tokens_per_s=tokens,
        requests_per_s=1.0,
        goodput=1.0,
        refused_share=0.0,
        hit_ratio=0.0,
        kv_spread=0.0,
        preemptions_per_call=0.0,
        replica_shares=(1.0,),
        held_p99_s=0.0,
    )
    shown = {"load": 0.8, "rate": 8.0, **more}
    return Cell(workload=workload, policy=policy, seed=seed, measures=measures, ttft_quantiles=(), **shown)  # type: ignore[arg-type]


def cells(
    workload: str,
    by_policy: Mapping[str, Made | Sequence[Made]],
    spread: Sequence[float] = SPREAD,
    **more: object,
) -> list[Cell]:
    """A cell for each policy and seed; what is not given by seed differs from seed to seed by *spread*."""
    return [
        cell(workload, policy, seed, figures, **more)
        for policy, given in by_policy.items()
        for seed, figures in enumerate(
            [Made(factor * value for value in given) for factor in spread]
            if isinstance(given, Made)
            else given
        )
    ]


def judged(runs: Iterable[Cell], capacities: Sequence[Capacity] = ()) -> list[Verdict]:
    report = Report(
        version="",
        made_at="",
        full=False,
        command="",
        workloads=(),
        cells=tuple(runs),
        capacities=tuple(capacities),
    )
    return list(verdicts(groups(report), report.capacities))


def only(found: Sequence[Verdict], part: str) -> Verdict:
    [verdict] = [verdict for verdict in found if part in verdict.figure]
    return verdict


# -- latencies ----------------------------------------------------------------------------------------------


def test_a_figure_is_the_ratio_to_its_rival_paired_over_the_seeds() -> None:
    found = judged(cells("azure-conv", {OURS: made(0.8), LEAST_REQUEST: made(1.0)}))
    assert only(found, "mean TTFT") == Verdict(
        figure="azure-conv, 80 % of capacity: mean TTFT over least-request's",
        reach="≤ 0.90",
        value=pytest.approx(0.8),
        low=pytest.approx(0.8),  # the seeds agree to the digit
        high=pytest.approx(0.8),
        holds=True,
    )


@pytest.mark.parametrize(
    ("ours", "holds"),
    [
        pytest.param([0.80, 0.81, 0.82], True, id="surely reached"),
        pytest.param([0.95, 0.96, 0.97], False, id="surely missed"),
        pytest.param([0.80, 0.90, 1.00], None, id="unclear"),
        pytest.param([0.80], None, id="one seed says nothing of the others"),
    ],
)
def test_a_figure_is_reached_or_missed_by_its_whole_interval(ours: list[float], holds: bool | None) -> None:
    runs = cells(
        "azure-conv", {OURS: [made(value) for value in ours], LEAST_REQUEST: [made(1.0)] * len(ours)}
    )
    assert only(judged(runs), "mean TTFT").holds is holds


def test_the_oracles_own_ratio_stands_beside_a_figure() -> None:
    runs = cells("azure-conv", {OURS: made(0.8), LEAST_REQUEST: made(1.0), ORACLE: made(0.7)})
    assert only(judged(runs), "mean TTFT").note == "the oracle: 0.70"


def test_a_figure_is_told_for_each_load_and_each_rival_that_was_run() -> None:
    by_policy = {OURS: made(0.5), LEAST_REQUEST: made(1.0), GO_PICKER: made(1.0)}
    runs = cells("azure-conv", by_policy, load=0.6) + cells("azure-conv", by_policy, load=0.95)
    assert [verdict.figure for verdict in judged(runs) if "TTFT" in verdict.figure] == [
        f"azure-conv, {load} % of capacity: mean TTFT over {rival}'s"
        for rival in (LEAST_REQUEST, GO_PICKER)
        for load in (60, 95)
    ]


@pytest.mark.parametrize(
    ("least_request", "go_picker", "rival", "value"),
    [(1.0, 1.5, LEAST_REQUEST, 0.75), (1.5, 1.25, GO_PICKER, 0.6)],
)
def test_of_two_rivals_the_better_counts(
    least_request: float, go_picker: float, rival: str, value: float
) -> None:
    by_policy = {OURS: made(1, 0.75), LEAST_REQUEST: made(1, least_request), GO_PICKER: made(1, go_picker)}
    verdict = only(judged(cells("lora", by_policy)), "P99 TTFT over")
    assert verdict.figure == f"lora, 80 % of capacity: P99 TTFT over {rival}'s"
    assert verdict.value == pytest.approx(value)


def test_without_us_there_is_nothing_to_tell() -> None:
    assert judged(cells("lora", {LEAST_REQUEST: made(1.0), GO_PICKER: made(1.0), RANDOM: made(1.0)})) == []


def test_each_figure_has_a_workload_and_its_rivals_in_the_quick_matrix() -> None:
    rivals = {case.workload: {*case.policies, "the better of the two"} for case in QUICK.cases}
    assert [entry for entry in LATENCY_REACH if entry[2] not in rivals[entry[0]]] == []
    sought = {(search.workload, policy) for search in QUICK.searches for policy in search.policies}
    wanted = {(workload, policy) for workload, rival, _ in CAPACITY_REACH for policy in (OURS, rival)}
    assert wanted - sought == set()


# -- capacities ---------------------------------------------------------------------------------------------


def capacity(policy: str, *rates: float) -> Capacity:
    return Capacity(workload="agents", policy=policy, seeds=tuple(range(len(rates))), rates=rates)


@pytest.mark.parametrize(
    ("rates", "holds"), [((13.5, 27.1, 13.6), True), ((12.0, 24.2, 12.1), False), ((12.5, 27.0, 13.0), None)]
)
def test_a_capacity_is_held_against_that_of_the_same_seeds(
    rates: tuple[float, ...], holds: bool | None
) -> None:
    [verdict] = judged([], [capacity(OURS, *rates), capacity(LEAST_REQUEST, 10.0, 20.0, 10.0)])
    assert (verdict.figure, verdict.reach, verdict.holds) == (
        "agents: capacity over least-request's",
        "≥ 1.30",
        holds,
    )


# -- never worse --------------------------------------------------------------------------------------------


def test_the_worst_of_three_figures_against_the_better_of_two_rivals_is_told() -> None:
    by_policy = {
        OURS: made(0.5, 2.1, 1000),
        LEAST_REQUEST: made(1.0, 2.0, 900),
        ROUND_ROBIN: made(2.0, 3.0, 1010),
    }
    assert only(judged(cells("servegen", by_policy)), "never worse") == Verdict(
        figure="servegen, 80 % of capacity: never worse than the better of round robin and least-request",
        reach="≤ 1 (interval)",
        value=pytest.approx(1.05),
        low=pytest.approx(1.05),
        high=pytest.approx(1.05),
        holds=False,
        note="the worst: P99 TTFT against least-request",
    )


def test_throughput_counts_the_other_way_round() -> None:
    by_policy = {OURS: made(0.5, 1.0, 900), LEAST_REQUEST: made(1.0, 2.0, 800), ROUND_ROBIN: made(1, 2, 1000)}
    verdict = only(judged(cells("servegen", by_policy)), "never worse")
    assert (verdict.value, verdict.note) == (
        pytest.approx(10 / 9),
        "the worst: throughput against round robin",
    )


@pytest.mark.parametrize(
    ("ours", "holds"),
    [
        pytest.param([0.9, 0.9, 0.91], True, id="better"),
        pytest.param([0.9, 1.0, 1.2], True, id="perhaps worse, perhaps not"),
        pytest.param([1.1, 1.11, 1.12], False, id="surely worse"),
        pytest.param([1.1], None, id="one seed says nothing of the others"),
        pytest.param([0.5], None, id="one good seed neither"),
    ],
)
def test_never_worse_is_missed_where_the_whole_interval_is_worse(
    ours: list[float], holds: bool | None
) -> None:
    runs = cells("servegen", {OURS: [made(value) for value in ours], LEAST_REQUEST: [made(1.0)] * len(ours)})
    assert only(judged(runs), "never worse").holds is holds


# -- tiers and several routers ------------------------------------------------------------------------------


@pytest.mark.parametrize(("p99", "holds"), [(1.05, True), (1.2, False)])
def test_tiers_may_cost_a_tenth(p99: float, holds: bool) -> None:
    verdict = only(judged(cells("tidal", {TIERED: made(1, p99), OURS: made(1, 1.0)})), "tiers")
    assert (verdict.value, verdict.reach, verdict.holds) == (pytest.approx(p99), "≤ 1.10", holds)


def kept(several: Sequence[float], one: float = 0.5, rival: float = 1.0) -> list[Verdict]:
    """Of the verdicts those on the mean TTFT that several routers keep, by seed."""
    count = len(several)
    alone = cells("agents", {OURS: [made(one)] * count, LEAST_REQUEST: [made(rival)] * count})
    others = cells("agents", {OURS: [made(value) for value in several]}, routers=4)
    return [verdict for verdict in judged(alone + others) if "kept of the gain in mean" in verdict.figure]


@pytest.mark.parametrize(
    ("several", "value", "holds"),
    [
        pytest.param([0.52, 0.525, 0.53], 0.95, True, id="most of it"),
        pytest.param([0.60, 0.605, 0.61], 0.79, False, id="less"),
        pytest.param([0.50, 0.55, 0.60], 0.90, None, id="unclear"),
        pytest.param([0.40, 0.40], 1.20, True, id="more than all"),
        pytest.param([0.99, 1.01, 1.0], 0.0, False, id="nothing"),
        pytest.param([1.20, 1.21], -0.41, False, id="it is a loss now"),
    ],
)
def test_several_routers_keep_a_share_of_the_gain(
    several: list[float], value: float, holds: bool | None
) -> None:
    [verdict] = kept(several)
    assert verdict.figure == "agents, 80 % of capacity, 4 routers: share kept of the gain in mean TTFT"
    assert (verdict.value, verdict.reach, verdict.holds) == (pytest.approx(value), "≥ 0.90", holds)


def test_where_one_router_gains_nothing_there_is_no_share_to_keep() -> None:
    assert kept([0.9, 0.9], one=1.1) == []


def test_what_several_routers_do_is_no_figure_of_one() -> None:
    runs = cells("azure-conv", {OURS: made(0.1), LEAST_REQUEST: made(1.0)}, routers=4)
    assert judged(runs) == []
