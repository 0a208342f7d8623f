"""Choosing an endpoint: what each filter, scorer and picker does, and a profile of them."""

from __future__ import annotations

import itertools
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from fleets import NOW, endpoint, endpoints, metrics, request
from hypothesis import given
from hypothesis import strategies as st

import extproc
from extproc.endpoint import Endpoint
from extproc.engine_metrics import EngineMetrics
from extproc.scheduling.filters import (
    Filter,
    FreshFilter,
    LabelsFilter,
    PreferLabelsFilter,
    UnsaturatedFilter,
)
from extproc.scheduling.pickers import MaxScorePicker, Picker, PowerOfTwoPicker, WeightedRandomPicker
from extproc.scheduling.plugin import fill_unknown, prefer_low
from extproc.scheduling.profile import Choice, Profile
from extproc.scheduling.scorers import (
    InFlightScorer,
    KvCacheScorer,
    LoraAffinityScorer,
    QueueScorer,
    RunningScorer,
    Scorer,
)

STALE = NOW + 2.0
"""Figures scraped at NOW are too old from here on."""


def labelled(*labels: dict[str, str]) -> list[Endpoint]:
    return [Endpoint(f"10.0.0.{number}:80", each) for number, each in enumerate(labels, 1)]


def numbers(kept: Sequence[Endpoint], of: Sequence[Endpoint]) -> list[int]:
    return [of.index(each) for each in kept]


@pytest.mark.parametrize(
    ("plugin", "kept"),
    [
        (LabelsFilter({"gpu": "a10"}), [0, 2]),
        (LabelsFilter({"gpu": "a10", "zone": "x"}), [2]),
        (LabelsFilter({}), [0, 1, 2, 3]),
        (LabelsFilter({"gpu": "none"}), []),
        (PreferLabelsFilter({"gpu": "a10"}), [0, 2]),
        (PreferLabelsFilter({"gpu": "none"}), [0, 1, 2, 3]),
    ],
)
def test_filters_by_label(plugin: Filter, kept: list[int]) -> None:
    targets = labelled({"gpu": "a10"}, {"gpu": "h100"}, {"gpu": "a10", "zone": "x"}, {})
    assert numbers(plugin.keep(request(), targets, NOW), targets) == kept


def test_the_fresh_filter_keeps_what_is_known_and_all_where_nothing_is() -> None:
    targets = endpoints(metrics(), None, metrics())
    assert numbers(FreshFilter().keep(request(), targets, NOW + 1.99), targets) == [0, 2]
    assert numbers(FreshFilter().keep(request(), targets, STALE), targets) == [0, 1, 2]


@pytest.mark.parametrize(
    ("plugin", "kept"),
    [
        (UnsaturatedFilter(), [0, 3]),
        (UnsaturatedFilter(waiting=6, kv_usage=1.0), [0, 1, 2, 3]),
        (UnsaturatedFilter(waiting=1, kv_usage=0.1), [3]),
    ],
)
def test_the_unsaturated_filter_keeps_those_below_both_limits_and_the_unknown(
    plugin: Filter, kept: list[int]
) -> None:
    targets = endpoints(metrics(waiting=4, kv=0.89), metrics(waiting=5), metrics(kv=0.9), None)
    assert numbers(plugin.keep(request(), targets, NOW), targets) == kept


def test_the_unsaturated_filter_keeps_all_where_all_are_saturated() -> None:
    targets = endpoints(metrics(waiting=5), metrics(waiting=50))
    assert numbers(UnsaturatedFilter().keep(request(), targets, NOW), targets) == [0, 1]


@pytest.mark.parametrize(
    ("values", "scores"),
    [
        ([0, 5, 10], [1.0, 0.5, 0.0]),
        ([7], [1.0]),
        ([3, 3, 3], [1.0, 1.0, 1.0]),
        ([0.25, 0.75], [1.0, 0.0]),
        ([10**9, 0], [0.0, 1.0]),
        ([5e-324, 0.0], [0.0, 1.0]),
    ],
)
def test_the_lowest_scores_1_the_highest_0(values: list[float], scores: list[float]) -> None:
    assert prefer_low(values) == scores


@given(st.lists(st.floats(0, 1e12), min_size=1, max_size=20))
def test_scores_are_within_0_and_1_and_in_order(values: list[float]) -> None:
    scores = prefer_low(values)
    assert all(0 <= score <= 1 for score in scores)
    ranked = sorted(range(len(values)), key=values.__getitem__)
    assert all(scores[a] >= scores[b] for a, b in itertools.pairwise(ranked))


@pytest.mark.parametrize(
    ("values", "filled"),
    [
        ([1.0, None, 5.0, 2.0], [1.0, 2.0, 5.0, 2.0]),
        ([None, 1.0, 2.0], [1.5, 1.0, 2.0]),
        ([None, None], [0.0, 0.0]),
        ([None, 4.0], [4.0, 4.0]),
        ([0.0, 1.0], [0.0, 1.0]),
    ],
)
def test_the_unknown_counts_as_the_median_of_the_known(
    values: list[float | None], filled: list[float]
) -> None:
    assert list(fill_unknown(values)) == filled


