"""The workloads have the statistics of what they stand for."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from random import Random
from statistics import fmean, pstdev, pvariance

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.benchmark.workload import BLOCK_TOKENS, Call
from extproc.benchmark.workloads import WORKLOADS, agents, mooncake, quantiles
from extproc.benchmark.workloads.arrivals import Segment, bursts, follow, renewal
from extproc.benchmark.workloads.dialogue import contents
from extproc.benchmark.workloads.quantiles import Quantiles
from extproc.sim.profiles import PROFILES

NAMES = sorted(WORKLOADS)
OPEN = sorted(name for name, spec in WORKLOADS.items() if not spec.closed)


def share(values: list[float] | list[int], of: float) -> float:
    """The value that *of* (0..1) of them are at most."""
    return sorted(values)[min(len(values) - 1, int(of * len(values)))]


def intervals(calls: list[Call]) -> list[float]:
    return [later.at_s - earlier.at_s for earlier, later in pairwise(calls)]


def counts(calls: list[Call], window_s: float, duration_s: float) -> list[int]:
    """Calls in each full window."""
    found = Counter(int(call.at_s / window_s) for call in calls)
    return [found[window] for window in range(int(duration_s / window_s))]


def block_ids(call: Call, tokens: int) -> list[int]:
    return [block for piece in call.blocks for block in piece][: tokens // BLOCK_TOKENS]


def hits_of_endless_cache(calls: list[Call]) -> list[int]:
    """Of each prompt, the tokens that a cache without limits has."""
    seen: set[int] = set()
    hits = []
    for call in calls:
        prompt = block_ids(call, call.prompt_tokens)
        missing = (index for index, block in enumerate(prompt) if block not in seen)
        hits.append(next(missing, len(prompt)) * BLOCK_TOKENS)
        seen.update(block_ids(call, call.prompt_tokens + call.output_tokens))
    return hits


# -- all of them ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_makes_the_same_workload_and_another_seed_another(name: str) -> None:
    spec = WORKLOADS[name]
    assert spec.make(7, duration_s=120) == spec.make(7, duration_s=120)
    assert spec.make(7, duration_s=120).calls != spec.make(8, duration_s=120).calls


@pytest.mark.parametrize("name", NAMES)
def test_calls_come_in_order_within_the_run_and_fit_in_every_replica(name: str) -> None:
    workload = WORKLOADS[name].make(1)
    times = [call.at_s for call in workload.calls]
    assert times == sorted(times)
    assert min(times) >= 0
    assert max(times) < workload.duration_s
    smallest = min(replica.engine.max_tokens for replica in workload.replicas)
    assert max(call.prompt_tokens + call.output_tokens for call in workload.calls) <= smallest
    assert min(call.prompt_tokens for call in workload.calls) >= 1
    assert min(call.output_tokens for call in workload.calls) >= 1


@pytest.mark.parametrize("name", NAMES)
def test_contents_are_never_longer_than_prompt_and_answer(name: str) -> None:
    for call in WORKLOADS[name].make(1, duration_s=200).calls:
        assert sum(map(len, call.blocks)) <= (call.prompt_tokens + call.output_tokens) // BLOCK_TOKENS


@pytest.mark.parametrize("name", OPEN)
def test_the_rate_asked_for_is_the_rate_that_comes(name: str) -> None:
    spec = WORKLOADS[name]
    asked, duration_s = spec.rate * 2, 1200.0
    sent = fmean(len(spec.make(seed, asked, duration_s).calls) for seed in range(3))
    assert sent / duration_s == pytest.approx(asked, rel=0.05)


@pytest.mark.parametrize("name", ["azure-conv", "lora", "mixed-gpus", "priorities", "servegen"])
def test_a_higher_rate_is_the_same_calls_closer_together(name: str) -> None:
    spec = WORKLOADS[name]
    slow, fast = spec.make(3, 10, 200).calls, spec.make(3, 20, 100).calls
    assert [call.at_s for call in slow] == pytest.approx([2 * call.at_s for call in fast])
    assert [(call.prompt_tokens, call.output_tokens, call.lora, call.tenant) for call in slow] == [
        (call.prompt_tokens, call.output_tokens, call.lora, call.tenant) for call in fast
    ]


@pytest.mark.parametrize("name", ["azure-code", "tidal"])
def test_a_higher_rate_keeps_the_curve_that_the_calls_follow(name: str) -> None:
    slow, fast = (WORKLOADS[name].make(3, rate, 600).calls for rate in (8, 24))
    slow_counts, fast_counts = counts(slow, 30, 600), counts(fast, 30, 600)
    for few, many in zip(slow_counts, fast_counts, strict=True):
        assert many == pytest.approx(3 * few, abs=6 * math.sqrt(3 * few + 9))


@pytest.mark.parametrize(("name", "apart"), [("mooncake-conv", 12.0), ("agents", 0.5)])
def test_a_higher_rate_does_not_hurry_the_turns_of_a_dialogue(name: str, apart: float) -> None:
    calls = WORKLOADS[name].make(3, 40, 300).calls
    last: dict[str, float] = {}
    for call in calls:
        assert call.at_s - last.get(call.session, -math.inf) >= apart
        last[call.session] = call.at_s


@pytest.mark.parametrize(
    ("rate", "duration_s", "warmup_s"), [(0, 60, 0), (-1, 60, 0), (1, 0, 0), (1, 60, 60), (1, 60, -1)]
)
def test_a_rate_or_duration_that_makes_no_sense_is_refused(
    rate: float, duration_s: float, warmup_s: float
) -> None:
    with pytest.raises(
        ValueError, match="rate and duration_s must be positive, and warmup_s less than duration_s"
    ):
        WORKLOADS["azure-conv"].make(1, rate, duration_s, warmup_s)


def test_the_warm_up_is_at_most_half_of_a_short_run() -> None:
    spec = WORKLOADS["mooncake-conv"]
    assert [spec.make(1, 1, length).warmup_s for length in (100.0, 900.0)] == [50.0, 300.0]


# -- tables and processes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "value"), [(0, 10), (0.25, math.sqrt(1000)), (0.5, 100), (0.75, math.sqrt(20_000)), (1, 200)]
)
def test_between_two_percentiles_the_logarithm_is_a_straight_line(at: float, value: float) -> None:
    assert Quantiles((0, 10), (0.5, 100), (1, 200)).value(at) == pytest.approx(value)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([(0, 1), (0.5, 2)], "shares must rise from 0 to 1"),
        ([(0, 1), (0.7, 2), (0.3, 3), (1, 4)], "shares must rise from 0 to 1"),
        ([(0, 1), (0.5, 3), (1, 2)], "values must not fall"),
    ],
)
def test_a_table_that_is_no_distribution_is_refused(points: list[tuple[float, float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Quantiles(*points)


@pytest.mark.parametrize(
    ("table", "mean", "percentiles"),
    [
        ("AZURE_CONV_INPUT", 1155, {0.1: 207, 0.25: 396, 0.5: 1020, 0.75: 1189, 0.9: 2734, 0.99: 4142}),
        ("AZURE_CONV_OUTPUT", 211, {0.25: 85, 0.5: 129, 0.75: 395, 0.9: 424, 0.99: 601}),
        ("AZURE_CODE_INPUT", 2048, {0.1: 147, 0.25: 578, 0.5: 1469, 0.75: 2744, 0.9: 5188, 0.99: 7436}),
        ("AZURE_CODE_OUTPUT", 27.9, {0.5: 13, 0.9: 55, 0.95: 90, 0.99: 251}),
        ("MOONCAKE_INPUT", 12_035, {0.5: 6909, 0.9: 27_367, 0.95: 39_550, 0.99: 85_400}),
        ("MOONCAKE_OUTPUT", 343, {0.05: 10, 0.5: 350, 0.9: 597, 0.95: 698, 0.99: 1119}),
    ],
)
def test_the_published_percentiles_and_means_come_out(
    table: str, mean: float, percentiles: dict[float, float]
) -> None:
    rng = Random(5)
    drawn = [getattr(quantiles, table).tokens(rng) for _ in range(40_000)]
    assert fmean(drawn) == pytest.approx(mean, rel=0.05)
    assert {at: share(drawn, at) for at in percentiles} == pytest.approx(percentiles, rel=0.08)


@pytest.mark.parametrize("cv", [0.5, 1.0, 1.1, 3.0])
def test_renewal_has_the_rate_and_the_variation_asked_for(cv: float) -> None:
    times = renewal(Random(1), 5.0, 8000.0, cv)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert len(times) / 8000 == pytest.approx(5, rel=0.05)
    assert pstdev(gaps) / fmean(gaps) == pytest.approx(cv, rel=0.05)


@given(
    st.lists(
        st.tuples(st.floats(0.1, 10), st.sampled_from([0.0, 0.5, 1.0, 20.0])), min_size=1, max_size=8
    ).filter(lambda pieces: any(intensity for _, intensity in pieces)),
    st.lists(st.floats(0, 0.999), max_size=30),
)
def test_calls_that_follow_a_curve_stay_as_many_and_in_order_and_none_comes_in_a_silence(
    pieces: list[tuple[float, float]], places: list[float]
) -> None:
    curve = [Segment(length, intensity) for length, intensity in pieces]
    duration_s = sum(length for length, _ in pieces)
    moved = follow(curve, sorted(place * duration_s for place in places), duration_s)
    assert len(moved) == len(places)
    assert moved == sorted(moved)
    start = 0.0
    for length, intensity in pieces:
        if not intensity:
            assert not any(start + 1e-6 < time < start + length - 1e-6 for time in moved)
        start += length


def test_a_curve_takes_from_each_piece_what_its_intensity_says() -> None:
    curve = [Segment(10, 0), Segment(10, 3), Segment(20, 0.5), Segment(99, 9)]
    assert follow(curve, [0, 15, 30, 35, 39], 40) == [10, 15, 20, 30, 38]


def test_bursts_are_short_and_come_in_flurries_between_silences() -> None:
    curve = list(bursts(Random(1), 100_000))
    silences = [piece.length_s for piece in curve if not piece.intensity]
    lengths = [piece.length_s for piece in curve if piece.intensity]
    assert (min(lengths), max(lengths)) == pytest.approx((2, 5), abs=0.1)
    assert fmean(silences) == pytest.approx(55, rel=0.1)
    assert sum(lengths) / len(silences) == pytest.approx(22, rel=0.1)
    mean = sum(piece.length_s * piece.intensity for piece in curve) / 100_000
    assert max(piece.intensity for piece in curve) / mean == pytest.approx(25, rel=0.15)


@pytest.mark.parametrize(
    ("tokens", "pieces"),
    [
        (15, ()),
        (16, (range(1),)),
        (64, (range(4),)),
        (79, (range(4),)),
        (96, (range(4), range(3 << 20, (3 << 20) + 2))),
    ],
)
def test_contents_are_the_shared_blocks_and_then_the_dialogues_own(
    tokens: int, pieces: tuple[range, ...]
) -> None:
    assert contents((range(4),), 2, tokens) == pieces


# -- one by one -------------------------------------------------------------------------------------------------------


def test_seed_is_the_guides_load() -> None:
    spec = WORKLOADS["seed"]
    workload = spec.make(1)
    calls = workload.calls
    assert (len(calls), workload.concurrency, workload.warmup_s) == (3000, 60, 0.0)
    assert fmean(call.prompt_tokens for call in calls) == pytest.approx(1000 + 2400, rel=0.02)
    assert fmean(call.output_tokens for call in calls) == pytest.approx(1800, rel=0.02)
    assert {min(call.prompt_tokens for call in calls) // 10, max(call.prompt_tokens for call in calls) // 10} <= {
        180, 181, 182, 499, 500,
    }  # fmt: skip
    assert {call.blocks for call in calls} == {(range(62),)}
    assert len(spec.make(1, duration_s=580).calls) == 300
    engines = {replica.engine for replica in spec.replicas}
    assert [
        (engine.profile, engine.prefix_caching, engine.chunked_prefill, engine.max_model_len)
        for engine in engines
    ] == [(PROFILES["a10x4-qwq-32b"], False, False, 8192)]


def test_azure_conv_is_a_little_burstier_than_poisson_and_shares_nothing() -> None:
    calls = list(WORKLOADS["azure-conv"].make(1, 5.53, 3502).calls)
    gaps = intervals(calls)
    assert pstdev(gaps) / fmean(gaps) == pytest.approx(1.09, abs=0.05)
    assert fmean(call.prompt_tokens for call in calls) == pytest.approx(1155, rel=0.05)
    assert fmean(call.output_tokens for call in calls) == pytest.approx(211, rel=0.05)
    assert {call.blocks for call in calls} == {()}


def test_azure_code_has_the_published_burstiness_at_its_own_rate() -> None:
    """Means over ten seeds; an hour has only some 45 flurries, so that one seed says little."""
    duration_s = 3436.0
    runs = [list(WORKLOADS["azure-code"].make(seed, 2.57, duration_s).calls) for seed in range(10)]

    def mean_of(window_s: float, measure: str) -> float:
        windows = [counts(calls, window_s, duration_s) for calls in runs]
        if measure == "dispersion":
            return fmean(pvariance(window) / fmean(window) for window in windows)
        return fmean(max(window) / fmean(window) for window in windows)

    assert {window_s: mean_of(window_s, "dispersion") for window_s in (1, 10, 60)} == pytest.approx(
        {1: 13.2, 10: 71, 60: 160}, rel=0.35
    )
    assert {window_s: mean_of(window_s, "peak") for window_s in (1, 10, 60)} == pytest.approx(
        {1: 26, 10: 12.8, 60: 4.2}, rel=0.35
    )
    variation = fmean(pstdev(intervals(calls)) / fmean(intervals(calls)) for calls in runs)
    assert variation == pytest.approx(13.2, rel=0.3)


def test_mooncake_conv_shares_as_much_as_the_trace() -> None:
    """At the trace's rate, for as long as it lasts, from an empty cache as there."""
    calls = list(WORKLOADS["mooncake-conv"].make(1, 3.4, 3537).calls)
    hits = hits_of_endless_cache(calls)
    prompts = [call.prompt_tokens for call in calls]
    figures = {
        "hit ratio": sum(hits) / sum(prompts),
        "half or more": fmean(hit >= prompt / 2 for hit, prompt in zip(hits, prompts, strict=True)),
        "extend by over two blocks": fmean(hit > 3 * 512 for hit in hits),
        "universal block": fmean(hit >= 512 for hit in hits[1:]),
    }
    assert figures == pytest.approx(
        {"hit ratio": 0.374, "half or more": 0.425, "extend by over two blocks": 0.34, "universal block": 1},
        abs=0.06,
    )
    assert fmean(call.output_tokens for call in calls) == pytest.approx(343, rel=0.06)
    assert share(prompts, 0.5) == pytest.approx(6909, rel=0.05)
    assert 8000 < fmean(prompts) < 10_000


