"""`max_in_flight`: an endpoint with so many requests of ours gets no more, but for critical work."""

from __future__ import annotations

from operator import ge
from typing import Any

import pytest
from fleets import NOW, decide, fleet, metrics, request
from halls import Hall
from hypothesis import given
from hypothesis import strategies as st

from extproc.config import parse_config
from extproc.errors import Rejected
from extproc.explaining import Question, explain
from extproc.fleet import Fleet
from extproc.member import Member
from extproc.router import Router

A, B, C = "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"
MODELS = """
models:
- {name: critical, pool: p, criticality: Critical}
- {name: m, pool: p}
- {name: sheddable, pool: p, criticality: Sheddable}
"""
POOL = f"pools: [{{name: p, endpoints: [{{address: '{A}', max_in_flight: 1}}, '{B}'], max_in_flight: 3}}]{MODELS}"


def in_force(of: Fleet) -> Router:
    assert of.router is not None
    return of.router


def fill(of: Fleet, *in_flight: int) -> None:
    """So many requests of ours are at 10.0.0.1, 10.0.0.2, …"""
    for (_, endpoint), count in zip(of.endpoints(), in_flight, strict=True):
        endpoint.in_flight = count


def chosen(of: Fleet, model: str = "m", **fields: Any) -> set[str]:
    """Who gets requests, also as a fallback."""
    decisions = [decide(in_force(of), model, seed=seed, **fields) for seed in range(20)]
    return {address for decision in decisions for address in decision.pin.split(",")}


def refusal(of: Fleet, model: str = "m", **fields: Any) -> Rejected:
    with pytest.raises(Rejected) as caught:
        decide(in_force(of), model, **fields)
    return caught.value


def test_the_pools_maximum_is_that_of_each_endpoint_without_one_of_its_own() -> None:
    of = fleet(POOL)
    assert [endpoint.max_in_flight for _, endpoint in of.endpoints()] == [1, 3]


@pytest.mark.parametrize(
    ("in_flight", "addresses"),
    [((0, 9), {A}), ((1, 2), {B}), ((1, 0), {B}), ((0, 3), {A})],
)
def test_only_endpoints_below_their_maximum_get_requests(
    in_flight: tuple[int, int], addresses: set[str]
) -> None:
    of = fleet(POOL)
    fill(of, *in_flight)
    assert {chosen(of, model) == addresses for model in ("critical", "m", "sheddable")} == {True}


def test_a_fallback_is_below_its_maximum_too() -> None:
    of = fleet(
        f"pools: [{{name: p, endpoints: ['{A}', '{B}', '{C}'], max_in_flight: 2, fallback_endpoints: 2}}]"
    )
    fill(of, 0, 2, 1)
    assert chosen(of) == {A, C}


def test_where_all_are_at_their_maximum_critical_work_goes_on_and_all_other_is_refused() -> None:
    of = fleet(POOL)
    fill(of, 1, 3)
    assert chosen(of, "critical") <= {A, B}
    for model in ("m", "sheddable"):
        rejected = refusal(of, model)
        assert (rejected.reason.code, rejected.retry_after_s) == ("saturated", 1)
    assert rejected.message == "Every endpoint of pool `p` is at its maximum of requests; try again later."


def test_requests_of_others_do_not_count() -> None:
    of = fleet(POOL)
    of.scraped(A, metrics(running=50), NOW)
    assert chosen(of, subset=frozenset({A})) == {A}


def test_a_maximum_is_counted_by_address_and_not_by_target_so_that_the_split_holds() -> None:
    targets = "[{model: x, weight: 1, labels: {v: a}}, {model: y, weight: 1, labels: {v: b}}]"
    of = fleet(
        f"pools: [{{name: p, max_in_flight: 1, endpoints: [{{address: '{A}', labels: {{v: a}}}}, "
        f"{{address: '{B}', labels: {{v: b}}}}]}}]\nmodels: [{{name: m, pool: p, targets: {targets}}}]"
    )
    fill(of, 1, 0)
    outcomes = set()
    for seed in range(20):
        try:
            outcomes.add(decide(in_force(of), seed=seed).target_model)
        except Rejected as rejected:
            outcomes.add(rejected.reason.code)
    assert outcomes == {"saturated", "y"}


