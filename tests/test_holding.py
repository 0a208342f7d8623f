"""Late binding: who waits with us, how many go between two scrapes, and whose turn it is."""

from __future__ import annotations

import pytest
from fleets import NOW, metrics
from halls import TWO, Hall, busy, text

from extproc import address
from extproc.endpoint import MAX_ALLOWANCE
from extproc.errors import Reason
from extproc.health import Failure
from extproc.member import Member
from extproc.request import Prompt
from extproc.router import Decision
from extproc.waiting_room import Ticket

# -- who waits ----------------------------------------------------------------------------------------------


def test_without_a_queue_nobody_waits() -> None:
    hall = Hall("pools: [{name: p, endpoints: ['10.0.0.1:80']}]")
    hall.scrape(500)
    assert hall.offer("a") == "10.0.0.1:80"


def test_a_request_waits_while_every_endpoint_has_a_waiting_queue() -> None:
    hall = Hall(text(TWO))
    hall.scrape(1, 0)
    assert hall.offer("a") == "10.0.0.2:80"
    hall.scrape(1, 1)
    hall.hold("b")
    assert hall.pump() == []
    hall.scrape(1, 0)
    assert hall.pump() == [("b", "10.0.0.2:80")]
    assert len(hall.lobby) == 0


@pytest.mark.parametrize(("waiting", "holds"), [(1, True), (2, True), (3, False)])
def test_how_long_a_queue_may_get_is_configured(waiting: int, holds: bool) -> None:
    hall = Hall(waiting=waiting)
    hall.scrape(2)
    assert isinstance(hall.offer("a"), Ticket) is holds


def test_only_endpoints_that_could_take_the_request_count() -> None:
    labelled = [{"address": "10.0.0.1:80", "labels": {"v": "a"}}, "10.0.0.2:80"]
    models = "models: [{name: m, pool: p, targets: [{model: x, labels: {v: a}}]}, {name: n, pool: p}]"
    hall = Hall(text(labelled, models))
    hall.scrape(1, 0)
    hall.hold("labels")
    hall.hold("subset", "n", subset=address.hints("10.0.0.1"))
    assert hall.offer("other", "n") == "10.0.0.2:80"
    hall.scrape(0, 1)
    assert sorted(hall.pump()) == [("labels", "10.0.0.1:80"), ("subset", "10.0.0.1:80")]


def test_where_nothing_was_ever_scraped_nobody_waits() -> None:
    hall = Hall(text(TWO))
    assert {hall.offer(str(n)) for n in range(20)} == set(TWO)


def test_stale_figures_hold_nobody() -> None:
    hall = busy(timeout_s=60)
    hall.hold("a")
    hall.now += 2.0
    assert hall.pump() == [("a", "10.0.0.1:80")]
    assert hall.offer("b") == "10.0.0.1:80"


def test_an_endpoint_that_tells_nothing_gets_no_more_than_the_busy_ones_have() -> None:
    hall = Hall(text(TWO))
    hall.endpoint(1).observe(metrics(waiting=1, running=2), NOW)
    assert [hall.offer(str(n)) for n in range(3)] == ["10.0.0.2:80"] * 3
    hall.hold("waits")


def test_where_all_endpoints_are_set_aside_nobody_waits() -> None:
    hall = Hall(text(TWO))
    hall.scrape(9, 9)
    hall.hold("a")
    for number in (1, 2):
        hall.endpoint(number).health.set_aside(NOW, Failure.UNREACHABLE)
    ((name, where),) = hall.pump()
    assert (name, where in TWO) == ("a", True)
    assert hall.offer("b") in TWO


def test_a_profile_whose_filter_allows_only_a_busy_endpoint_does_not_refuse_for_the_free_ones() -> None:
    labelled = [{"address": "10.0.0.1:80", "labels": {"v": "a"}}, "10.0.0.2:80"]
    profiles = "profiles: [{name: default, filters: [{type: labels, labels: {v: a}}]}]"
    hall = Hall(text(labelled, profiles))
    hall.scrape(9, 0)
    assert hall.offer("a") == "10.0.0.1:80"


