"""A fleet that lives for a year: reloads, pools of new names and cordons of pods that went leave nothing behind."""

from __future__ import annotations

import gc
import weakref

import pytest
from fleets import NOW, fleet

from extproc import fleet as fleet_module
from extproc.config import parse_config
from extproc.fleet import Fleet
from extproc.member import Member

CLUSTER = "pools: [{name: pods, kubernetes: {inference_pool: p}}]"


def test_of_pools_that_a_reload_replaced_nothing_is_left() -> None:
    of = fleet("pools: [{name: first, endpoints: ['10.0.0.1:80']}]")
    replaced = []
    for number in range(20):
        replaced += [weakref.ref(pool) for _, pool in of.pools()]
        of.apply(parse_config(b"pools: [{name: pool-%d, endpoints: ['10.0.0.1:80']}]" % (number // 2)))
    gc.collect()
    assert [ref() for ref in replaced if ref() is not None] == []
    of.apply(parse_config(b"pools: [{name: last, endpoints: ['10.0.0.1:80']}]"))
    assert of._superseded == {}


def test_a_pool_that_a_stream_still_has_is_not_forgotten() -> None:
    of = fleet(CLUSTER)
    ((_, held),) = of.pools()
    for _ in range(3):
        of.apply(parse_config(CLUSTER.encode()))
        gc.collect()
    of.replace_members("pods", [Member("10.0.0.1:80", {}, "1")], NOW)
    of.cordon("10.0.0.1:80")
    assert held.restricted


def tell(of: Fleet, *numbers: int) -> None:
    of.replace_members("pods", [Member(f"10.0.0.{n}:80", {}, f"uid-{n}") for n in numbers], NOW)


def cordoned(of: Fleet) -> list[str]:
    return [endpoint.address for _, endpoint in of.endpoints() if endpoint.cordoned]


def test_too_many_cordons_of_pods_that_went_are_forgotten_the_oldest_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fleet_module, "MAX_CORDONS", 3)
    of = fleet(CLUSTER)
    for number in range(1, 6):
        tell(of, number)
        of.cordon(f"10.0.0.{number}:80")
    tell(of)
    of.expire(NOW + 3600)
    tell(of, 1, 2, 3, 4, 5)
    assert cordoned(of) == ["10.0.0.3:80", "10.0.0.4:80", "10.0.0.5:80"]


def test_a_cordon_of_a_pod_that_is_there_is_never_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_module, "MAX_CORDONS", 1)
    of = fleet(CLUSTER)
    tell(of, 1, 2, 3)
    for number in (1, 2, 3):
        of.cordon(f"10.0.0.{number}:80")
    of.apply(parse_config(CLUSTER.encode()))
    assert cordoned(of) == ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]


def test_a_cordon_that_is_said_again_counts_as_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_module, "MAX_CORDONS", 2)
    of = fleet(CLUSTER)
    for number in (1, 2, 1, 3):
        tell(of, number)
        of.cordon(f"10.0.0.{number}:80")
    tell(of)
    tell(of, 1, 2, 3)
    assert cordoned(of) == ["10.0.0.1:80", "10.0.0.3:80"]


def test_pods_that_get_the_same_address_one_after_another_leave_one_cordon() -> None:
    of = fleet(CLUSTER)
    for number in range(5):
        of.replace_members("pods", [Member("10.0.0.1:80", {}, f"uid-{number}")], NOW)
        of.cordon("10.0.0.1:80")
    assert of._cordons == {"10.0.0.1:80": {"uid-4"}}


def test_a_cordon_of_the_files_endpoint_leaves_that_of_a_pod_at_its_address() -> None:
    both = "pools: [{name: pods, kubernetes: {inference_pool: p}}, {name: file, endpoints: ['10.0.0.1:80']}]"
    of = fleet(both)
    tell(of, 1)
    of.cordon("10.0.0.1:80")
    tell(of)
    of.cordon("10.0.0.1:80")
    of.expire(NOW + 3600)
    tell(of, 1)
    assert cordoned(of) == ["10.0.0.1:80", "10.0.0.1:80"]
