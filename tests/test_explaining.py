"""Why a request goes where it goes, and what would change it: told by the real core, asked again and again."""

from __future__ import annotations

import random
from typing import Any

import pytest
from fleets import NOW, endpoint, fleet, metrics, request
from hypothesis import given, settings
from hypothesis import strategies as st
from prompts import prompt

from extproc.endpoint import Endpoint
from extproc.engine_metrics import EngineMetrics
from extproc.errors import Reason, Rejected
from extproc.explaining import (
    Change,
    Explanation,
    Question,
    cache,
    explain,
    synthetic_prefix,
    what_would_change,
)
from extproc.fleet import Fleet
from extproc.request import InferenceRequest, Prompt
from extproc.router import Router
from extproc.scheduling.outstanding_work import OutstandingWorkScorer
from extproc.state import describe
from extproc.work import Work

A, B, C, D = "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80", "10.0.0.4:80"
THREE = f"endpoints: ['{A}', '{B}', '{C}']"
PLAIN = f"pools: [{{name: p, {THREE}}}]"


def by(scorer: str, more: str = "", pool: str = THREE) -> str:
    """A config whose only scorer is *scorer*."""
    return f"pools: [{{name: p, {pool}}}]\nprofiles: [{{name: default, scorers: [{{type: {scorer}}}]{more}}}]"


def known(text: str, *figures: EngineMetrics | None) -> Fleet:
    """A fleet under *text* whose first endpoints were just scraped."""
    made = fleet(text)
    for (_, each), figure in zip(made.endpoints(), figures, strict=False):
        if figure is not None:
            made.scraped(each.address, figure, NOW)
    return made


def router_of(of: Fleet) -> Router:
    assert of.router is not None
    return of.router


def at(of: Fleet, address: str) -> Endpoint:
    ((_, found),) = of.at(address)
    return found


def ask(of: Fleet, asked: InferenceRequest | None = None, now: float = NOW, seed: int = 0) -> Question:
    return Question(router_of(of), asked or request(), now, seed)


def told(of: Fleet, **options: Any) -> Explanation:
    return explain(ask(of, **options))


def verdicts(explained: Explanation) -> dict[str, str]:
    return {row.address: row.out or row.verdict for row in explained.endpoints}


def changes(of: Fleet, **options: Any) -> dict[str, dict[str, tuple[int, bool]]]:
    """By endpoint: each change, with its amount and whether it would tie."""
    question = ask(of, **options)
    found: dict[str, dict[str, tuple[int, bool]]] = {}
    for change in what_would_change(question, explain(question)):
        found.setdefault(change.endpoint, {})[change.what] = (change.amount, change.tie)
    return found


# -- the decision -------------------------------------------------------------------------------------------


def test_scores_and_weights_are_those_of_the_decision() -> None:
    text = (
        f"{PLAIN}\nprofiles: [{{name: default, scorers: [{{type: queue, weight: 2}}, {{type: kv-cache}}]}}]"
    )
    of = known(text, metrics(waiting=4, kv=0.5), metrics(waiting=1, kv=0.75), metrics(waiting=0, kv=1.0))
    explained = told(of)
    assert explained.weights == {"queue": 2.0, "kv-cache": 1.0}
    assert [(row.address, row.scores, row.total, row.verdict) for row in explained.endpoints] == [
        (C, {"queue": 1.0, "kv-cache": 0.0}, 2.0, "chosen"),
        (B, {"queue": 0.75, "kv-cache": 0.25}, 1.75, "rated"),
        (A, {"queue": 0.0, "kv-cache": 0.5}, 0.5, "rated"),
    ]
    assert (explained.outcome, explained.endpoint, explained.as_good) == ("routed", C, [C])


def test_the_only_one_left_is_chosen_without_having_been_rated() -> None:
    of = known(by("running"), metrics(3), metrics(1), metrics(9))
    explained = told(of, asked=request(subset=frozenset({C})))
    first = explained.endpoints[0]
    assert (first.address, first.verdict, first.scores, first.total) == (C, "chosen", {}, None)
    assert explained.as_good == [C]