# -- how many go between two scrapes ------------------------------------------------------------------------


def room_left(hall: Hall) -> int:
    """How many requests go at once before one must wait."""
    sent = 0
    while isinstance(hall.offer("x"), str):
        sent += 1
        assert sent < 1000
    (ticket,) = hall.lobby.room("p")
    hall.lobby.cancel(ticket)
    return sent


def test_an_idle_endpoint_takes_a_burst_but_not_an_endless_one() -> None:
    hall = Hall()
    hall.scrape(0, running=0)
    assert room_left(hall) == MAX_ALLOWANCE


def test_once_requests_waited_somewhere_it_gets_few_at_first_and_twice_as_many_after_each_scrape_without() -> (
    None
):
    hall = Hall()
    hall.scrape(3)
    left = [room_left(hall)]
    for _ in range(8):
        hall.scrape(0)
        left.append(room_left(hall))
    assert left == [0, 2, 4, 8, 16, 32, 64, 64, 64]


def test_what_ends_makes_room_first_for_what_waits_there_then_for_ours() -> None:
    hall = Hall()
    for _ in range(5):
        hall.endpoint().acquire()
    hall.scrape(2)
    left = []
    for _ in range(3):
        hall.endpoint().release()
        left.append(room_left(hall))
    assert left == [0, 1, 1]


def test_two_who_wait_do_not_see_the_same_room() -> None:
    hall = Hall(text(TWO))
    for number in (1, 2):
        hall.endpoint(number).acquire()
    hall.scrape(1, 1)
    for name in "abc":
        hall.hold(name)
    hall.endpoint(1).release()
    assert hall.pump() == [("a", "10.0.0.1:80")]
    hall.endpoint(2).release()
    assert hall.pump() == [("b", "10.0.0.2:80")]
    assert hall.pump() == []


def test_a_decision_is_made_only_when_the_one_before_it_was_counted() -> None:
    hall = Hall()
    hall.endpoint().acquire()
    hall.scrape(1)
    hall.hold("a"), hall.hold("b")
    hall.endpoint().release()
    called = hall.lobby.pump(NOW, hall.rng)
    ticket, decision = next(called)
    assert isinstance(decision, Decision)
    decision.endpoint.acquire()
    assert (ticket.content.holder, list(called), len(hall.lobby)) == ("a", [], 1)


# -- whose turn it is ---------------------------------------------------------------------------------------


def order_of(hall: Hall) -> list[str]:
    """The names of those who wait, as room appears for one after the other."""
    order = []
    while len(hall.lobby):
        hall.scrape(1)
        hall.endpoint().acquire()
        hall.scrape(1)
        hall.endpoint().release()
        ((name, _),) = hall.pump()
        order.append(name)
    return order


def test_critical_work_is_called_up_before_standard_work() -> None:
    hall = busy()
    hall.hold("standard"), hall.hold("critical", "critical")
    assert order_of(hall) == ["critical", "standard"]


def test_tenants_take_turns() -> None:
    hall = busy(tenant={"header": "X-Tenant"})
    for number in range(3):
        hall.hold(f"greedy {number}", headers={"x-tenant": "greedy"})
    hall.hold("modest", headers={"x-tenant": "modest"})
    assert order_of(hall) == ["greedy 0", "modest", "greedy 1", "greedy 2"]


def test_without_tenants_it_is_first_come_first_served() -> None:
    hall = busy()
    for name, who in (("a", "x"), ("b", "x"), ("c", "y")):
        hall.hold(name, headers={"x-tenant": who, "authorization": who})
    assert order_of(hall) == ["a", "b", "c"]