SCORES: list[tuple[Scorer, list[EngineMetrics | None], list[float]]] = [
    (QueueScorer(), [metrics(waiting=0), metrics(waiting=4), metrics(waiting=1)], [1.0, 0.0, 0.75]),
    (QueueScorer(), [metrics(running=9), metrics()], [1.0, 1.0]),
    (QueueScorer(), [metrics(), metrics(waiting=4), None, metrics(waiting=2)], [1.0, 0.0, 0.5, 0.5]),
    (RunningScorer(), [metrics(running=2), metrics(running=10), metrics(waiting=9)], [0.8, 0.0, 1.0]),
    (RunningScorer(), [metrics(running=2), None, metrics(running=4)], [1.0, 0.5, 0.0]),
    (InFlightScorer(), [metrics(2, 1), metrics(7), metrics(1, 4)], [1.0, 0.0, 0.5]),
    (InFlightScorer(), [metrics(0), None, metrics(10), metrics(5)], [1.0, 0.5, 0.0, 0.5]),
    (KvCacheScorer(), [metrics(kv=0.25), metrics(kv=1.0), metrics()], [0.75, 0.0, 1.0]),
    (KvCacheScorer(), [metrics(kv=0.25), None, metrics(kv=0.75)], [0.75, 0.5, 0.25]),
    (
        LoraAffinityScorer(),
        [
            metrics(loras="m x", max_loras=2),
            metrics(loras="x", max_loras=2),
            metrics(loras="x", wait_loras="m", max_loras=2),
            metrics(loras="x y", max_loras=2),
            metrics(),
        ],
        [1.0, 0.8, 0.6, 0.0, 0.8],
    ),
    (
        LoraAffinityScorer(),
        [metrics(loras="m", max_loras=1), None, metrics(loras="x", max_loras=1)],
        [1.0, 0.5, 0.0],
    ),
]


@pytest.mark.parametrize(("scorer", "figures", "scores"), SCORES)
def test_scorers(scorer: Scorer, figures: list[EngineMetrics | None], scores: list[float]) -> None:
    asked = request(target_model="m", is_adapter=True)
    assert scorer.score(asked, endpoints(*figures), NOW) == pytest.approx(scores)


@pytest.mark.parametrize("scorer", [QueueScorer(), RunningScorer(), KvCacheScorer(), LoraAffinityScorer()])
def test_scorers_forget_what_is_stale(scorer: Scorer) -> None:
    figures = metrics(9, 9, 0.9, "x", max_loras=1), metrics(1, 1, 0.1, "m", max_loras=1)
    scores = scorer.score(request(target_model="m", is_adapter=True), endpoints(*figures), STALE)
    assert scores[0] == scores[1]


def test_our_own_requests_count_when_the_figures_are_stale_too() -> None:
    targets = [endpoint(metrics(9), 1), endpoint(metrics(1), 2, in_flight=2), endpoint(None, 3, in_flight=1)]
    assert InFlightScorer().score(request(), targets, STALE) == [1.0, 0.0, 0.5]


def test_a_queue_that_was_seen_grows_by_what_we_sent_since() -> None:
    targets = [endpoint(metrics(waiting=1), 1, in_flight=3), endpoint(metrics(waiting=4), 2)]
    assert QueueScorer().score(request(), targets, NOW) == [1.0, 1.0]


@pytest.mark.parametrize("picker", [MaxScorePicker(), WeightedRandomPicker(), PowerOfTwoPicker()])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 9])
def test_pickers_answer_each_index_once_and_no_more_than_there_are(picker: Picker, count: int) -> None:
    rng = random.Random(1)
    for _ in range(50):
        order = picker.pick([0.5, 0.5, 0.0, 1.0], count, rng)
        assert len(order) == len(set(order)) == min(count, 4)
        assert set(order) <= {0, 1, 2, 3}


def test_max_score_picks_the_best_and_then_the_next_best() -> None:
    assert MaxScorePicker().pick([0.2, 0.9, 0.0, 0.5], 3, random.Random(1)) == [1, 3, 0]


def test_max_score_draws_among_ties_and_its_followers_likewise() -> None:
    rng = random.Random(1)
    orders = Counter(tuple(MaxScorePicker().pick([1.0, 0.5, 1.0 - 1e-12, 0.5], 3, rng)) for _ in range(4000))
    assert set(orders) == {(0, 2, 1), (0, 2, 3), (2, 0, 1), (2, 0, 3)}
    assert all(863 <= count <= 1137 for count in orders.values())  # five standard deviations around 1000


def test_weighted_random_picks_in_proportion_to_the_scores() -> None:
    rng = random.Random(1)
    picked = Counter(WeightedRandomPicker().pick([1.0, 3.0, 0.0], 1, rng)[0] for _ in range(4000))
    assert 863 <= picked[0] <= 1137
    assert picked[2] == 0
    last = {WeightedRandomPicker().pick([1.0, 3.0, 0.0], 3, rng)[2] for _ in range(200)}
    assert last == {2}