def test_who_ties_is_said_and_one_of_them_is_drawn() -> None:
    of = known(by("running"), metrics(3), metrics(3), metrics(9))
    explained = [told(of, seed=seed) for seed in range(20)]
    assert {each.endpoint for each in explained} == {A, B}
    assert all(sorted(each.as_good) == [A, B] for each in explained)
    assert all(sorted(verdicts(each).values()) == ["chosen", "rated", "tied"] for each in explained)


def test_fallbacks_are_named() -> None:
    of = known(by("running", pool=f"{THREE}, fallback_endpoints: 1"), metrics(1), metrics(3), metrics(9))
    assert verdicts(told(of)) == {A: "chosen", B: "fallback", C: "rated"}


def test_what_the_cost_is_made_of_adds_up_to_the_cost() -> None:
    of = known(
        PLAIN, EngineMetrics(waiting=0, running=4, kv_cache_usage=0.95, block_size=16, num_gpu_blocks=1000)
    )
    at(of, A).acquire(Work(prompt_tokens=3000, new_tokens=3000), NOW)
    asked = request(prompt=Prompt(1000, synthetic_prefix(1000)))
    cache(ask(of, asked), {at(of, A): 640})
    row = next(row for row in told(of, asked=asked).endpoints if row.address == A)
    cost = row.cost
    assert cost is not None
    assert (cost.new_tokens, cost.ahead_tokens, cost.requests, cost.slowness) == (360, 3000, 6, 1)
    assert (cost.token_s, cost.lora_wait_s, row.cached_tokens) == (1e-4, 0, 640)
    assert cost.kv_wait_s > 0
    assert cost.cost_s == pytest.approx((3360 * cost.token_s + cost.kv_wait_s) * 6)


loads = st.tuples(
    st.integers(0, 9), st.integers(0, 9), st.floats(0, 1), st.integers(0, 9000), st.booleans(), st.booleans()
)


