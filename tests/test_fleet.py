"""The fleet across reloads: endpoints that stay keep what is known of them, and no request is lost."""

from __future__ import annotations

import random

import pytest
from fleets import NOW, fleet, metrics, request

from extproc.config import parse_config
from extproc.endpoint import Endpoint
from extproc.errors import Rejected
from extproc.fleet import KEPT_S, Fleet
from extproc.health import FAILURES
from extproc.member import Member

TWO = "pools: [{name: p, endpoints: ['10.0.0.1:80', '10.0.0.2:80']}]"
SHARED = (
    "pools: [{name: p, endpoints: ['10.0.0.1:80']}, {name: q, endpoints: ['10.0.0.1:080', '10.0.0.2:80']}]"
)


def apply(to: Fleet, text: str) -> None:
    to.apply(parse_config(text.encode()))


def at(of: Fleet, address: str) -> Endpoint:
    ((_, endpoint),) = of.at(address)
    return endpoint


def test_a_router_knows_when_its_config_came() -> None:
    made = Fleet()
    assert made.router is None
    router = made.apply(parse_config(TWO.encode()), loaded_at=1234.5)
    assert made.router is router
    assert router.loaded_at == 1234.5


def test_a_reload_keeps_counts_figures_and_health_of_endpoints_that_stay() -> None:
    of = fleet(TWO)
    kept = at(of, "10.0.0.1:80")
    kept.acquire()
    kept.observe(metrics(running=3), NOW)
    before = of.router
    apply(
        of,
        TWO.replace("'10.0.0.1:80'", "{address: '10.0.0.1:0080', labels: {v: a}}")
        + "\nmodels: [{name: m, pool: p}]",
    )
    assert of.router is not before
    assert at(of, "10.0.0.1:80") is kept
    assert (kept.in_flight, kept.external, kept.labels) == (1, 2, {"v": "a"})


def test_a_reload_replaces_the_membership_adding_and_removing() -> None:
    of = fleet(TWO)
    apply(of, TWO.replace("10.0.0.2", "10.0.0.3"))
    assert [endpoint.address for _, endpoint in of.endpoints()] == ["10.0.0.1:80", "10.0.0.3:80"]
    assert of.at("10.0.0.2:80") == []
    assert of.router is not None
    assert sorted(of.router.pools["p"].by_address) == ["10.0.0.1:80", "10.0.0.3:80"]


def test_requests_at_a_removed_endpoint_are_counted_down_and_it_gets_no_new_one() -> None:
    of = fleet(TWO)
    removed = at(of, "10.0.0.2:80")
    removed.acquire()
    apply(of, TWO.replace(", '10.0.0.2:80'", ""))
    assert of.router is not None
    chosen = {of.router.decide(request(), NOW, random.Random(seed)).endpoint.address for seed in range(30)}
    assert chosen == {"10.0.0.1:80"}
    removed.release()
    assert removed.in_flight == 0


def test_an_endpoint_that_comes_back_begins_anew() -> None:
    of = fleet(TWO)
    at(of, "10.0.0.2:80").observe(metrics(running=9), NOW)
    apply(of, TWO.replace(", '10.0.0.2:80'", ""))
    apply(of, TWO)
    assert (at(of, "10.0.0.2:80").load, at(of, "10.0.0.2:80").tried) == (0, False)


LABELLED = """
pools: [{name: p, endpoints: [{address: '10.0.0.1:80', labels: {v: LABEL}}, '10.0.0.2:80']}]
models: [{name: m, pool: p, targets: [{model: x, labels: {v: LABEL}}]}]
"""


def test_a_stream_that_began_before_a_reload_is_decided_by_the_config_it_began_with() -> None:
    of = fleet(LABELLED.replace("LABEL", "old"))
    began_with = of.router
    apply(of, LABELLED.replace("LABEL", "new"))
    for router in (began_with, of.router):
        assert router is not None
        assert router.decide(request(), NOW, random.Random(1)).endpoint.address == "10.0.0.1:80"


