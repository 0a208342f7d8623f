"""Where a request goes: which pool, which target, which endpoint; and why it is refused."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from fleets import NOW, decide, fleet, metrics, request, router, tally

from extproc import address
from extproc.errors import Reason, Rejected
from extproc.health import Failure
from extproc.pool import Pool
from extproc.router import Router

ONE_POOL = "pools: [{name: p, endpoints: ['10.0.0.1:80', '10.0.0.2:80']}]\n"
CANARY = """
pools:
- name: p
  endpoints:
  - {address: '10.0.0.1:80', labels: {version: v1}}
  - {address: '10.0.0.2:80', labels: {version: v1}}
  - {address: '10.0.0.3:80', labels: {version: v2}}
models:
- name: m
  pool: p
  targets:
  - {model: m-1, weight: 90, labels: {version: v1}}
  - {model: m-2, weight: 10, labels: {version: v2}}
  sticky: {header: X-User}
"""


def refusal(router: Router, model: str | None = "m", **fields: object) -> tuple[Reason, str, str | None]:
    with pytest.raises(Rejected) as caught:
        decide(router, model, **fields)
    return caught.value.reason, caught.value.message, caught.value.param


def chosen(router: Router, count: int = 200, model: str = "m", **fields: object) -> set[str]:
    """The addresses that *count* requests went to."""
    rng = random.Random(3)
    return {router.decide(request(model, **fields), NOW, rng).endpoint.address for _ in range(count)}


def set_aside(pool: Pool, *addresses: str) -> None:
    for each in addresses:
        pool.by_address[each].health.set_aside(NOW, Failure.UNREACHABLE)


def test_an_unlisted_model_goes_to_the_only_pool_as_it_is() -> None:
    decision = decide(router(ONE_POOL), "anything")
    assert (decision.model, decision.target_model, decision.pool.name) == ("anything", "anything", "p")
    assert decision.endpoint.address in ("10.0.0.1:80", "10.0.0.2:80")
    assert (decision.fallbacks, decision.candidates, decision.target_fallback) == ((), 2, False)
    assert decision.pin == decision.endpoint.address


def test_an_unlisted_model_goes_to_the_default_pool_of_several() -> None:
    two = "pools: [{name: a, endpoints: ['10.0.0.1:80']}, {name: b, endpoints: ['10.0.0.2:80']}]\ndefault_pool: b"
    assert decide(router(two)).pool.name == "b"


@pytest.mark.parametrize(
    "text",
    [
        ONE_POOL + "default_pool: null",
        "pools: [{name: a, endpoints: ['10.0.0.1:80']}, {name: b, endpoints: ['10.0.0.2:80']}]",
    ],
)
def test_without_a_default_pool_an_unlisted_model_is_refused(text: str) -> None:
    refused = router(text)
    assert refusal(refused, "gpt") == (Reason.MODEL_NOT_FOUND, "The model `gpt` does not exist.", "model")
    assert refusal(refused, None) == (Reason.MODEL_NOT_FOUND, "The request names no model.", "model")


def test_a_request_without_a_model_goes_to_the_default_pool_and_asks_for_none() -> None:
    decision = decide(router(ONE_POOL), None)
    assert (decision.model, decision.target_model, decision.pool.name) == (None, None, "p")


@pytest.mark.parametrize("name", ["", "x" * 257, "é" * 129, "a\0", "a\nb", "a\x7f", "a\x85", "\ud800"])
def test_a_model_name_that_nobody_can_have_is_refused(name: str) -> None:
    message = "The model name is not usable: it has 1 to 256 bytes and no control characters."
    assert refusal(router(ONE_POOL), name) == (Reason.MODEL_NOT_FOUND, message, "model")


@pytest.mark.parametrize("name", ["x" * 256, "é" * 128, "Qwen/QwQ-32B", "a b", "模型", "../..", "`"])
def test_any_other_name_is_taken(name: str) -> None:
    assert decide(router(ONE_POOL), name).target_model == name


def test_a_listed_model_without_targets_is_its_own_target() -> None:
    listed = router(ONE_POOL + "models: [{name: m, pool: p}]")
    assert decide(listed).target_model == "m"


def test_a_listed_model_goes_to_its_own_pool() -> None:
    text = "pools: [{name: a, endpoints: ['10.0.0.1:80']}, {name: b, endpoints: ['10.0.0.2:80']}]\n"
    listed = router(text + "models: [{name: m, pool: b}]\ndefault_pool: a")
    assert (decide(listed, "m").pool.name, decide(listed, "x").pool.name) == ("b", "a")


def test_targets_share_as_their_weights_say_and_serve_at_endpoints_with_their_labels() -> None:
    canary, rng = router(CANARY), random.Random(5)
    decisions = [canary.decide(request(), NOW, rng) for _ in range(2000)]
    counts = Counter(decision.target_model for decision in decisions)
    assert 133 <= counts["m-2"] <= 267  # five standard deviations around 200
    assert {(d.target_model, d.endpoint.address) for d in decisions} == {
        ("m-1", "10.0.0.1:80"),
        ("m-1", "10.0.0.2:80"),
        ("m-2", "10.0.0.3:80"),
    }
    assert {d.target_fallback for d in decisions} == {False}


def test_a_target_of_weight_0_never_serves() -> None:
    text = CANARY.replace("weight: 10", "weight: 0")
    assert set(tally(router(text), 500)) == {"m-1"}
    gone = router(text)
    gone.pools["p"].replace(gone.pools["p"].endpoints[2:])
    assert refusal(gone)[0] is Reason.NO_ENDPOINTS


def test_a_key_sticks_to_its_target_whatever_the_draw() -> None:
    canary = router(CANARY)
    for user in range(50):
        headers = {"x-user": f"u{user}"}
        assert len({decide(canary, seed=seed, headers=headers).target_model for seed in range(5)}) == 1
    every = Counter(decide(canary, headers={"x-user": f"u{user}"}).target_model for user in range(500))
    assert set(every) == {"m-1", "m-2"}


@pytest.mark.parametrize("headers", [{}, {"x-user": ""}, {"x-other": "u1"}])
def test_without_a_key_each_request_is_drawn(headers: dict[str, str]) -> None:
    assert set(tally(router(CANARY), 200, headers=headers)) == {"m-1", "m-2"}


@pytest.mark.parametrize("headers", [{}, {"x-user": "u1"}])
def test_a_target_whose_endpoints_are_set_aside_gives_its_share_away_and_that_is_told(
    headers: dict[str, str],
) -> None:
    canary = router(CANARY)
    before = decide(canary, headers={"x-user": "u1"}).target_model
    gone = {"m-1": ("10.0.0.1:80", "10.0.0.2:80"), "m-2": ("10.0.0.3:80",)}[before or ""]
    set_aside(canary.pools["p"], *gone)
    decisions = [decide(canary, seed=seed, headers=headers) for seed in range(60)]
    assert {d.target_model for d in decisions} == {"m-1", "m-2"} - {before}
    assert {d.target_fallback for d in decisions} == ({True} if headers else {True, False})


def test_the_share_of_a_target_without_endpoints_goes_to_the_others_by_their_weights() -> None:
    text = """