def test_mooncake_conv_takes_its_time_between_turns() -> None:
    rng = Random(2)
    gaps = [quantiles.MOONCAKE_GAP_S.draw(rng) for _ in range(20_000)]
    published = {0.1: 42, 0.5: 126, 0.75: 266, 0.9: 486, 0.99: 1482}
    assert {at: share(gaps, at) for at in published} == pytest.approx(published, rel=0.08)


@pytest.mark.parametrize("name", ["mooncake-conv", "agents"])
def test_a_turn_extends_all_that_went_before_it(name: str) -> None:
    earlier: dict[str, Call] = {}
    extended = 0
    for call in WORKLOADS[name].make(1, duration_s=600).calls:
        before = earlier.get(call.session)
        if before is not None:
            extended += 1
            total = before.prompt_tokens + before.output_tokens
            assert call.prompt_tokens > total
            assert block_ids(call, total) == block_ids(before, total)
            assert len(block_ids(before, total)) == total // BLOCK_TOKENS
        earlier[call.session] = call
    assert extended > 500


def test_dialogues_have_contents_of_their_own() -> None:
    calls = WORKLOADS["mooncake-conv"].make(1).calls
    shared = len(mooncake.SYSTEM[0])
    owners: dict[int, str] = {}
    for call in calls:
        for block in block_ids(call, call.prompt_tokens)[shared : shared + 1]:
            assert owners.setdefault(block, call.session) == call.session