@settings(deadline=None)
@given(st.lists(loads, min_size=2, max_size=6), st.integers(0, 9000), st.booleans())
def test_the_parts_are_those_that_the_scorer_rates_by(
    figures: list[tuple[int, int, float, int, bool, bool]], tokens: int, is_adapter: bool
) -> None:
    rated = []
    for number, (running, ours, kv, ahead, has_lora, is_known) in enumerate(figures, 1):
        page = EngineMetrics(
            waiting=0,
            running=running,
            kv_cache_usage=kv,
            block_size=16,
            num_gpu_blocks=500,
            max_loras=1,
            running_loras=frozenset({"m" if has_lora else "x"}),
        )
        each = endpoint(page if is_known else None, number, ours)
        each.acquire(Work(prompt_tokens=ahead, new_tokens=ahead), NOW)
        rated.append(each)
    asked = request(
        target_model="m", is_adapter=is_adapter, prompt=Prompt(tokens), cached={rated[0]: tokens // 2}
    )
    scorer = OutstandingWorkScorer()
    parts = scorer.explain(asked, rated, NOW)
    assert [part.cost_s for part in parts] == scorer.costs(asked, rated, NOW)
    for part, each in zip(parts, rated, strict=True):
        prompts_s = (part.new_tokens + part.ahead_tokens) * part.token_s
        whole = (prompts_s + part.kv_wait_s + part.lora_wait_s) * part.requests * part.slowness
        assert part.cost_s == pytest.approx(whole) or (each.metrics is None and part.cost_s > whole)
        assert part.is_raised is (part.cost_s > whole * 1.001)


# -- who was not rated, and why -----------------------------------------------------------------------------

LABELLED = f"""
pools:
- name: p
  endpoints:
  - {{address: '{A}', labels: {{v: a}}}}
  - {{address: '{B}', labels: {{v: a, gpu: big}}}}
  - '{C}'
models:
- name: m
  pool: p
  targets:
  - {{model: x, weight: 0}}
  - {{model: y, weight: 3, labels: {{v: a}}}}
  - {{model: z, weight: 1, labels: {{v: q}}}}
"""


def test_targets_with_their_shares_and_who_lacks_the_labels() -> None:
    explained = told(fleet(LABELLED))
    assert [(t.model, t.share, t.endpoints, t.drawn) for t in explained.targets] == [
        ("x", 0, 3, False),
        ("y", 3, 2, True),
        ("z", 1, 0, False),
    ]
    assert verdicts(explained)[C] == "has not the target's labels: v=a"
    assert {told(fleet(LABELLED), seed=seed).target_fallback for seed in range(20)} == {True, False}


def test_a_model_without_targets_is_its_own() -> None:
    (target,) = told(fleet(f"{PLAIN}\nmodels: [{{name: m, pool: p}}]")).targets
    assert (target.model, target.endpoints, target.drawn) == ("m", 3, True)
    assert told(fleet(PLAIN)).targets == []


def test_the_subset_hint_the_pause_and_the_filters_are_named() -> None:
    of = known(f"{by('running', ', filters: [{type: fresh}]')}", metrics(), metrics(), None)
    assert verdicts(told(of))[C] == "filter fresh"
    at(of, A).health.set_aside_until = NOW + 3
    hinted = told(of, asked=request(subset=frozenset({"10.0.0.1", B})))
    assert verdicts(hinted) == {A: "set aside for 3.0 s more", B: "chosen", C: "not in the subset hint"}


NOBODY_LEFT = f"""
pools:
- name: p
  endpoints:
  - {{address: '{A}', labels: {{v: a, t: own}}, cordoned: true}}
  - {{address: '{B}', labels: {{v: b, t: own}}}}
  - {{address: '{C}', labels: {{v: c, t: own}}}}
  - {{address: '{D}', labels: {{v: b, t: cloud}}}}
  tiers: [{{name: own, labels: {{t: own}}}}, {{name: cloud, labels: {{t: cloud}}}}]
models:
- name: m
  pool: p
  never: cloud
  targets:
  - {{model: x, weight: 1, labels: {{v: a}}}}
  - {{model: y, weight: 1, labels: {{v: b}}}}
  - {{model: nobody's, weight: 0}}
- {{name: n, pool: p, never: cloud, targets: [{{model: x, labels: {{v: a}}}}]}}
"""


@pytest.mark.parametrize(
    ("model", "b", "c", "d"),
    [
        (
            "m",
            "not in the subset hint",
            "has the labels of none of the targets",
            "its tier never serves this request",
        ),
        ("n", *["has not the target's labels: v=a"] * 3),
    ],
)
def test_where_nobody_can_take_it_each_has_its_own_reason(model: str, b: str, c: str, d: str) -> None:
    explained = told(fleet(NOBODY_LEFT), asked=request(model, subset=frozenset({A, C, D})))
    assert explained.refusal is not None
    assert explained.refusal.reason == "no_endpoints"
    assert verdicts(explained) == {A: "cordoned by config", B: b, C: c, D: d}


TIERED = f"""
pools:
- name: p
  endpoints: [{{address: '{A}', labels: {{t: own}}}}, {{address: '{B}', labels: {{t: own}}}}, '{C}']
  tiers: [{{name: own, labels: {{t: own}}}}, {{name: cloud, labels: {{t: cloud}}}}]
models: [{{name: m, pool: p}}, {{name: bank, pool: p, never: cloud}}]
"""


def test_a_tier_that_is_full_and_one_that_is_not_needed_are_named() -> None:
    of = known(TIERED, metrics(waiting=9), metrics(), metrics())
    assert verdicts(told(of)) == {A: "full for its tier", B: "chosen", C: "a tier before has room"}
    assert verdicts(told(of, asked=request("bank")))[C] == "its tier never serves this request"
    of.scraped(B, metrics(waiting=9), NOW)
    explained = told(of)
    assert (explained.tier, verdicts(explained)) == (
        "cloud",
        {A: "full for its tier", B: "full for its tier", C: "chosen"},
    )


def test_an_endpoint_of_a_full_tier_whose_figures_are_old_is_named() -> None:
    of = known(TIERED, metrics(waiting=9), None, metrics())
    assert verdicts(told(of))[B] == "its figures are old, and those of its tier with fresh ones are full"


QUEUED = f"""
pools: [{{name: p, {THREE}, queue: {{timeout_s: 1}}}}]
models: [{{name: s, pool: p, criticality: Sheddable}}]
"""


def test_a_request_that_would_be_held_is_said_to_be() -> None:
    of = known(QUEUED, *[metrics(waiting=waiting) for waiting in (2, 1, 4)])
    explained = told(of)
    assert (explained.outcome, explained.endpoint) == ("held", B)
    of.scraped(C, metrics(), NOW)
    explained = told(of)
    assert (explained.outcome, verdicts(explained)[A]) == ("routed", "no room: requests wait there")


def test_a_refusal_tells_its_reason_and_the_endpoints_all_the_same() -> None:
    of = known(QUEUED, *[metrics(waiting=9)] * 3)
    explained = told(of, asked=request("s"))
    assert explained.refusal is not None
    assert (explained.outcome, explained.refusal.reason, explained.refusal.status) == (
        "refused",
        "saturated",
        429,
    )
    assert [row.queue for row in explained.endpoints] == [9, 9, 9]
    nobody = told(of, asked=request(subset=frozenset()))
    assert (nobody.refusal and nobody.refusal.reason, set(verdicts(nobody).values())) == (
        "no_endpoints",
        {"not in the subset hint"},
    )


def test_a_model_that_leads_nowhere_is_rejected() -> None:
    with pytest.raises(Rejected) as error:
        told(fleet(PLAIN + "\ndefault_pool: null"))
    assert error.value.reason is Reason.MODEL_NOT_FOUND


# -- what would change it -----------------------------------------------------------------------------------


def test_fewer_requests_and_more_at_the_chosen_one() -> None:
    of = known(by("in-flight"), metrics(2), metrics(5), metrics(9))
    assert changes(of) == {
        A: {"more_requests": (3, True)},
        B: {"requests": (3, True)},
        C: {"requests": (7, True)},
    }


def test_prompt_tokens_ahead() -> None:
    of = known(PLAIN, metrics(), metrics())
    for address, tokens in ((A, 1000), (B, 3000), (C, 9000)):
        at(of, address).acquire(Work(new_tokens=tokens), NOW)
    found = changes(of, asked=request(prompt=Prompt(500)))
    assert found[B]["tokens_ahead"] == (2000, True)
    assert found[A]["more_tokens_ahead"] == (2000, True)
    assert "requests" not in found[B]  # with what is ahead, 3,500 tokens alone wait longer than 1,500 twice


def test_a_shorter_queue_and_a_freer_cache() -> None:
    of = known(by("queue"), metrics(waiting=1), metrics(waiting=4), metrics(waiting=9))
    assert {a: found.get("waiting") for a, found in changes(of).items() if a != A} == {
        B: (3, True),
        C: (8, True),
    }
    of = known(by("kv-cache"), metrics(kv=0.2), metrics(kv=0.455), metrics(kv=0.7))
    assert {a: found.get("kv_usage") for a, found in changes(of).items() if a != A} == {
        B: (26, False),
        C: (50, True),
    }


def test_fresh_figures_and_the_end_of_a_pause() -> None:
    of = known(by("running", ", filters: [{type: fresh}]"), metrics(1), metrics(5), metrics(0))
    at(of, B).fresh_until = NOW - 1
    at(of, C).health.set_aside_until = NOW + 9
    found = changes(of)
    assert found[C] == {"set_aside": (1, False)}
    assert found[B] == {"idle": (1, False)}  # fresh, it would be there, but not the best
    of = known(by("running", ", filters: [{type: fresh}]"), metrics(1), metrics(0))
    at(of, B).fresh_until = NOW - 1
    assert changes(of)[B] == {"fresh": (1, False)}


def test_what_is_cached() -> None:
    of = known(PLAIN, metrics(), metrics())
    at(of, B).acquire(Work(new_tokens=300), NOW)
    at(of, C).acquire(Work(new_tokens=9000), NOW)
    asked = request(prompt=prompt(("system", 8), ("question", 8)))
    found = changes(of, asked=asked)
    assert found[B]["cached_tokens"] == (13, False)
    assert "cached_tokens" not in found.get(C, {})
    cache(ask(of, asked), {at(of, A): 512})
    assert "cached_tokens" not in changes(of, asked=asked).get(B, {})


def test_a_loaded_adapter() -> None:
    pages = [metrics(2, loras=loras, max_loras=1) for loras in ("m", "x", "x")]
    of = known(PLAIN, *pages)
    assert changes(of)[B] == {"lora": (1, True)}


def test_a_full_tier_before_and_idleness() -> None:
    of = known(TIERED, metrics(1), metrics(waiting=9, kv=0.95), metrics(0))
    found = changes(of)
    assert found[C] == {"tier": (1, False)}
    assert found[B]["idle"] == (1, False)


def test_a_slow_endpoint() -> None:
    of = known(PLAIN, metrics(2), metrics(1), metrics(7))
    at(of, B).slowness = 4.0
    assert changes(of)[B]["speed"] == (1, False)


def test_a_held_request_is_told_who_would_get_it() -> None:
    of = known(QUEUED, *[metrics(waiting=waiting, running=3) for waiting in (2, 1, 4)])
    assert changes(of)[A]["waiting"] == (2, False)


def test_nothing_is_said_to_change_a_drawn_choice() -> None:
    of = known(by("running", ", picker: {type: weighted-random}"), metrics(1), metrics(2))
    assert changes(of) == {}


def test_only_the_nearest_endpoints_are_looked_at() -> None:
    many = ", ".join(f"'10.0.1.{number}:80'" for number in range(1, 31))
    of = known(by("running", pool=f"endpoints: [{many}]"), *[metrics(number) for number in range(30)])
    assert len(changes(of)) <= 11


figures = st.one_of(
    st.none(),
    st.builds(
        metrics,
        running=st.integers(0, 20),
        waiting=st.integers(0, 4),
        kv=st.sampled_from([0.0, 0.5, 0.85, 0.99]),
        max_loras=st.just(2),
    ),
)


@pytest.mark.parametrize("text", [PLAIN, TIERED, QUEUED], ids=["plain", "tiers", "queue"])
@settings(deadline=None)
@given(
    st.lists(figures, min_size=3, max_size=3),
    st.lists(st.integers(0, 5000), min_size=3, max_size=3),
    st.integers(0, 4),
)
def test_asking_changes_nothing_and_the_pick_is_the_routers(
    text: str, pages: list[EngineMetrics | None], tokens: list[int], seed: int
) -> None:
    of = known(text, *pages)
    for address, count in zip((A, B, C), tokens, strict=True):
        at(of, address).acquire(Work(prompt_tokens=count, new_tokens=count), NOW)
    before = describe(router_of(of), "abc", NOW)
    asked = request(prompt=prompt(("text", 6)))
    question = ask(of, asked, seed=seed)
    explained = explain(question)
    found = what_would_change(question, explained)
    assert describe(router_of(of), "abc", NOW) == before
    assert all(isinstance(change, Change) and change.text for change in found)
    rated = {row.address for row in explained.endpoints if row.out is None}
    assert explained.outcome != "routed" or explained.endpoint in rated
    if text == PLAIN:
        decision = router_of(of).decide(asked, NOW, random.Random(seed))
        assert decision.endpoint.address == explained.endpoint
        assert len(rated) == decision.candidates