FILTERED = f"""
pools:
- name: p
  endpoints: [{{address: '{A}', labels: {{v: a}}}}, '{B}']
  max_in_flight: 1
  profile: mine
profiles: [{{name: mine, filters: [{{type: labels, labels: {{v: LABEL}}}}], scorers: []}}]
{MODELS}"""


def test_an_endpoint_at_its_maximum_that_alone_passes_the_filters_is_saturated_not_missing() -> None:
    of = fleet(FILTERED.replace("LABEL", "a"))
    fill(of, 1, 0)
    assert refusal(of).reason.code == "saturated"
    assert chosen(of, "critical") == {A}


def test_where_the_filters_pass_nobody_at_all_it_is_not_for_load() -> None:
    of = fleet(FILTERED.replace("LABEL", "none"))
    for in_flight in ((0, 0), (1, 0), (1, 1)):
        fill(of, *in_flight)
        assert {refusal(of, model).reason.code for model in ("critical", "m")} == {"no_endpoints"}


def test_endpoints_that_are_set_aside_keep_their_maximum() -> None:
    of = fleet(POOL)
    for _, endpoint in of.endpoints():
        endpoint.health.set_aside_until = NOW + 60
    fill(of, 1, 1)
    assert chosen(of) == {B}
    fill(of, 1, 3)
    assert refusal(of).reason.code == "saturated"


def test_a_reload_changes_the_maximum_and_keeps_the_counts() -> None:
    of = fleet(POOL)
    fill(of, 1, 3)
    of.apply(parse_config(POOL.replace("max_in_flight: 3", "max_in_flight: 4").encode()))
    assert chosen(of) == {B}
    of.apply(parse_config(POOL.replace(", max_in_flight: 3", "").replace(", max_in_flight: 1", "").encode()))
    assert chosen(of) <= {A, B}


def test_a_cluster_s_pods_have_the_pools_maximum() -> None:
    of = fleet("pools: [{name: p, kubernetes: {service: vllm, namespace: llm}, max_in_flight: 2}]")
    of.replace_members("p", [Member(A, {}, "1"), Member(B, {}, "2")], NOW)
    fill(of, 2, 0)
    assert chosen(of) == {B}


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "yes", "1000001"])
def test_a_maximum_is_a_count_of_at_least_one(value: str) -> None:
    with pytest.raises(Exception, match=r"\$\.pools\[0\]\.max_in_flight: expected an integer"):
        fleet(f"pools: [{{name: p, endpoints: [], max_in_flight: {value}}}]")


# -- with a queue ---------------------------------------------------------------------------------------------


def hall(**queue: Any) -> Hall:
    """One endpoint that takes two of our requests at once; nobody else is there."""
    made = Hall(f"pools: [{{name: p, endpoints: ['{A}'], max_in_flight: 2, queue: {queue!r}}}]{MODELS}")
    made.scrape(0, running=0)
    return made


def test_a_request_waits_while_all_are_at_their_maximum_and_goes_on_when_one_ends() -> None:
    of = hall()
    assert [of.offer("first"), of.offer("second")] == [A, A]
    of.hold("ann")
    of.hold("bea", "critical")
    assert of.pump() == []
    of.endpoint().release()
    assert of.pump() == [("bea", A)]
    of.endpoint().release()
    assert of.pump() == [("ann", A)]


def test_sheddable_work_does_not_wait_for_an_endpoint_at_its_maximum() -> None:
    of = hall()
    of.offer("first"), of.offer("second")
    assert of.refused("cat", "sheddable").reason.code == "saturated"


