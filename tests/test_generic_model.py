"""The entry `*`: what is done with requests for models that are not listed."""

from __future__ import annotations

import random
from typing import Any

import pytest
from fleets import NOW, decide, fleet, metrics, request, router, tally

from extproc.config import parse_config
from extproc.errors import ConfigError, Reason, Rejected
from extproc.explaining import Question, explain
from extproc.intake import list_models
from extproc.router import Router
from extproc.routes import demands
from extproc.state import describe
from extproc.tiers import Demand

POOLS = """
pools:
- name: p
  endpoints: [{address: '10.0.0.1:80', labels: {v: a}}, {address: '10.0.0.2:80', labels: {v: b}}]
- {name: q, endpoints: ['10.0.0.9:80']}
default_pool: p
"""
REWRITES = (
    POOLS
    + """
models:
- {name: listed, pool: q}
- name: '*'
  pool: p
  criticality: Sheddable
  targets: [{model: base, labels: {v: a}}]
"""
)
BARE = POOLS + "models: [{name: '*', pool: p, priority: 3}]"


@pytest.mark.parametrize("model", ["unlisted", "*"])
def test_a_model_that_is_not_listed_is_rewritten(model: str) -> None:
    """Nobody can ask for the rule itself: `*` is one more name that is not listed."""
    decision = decide(router(REWRITES), model)
    assert (decision.model, decision.target_model) == (model, "base")
    assert decision.endpoint.address == "10.0.0.1:80"


def test_a_listed_model_is_not() -> None:
    decision = decide(router(REWRITES), "listed")
    assert (decision.target_model, decision.pool.name) == ("listed", "q")


def test_a_request_without_a_model_goes_where_the_rule_says_and_still_names_none() -> None:
    decision = decide(router(REWRITES), None)
    assert (decision.model, decision.target_model) == (None, None)
    assert decision.endpoint.address == "10.0.0.1:80"


@pytest.mark.parametrize("model", ["unlisted", "*", None])
def test_without_targets_the_clients_name_goes_on_as_it_came(model: str | None) -> None:
    decision = decide(router(BARE), model)
    assert (decision.model, decision.target_model, decision.pool.name) == (model, model, "p")


def test_its_priority_counts() -> None:
    def priority(of: Router, model: str | None) -> int:
        return of.draw(request(model), NOW, random.Random(1)).priority

    assert [priority(router(BARE), model) for model in ("x", "*", None)] == [3, 3, 3]
    assert [priority(router(REWRITES), model) for model in ("x", "listed")] == [-1, 0]


def test_sheddable_requests_for_unlisted_models_are_shed() -> None:
    full = fleet(REWRITES)
    full.scraped("10.0.0.1:80", metrics(waiting=9), NOW)
    assert full.router is not None
    with pytest.raises(Rejected) as caught:
        decide(full.router, "x")
    assert caught.value.reason is Reason.SATURATED


def test_its_targets_are_drawn_or_stick_like_any_models() -> None:
    text = POOLS + (
        "models: [{name: '*', pool: p, targets: [{model: a, weight: 1}, {model: b, weight: 1}],"
        " sticky: {header: x-user}}]"
    )
    assert set(tally(router(text), 100, "x")) == {"a", "b"}
    assert len(tally(router(text), 100, "x", headers={"x-user": "ann"})) == 1
    assert router(text).sticky_headers == {"x-user"}


def test_its_profile_and_tiers_count() -> None:
    text = """
pools:
- name: p
  endpoints: [{address: '10.0.0.1:80', labels: {t: a}}, {address: '10.0.0.2:80', labels: {t: b}}]
  tiers: [{name: a, labels: {t: a}}, {name: b, labels: {t: b}}]
profiles: [{name: mine, scorers: [{type: running}]}]
models: [{name: '*', pool: p, profile: mine, never: a}]
"""
    decision = decide(router(text), "x")
    assert (decision.profile, decision.tier) == ("mine", "b")
    assert list(demands(parse_config(text.encode()), "p")) == [Demand((), frozenset({"a"}))]


def test_it_is_no_models_name_to_clients_and_metrics() -> None:
    made = router(REWRITES)
    assert made.model_names() == ["listed"]
    assert b'"*"' not in list_models(made, "")
    with pytest.raises(Rejected) as caught:
        list_models(made, "*")
    assert caught.value.reason is Reason.MODEL_NOT_FOUND
    assert [made.model_label(each) for each in ("*", "x", "listed", None)] == [
        "other",
        "other",
        "listed",
        "none",
    ]


def test_it_stands_in_the_state() -> None:
    models: Any = describe(router(REWRITES), "", NOW)["models"]
    assert [(each["name"], each["priority"], each["targets"]) for each in models] == [
        ("listed", 0, [{"model": "listed", "weight": 1, "labels": {}}]),
        ("*", -1, [{"model": "base", "weight": 1, "labels": {"v": "a"}}]),
    ]


def test_explain_tells_of_it_like_of_a_listed_model() -> None:
    explained = explain(Question(router(REWRITES), request("x"), NOW))
    assert (explained.model, explained.target_model, explained.priority) == ("x", "base", -1)
    assert [(each.model, each.endpoints, each.drawn) for each in explained.targets] == [("base", 1, True)]
    assert explained.endpoint == "10.0.0.1:80"
    bare = explain(Question(router(BARE), request("x"), NOW))
    assert (bare.target_model, bare.priority) == ("x", 3)
    assert [(each.model, each.endpoints, each.drawn) for each in bare.targets] == [("x", 2, True)]
    nameless = explain(Question(router(REWRITES), request(None), NOW))
    assert (nameless.model, nameless.target_model, nameless.endpoint) == (None, None, "10.0.0.1:80")


def refusal(of: Router, model: str) -> tuple[Reason, str, str | None]:
    with pytest.raises(Rejected) as caught:
        decide(of, model)
    return caught.value.reason, caught.value.message, caught.value.param


def test_a_reserved_name_is_refused_and_not_listed() -> None:
    made = router(REWRITES + "- {name: later, pool: p, reserved: true}")
    message = "The model `later` is reserved: it has no valid target model."
    assert refusal(made, "later") == (Reason.MODEL_NOT_FOUND, message, "model")
    made.pools["p"].endpoints[0].models = ("later", "base")
    assert made.model_names() == ["listed", "base"]
    assert made.model_label("later") == "later"
    assert [each["targets"] for each in describe(made, "", NOW)["models"] if each["name"] == "later"] == [[]]
    text = REWRITES.replace("name: listed, pool: q", "name: listed, pool: q, reserved: true")
    assert list(demands(parse_config(text.encode()), "q")) == []


@pytest.mark.parametrize(
    "text",
    ["{name: m, pool: p, reserved: true, targets: [{model: x}]}", "{name: '*', pool: p, reserved: true}"],
)
def test_a_reserved_name_is_one_name_and_has_no_targets(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config((POOLS + f"models: [{text}]").encode())
    assert [str(fault) for fault in caught.value.faults] == [
        "$.models[0].reserved: a reserved name has no targets, and is one name"
    ]
