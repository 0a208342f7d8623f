"""Affinity: who is preferred for what a request shares with earlier ones, and when load forbids it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence

import pytest
from fleets import NOW, decide, endpoint, endpoints, metrics, request, router
from hypothesis import given
from hypothesis import strategies as st
from prompts import beginnings, prompt

from extproc.endpoint import Endpoint
from extproc.rendezvous import rendezvous
from extproc.request import CHECKPOINTS, NO_PROMPT, Prompt
from extproc.scheduling.affinity import (
    PrefixAffinityScorer,
    PrefixHashScorer,
    SessionAffinityScorer,
)
from extproc.scheduling.plugin import Plugin
from extproc.scheduling.scorers import LoraAffinityScorer

HASHED: list[Plugin] = [PrefixHashScorer(), SessionAffinityScorer()]


def idle(count: int) -> list[Endpoint]:
    return [endpoint(metrics(), number) for number in range(1, count + 1)]


def loaded(*in_flight: int) -> list[Endpoint]:
    return [endpoint(metrics(), number, each) for number, each in enumerate(in_flight, 1)]


def shares(
    cached: Sequence[int], in_flight: Sequence[int], bound: float = 1.25, total: int = 1000
) -> list[float]:
    targets = loaded(*in_flight)
    known = {each: tokens for each, tokens in zip(targets, cached, strict=True) if tokens}
    asked = request(prompt=Prompt(total), cached=known)
    return PrefixAffinityScorer(load_bound=bound).score(asked, targets, NOW)


@pytest.mark.parametrize(
    ("cached", "scores"),
    [
        ([0, 0, 0, 0], [0.0, 0.0, 0.0, 0.0]),
        ([500, 0, 250, 0], [0.5, 0.0, 0.25, 0.0]),
        # what nearly all have does not count
        ([400, 400, 400, 400], [0.0, 0.0, 0.0, 0.0]),
        ([400, 400, 400, 0], [0.0, 0.0, 0.0, 0.0]),
        ([900, 400, 400, 0], [0.5, 0.0, 0.0, 0.0]),
        ([900, 500, 400, 0], [0.5, 0.1, 0.0, 0.0]),
        ([400, 400, 0, 0], [0.4, 0.4, 0.0, 0.0]),
        ([400, 400, 400, 0, 0], [0.4, 0.4, 0.4, 0.0, 0.0]),
        # the length is an estimate
        ([1200, 0, 0, 0], [1.0, 0.0, 0.0, 0.0]),
    ],
)
def test_prefix_affinity_is_the_share_of_the_prompt_that_others_do_not_have(
    cached: list[int], scores: list[float]
) -> None:
    assert shares(cached, [0] * len(cached)) == pytest.approx(scores)


@pytest.mark.parametrize(
    ("in_flight", "bound", "score"),
    [
        ([1, 0, 0, 0], 1.0, 0.5),  # 2 of ceil(1.25)
        ([2, 0, 0, 0], 1.0, 0.0),  # 3 of ceil(1.5)
        ([2, 0, 0, 0], 1.34, 0.5),  # 3 of ceil(2.01)
        ([12, 8, 8, 8], 1.25, 0.5),  # 13 of ceil(12.5)
        ([13, 8, 8, 8], 1.25, 0.0),  # 14 of ceil(12.81)
        ([13, 8, 8, 8], 2.0, 0.5),
    ],
)
def test_prefix_affinity_ends_at_the_load_bound(in_flight: list[int], bound: float, score: float) -> None:
    assert shares([500, 0, 0, 0], in_flight, bound) == [score, 0.0, 0.0, 0.0]


def test_requests_of_others_count_towards_the_load_bound() -> None:
    targets = endpoints(metrics(running=2, waiting=3), metrics(), metrics())
    asked = request(prompt=Prompt(1000), cached={targets[0]: 500})
    assert PrefixAffinityScorer().score(asked, targets, NOW) == [0.0, 0.0, 0.0]
    targets = endpoints(*[metrics(running=2, waiting=3)] * 3)  # 6 of ceil(7.5)
    asked = request(prompt=Prompt(1000), cached={targets[0]: 500})
    assert PrefixAffinityScorer().score(asked, targets, NOW) == [0.5, 0.0, 0.0]


def test_prefix_affinity_says_nothing_of_a_prompt_of_unknown_length() -> None:
    targets = idle(2)
    asked = request(prompt=NO_PROMPT, cached={targets[0]: 64})
    assert PrefixAffinityScorer().score(asked, targets, NOW) == [0.0, 0.0]


def homes(scorer: Plugin, targets: Sequence[Endpoint], keys: int) -> list[Endpoint]:
    """Where each of so many keys goes."""
    return [home(scorer, targets, number) for number in range(keys)]


def home(scorer: Plugin, targets: Sequence[Endpoint], number: int) -> Endpoint:
    asked = request(
        headers={"x-session-id": str(number)},
        prompt=prompt(("system", 8), (f"user {number}", 8), ("more", 3)),
    )
    scores = scorer.score(asked, targets, NOW)  # type: ignore[attr-defined]
    assert sorted(scores) == [0.0] * (len(targets) - 1) + [1.0]
    return targets[scores.index(1.0)]


@pytest.mark.parametrize("scorer", HASHED)
def test_a_hash_spreads_keys_evenly(scorer: Plugin) -> None:
    counts = Counter(homes(scorer, idle(8), 4000))
    assert len(counts) == 8
    assert all(395 <= count <= 605 for count in counts.values())  # five standard deviations around 500


@pytest.mark.parametrize("scorer", HASHED)
def test_every_router_agrees_on_a_key_in_whatever_order_it_lists_the_endpoints(scorer: Plugin) -> None:
    ours, theirs = idle(20), idle(20)
    random.Random(1).shuffle(theirs)
    assert [e.address for e in homes(scorer, ours, 200)] == [e.address for e in homes(scorer, theirs, 200)]


@pytest.mark.parametrize("scorer", HASHED)
def test_who_leaves_moves_only_its_own_keys_and_these_evenly(scorer: Plugin) -> None:
    targets = idle(6)
    before = homes(scorer, targets, 6000)
    after = homes(scorer, targets[1:], 6000)
    moved = [new for old, new in zip(before, after, strict=True) if old is targets[0]]
    assert all(new is old for old, new in zip(before, after, strict=True) if old is not targets[0])
    assert all(
        130 <= count <= 270 for count in Counter(moved).values()
    )  # five standard deviations around 200
    assert len(set(moved)) == 5


@pytest.mark.parametrize("scorer", HASHED)
def test_a_key_goes_to_the_next_in_its_own_order_while_its_home_is_over_the_load_bound(
    scorer: Plugin,
) -> None:
    targets = idle(5)
    first = home(scorer, targets, 7)
    second = home(scorer, [each for each in targets if each is not first], 7)
    for _ in range(4):
        first.acquire()
    assert home(scorer, targets, 7) is second
    for _ in range(3):
        first.release()
    assert home(scorer, targets, 7) is first


@pytest.mark.parametrize(("most", "kept"), [(3, True), (4, False)])
def test_the_next_in_a_keys_order_takes_it_up_to_the_load_bound(most: int, kept: bool) -> None:
    targets, scorer = idle(3), SessionAffinityScorer(load_bound=1.0)
    first = home(scorer, targets, 7)
    second = home(scorer, [each for each in targets if each is not first], 7)
    for each, count in ((first, 5), (second, most)):  # 4 of ceil(3.67), 5 of ceil(4)
        for _ in range(count):
            each.acquire()
    assert (home(scorer, targets, 7) is second) is kept


@given(st.lists(st.integers(0, 50), min_size=1, max_size=12), st.floats(1.0, 3.0), st.integers(0, 999))
def test_no_affinity_puts_more_on_an_endpoint_than_the_bound_allows(
    in_flight: list[int], bound: float, number: int
) -> None:
    targets = loaded(*in_flight)
    mean = sum(in_flight) / len(in_flight) + 1
    for scorer in (PrefixHashScorer(load_bound=bound), SessionAffinityScorer(load_bound=bound)):
        assert home(scorer, targets, number).in_flight + 1 < bound * mean + 1
    scores = shares([number + 1] * (len(in_flight) // 2) + [0] * (-(-len(in_flight) // 2)), in_flight, bound)
    assert all(count + 1 < bound * mean + 1 for count, score in zip(in_flight, scores, strict=True) if score)


def hashed(*parts: tuple[str, int], **parameters: int) -> str | None:
    """Where a prompt goes; None: nowhere in particular."""
    targets = idle(50)
    asked = request(prompt=Prompt(prefix=beginnings(*parts)))
    scores = PrefixHashScorer(**parameters).score(asked, targets, NOW)  # type: ignore[arg-type]
    return targets[scores.index(1.0)].address if 1.0 in scores else None


def test_a_prefix_hash_is_that_of_the_first_two_blocks() -> None:
    begun = hashed(("system", 8), ("x", 8))
    assert begun == hashed(("system", 8), ("x", 8), ("y", 50)) == hashed(("system", 8), ("x", 99))
    assert begun != hashed(("system", 8), ("x", 7), ("z", 1))
    assert begun != hashed(("other", 1), ("system", 7), ("x", 8))


def test_a_prompt_of_less_than_two_blocks_is_hashed_whole_and_one_of_less_than_one_is_not() -> None:
    assert hashed(("system", 8), ("x", 1)) is not None
    assert hashed(("system", 8), ("x", 2)) != hashed(("system", 8), ("y", 2))
    assert hashed(("system", 8)) is None
    assert hashed() is None


def test_how_much_is_skipped_and_hashed_can_be_set() -> None:
    assert hashed(("a", 1), skip_tokens=0) is not None
    assert hashed(("a", 4), ("x", 9), skip_tokens=0, block_tokens=256) == hashed(
        ("a", 4), ("y", 9), skip_tokens=0, block_tokens=256
    )
    assert hashed(("a", 16), ("x", 9), skip_tokens=1024) != hashed(("a", 16), ("y", 9), skip_tokens=1024)
    longest = CHECKPOINTS[-1]
    whole = ("a", len(CHECKPOINTS))
    assert hashed(whole, skip_tokens=longest - 64, block_tokens=longest) is not None
    assert hashed(whole, skip_tokens=longest) is None


@pytest.mark.parametrize(
    ("headers", "same_as_header"),
    [
        ({"x-session-id": "s"}, True),
        ({"x-session-id": "s", "cookie": "sid=t"}, True),
        ({"cookie": "a=1; sid=s; b=2"}, True),
        ({"cookie": "sid=s"}, True),
        ({"cookie": "sid=t"}, False),
        ({"cookie": "Sid=s"}, None),
        ({"cookie": "sid="}, None),
        ({"cookie": "sid"}, None),
        ({"x-session-id": ""}, None),
        ({}, None),
    ],
)
def test_a_session_is_named_by_a_header_or_else_by_a_cookie(
    headers: Mapping[str, str], same_as_header: bool | None
) -> None:
    targets = idle(100)
    scorer = SessionAffinityScorer(header="X-Session-ID", cookie="sid")
    named = scorer.score(request(headers={"x-session-id": "s"}), targets, NOW)
    scores = scorer.score(request(headers=headers), targets, NOW)
    assert (sum(scores), scores == named) == (
        (0.0, False) if same_as_header is None else (1.0, same_as_header)
    )


def test_a_session_whose_name_is_no_unicode_has_a_home_too() -> None:
    assert (
        sum(SessionAffinityScorer().score(request(headers={"x-session-id": "\udcff"}), idle(3), NOW)) == 1.0
    )


def test_ranks_are_the_same_in_every_version_and_on_every_machine() -> None:
    assert rendezvous(b"key", idle(3)) == [
        3714245215896664213,
        16310260839839296563,
        15819417319242214629,
    ]


def lora(*figures: str, model: str = "m", known: bool = True) -> list[float]:
    """Scores for *model* where each endpoint runs the adapters named, of two at most; `-`: never scraped."""
    targets = endpoints(*(None if each == "-" else metrics(loras=each, max_loras=2) for each in figures))
    return LoraAffinityScorer().score(request(target_model=model, is_adapter=known), targets, NOW)


def test_a_cold_adapter_prefers_one_of_the_endpoints_with_a_free_slot() -> None:
    scores = lora("x", "x y", "", "x", "y z")
    assert sorted(scores) == [0.0, 0.0, 0.8, 0.8, 0.9]
    assert scores[1] == scores[4] == 0.0


def test_a_cold_adapter_has_one_endpoint_to_go_to_where_all_slots_are_taken() -> None:
    assert sorted(lora("x y", "x y", "y z", "v w")) == [0.0, 0.0, 0.0, 0.4]


def test_cold_adapters_spread_over_the_endpoints() -> None:
    counts = Counter(lora(*["x y"] * 5, model=f"m{number}").index(0.4) for number in range(1000))
    assert all(130 <= count <= 270 for count in counts.values())  # five standard deviations around 200


def test_a_cold_adapter_stays_with_its_endpoint_whatever_else_changes() -> None:
    before = lora("x", "x", "x", "x", "x")
    chosen = before.index(0.9)
    figures = ["x y" if index != chosen else "" for index in range(5)]
    assert lora(*figures)[chosen] == 0.9


def test_an_adapter_that_runs_somewhere_has_no_other_preference() -> None:
    assert lora("m", "x", "x y") == [1.0, 0.8, 0.0]


def test_an_endpoint_that_is_unknown_is_nobodys_home() -> None:
    assert lora("-", "x y", "-") == [0.0, 0.4, 0.0]
    assert lora("-", "-") == [0.0, 0.0]


def test_a_model_that_no_endpoint_ever_told_of_as_an_adapter_is_neutral() -> None:
    assert lora("x y", "x", "", known=False) == [1.0, 1.0, 1.0]


CONFIG = """
pools: [{name: p, endpoints: ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"], profile: mine}]
models: [{name: m, pool: p}]
profiles:
- name: mine
  scorers:
  - {type: prefix-affinity, load_bound: 1.5, weight: 3}
  - {type: prefix-hash, skip_tokens: 256, block_tokens: 256}
  - {type: session-affinity, header: x-user, cookie: sid}
"""


def test_they_are_configured_by_name_and_a_session_stays_where_it_is() -> None:
    made = router(CONFIG)
    chosen = {decide(made, seed=seed, headers={"x-user": "ann"}).endpoint for seed in range(20)}
    assert len(chosen) == 1
    assert len({decide(made, seed=seed).endpoint for seed in range(20)}) == 3


def test_a_conversation_goes_where_its_beginning_was_sent() -> None:
    made = router(CONFIG.replace("prefix-hash, ", "prefix-hash, weight: 0, "))
    for seed in range(20):
        first = decide(made, seed=seed, prompt=prompt(("system", 3), (f"user {seed}", 5)))
        first.pool.sent(first.work, first.endpoint, NOW)
        again = prompt(("system", 3), (f"user {seed}", 5), ("answer", 9))
        assert decide(made, seed=seed + 1, prompt=again).endpoint is first.endpoint