def test_who_waited_in_vain_is_refused_but_critical_work_goes_on() -> None:
    of = hall(timeout_s=1)
    of.offer("first"), of.offer("second")
    of.hold("ann")
    of.hold("bea", "critical")
    of.now += 1
    assert sorted(of.pump()) == [("ann", "queue_timeout"), ("bea", A)]


def test_a_full_queue_refuses_all_but_critical_work() -> None:
    of = hall(max_requests=1)
    of.offer("first"), of.offer("second")
    of.hold("ann")
    assert of.refused("dan").reason.code == "saturated"
    assert of.offer("bea", "critical") == A


def test_where_the_filters_pass_only_an_endpoint_at_its_maximum_nobody_waits_for_those_they_do_not_pass() -> (
    None
):
    of = Hall(FILTERED.replace("LABEL", "a").replace("profile: mine", "profile: mine\n  queue: {}"))
    of.scrape(0, 0, running=0)
    assert of.offer("first") == A
    assert of.refused("ann").reason.code == "saturated"
    assert of.offer("bea", "critical") == A


def test_an_endpoint_of_which_nothing_is_known_keeps_its_maximum() -> None:
    of = Hall(f"pools: [{{name: p, endpoints: ['{A}'], max_in_flight: 1, queue: {{}}}}]{MODELS}")
    assert of.offer("first") == A
    of.hold("ann")


def test_who_waits_goes_on_when_a_reload_raises_the_maximum() -> None:
    of = hall()
    of.offer("first"), of.offer("second")
    of.hold("ann")
    assert of.reload(f"pools: [{{name: p, endpoints: ['{A}'], max_in_flight: 3, queue: {{}}}}]{MODELS}") == []
    assert of.pump() == [("ann", A)]


@given(
    st.lists(st.sampled_from(["come", "end", "critical", "later"]), max_size=60),
    st.lists(st.integers(1, 3), min_size=1, max_size=3),
    st.booleans(),
)
def test_whatever_comes_and_ends_only_critical_work_exceeds_a_maximum(
    events: list[str], maxima: list[int], queued: bool
) -> None:
    endpoints = [{"address": f"10.0.0.{n}:80", "max_in_flight": each} for n, each in enumerate(maxima, 1)]
    queue = "queue: {timeout_s: 1}" if queued else "saturation: {}"
    of = Hall(f"pools: [{{name: p, endpoints: {endpoints}, {queue}}}]{MODELS}")
    refused: list[tuple[str, list[int]]] = []
    for number, event in enumerate(events):
        before = [endpoint.in_flight for _, endpoint in of.fleet.endpoints()]
        if event == "end":
            busy = next((e for _, e in of.fleet.endpoints() if e.in_flight), None)
            if busy is not None:
                busy.release()
        elif event == "later":
            of.now += 0.7
        else:
            try:
                of.offer(str(number), "critical" if event == "critical" else "m")
            except Rejected as rejected:
                refused.append((rejected.reason.code, before))
        of.pump()
        over = sum(
            max(0, e.in_flight - most) for (_, e), most in zip(of.fleet.endpoints(), maxima, strict=True)
        )
        assert over <= events[: number + 1].count("critical")
    full = [all(map(ge, before, maxima)) for _, before in refused]
    assert ({code for code, _ in refused} <= {"saturated"}, all(full)) == (True, True)


def test_explain_says_who_is_at_its_maximum() -> None:
    of = fleet(POOL)
    fill(of, 1, 0)
    explained = explain(Question(in_force(of), request("m"), NOW))
    assert {row.address: row.out for row in explained.endpoints} == {
        A: "at its maximum of 1 in flight",
        B: None,
    }
    fill(of, 1, 3)
    explained = explain(Question(in_force(of), request("m"), NOW))
    assert [row.out for row in explained.endpoints] == [
        f"at its maximum of {most} in flight" for most in (1, 3)
    ]