def test_shortest_goes_by_the_expected_work() -> None:
    hall = busy(order="shortest")
    hall.hold("long", prompt=Prompt(tokens=4000))
    hall.hold("short answer", prompt=Prompt(tokens=500, max_output_tokens=1))
    hall.hold("short", prompt=Prompt(tokens=500))
    assert order_of(hall) == ["short answer", "short", "long"]


def test_a_newcomer_does_not_overtake_who_waits_unless_it_is_more_important() -> None:
    hall = busy()
    hall.hold("first")
    hall.scrape(0)  # room again, but nobody was called up yet
    hall.hold("newcomer")
    assert hall.offer("critical", "critical") == "10.0.0.1:80"
    assert hall.refused("sheddable", "sheddable").reason is Reason.SATURATED
    assert [name for name, _ in hall.pump()] == ["first"]


def test_who_waits_for_a_busy_target_does_not_stand_in_the_way_of_others() -> None:
    labelled = [{"address": "10.0.0.1:80", "labels": {"v": "a"}}, "10.0.0.2:80"]
    models = "models: [{name: m, pool: p, targets: [{model: x, labels: {v: a}}]}, {name: n, pool: p}]"
    hall = Hall(text(labelled, models))
    hall.scrape(1, 1)
    hall.hold("a", "m"), hall.hold("b", "n")
    hall.scrape(1, 0)
    assert hall.pump() == [("b", "10.0.0.2:80")]


def test_a_target_without_endpoints_gives_who_waits_for_it_to_the_others() -> None:
    labelled = [{"address": f"10.0.0.{n}:80", "labels": {"v": v}} for n, v in ((1, "a"), (2, "b"))]
    models = """
models:
- name: m
  pool: p
  targets: [{model: x, weight: 999999, labels: {v: a}}, {model: y, weight: 1, labels: {v: b}}]
"""
    hall = Hall(text(labelled, models))
    hall.scrape(1, 1)
    for name in "abc":
        hall.hold(name)
    hall.endpoint(1).health.set_aside(NOW, Failure.UNREACHABLE)
    assert hall.pump() == []  # they wait for the other now
    hall.scrape(1, 0)
    assert hall.pump() == [("a", "10.0.0.2:80"), ("b", "10.0.0.2:80")]
    hall.router.pools["p"].replace([])
    assert hall.pump() == [("c", "no_endpoints")]


# -- while a cluster's pods come and go -----------------------------------------------------------------------


def in_cluster() -> Hall:
    """Who waits for a pool of two tiers, of which model m is never to use the second; a request waits at A."""
    hall = Hall(
        "pools: [{name: p, kubernetes: {service: v}, queue: {timeout_s: 60}, tiers: [{name: idc, labels: {t: idc}}, "
        "{name: cloud, labels: {t: cloud}}]}]\nmodels: [{name: m, pool: p, never: cloud}]"
    )
    hall.fleet.replace_members("p", [A], NOW)
    hall.endpoint(1).observe(metrics(waiting=1, running=2), NOW)
    hall.hold("a")
    return hall


A, B = (Member(f"10.0.0.{n}:80", {"t": "idc"}, str(n)) for n in (1, 2))


def test_a_pod_that_comes_takes_those_who_wait() -> None:
    hall = in_cluster()
    hall.fleet.replace_members("p", [A, B], NOW)
    assert hall.pump() == [("a", B.address)]


def test_a_pod_of_a_tier_that_must_not_serve_it_does_not_take_who_waited_when_it_came() -> None:
    hall = in_cluster()
    hall.fleet.replace_members("p", [A, Member(B.address, {"t": "cloud"}, "2")], NOW)
    assert hall.pump() == []


def test_who_waits_is_not_sent_to_a_pod_that_went() -> None:
    hall = in_cluster()
    hall.fleet.replace_members("p", [B], NOW)
    assert hall.pump() == [("a", B.address)]


def test_who_waits_for_pods_that_all_went_is_told_at_once() -> None:
    hall = in_cluster()
    hall.fleet.replace_members("p", [], NOW)
    assert hall.pump() == [("a", "no_endpoints")]
