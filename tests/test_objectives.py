"""InferenceObjectives: a request's priority by a trusted header."""

from __future__ import annotations

import random
from typing import Any

import pytest
from fleets import NOW, fleet, metrics, request, router
from kube_models import TWO, merged, objective, told

from extproc.config.schema import ObjectiveConfig
from extproc.errors import Reason, Rejected
from extproc.explaining import Question, explain
from extproc.fleet import Fleet
from extproc.holding import Lobby
from extproc.kube.model_objects import LLM_D_GROUP, X_GROUP
from extproc.router import Router
from extproc.waiting_room import Ticket

NEW, OLD = "x-llm-d-inference-objective", "x-gateway-inference-objective"
CONFIG = """
pools: [{name: p, endpoints: ['10.0.0.1:80']}, {name: q, endpoints: ['10.0.0.2:80']}]
default_pool: p
models: [{name: m, pool: p, priority: 5}, {name: other, pool: q}]
objectives:
- {name: batch, priority: -3}
- {name: chat, priority: 9}
- {name: chat, priority: 2, pool: q}
- {name: of-q, priority: 7, pool: q}
"""
BOTH = f"trusted_headers: ['{NEW}', '{OLD.title()}']"


def priority(of: Router, model: str | None = "m", **headers: str) -> int:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return of.draw(request(model, headers=named), NOW, random.Random(1)).priority


def by_header(value: str, trusted: str = BOTH, model: str | None = "m", name: str = NEW) -> int:
    return priority(router(CONFIG + trusted), model, **{name: value})


@pytest.mark.parametrize("name", [NEW, OLD])
def test_a_trusted_header_names_the_objective_whose_priority_a_request_gets(name: str) -> None:
    assert by_header("batch", name=name) == -3
    assert by_header("batch", name=name, model="unlisted") == -3
    assert by_header("batch", name=name, model=None) == -3


@pytest.mark.parametrize("value", ["", "none", "Batch", "batch, chat", "of-q"])
def test_without_an_objective_of_that_name_and_pool_the_models_priority_counts(value: str) -> None:
    assert by_header(value) == 5
    assert by_header(value, model="unlisted") == 0


def test_an_objective_of_the_requests_pool_goes_before_one_of_any_pool() -> None:
    assert by_header("chat") == 9
    assert by_header("chat", model="other") == 2
    assert by_header("of-q", model="other") == 7


@pytest.mark.parametrize("trusted", ["", "trusted_headers: [x-other]", f"trusted_headers: [{OLD}]"])
def test_a_header_that_is_not_trusted_is_ignored(trusted: str) -> None:
    assert by_header("batch", trusted) == 5


def test_the_new_name_of_the_header_wins() -> None:
    both = router(CONFIG + BOTH)
    assert priority(both, **{NEW: "batch", OLD: "chat"}) == -3
    assert priority(both, **{NEW: "none", OLD: "chat"}) == 5
    assert priority(both, **{NEW: "", OLD: "chat"}) == 9
    only_old = router(CONFIG + f"trusted_headers: [{OLD}]")
    assert priority(only_old, **{NEW: "batch", OLD: "chat"}) == 9


def saturated(extra: str = "") -> Fleet:
    made = fleet(CONFIG.replace("['10.0.0.1:80']", f"['10.0.0.1:80']{extra}") + BOTH)
    made.scraped("10.0.0.1:80", metrics(running=9, waiting=9, kv=1.0), NOW)
    return made


def test_a_saturated_pool_sheds_by_the_objective() -> None:
    full = saturated().router
    assert full is not None
    with pytest.raises(Rejected) as caught:
        full.decide(request("m", headers={NEW: "batch"}), NOW, random.Random(1))
    assert caught.value.reason is Reason.SATURATED
    assert full.decide(request("m", headers={NEW: "chat"}), NOW, random.Random(1)).pool.name == "p"


def test_requests_wait_by_the_objective() -> None:
    queued = saturated(", queue: {}").router
    assert queued is not None
    lobby: Lobby[str] = Lobby()
    rng = random.Random(1)
    tickets = [
        lobby.offer(queued, request("m", headers=headers), "", NOW, rng) for headers in ({}, {NEW: "chat"})
    ]
    assert [each.priority for each in tickets if isinstance(each, Ticket)] == [5, 9]
    with pytest.raises(Rejected):
        lobby.offer(queued, request("m", headers={NEW: "batch"}), "", NOW, rng)


@pytest.mark.parametrize(("headers", "told"), [({}, 5), ({NEW: "chat"}, 9), ({NEW: "batch"}, -3)])
def test_explain_tells_the_priority_that_counts(headers: dict[str, str], told: int) -> None:
    question = Question(router(CONFIG + BOTH), request("m", headers=headers), NOW)
    assert explain(question).priority == told


def test_explain_tells_it_of_a_request_that_nobody_can_take_too() -> None:
    asked = request("m", headers={NEW: "chat"}, subset=frozenset({"10.9.9.9"}))
    explained = explain(Question(router(CONFIG + BOTH), asked, NOW))
    assert (explained.outcome, explained.priority) == ("refused", 9)


def test_an_inference_objective_is_an_objective_of_its_pool() -> None:
    made = merged(objective("chat", 9), objective("batch", -3), objective("of-q", 1, "other"), config=TWO)
    assert made.config.objectives == [
        ObjectiveConfig("batch", -3, "p"),
        ObjectiveConfig("chat", 9, "p"),
        ObjectiveConfig("of-q", 1, "q"),
    ]
    assert merged(objective("batch", None)).config.objectives == [ObjectiveConfig("batch", 0, "p")]
    text = "priority 9 in pool `p` for requests whose trusted header names it"
    assert told(merged(objective("chat", 9))) == {"chat": ("True", "Accepted", text)}


def test_of_one_objective_in_both_groups_that_of_the_new_group_counts() -> None:
    made = merged(objective("chat", 1, group=X_GROUP, age=9), objective("chat", 2, group=LLM_D_GROUP))
    assert made.config.objectives == [ObjectiveConfig("chat", 2, "p")]
    assert [each.condition.reason for each in made.verdicts] == ["Superseded", "Accepted"]


def test_a_priority_that_fits_no_int32_is_refused() -> None:
    made: Any = told(merged(objective("chat", 2**31)))
    assert made == {
        "chat": ("False", "InvalidPriority", "priority 2147483648 is not -2147483648..2147483647")
    }