def test_a_run_begins_with_as_many_open_dialogues_as_it_ends_with() -> None:
    for name in ("mooncake-conv", "agents"):
        windows = [0, 0, 0]
        for seed in range(6):
            for call in WORKLOADS[name].make(seed, 10, 900).calls:
                windows[int(call.at_s / 300)] += 1
        assert windows == pytest.approx([sum(windows) / 3] * 3, rel=0.06)


def test_agents_have_long_shared_beginnings_and_short_answers() -> None:
    runs = [list(WORKLOADS["agents"].make(seed).calls) for seed in range(3)]
    calls = [call for run in runs for call in run]
    assert fmean(call.prompt_tokens for call in calls) == pytest.approx(8596, rel=0.05)
    assert fmean(call.output_tokens for call in calls) == pytest.approx(182, rel=0.05)
    assert {call.blocks[0] for call in calls} == {range(64)}
    assert {call.blocks[:2] for call in calls} == {agents.system_blocks(agent) for agent in range(6)}
    assert sum(hits_of_endless_cache(runs[0])) / sum(call.prompt_tokens for call in runs[0]) > 0.9


def test_agents_tasks_keep_to_one_agent_and_popularity_falls_with_the_rank() -> None:
    calls = WORKLOADS["agents"].make(1, 40, 900).calls
    assert len({(call.session, call.tenant) for call in calls}) == len({call.session for call in calls})
    by_agent = Counter(call.tenant for call in calls)
    assert [by_agent[f"agent-{agent}"] / len(calls) for agent in range(6)] == pytest.approx(
        [1 / rank / 2.45 for rank in range(1, 7)], abs=0.03
    )