def test_two_pools_count_the_same_address_separately_and_both_hear_its_scrapes() -> None:
    of = fleet(SHARED)
    (p, in_p), (q, in_q) = of.at("10.0.0.1:80")
    assert (p.name, q.name) == ("p", "q")
    in_p.acquire()
    of.scraped("10.0.0.1:80", metrics(running=3), NOW)
    assert [(e.in_flight, e.external, e.load) for e in (in_p, in_q)] == [(1, 2, 3), (0, 3, 3)]


def test_readiness_waits_until_each_endpoint_was_scraped_or_tried_once() -> None:
    of = fleet(TWO)
    assert of.not_tried() == ["10.0.0.1:80", "10.0.0.2:80"]
    of.scraped("10.0.0.1:80", metrics(), NOW)
    assert of.not_tried() == ["10.0.0.2:80"]
    assert of.scrape_failed("10.0.0.2:80", refused=True, now=NOW) == []
    assert of.not_tried() == []


def test_endpoints_without_metrics_are_not_waited_for() -> None:
    assert fleet(TWO.replace("name: p", "name: p, metrics: {engine: none}")).not_tried() == []


def test_figures_age_as_the_pool_says() -> None:
    of = fleet(TWO.replace("name: p", "name: p, metrics: {max_age_s: 9}"))
    of.scraped("10.0.0.1:80", metrics(), NOW)
    assert at(of, "10.0.0.1:80").is_fresh(NOW + 8.9)


def test_refused_scrapes_set_an_endpoint_aside_and_the_next_answered_one_brings_it_back() -> None:
    of = fleet(TWO)
    told = [of.scrape_failed("10.0.0.1:80", refused=True, now=NOW) for _ in range(FAILURES)]
    endpoint = at(of, "10.0.0.1:80")
    assert [[(p.name, e, pause_s) for p, e, pause_s in each] for each in told] == [
        [],
        [],
        [("p", endpoint, 5.0)],
    ]
    assert endpoint.health.is_set_aside(NOW)
    of.scraped("10.0.0.1:80", metrics(), NOW)
    assert not endpoint.health.is_set_aside(NOW)


def test_scrapes_that_fail_otherwise_set_nobody_aside() -> None:
    of = fleet(TWO)
    assert [of.scrape_failed("10.0.0.1:80", refused=False, now=NOW) for _ in range(10)] == [[]] * 10
    assert not at(of, "10.0.0.1:80").health.is_set_aside(NOW)


@pytest.mark.parametrize("address", ["10.0.0.9:80", "nonsense"])
def test_what_is_heard_of_an_address_that_is_gone_is_ignored(address: str) -> None:
    of = fleet(TWO)
    of.scraped(address, metrics(), NOW)
    assert of.scrape_failed(address, refused=True, now=NOW) == []
    assert of.not_tried() == ["10.0.0.1:80", "10.0.0.2:80"]


CLUSTER = """
pools: [{name: p, kubernetes: {service: vllm}}]
models: [{name: m, pool: p, targets: [{model: m, labels: {v: a}}]}]"""
A = Member("10.0.0.1:80", {"v": "a"}, uid="1")
B = Member("10.0.0.2:80", {"v": "b"}, uid="2")


def chosen(of: Fleet, model: str = "x") -> set[str]:
    """Where 30 requests go."""
    assert of.router is not None
    return {of.router.decide(request(model), NOW, random.Random(seed)).endpoint.address for seed in range(30)}


def test_before_the_cluster_told_of_endpoints_nobody_is_ready_to_take_a_request() -> None:
    of = fleet(CLUSTER)
    with pytest.raises(Rejected, match="No endpoint of pool `p` is ready"):
        chosen(of)


def test_members_that_the_cluster_tells_of_are_in_force_at_once_in_the_same_router() -> None:
    of = fleet(CLUSTER)
    router = of.router
    of.replace_members("p", [A, B], NOW)
    assert chosen(of) == {"10.0.0.1:80", "10.0.0.2:80"}
    assert chosen(of, "m") == {"10.0.0.1:80"}
    of.replace_members("p", [B], NOW)
    assert (chosen(of), of.at("10.0.0.1:80")) == ({"10.0.0.2:80"}, [])
    assert of.router is router


