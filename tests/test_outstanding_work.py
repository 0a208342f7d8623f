"""The default scorer: where a request costs everybody the least time."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from fleets import NOW, endpoint, metrics, request
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from extproc.endpoint import UNKNOWN_TOKEN_S, Endpoint
from extproc.engine_metrics import EngineMetrics
from extproc.request import InferenceRequest, Prompt
from extproc.scheduling.outstanding_work import (
    KV_ROOM,
    KV_WATCHED,
    LEAST_TOKENS,
    LOAD_S,
    UNKNOWN_OUTPUT,
    UNKNOWN_STEP_S,
    Cost,
    OutstandingWorkScorer,
    answer_s,
    kv_wait_s,
)
from extproc.scheduling.profile import default_profile
from extproc.work import Work

SCORER = OutstandingWorkScorer()
STALE = NOW + 2.0
BLOCKS = {"block_size": 16, "num_gpu_blocks": 10_000}
CAPACITY = 160_000


def asked(
    tokens: int = 1000, cached: Mapping[Endpoint, int] | None = None, **fields: Any
) -> InferenceRequest:
    return request(prompt=Prompt(tokens), cached=cached or {}, expected=cached or {}, **fields)


def asked_adapter(name: str = "m") -> InferenceRequest:
    return asked(target_model=name, is_adapter=True)


def known(number: int = 1, in_flight: int = 0, ahead: int = 0, **figures: Any) -> Endpoint:
    """Scraped at NOW, then sent *in_flight* requests with *ahead* prompt tokens among them."""
    made = endpoint(replace(metrics(), **figures), number)
    for each in range(in_flight):
        made.acquire(Work(ahead if each == 0 else 0, ahead if each == 0 else 0), NOW)
    return made


def costs(asked: InferenceRequest, *targets: Endpoint, now: float = NOW) -> list[float]:
    return SCORER.costs(asked, targets, now)


def preferred(asked: InferenceRequest, *targets: Endpoint, now: float = NOW) -> list[int]:
    """Indexes of those with the best score."""
    scores = SCORER.score(asked, targets, now)
    return [index for index, score in enumerate(scores) if score == 1.0]


# -- what a cost is -----------------------------------------------------------------------------------------


def test_a_cost_is_prompt_work_times_the_requests_that_wait_for_it() -> None:
    assert costs(asked(1000), known(), known(in_flight=3, ahead=500), known(running=9)) == pytest.approx(
        [1000 * UNKNOWN_TOKEN_S, 1500 * UNKNOWN_TOKEN_S * 4, 1000 * UNKNOWN_TOKEN_S * 10]
    )


def test_in_seconds_of_the_endpoints_own_speed() -> None:
    slow = known()
    slow.token_s, slow.slowness = 2 * UNKNOWN_TOKEN_S, 3.0
    assert costs(asked(1000), slow) == pytest.approx([6000 * UNKNOWN_TOKEN_S])


def test_what_it_computed_since_is_no_longer_ahead() -> None:
    busy = known(in_flight=1, ahead=2000)
    busy.backlog.rate = 1000.0
    after = [costs(asked(1000), busy, now=NOW + s)[0] for s in (0.0, 1.0, 1.9)]
    assert after == pytest.approx(
        [3000 * UNKNOWN_TOKEN_S * 2, 2000 * UNKNOWN_TOKEN_S * 2, 1100 * UNKNOWN_TOKEN_S * 2]
    )
    busy.backlog.rate = 1e9
    assert costs(asked(1000), busy, now=NOW + 1.0) == pytest.approx([1000 * UNKNOWN_TOKEN_S * 2])


@pytest.mark.parametrize("tokens", [0, 1, LEAST_TOKENS])
def test_a_request_of_an_unknown_or_tiny_prompt_costs_an_iteration_and_so_goes_by_load(tokens: int) -> None:
    idle, busy = known(1), known(2, in_flight=2)
    assert costs(asked(tokens), idle, busy) == pytest.approx(
        [LEAST_TOKENS * UNKNOWN_TOKEN_S, 3 * LEAST_TOKENS * UNKNOWN_TOKEN_S]
    )


def test_it_tells_what_a_cost_is_made_of() -> None:
    made = known(1, in_flight=2, ahead=400, max_loras=1, running_loras=frozenset({"x"}))
    unknown = endpoint(None, 2)
    told = SCORER.explain(asked(1000, {made: 600}, target_model="m", is_adapter=True), [made, unknown], NOW)
    wait_s = LOAD_S + UNKNOWN_OUTPUT * UNKNOWN_STEP_S
    expected = (800 * UNKNOWN_TOKEN_S + wait_s) * 3
    assert told == [
        Cost(400, 400.0, UNKNOWN_TOKEN_S, 0.0, pytest.approx(wait_s), 3.0, 1.0, pytest.approx(expected)),
        Cost(1000, 0.0, UNKNOWN_TOKEN_S, 0.0, 0.0, 3.0, 1.0, pytest.approx(expected)),
    ]


# -- what is cached -----------------------------------------------------------------------------------------


def test_what_is_cached_need_not_be_computed() -> None:
    first, second = known(1), known(2)
    assert costs(asked(1000, {second: 900}), first, second) == pytest.approx(
        [1000 * UNKNOWN_TOKEN_S, 100 * UNKNOWN_TOKEN_S]
    )


@pytest.mark.parametrize("hit", [1000, 990, 5000])
def test_but_it_never_costs_less_than_an_iteration(hit: int) -> None:
    only = known()
    assert costs(asked(1000, {only: hit}), only) == pytest.approx([LEAST_TOKENS * UNKNOWN_TOKEN_S])


def crowd(load: int, others: int = 9) -> list[Endpoint]:
    return [known(1, in_flight=load), *(known(number, in_flight=1) for number in range(2, others + 2))]


def test_a_cached_prompt_is_preferred_up_to_the_load_bound_and_never_beyond() -> None:
    """Bound 2: within are those with at most twice the mean load, each load counted as if the request were there."""
    for load in range(60):
        targets = crowd(load)
        within = load <= 2.0 * ((load + 9) / 10 + 1)
        cost = costs(asked(100_000, {targets[0]: 100_000}), *targets)[0]
        assert cost == pytest.approx((LEAST_TOKENS if within else 100_000) * UNKNOWN_TOKEN_S * (load + 1))
    assert preferred(asked(100_000, {(near := crowd(4))[0]: 100_000}), *near) == [0]
    assert 0 not in preferred(asked(100_000, {(over := crowd(5))[0]: 100_000}), *over)


def test_the_load_bound_is_a_parameter() -> None:
    targets = crowd(5)
    assert (
        OutstandingWorkScorer(load_bound=4.0).score(asked(9000, {targets[0]: 9000}), targets, NOW)[0] == 1.0
    )


def test_what_all_have_cached_prefers_nobody() -> None:
    targets = [known(1), known(2), known(3, in_flight=1)]
    assert preferred(asked(1000, dict.fromkeys(targets, 800)), *targets) == [0, 1]


# -- KV memory ----------------------------------------------------------------------------------------------


def with_kv(usage: float, number: int = 1, in_flight: int = 0) -> Endpoint:
    return known(number, in_flight, kv_cache_usage=usage, **BLOCKS)


def test_below_the_watched_usage_nobody_waits_for_memory() -> None:
    assert costs(asked(1000), with_kv(0.0), with_kv(KV_WATCHED)) == pytest.approx(
        [1000 * UNKNOWN_TOKEN_S] * 2
    )


def test_a_full_endpoint_is_avoided_when_another_has_room_even_a_busier_one() -> None:
    assert preferred(asked(8000), with_kv(0.99, 1), with_kv(0.5, 2)) == [1]
    assert preferred(asked(500), with_kv(1.0, 1), with_kv(0.5, 2, in_flight=2)) == [1]


def test_it_is_waited_for_until_answers_have_freed_what_is_missing() -> None:
    full = with_kv(1.0)
    missing = (1.0 - KV_ROOM) * CAPACITY + 100_000
    assert kv_wait_s(full, 100_000) == pytest.approx(missing / CAPACITY * UNKNOWN_OUTPUT * UNKNOWN_STEP_S)


def test_a_prompt_many_times_the_whole_cache_is_waited_for_in_proportion() -> None:
    tiny = known(kv_cache_usage=KV_ROOM, block_size=16, num_gpu_blocks=4)
    assert kv_wait_s(tiny, 100_000) == pytest.approx(
        100_000 / (KV_ROOM * 64) * UNKNOWN_OUTPUT * UNKNOWN_STEP_S
    )


def test_the_shorter_its_answers_the_sooner_memory_is_free() -> None:
    short, fast = with_kv(0.95), with_kv(0.95)
    short.step_time.mean_output = UNKNOWN_OUTPUT / 4
    fast.step_time.step_s = UNKNOWN_STEP_S / 2
    wait_s = kv_wait_s(with_kv(0.95), 9000)
    assert (kv_wait_s(short, 9000), kv_wait_s(fast, 9000)) == pytest.approx((wait_s / 4, wait_s / 2))
    assert answer_s(short) == pytest.approx(UNKNOWN_OUTPUT / 4 * UNKNOWN_STEP_S)


@pytest.mark.parametrize(
    "figures", [{}, {"num_gpu_blocks": 100}, {"block_size": 16}, {"block_size": 0, "num_gpu_blocks": 0}]
)
def test_where_the_size_of_the_cache_is_unknown_nothing_is_waited_for(figures: dict[str, int]) -> None:
    assert kv_wait_s(known(kv_cache_usage=1.0, **figures), 9000) == 0.0
    assert kv_wait_s(endpoint(None), 9000) == 0.0


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 2e5), st.floats(0, 2e5))
def test_the_fuller_it_is_and_the_longer_the_prompt_the_longer_the_wait(
    usage: float, other: float, tokens: float, others: float
) -> None:
    low, high = sorted((usage, other))
    few, many = sorted((tokens, others))
    one, two = with_kv(low), with_kv(high)
    two.tokens_in_flight = one.tokens_in_flight = CAPACITY  # as much is freed
    assert 0.0 <= kv_wait_s(one, few) <= kv_wait_s(two, many) * (1 + 1e-9)


# -- adapters -----------------------------------------------------------------------------------------------


def slots(number: int, *running: str, most: int = 2, in_flight: int = 0) -> Endpoint:
    return known(number, in_flight, running_loras=frozenset(running), max_loras=most)


def test_an_adapter_goes_where_it_runs_else_where_a_slot_is_free_else_where_one_will_be() -> None:
    runs, free, taken = slots(1, "m", "x"), slots(2, "x"), slots(3, "x", "y")
    wait_s = [cost - 1000 * UNKNOWN_TOKEN_S for cost in costs(asked_adapter(), runs, free, taken)]
    assert wait_s == pytest.approx([0.0, LOAD_S, LOAD_S + UNKNOWN_OUTPUT * UNKNOWN_STEP_S])


def test_our_own_requests_take_slots_before_a_scrape_tells() -> None:
    sent, other = slots(1, most=1), slots(2, most=1)
    sent.acquire(Work(adapter="x"), NOW)
    other.acquire(Work(adapter="m"), NOW)
    assert preferred(asked_adapter("m"), sent, other) == [1]
    assert preferred(asked_adapter("x"), sent, other) == [0]
    for name, each in (("x", sent), ("m", other)):
        each.release(Work(adapter=name))
    assert preferred(asked_adapter("m"), sent, other) == [0, 1]


def test_more_who_wait_for_a_slot_make_the_wait_longer() -> None:
    crowded = slots(1, "x", "y")
    one = costs(asked_adapter(), crowded)[0]
    crowded.loras_in_flight = {"z": 1}
    assert costs(asked_adapter(), crowded)[0] == pytest.approx(one + UNKNOWN_OUTPUT * UNKNOWN_STEP_S)


def test_a_base_model_needs_no_slot() -> None:
    assert preferred(asked(target_model="m"), slots(1, "m"), slots(2, "x", "y")) == [0, 1]


def test_adapters_that_a_stale_scrape_told_of_are_forgotten_but_not_our_own() -> None:
    stale, ours = slots(1, "m"), slots(2)
    ours.loras_in_flight = {"m": 1}
    wait_s = [cost - 1000 * UNKNOWN_TOKEN_S for cost in costs(asked_adapter(), stale, ours, now=STALE)]
    assert wait_s == pytest.approx([LOAD_S, 0.0])


# -- what is unknown ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "others",
    [
        [with_kv(0.99, 1), with_kv(0.99, 2), with_kv(0.99, 3)],
        [slots(1, "x", "y"), slots(2, "x", "y"), slots(3, "x", "y")],
        [known(number, 3, 20_000) for number in (1, 2, 3)],
    ],
    ids=["full caches", "taken slots", "backlogs"],
)
def test_an_unknown_endpoint_does_not_attract_by_what_it_does_not_tell(others: list[Endpoint]) -> None:
    asks = asked_adapter()
    for unknown in (endpoint(None, 9), with_kv(1.0, 9)):
        unknown.fresh_until = unknown.kv_fresh_until = NOW
        found = costs(asks, *others, unknown)
        assert found == pytest.approx([found[0]] * 4)  # nor is it shut out


def test_where_others_wait_for_memory_one_that_does_not_tell_of_its_cache_counts_as_their_median() -> None:
    told = metrics()
    full = [with_kv(0.99, 1), with_kv(0.99, 2), with_kv(0.5, 3)]
    silent = endpoint(replace(told, kv_cache_usage=None), 4)
    found = costs(asked(), *full, silent)
    assert found[3] == pytest.approx(found[0])
    assert found[2] < found[3]
    assert costs(asked(), with_kv(0.5, 1), silent) == pytest.approx([found[2]] * 2)  # nobody waits


def test_the_median_counts_for_it_where_others_differ_and_its_own_where_that_is_worse() -> None:
    others = [known(1), known(2, in_flight=3), known(3, in_flight=9)]
    unknown = endpoint(None, 4)
    found = costs(asked(), *others, unknown)
    assert found[3] == found[1]
    for _ in range(9):
        unknown.acquire(Work(5000, 5000), NOW)
    found = costs(asked(), *others, unknown)
    assert found[3] > found[2]


def test_where_nothing_is_known_our_own_counts_decide() -> None:
    targets = [endpoint(None, 1, in_flight=1), endpoint(None, 2), endpoint(None, 3)]
    assert preferred(asked(), *targets) == [1, 2]


# -- as a whole ---------------------------------------------------------------------------------------------

STATES = st.tuples(
    st.integers(0, 60),  # in flight
    st.integers(0, 40_000),  # prompt tokens ahead
    st.floats(1e-5, 1e-2),  # seconds a prompt token
    st.floats(0.1, 10.0),  # slowness
    st.floats(0, 1),  # KV usage
    st.booleans(),  # scraped
    st.sampled_from([(), ("m",), ("x",), ("x", "y"), ("x", "y", "z")]),
    st.floats(0, 1),  # share of the prompt that is cached
)
State = tuple[int, int, float, float, float, bool, tuple[str, ...], float]


def build(states: Sequence[State], tokens: int) -> tuple[InferenceRequest, list[Endpoint]]:
    targets, cached = [], {}
    for number, (in_flight, ahead, token_s, slowness, usage, scraped, loras, share) in enumerate(states, 1):
        page = EngineMetrics(
            waiting=0,
            running=0,
            kv_cache_usage=usage,
            running_loras=frozenset(loras),
            max_loras=2,
            **BLOCKS,
        )
        made = endpoint(page if scraped else None, number)
        if in_flight:
            made.acquire(Work(ahead, ahead), NOW)
        for _ in range(in_flight - 1):
            made.acquire(Work(), NOW)
        made.token_s, made.slowness = token_s, slowness
        targets.append(made)
        if share > 0.5:
            cached[made] = int(share * tokens)
    return asked(tokens, cached, target_model="m", is_adapter=True), targets


@given(st.lists(STATES, min_size=1, max_size=8), st.integers(0, 100_000))
def test_costs_are_finite_and_positive_and_what_is_told_of_them_adds_up(
    states: list[State], tokens: int
) -> None:
    asks, targets = build(states, tokens)
    found = costs(asks, *targets)
    assert all(0.0 < cost < 1e9 for cost in found)
    told = SCORER.explain(asks, targets, NOW)
    assert [each.cost_s for each in told] == found
    for each, made in zip(told, targets, strict=True):
        own = (each.new_tokens + each.ahead_tokens) * each.token_s + each.kv_wait_s + each.lora_wait_s
        own *= each.requests * each.slowness
        if made.is_fresh(NOW):
            assert each.cost_s == pytest.approx(own)
        else:
            assert each.cost_s >= own * (1 - 1e-9)


def burden(made: Endpoint, how: str) -> None:
    """Make it worse in one respect."""
    match how:
        case "ahead":
            made.acquire(Work(10_000, 10_000), NOW)
            made.in_flight -= 1
        case "load":
            made.acquire(Work(), NOW)
        case "tokens":
            made.token_s *= 3
        case "iterations":
            made.slowness *= 2
        case "memory":
            made.kv_usage = min(1.0, made.kv_usage + 0.2)
            made.tokens_in_flight = CAPACITY


@given(
    st.lists(STATES, min_size=3, max_size=8),
    st.integers(0, 100_000),
    st.integers(0, 7),
    st.sampled_from(["ahead", "load", "tokens", "iterations", "memory"]),
)
def test_who_is_worse_off_than_before_is_never_preferred_for_it(
    states: list[State], tokens: int, at: int, how: str
) -> None:
    states = [(*state[:5], True, *state[6:]) for state in states]
    asks, targets = build(states, tokens)
    if how == "memory":
        for each in targets:
            each.tokens_in_flight = CAPACITY
    at %= len(targets)
    before = preferred(asks, *targets)
    burden(targets[at], how)
    if at not in before:
        assert at not in preferred(asks, *targets)


@pytest.mark.parametrize("seed", range(3))
def test_a_burst_of_unequal_prompts_between_two_scrapes_spreads_what_they_cost(seed: int) -> None:
    """Long prompts have fewer requests beside them, so that neither requests nor tokens are the same everywhere."""
    rng, targets = random.Random(seed), [known(number) for number in range(1, 6)]
    for _ in range(100):
        tokens = rng.choice((100, 1000, 8000))
        chosen = default_profile().choose(asked(tokens), targets, 1, NOW, rng).endpoints[0]
        chosen.acquire(Work(tokens, tokens), NOW)
    next_one = costs(asked(1000), *targets)
    assert max(next_one) < 1.5 * min(next_one)
    assert min(each.in_flight for each in targets) >= 10


@pytest.mark.parametrize("seed", range(3))
def test_a_flood_of_one_beginning_goes_home_in_part_and_evenly_to_the_others(seed: int) -> None:
    rng, targets = random.Random(seed), [known(number) for number in range(1, 11)]
    home = targets[3]
    for _ in range(60):
        chosen = default_profile().choose(asked(4000, {home: 3900}), targets, 1, NOW, rng).endpoints[0]
        chosen.acquire(Work(4000, 100 if chosen is home else 4000), NOW)
    others = [each.in_flight for each in targets if each is not home]
    assert max(others) - min(others) <= 1
    assert 2 * max(others) < home.in_flight < 30


def test_one_request_after_the_other_goes_home_each_time() -> None:
    rng, targets = random.Random(1), [known(number, in_flight=2) for number in range(1, 11)]
    for _ in range(20):
        chosen = default_profile().choose(asked(4000, {targets[3]: 3900}), targets, 1, NOW, rng).endpoints[0]
        assert chosen is targets[3]
        chosen.acquire(work := Work(4000, 100), NOW)
        chosen.release(work)