pools:
- name: p
  endpoints: [{address: '10.0.0.1:80', labels: {v: a}}, {address: '10.0.0.2:80', labels: {v: b}}]
models:
- name: m
  pool: p
  targets:
  - {model: a, weight: 1, labels: {v: a}}
  - {model: b, weight: 3, labels: {v: b}}
  - {model: c, weight: 96, labels: {v: c}}
"""
    counts = tally(router(text), 2000)
    assert set(counts) == {"a", "b"}
    assert 403 <= counts["a"] <= 597  # five standard deviations around a quarter


def test_a_target_that_is_back_has_its_share_again() -> None:
    canary = router(CANARY)
    set_aside(canary.pools["p"], "10.0.0.3:80")
    assert set(tally(canary, 300)) == {"m-1"}
    canary.pools["p"].by_address["10.0.0.3:80"].health.succeeded()
    assert set(tally(canary, 300)) == {"m-1", "m-2"}


def test_where_all_are_set_aside_one_of_the_drawn_target_is_tried_all_the_same() -> None:
    canary = router(CANARY)
    set_aside(canary.pools["p"], "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80")
    decisions = [decide(canary, seed=seed) for seed in range(100)]
    assert {(d.target_model, d.target_fallback) for d in decisions} == {("m-1", False), ("m-2", False)}


def test_where_no_target_has_endpoints_the_request_is_refused() -> None:
    canary = router(CANARY)
    canary.pools["p"].replace([])
    told = (Reason.NO_ENDPOINTS, "No endpoint of pool `p` is ready to take the request.", None)
    assert refusal(canary) == refusal(canary, "unlisted") == refusal(canary, None) == told
    empty = router("pools: [{name: p, endpoints: []}]")
    assert refusal(empty) == told


@pytest.mark.parametrize(
    ("hint", "allowed"),
    [
        ("10.0.0.2:80", {"10.0.0.2:80"}),
        ("10.0.0.2", {"10.0.0.2:80", "10.0.0.2:81"}),
        (["10.0.0.2:81", "[2001:DB8::0:1]:80"], {"10.0.0.2:81", "[2001:db8::1]:80"}),
        ("2001:db8::1", {"[2001:db8::1]:80"}),
        ("10.0.0.1,9.9.9.9", {"10.0.0.1:80"}),
        (None, {"10.0.0.1:80", "10.0.0.2:80", "10.0.0.2:81", "[2001:db8::1]:80"}),
    ],
)
def test_a_subset_hint_is_obeyed(hint: str | list[str] | None, allowed: set[str]) -> None:
    members = "['10.0.0.1:80', '10.0.0.2:80', '10.0.0.2:81', '[2001:db8::1]:80']"
    hinted = router("pools: [{name: p, endpoints: %s}]" % members)  # noqa: UP031
    assert chosen(hinted, subset=address.hints(hint)) == allowed


@pytest.mark.parametrize("hint", ["", [], "9.9.9.9", "10.0.0.1:81", "pod-1"])
def test_a_subset_hint_that_allows_nobody_refuses_the_request(hint: str | list[str]) -> None:
    assert refusal(router(ONE_POOL), subset=address.hints(hint))[0] is Reason.NO_ENDPOINTS


def test_a_subset_hint_outside_a_targets_labels_gives_its_share_away() -> None:
    canary = router(CANARY)
    assert set(tally(canary, 100, subset=address.hints("10.0.0.3"))) == {"m-2"}
    assert set(tally(canary, 100, subset=address.hints("10.0.0.1,10.0.0.2"))) == {"m-1"}


def test_fallbacks_follow_best_first_and_are_of_the_same_target_and_subset() -> None:
    text = CANARY.replace("name: p", "name: p\n  fallback_endpoints: 2", 1)
    canary = router(text)
    for number, running in ((1, 5), (2, 1), (3, 0)):
        canary.pools["p"].by_address[f"10.0.0.{number}:80"].observe(metrics(running=running), NOW)
    decisions = [decide(canary, seed=seed) for seed in range(60)]
    assert {d.pin for d in decisions} == {"10.0.0.2:80,10.0.0.1:80", "10.0.0.3:80"}
    hinted = decide(canary, "unlisted", subset=address.hints("10.0.0.1,10.0.0.3"))
    assert hinted.pin == "10.0.0.3:80,10.0.0.1:80"
    assert [e.address for e in hinted.fallbacks] == ["10.0.0.1:80"]


@pytest.mark.parametrize("fallbacks", [0, 1, 2, 3, 16])
def test_as_many_fallbacks_follow_as_the_pool_says_and_has(fallbacks: int) -> None:
    members = [f"10.0.0.{number}:80" for number in range(1, 5)]
    text = f"pools: [{{name: p, fallback_endpoints: {fallbacks}, endpoints: {members}}}]"
    addresses = decide(router(text)).pin.split(",")
    assert len(addresses) == min(1 + fallbacks, 4)
    assert set(addresses) <= set(members)


def test_an_endpoint_that_is_set_aside_is_no_fallback_either() -> None:
    text = ONE_POOL.replace("name: p", "name: p, fallback_endpoints: 2")
    aside = router(text)
    set_aside(aside.pools["p"], "10.0.0.1:80")
    decision = decide(aside)
    assert (decision.pin, decision.candidates) == ("10.0.0.2:80", 1)


def test_filters_that_leave_nobody_refuse_the_request() -> None:
    text = ONE_POOL.replace("name: p", "name: p, profile: gpu")
    filtered = router(text + "profiles: [{name: gpu, filters: [{type: labels, labels: {gpu: h100}}]}]")
    message = "The filters of profile `gpu` leave no endpoint."
    assert refusal(filtered) == (Reason.NO_ENDPOINTS, message, None)


def test_lora_affinity_asks_for_the_targets_name_not_the_clients() -> None:
    text = """