def test_lora_has_more_adapters_than_slots_and_popularity_falls_with_the_rank() -> None:
    spec = WORKLOADS["lora"]
    calls = spec.make(1, 20, 1000).calls
    popular = Counter(call.lora for call in calls)
    assert len(popular) == 32
    assert popular["adapter-01"] / len(calls) == pytest.approx(1 / 4.06, abs=0.02)
    assert popular["adapter-01"] / popular["adapter-04"] == pytest.approx(4, rel=0.15)
    assert sum(replica.engine.max_loras for replica in spec.replicas) == 20
    assert min(replica.engine.lora_load_s for replica in spec.replicas) > 0


def test_mixed_gpus_are_two_of_each_kind() -> None:
    fleet = WORKLOADS["mixed-gpus"].replicas
    assert Counter(replica.labels["gpu"] for replica in fleet) == {"h100": 2, "a100": 2, "a40": 2}
    assert len({replica.engine.profile for replica in fleet}) == 3


def test_tidal_peaks_in_the_middle_at_four_times_the_trough() -> None:
    spec = WORKLOADS["tidal"]
    hours = counts(list(spec.make(1, 40).calls), 100, 2400)
    assert fmean(hours[11:13]) / fmean([hours[0], hours[-1]]) == pytest.approx(4, rel=0.1)
    assert hours.index(max(hours)) in range(9, 15)
    assert Counter(replica.labels["tier"] for replica in spec.replicas) == {"idc": 4, "cloud": 2}


