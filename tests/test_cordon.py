"""Cordon: an endpoint that gets no new request by the operator's word, whatever becomes of the others."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from fleets import NOW, decide, endpoint, fleet, metrics, request
from halls import Hall

from extproc.config import parse_config
from extproc.cordoning import Cordoned, Cordoning, PoolLeft
from extproc.errors import Reason, Rejected
from extproc.explaining import Question, explain, what_would_change
from extproc.fleet import Fleet
from extproc.health import FAILURES, Failure
from extproc.member import Member
from extproc.pool import Pool
from extproc.restoring import parse, restore
from extproc.router import Router
from extproc.state import describe

A, B, C = "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"
THREE = f"pools: [{{name: p, endpoints: ['{A}', '{B}', '{C}'], fallback_endpoints: 2}}]"
BY_CONFIG = f"pools: [{{name: p, endpoints: [{{address: '{A}', cordoned: true}}, '{B}']}}]"


def in_force(of: Fleet) -> Router:
    assert of.router is not None
    return of.router


def chosen(of: Fleet, **fields: Any) -> set[str]:
    """Who gets requests, also as a fallback."""
    decisions = [decide(in_force(of), seed=seed, **fields) for seed in range(20)]
    return {address for decision in decisions for address in decision.pin.split(",")}


def refusal(of: Fleet, **fields: Any) -> str:
    with pytest.raises(Rejected) as caught:
        decide(in_force(of), **fields)
    return caught.value.reason.code


def told(of: Fleet) -> dict[str, Any]:
    """`/debug/state`: who cordoned which endpoint."""
    state = json.loads(msgspec.json.encode(describe(in_force(of), "", NOW)))
    return {each["address"]: each["cordoned"] for pool in state["pools"] for each in pool["endpoints"]}


def test_a_cordoned_endpoint_is_neither_chosen_nor_a_fallback_until_it_is_uncordoned() -> None:
    of = fleet(THREE)
    of.cordon(B)
    assert (chosen(of), told(of)) == ({A, C}, {A: None, B: "command", C: None})
    of.uncordon(B)
    assert (chosen(of), told(of)) == ({A, B, C}, {A: None, B: None, C: None})


def test_the_config_cordons_an_endpoint_and_a_reload_takes_it_back() -> None:
    of = fleet(BY_CONFIG)
    assert (chosen(of), told(of)) == ({B}, {A: "config", B: None})
    of.apply(parse_config(BY_CONFIG.replace("true", "false").encode()))
    assert (chosen(of), told(of)) == ({A, B}, {A: None, B: None})


def test_what_the_config_cordons_no_command_takes_back() -> None:
    of = fleet(BY_CONFIG)
    of.cordon(A)
    of.uncordon(A)
    assert (chosen(of), told(of)) == ({B}, {A: "config", B: None})


def test_a_cordoned_endpoint_is_not_chosen_even_where_all_others_are_set_aside() -> None:
    of = fleet(THREE)
    of.cordon(A)
    for _, each in of.endpoints():
        each.health.set_aside(NOW, Failure.UNREACHABLE)
    assert chosen(of) == {B, C}


def test_where_every_endpoint_is_cordoned_nobody_is_ready() -> None:
    of = fleet(THREE)
    for address in (A, B, C):
        of.cordon(address)
    assert refusal(of) == "no_endpoints"
    assert refusal(of, subset=frozenset({A})) == "no_endpoints"


def test_a_subset_hint_and_a_targets_labels_do_not_reach_a_cordoned_endpoint() -> None:
    of = fleet(
        f"pools: [{{name: p, endpoints: [{{address: '{A}', labels: {{v: a}}}}, '{B}']}}]\n"
        "models: [{name: m, pool: p, targets: [{model: x, labels: {v: a}}]}]"
    )
    of.cordon(A)
    assert refusal(of) == "no_endpoints"
    assert refusal(of, model="other", subset=frozenset({"10.0.0.1"})) == "no_endpoints"


def test_a_target_whose_endpoints_are_all_cordoned_gives_its_share_away() -> None:
    of = fleet(
        f"pools: [{{name: p, endpoints: [{{address: '{A}', labels: {{v: a}}}}, '{B}']}}]\n"
        "models: [{name: m, pool: p, targets: [{model: x, weight: 1, labels: {v: a}}, {model: y, weight: 0}, "
        "{model: z, weight: 1}]}]"
    )
    of.cordon(A)
    assert {decide(in_force(of), seed=seed).target_model for seed in range(20)} == {"z"}


def test_requests_that_are_there_finish_and_are_counted_down() -> None:
    of = fleet(THREE)
    ((_, cordoned),) = of.at(A)
    cordoned.acquire()
    of.cordon(A)
    assert cordoned.in_flight == 1
    cordoned.release()
    assert cordoned.in_flight == 0


def test_a_cordon_outlives_reloads_and_holds_for_streams_that_began_before_them() -> None:
    of = fleet(THREE)
    before = in_force(of)
    of.apply(parse_config(THREE.encode()))
    of.cordon(A)
    assert {
        decide(router, seed=s).endpoint.address for router in (before, in_force(of)) for s in range(20)
    } == {B, C}
    of.apply(parse_config(f"pools: [{{name: p, endpoints: ['{B}']}}]".encode()))
    of.apply(parse_config(THREE.encode()))
    assert chosen(of) == {B, C}


def test_what_a_reload_cordons_is_cordoned_for_streams_that_began_before_it_too() -> None:
    of = fleet(BY_CONFIG.replace("true", "false"))
    before = in_force(of)
    of.apply(parse_config(BY_CONFIG.encode()))
    assert {decide(before, seed=seed).endpoint.address for seed in range(20)} == {B}


def test_an_address_in_two_pools_is_cordoned_in_both() -> None:
    of = fleet(
        f"pools: [{{name: p, endpoints: ['{A}']}}, {{name: q, endpoints: ['{A}', '{B}']}}]\ndefault_pool: q"
    )
    assert [pool.name for pool, _ in of.cordon(A)] == ["p", "q"]
    assert chosen(of) == {B}


class Said:
    """What of a log is written."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def info(self, event: str, **_: Any) -> None:
        self.events.append(event)