pools: [{name: p, endpoints: ['10.0.0.1:80', '10.0.0.2:80'], profile: lora}]
profiles: [{name: lora, scorers: [{type: lora-affinity}]}]
models: [{name: m, pool: p, targets: [{model: adapter}]}]
"""
    lora = router(text)
    for each, loaded in zip(lora.pools["p"].endpoints, ("m", "adapter"), strict=True):
        each.observe(metrics(loras=loaded, max_loras=4), NOW)
        lora.pools["p"].observed(each, None)
    assert chosen(lora) == {"10.0.0.2:80"}


def test_clients_are_told_listed_names_first_then_what_the_default_pool_lists() -> None:
    text = "pools: [{name: p, endpoints: ['10.0.0.1:80', '10.0.0.2:80']}, {name: q, endpoints: ['10.0.0.3:80']}]\n"
    models = "models: [{name: m, pool: p}, {name: n, pool: q}]\n"
    listed = fleet(text + models + "default_pool: p")
    for (_, each), names in zip(
        listed.endpoints(), (("base", "m"), ("base", "lora"), ("hidden",)), strict=True
    ):
        each.models = names
    assert listed.router is not None
    assert listed.router.model_names() == ["m", "n", "base", "lora"]
    assert router(text + models).model_names() == ["m", "n"]


@pytest.mark.parametrize(("model", "label"), [("m", "m"), ("gpt", "other"), ("", "other"), (None, "none")])
def test_a_metric_label_is_a_listed_name_or_other(model: str | None, label: str) -> None:
    assert router(CANARY).model_label(model) == label


def test_sticky_headers_are_known_in_lower_case() -> None:
    assert router(CANARY).sticky_headers == {"x-user"}
    assert router(ONE_POOL).sticky_headers == frozenset()


PLAIN = "{name: plain, scorers: [{type: queue}, {type: session-affinity}]}"
PROMPTED = "{name: prompted, scorers: [{type: queue}, {type: %s}]}"


def reads_prompts(pool: str = "", models: str = "", scorer: str = "prefix-hash") -> bool:
    text = (
        f"pools: [{{name: p, endpoints: ['10.0.0.1:80'] {pool}}}]\nprofiles: [{PLAIN}, {PROMPTED % scorer}]\n"
    )
    return router(text + f"models: [{models}]\ntrusted_headers: [x-profile]").reads_prompts


@pytest.mark.parametrize("scorer", ["outstanding-work", "prefix-affinity", "prefix-hash"])
def test_prompts_are_read_where_a_profile_in_use_needs_them(scorer: str) -> None:
    assert reads_prompts()  # the built-in default
    assert reads_prompts(", profile: prompted", scorer=scorer)
    assert not reads_prompts(", profile: plain", scorer=scorer)
    assert reads_prompts(", profile: plain", "{name: m, pool: p, profile: prompted}", scorer=scorer)


def test_and_not_where_all_who_could_need_them_have_no_weight_or_are_out_of_reach() -> None:
    assert not reads_prompts(", profile: prompted", scorer="prefix-hash, weight: 0")
    assert not reads_prompts(", profile: prompted", "{name: m, pool: p, profile: plain}", scorer="kv-cache")
    assert not reads_prompts(", profile: plain", "{name: m, pool: p}")


def test_a_header_can_reach_every_profile() -> None:
    assert reads_prompts(", profile: plain, profile_header: x-profile")


def test_a_queue_orders_by_expected_work() -> None:
    assert reads_prompts(", profile: plain, queue: {}")


def test_one_pool_that_needs_them_is_enough() -> None:
    two = "pools: [{name: a, endpoints: ['10.0.0.1:80'], profile: plain}, {name: b, endpoints: ['10.0.0.2:80']}]"
    assert router(f"{two}\nprofiles: [{PLAIN}]").reads_prompts