def test_weighted_random_takes_any_where_all_scores_are_0() -> None:
    rng = random.Random(1)
    assert {WeightedRandomPicker().pick([0.0, 0.0], 1, rng)[0] for _ in range(50)} == {0, 1}


def test_power_of_two_never_picks_the_worst_and_mostly_the_better() -> None:
    rng = random.Random(1)
    picked = Counter(PowerOfTwoPicker().pick([0.9, 0.1, 0.5], 1, rng)[0] for _ in range(3000))
    assert picked[1] == 0
    assert 1860 <= picked[0] <= 2140  # two of the three pairs hold it
    assert PowerOfTwoPicker().pick([0.4], 1, rng) == [0]


def test_a_choice_tells_what_was_dropped_and_the_chosen_ones_scores() -> None:
    targets = labelled({"a": "1"}, {"a": "1", "b": "1"}, {"a": "1", "b": "1"}, {})
    for each, running in zip(targets, (0, 4, 2, 0), strict=True):
        each.observe(metrics(running, kv=0.5), NOW)
    profile = Profile(
        name="p",
        filters=[FreshFilter(), LabelsFilter({"a": "1"}), LabelsFilter({"b": "1"})],
        scorers=[RunningScorer(weight=3), KvCacheScorer()],
    )
    choice = profile.choose(request(), targets, 2, NOW, random.Random(1))
    assert choice.take_table() is not None
    assert choice == Choice(
        endpoints=(targets[2], targets[1]), dropped={"labels": 2}, scores={"running": 1.0, "kv-cache": 0.5}
    )


def test_weights_decide_between_scorers() -> None:
    targets = endpoints(metrics(0, kv=0.9), metrics(10, kv=0.1))
    for running, best in ((1.0, 0), (0.5, 1)):
        profile = Profile(name="p", scorers=[RunningScorer(weight=running), KvCacheScorer(weight=1.0)])
        assert profile.choose(request(), targets, 1, NOW, random.Random(1)).endpoints == (targets[best],)


@given(st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), max_size=3), st.floats(0, 9))
def test_totals_are_weighted_sums(columns: list[list[float]], weight: float) -> None:
    for weights in ([1.0] * len(columns), [weight] * len(columns)):
        profile = Profile(name="p", scorers=[InFlightScorer(weight=each) for each in weights])
        sums = [sum(w * column[at] for w, column in zip(weights, columns, strict=True)) for at in range(3)]
        assert list(profile.total(columns, 3)) == sums


def test_a_profile_without_scorers_picks_at_random() -> None:
    targets, rng = endpoints(metrics(0), metrics(99)), random.Random(1)
    picked = Counter(
        Profile(name="p").choose(request(), targets, 1, NOW, rng).endpoints[0] for _ in range(1000)
    )
    assert 420 <= picked[targets[0]] <= 580


def test_filters_that_leave_nobody_choose_nobody() -> None:
    profile = Profile(name="p", filters=[LabelsFilter({"a": "1"})])
    choice = profile.choose(request(), labelled({}, {}), 1, NOW, random.Random(1))
    assert choice == Choice(endpoints=(), dropped={"labels": 2}, scores={})


NEW_SCORER = """
class LabelScorer(Plugin, frozen=True, tag="label"):
    \"\"\"Prefers endpoints whose label `key` says `value`.\"\"\"

    key: str
    value: str
    weight: Weight = 1.0

    def score(self, request: InferenceRequest, endpoints: Sequence[Endpoint], now: float) -> list[float]:
        return [float(endpoint.labels.get(self.key) == self.value) for endpoint in endpoints]


Scorer = LabelScorer | """
USES_IT = """
import random
from extproc.config import parse_config
from extproc.errors import ConfigError
from extproc.fleet import Fleet
from extproc.request import InferenceRequest

text = '''
pools:
- {name: p, endpoints: ["10.0.0.1:80", {address: "10.0.0.2:80", labels: {shift: night}}], profile: mine}
profiles: [{name: mine, scorers: [{type: label, key: shift, value: %s}]}]
'''
router = Fleet().apply(parse_config((text % "night").encode()))
print(router.decide(InferenceRequest({}, "m"), 0.0, random.Random(1)).endpoint.address)
try:
    parse_config((text % 5).encode())
except ConfigError as error:
    print(error)
"""


def test_a_scorer_of_ones_own_is_a_class_and_its_name_in_the_union(tmp_path: Path) -> None:
    """As the docstring of `plugin` says; done to a copy of the package."""
    source = Path(extproc.__file__).parent
    ignored = shutil.ignore_patterns("__pycache__", "sim", "demo")
    scorers = shutil.copytree(source, tmp_path / "extproc", ignore=ignored) / "scheduling" / "scorers.py"
    before, union, after = scorers.read_text().rpartition("\nScorer = ")
    assert union
    scorers.write_text(before + NEW_SCORER + after)
    ran = subprocess.run(
        [sys.executable, "-c", USES_IT],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (ran.stdout.splitlines(), ran.stderr) == (
        ["10.0.0.2:80", "$.profiles[0].scorers[0].value: expected a string, got 5; put it in quotes"],
        "",
    )