def test_the_operator_is_told_of_all_pools_and_of_all_requests_that_finish_there() -> None:
    of = fleet(
        f"pools: [{{name: p, endpoints: ['{A}', '{B}']}}, {{name: q, endpoints: ['{A}']}}]\ndefault_pool: p"
    )
    for (_, each), count in zip(of.at(A), (2, 3), strict=True):
        for _ in range(count):
            each.acquire()
    said, changes = Said(), []
    cordoning = Cordoning(of, lambda: changes.append(None), said)  # type: ignore[arg-type]
    assert cordoning.cordon(A) == Cordoned(A, "command", 5, [PoolLeft("p", 2, 1), PoolLeft("q", 1, 0)])
    assert cordoning.uncordon(A) == Cordoned(A, None, 5, [PoolLeft("p", 2, 2), PoolLeft("q", 1, 1)])
    assert (said.events, len(changes)) == (["endpoint_cordoned", "endpoint_uncordoned"], 2)


def test_the_operator_is_told_where_the_config_still_cordons_one_of_several() -> None:
    of = fleet(
        f"pools: [{{name: p, endpoints: ['{A}']}}, {{name: q, endpoints: [{{address: '{A}', cordoned: true}}]}}]\n"
        "default_pool: p"
    )
    told = Cordoning(of, list, Said()).uncordon(A)  # type: ignore[arg-type]
    assert told == Cordoned(A, "config", 0, [PoolLeft("p", 1, 1), PoolLeft("q", 1, 0)])


def test_the_operator_can_take_back_the_cordon_of_who_is_gone_once() -> None:
    of = fleet(THREE)
    cordoning = Cordoning(of, list, Said())  # type: ignore[arg-type]
    cordoning.cordon(A)
    of.apply(parse_config(THREE.replace(f"'{A}', ", "").encode()))
    assert cordoning.cordon(A) is None
    assert cordoning.uncordon(A) == Cordoned(A, None, 0, [])
    assert cordoning.uncordon(A) is None


def test_an_address_that_nobody_has_is_not_cordoned() -> None:
    of = fleet(THREE)
    assert of.cordon("10.0.0.9:80") == []
    assert of.uncordon("10.0.0.9:80") is None
    of.apply(parse_config(THREE.replace(A, "10.0.0.9:80").encode()))
    assert chosen(of) == {"10.0.0.9:80", B, C}