def test_a_member_that_stays_keeps_its_state_and_takes_over_its_labels() -> None:
    of = fleet(CLUSTER)
    of.replace_members("p", [A, B], NOW)
    kept = at(of, "10.0.0.2:80")
    kept.acquire()
    of.replace_members("p", [Member(B.address, {"v": "a"}, B.uid)], NOW)
    assert at(of, "10.0.0.2:80") is kept
    assert (kept.in_flight, chosen(of, "m")) == (1, {"10.0.0.2:80"})


def test_another_pod_at_the_same_address_is_another_server() -> None:
    of = fleet(CLUSTER)
    of.replace_members("p", [A], NOW)
    at(of, A.address).observe(metrics(running=9), NOW)
    of.replace_members("p", [Member(A.address, A.labels, uid="3")], NOW)
    assert (at(of, A.address).load, at(of, A.address).tried) == (0, False)


@pytest.mark.parametrize(("away_s", "running"), [(KEPT_S - 1, 9), (KEPT_S, 0)])
def test_a_pod_whose_readiness_flaps_is_known_again_for_a_minute(away_s: float, running: int) -> None:
    of = fleet(CLUSTER)
    of.replace_members("p", [A, B], NOW)
    at(of, A.address).observe(metrics(running=9), NOW)
    of.replace_members("p", [B], NOW)
    of.expire(NOW + away_s)
    of.replace_members("p", [A, B], NOW + away_s)
    assert at(of, A.address).load == running


def test_a_pod_that_went_is_known_for_as_long_as_it_serves_requests() -> None:
    of = fleet(CLUSTER)
    of.replace_members("p", [A], NOW)
    serving = at(of, A.address)
    serving.acquire()
    of.replace_members("p", [], NOW)
    of.expire(NOW + 10 * KEPT_S)
    of.replace_members("p", [A], NOW + 10 * KEPT_S)
    assert at(of, A.address) is serving
    serving.release()


def test_a_reload_keeps_the_members_that_the_cluster_told_of() -> None:
    of = fleet(CLUSTER)
    of.replace_members("p", [A, B], NOW)
    before = at(of, A.address)
    apply(of, CLUSTER.replace("v: a", "v: b"))
    assert at(of, A.address) is before
    assert chosen(of, "m") == {B.address}


def test_a_stream_that_began_before_a_reload_does_not_go_to_a_pod_that_went_after_it() -> None:
    of = fleet(CLUSTER)
    of.replace_members("p", [A, B], NOW)
    old = of.router
    assert old is not None
    apply(of, CLUSTER + "\nlist_models: forward")
    of.replace_members("p", [B], NOW)
    seeds = [random.Random(seed) for seed in range(30)]
    assert {old.decide(request("x"), NOW, rng).endpoint.address for rng in seeds} == {B.address}
    with pytest.raises(Rejected, match="No endpoint of pool `p` is ready"):
        old.decide(request("m"), NOW, random.Random(1))


def test_what_the_cluster_tells_of_a_pool_that_is_not_followed_changes_nothing() -> None:
    of = fleet(TWO)
    of.replace_members("p", [A], NOW)
    of.replace_members("q", [A], NOW)
    assert chosen(of) == {"10.0.0.1:80", "10.0.0.2:80"}
    assert at(of, "10.0.0.1:80").uid == ""


def test_a_pool_that_moves_from_the_file_to_the_cluster_keeps_its_endpoints_until_that_tells() -> None:
    of = fleet(TWO)
    apply(of, CLUSTER)
    assert chosen(of) == {"10.0.0.1:80", "10.0.0.2:80"}
    of.replace_members("p", [B], NOW)
    assert (chosen(of), of.at("10.0.0.1:80")) == ({B.address}, [])
    assert at(of, B.address).uid == "2"
    apply(of, TWO)
    assert chosen(of) == {"10.0.0.1:80", "10.0.0.2:80"}
    assert at(of, B.address).uid == ""