def test_servegen_is_the_sum_of_unequal_clients() -> None:
    calls = list(WORKLOADS["servegen"].make(1, 20, 1500).calls)
    sent = Counter(call.tenant for call in calls)
    assert len(sent) == 40
    assert sent["client-01"] / len(calls) == pytest.approx(0.27, abs=0.04)
    assert sum(sent[f"client-0{rank}"] for rank in range(1, 6)) / len(calls) == pytest.approx(0.58, abs=0.06)
    biggest = intervals([call for call in calls if call.tenant == "client-01"])
    small = intervals([call for call in calls if call.tenant == "client-08"])
    assert pstdev(biggest) / fmean(biggest) > 2
    assert pstdev(small) / fmean(small) < 2


def test_servegen_clients_share_a_beginning_with_themselves_only() -> None:
    calls = WORKLOADS["servegen"].make(1).calls
    systems = {(call.tenant, call.blocks) for call in calls}
    assert len(systems) == len({tenant for tenant, _ in systems})
    used = [blocks for _, blocks in systems if blocks]
    assert len(used) == len(set(used)) > 10


def test_priorities_have_a_greedy_tenant_and_three_criticalities() -> None:
    calls = WORKLOADS["priorities"].make(1).calls
    tenants = Counter(call.tenant for call in calls)
    assert tenants.pop("greedy") / len(calls) == pytest.approx(0.5, abs=0.02)
    assert [count / len(calls) for count in tenants.values()] == pytest.approx([0.1] * 5, abs=0.015)
    weights = Counter(call.priority for call in calls)
    assert {priority: count / len(calls) for priority, count in weights.items()} == pytest.approx(
        {1: 0.2, 0: 0.5, -1: 0.3}, abs=0.02
    )