def test_an_endpoint_that_is_gone_can_be_uncordoned() -> None:
    of = fleet(THREE)
    of.cordon(A)
    of.apply(parse_config(f"pools: [{{name: p, endpoints: ['{B}']}}]".encode()))
    assert of.uncordon(A) == []
    of.apply(parse_config(THREE.encode()))
    assert chosen(of) == {A, B, C}


CLUSTER = "pools: [{name: p, kubernetes: {service: vllm, namespace: llm}}]"
POD, OTHER = Member(A, {}, "uid-1"), Member(B, {}, "uid-2")


def test_a_pods_cordon_outlives_its_absence_however_long() -> None:
    of = fleet(CLUSTER)
    of.replace_members("p", [POD, OTHER], NOW)
    of.cordon(A)
    of.replace_members("p", [OTHER], NOW + 1)
    of.expire(NOW + 3600)
    of.replace_members("p", [POD, OTHER], NOW + 3601)
    assert chosen(of) == {B}
    of.replace_members("p", [Member(A, {"v": "new label"}, "uid-1"), OTHER], NOW + 3602)
    assert chosen(of) == {B}


def test_a_pod_that_gets_a_cordoned_ones_address_is_another_server() -> None:
    of = fleet(CLUSTER)
    of.replace_members("p", [POD, OTHER], NOW)
    of.cordon(A)
    of.replace_members("p", [Member(A, {}, "uid-3"), OTHER], NOW + 1)
    assert chosen(of) == {A, B}


def test_of_those_that_are_not_cordoned_one_at_least_is_never_set_aside() -> None:
    made = Pool("p", [endpoint(metrics(), number) for number in (1, 2, 3)])
    first, second, third = made.endpoints
    first.cordoned = "command"
    pauses = [
        made.failed(each, Failure.UNREACHABLE, NOW) for each in (second, third) for _ in range(FAILURES)
    ]
    assert pauses == [None, None, 5.0, None, None, None]


def test_who_waits_for_a_cordoned_endpoint_is_told_that_nobody_is_ready() -> None:
    hall = Hall()
    hall.scrape(1)
    hall.hold("ann")
    hall.fleet.cordon(A)
    assert hall.pump() == [("ann", "no_endpoints")]


def test_who_waits_goes_to_an_endpoint_that_is_uncordoned() -> None:
    hall = Hall(f"pools: [{{name: p, endpoints: ['{A}', '{B}'], queue: {{}}}}]")
    hall.scrape(1, 0)
    hall.fleet.cordon(B)
    hall.hold("ann")
    hall.fleet.uncordon(B)
    assert hall.pump() == [("ann", B)]


def question(of: Fleet) -> Question:
    """As `extproc explain` asks it: of a router made of the state."""
    text = msgspec.json.encode(describe(in_force(of), "", NOW))
    return Question(restore(parse(text)), request("m"), 0.0)


def test_explain_says_who_is_cordoned_and_that_it_would_be_chosen_if_it_were_not() -> None:
    of = fleet(THREE)
    for address, running in ((A, 0), (B, 9), (C, 9)):
        of.scraped(address, metrics(running=running), NOW)
    of.cordon(A)
    asked = question(of)
    explained = explain(asked)
    (row,) = [row for row in explained.endpoints if row.address == A]
    assert (row.verdict, row.out) == ("out", "cordoned by command")
    changes = [change for change in what_would_change(asked, explained) if change.endpoint == A]
    assert [(change.what, change.text) for change in changes] == [("cordoned", "it were not cordoned")]
    assert explain(asked) == explained  # whatever was tried is set right


def test_explain_says_that_all_are_cordoned() -> None:
    of = fleet(BY_CONFIG.replace(f"'{B}'", f"{{address: '{B}', cordoned: true}}"))
    explained = explain(question(of))
    assert [row.out for row in explained.endpoints] == ["cordoned by config", "cordoned by config"]
    assert explained.refusal is not None
    assert explained.refusal.reason == Reason.NO_ENDPOINTS.code


def test_another_config_uncordons_what_the_states_config_cordoned_and_nothing_else() -> None:
    of = fleet(BY_CONFIG)
    of.cordon(B)
    text = msgspec.json.encode(describe(in_force(of), "", NOW))
    router = restore(parse(text), parse_config(BY_CONFIG.replace("true", "false").encode()))
    assert [each.cordoned for each in router.pools["p"].endpoints] == [None, "command"]
