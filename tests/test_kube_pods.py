"""A pool of pods: those that are ready, each with the ports that are asked for."""

from __future__ import annotations

from typing import Any

import pytest
from kube_objects import node, pod
from msgspec import convert

from extproc.kube.membership import Excluded, Membership
from extproc.kube.objects import Node, Pod
from extproc.kube.pod_members import PodMembers
from extproc.member import Member

LABELS = {"app": "qwq"}


def a_pod(name: str = "a", ip: str | None = "10.0.0.1", **told: Any) -> Pod:
    told.setdefault("uid", f"uid-{name}")
    made = pod(name, ip, **{"labels": LABELS, "node": "n1", **told})
    made["metadata"]["labels"] = dict(told.get("labels", LABELS))
    return convert(made, Pod)


def a_node(name: str = "n1", **labels: str) -> Node:
    return convert(node(name, labels=labels), Node)


def following(*pods: Pod, ports: tuple[int | str, ...] = (8000,), **told: Any) -> PodMembers:
    members = PodMembers(ports, **told)
    members.listed(pods)
    return members


def addresses(members: Membership) -> list[str]:
    return [member.address for member in members.members()]


def reasons(members: Membership) -> list[tuple[str, str, str]]:
    return [(each.name, each.address, each.reason) for each in members.excluded()]


def test_ready_pods_are_members_by_name_with_their_labels_and_uid() -> None:
    members = following(a_pod("b", "10.0.0.2"), a_pod("a", "10.0.0.1"))
    assert members.members() == (
        Member("10.0.0.1:8000", LABELS, "uid-a"),
        Member("10.0.0.2:8000", LABELS, "uid-b"),
    )
    assert members.excluded() == ()


@pytest.mark.parametrize(
    ("told", "address", "reason"),
    [
        ({"ready": False}, "10.0.0.1:8000", "not ready"),
        ({"terminating": True}, "10.0.0.1:8000", "terminating"),
        ({"terminating": True, "ready": False}, "10.0.0.1:8000", "terminating"),
        ({"annotations": {"extproc/cordon": ""}}, "10.0.0.1:8000", "cordoned"),
        ({"annotations": {"extproc/cordon": "true"}, "ready": False}, "10.0.0.1:8000", "cordoned"),
        ({"phase": "Failed", "ready": False}, "10.0.0.1:8000", "finished"),
        ({"phase": "Succeeded"}, "10.0.0.1:8000", "finished"),
        ({"ip": None}, "", "no address"),
        ({"ip": None, "ready": False, "phase": "Pending"}, "", "not ready"),
        ({"ip": "vllm.example"}, "", "no address"),
        ({"ip": "10.0.0.1:80"}, "", "no address"),
    ],
)
def test_a_pod_that_can_take_no_request_is_left_out_with_the_reason(
    told: dict[str, Any], address: str, reason: str
) -> None:
    members = following(a_pod(**told))
    assert members.members() == ()
    assert reasons(members) == [("a", address, reason)]


@pytest.mark.parametrize("value", ["false", "False"])
def test_a_cordon_that_says_false_is_none(value: str) -> None:
    assert addresses(following(a_pod(annotations={"extproc/cordon": value}))) == ["10.0.0.1:8000"]


def test_a_pod_without_a_condition_ready_is_not_ready() -> None:
    made = pod("a")
    made["status"]["conditions"] = None
    assert reasons(following(convert(made, Pod))) == [("a", "10.0.0.1:8000", "not ready")]


def test_each_event_says_whether_members_changed() -> None:
    members = PodMembers((8000,))
    assert members.listed([a_pod("a", ready=False)]) is False
    assert members.changed(a_pod("a")) is True
    assert members.changed(a_pod("a")) is False
    assert members.changed(a_pod("a", labels={"app": "qwq", "rank": "1"})) is True
    assert members.changed(a_pod("a", labels={"app": "qwq", "rank": "1"}, annotations={"n": "1"})) is False
    assert members.changed(a_pod("a", terminating=True)) is True
    assert members.deleted(a_pod("a", terminating=True)) is False
    assert members.listed([a_pod("b")]) is True
    assert members.deleted(a_pod("b")) is True
    assert members.deleted(a_pod("b")) is False


def test_a_new_list_replaces_what_was_known() -> None:
    members = following(a_pod("a", "10.0.0.1"), a_pod("b", "10.0.0.2"))
    assert members.listed([a_pod("b", "10.0.0.2"), a_pod("c", "10.0.0.3")]) is True
    assert addresses(members) == ["10.0.0.2:8000", "10.0.0.3:8000"]
    assert members.listed([a_pod("c", "10.0.0.3"), a_pod("b", "10.0.0.2")]) is False


def test_a_pod_of_the_same_name_and_address_is_another_server() -> None:
    members = following(a_pod("a", uid="old"))
    assert members.changed(a_pod("a", uid="new")) is True
    assert members.members() == (Member("10.0.0.1:8000", LABELS, "new"),)


def test_the_late_news_of_a_pods_end_does_not_end_the_one_that_took_its_name() -> None:
    members = following(a_pod("a", uid="new"))
    assert members.deleted(a_pod("a", uid="old")) is False
    assert addresses(members) == ["10.0.0.1:8000"]


def test_each_port_is_an_endpoint_in_the_order_asked_for() -> None:
    members = following(a_pod("a"), a_pod("b", "10.0.0.2"), ports=(8001, 8000))
    assert addresses(members) == ["10.0.0.1:8001", "10.0.0.1:8000", "10.0.0.2:8001", "10.0.0.2:8000"]


def test_a_port_by_name_is_looked_up_in_each_pod() -> None:
    pods = a_pod("a", ports={"metrics": 9, "http": 8000}), a_pod("b", "10.0.0.2", ports={"http": 8080})
    assert addresses(following(*pods, ports=("http",))) == ["10.0.0.1:8000", "10.0.0.2:8080"]


def test_a_pod_without_the_port_is_left_out_but_its_other_ports_are_not() -> None:
    members = following(a_pod("a", ports={"http": 8000}), ports=("http", "grpc"))
    assert addresses(members) == ["10.0.0.1:8000"]
    assert reasons(members) == [("a", "10.0.0.1", "no such port")]


def test_two_names_of_one_port_are_one_endpoint() -> None:
    assert addresses(following(a_pod(ports={"http": 8000}), ports=("http", 8000))) == ["10.0.0.1:8000"]


def test_sidecars_have_ports_and_other_init_containers_have_not() -> None:
    made = pod("a", "10.0.0.1", ports={})
    made["spec"]["initContainers"] = [
        {"name": "load", "ports": [{"name": "http", "containerPort": 1}]},
        {"name": "proxy", "restartPolicy": "Always", "ports": [{"name": "http", "containerPort": 8008}]},
    ]
    assert addresses(following(convert(made, Pod), ports=("http",))) == ["10.0.0.1:8008"]


def test_a_port_of_another_protocol_does_not_serve() -> None:
    made = pod("a", "10.0.0.1", ports={"http": 8000})
    made["spec"]["containers"][0]["ports"][0]["protocol"] = "UDP"
    assert reasons(following(convert(made, Pod), ports=("http",))) == [("a", "10.0.0.1", "no such port")]


@pytest.mark.parametrize(
    ("ips", "family", "expected"),
    [
        (["10.0.0.1", "fd00::1"], None, ["10.0.0.1:8000"]),
        (["fd00::1", "10.0.0.1"], None, ["[fd00::1]:8000"]),
        (["10.0.0.1", "fd00::1"], "IPv6", ["[fd00::1]:8000"]),
        (["fd00::1", "10.0.0.1"], "IPv4", ["10.0.0.1:8000"]),
        (["FD00:0:0::1"], None, ["[fd00::1]:8000"]),
        (["10.0.0.1"], "IPv6", []),
    ],
)
def test_the_address_is_the_primary_one_or_of_the_family_asked_for(
    ips: list[str], family: Any, expected: list[str]
) -> None:
    assert addresses(following(a_pod(ips=ips), ip_family=family)) == expected


def test_a_pod_that_tells_only_its_primary_address_is_found_by_its_family() -> None:
    made = pod("a", "fd00::1")
    made["status"]["podIPs"] = None
    assert addresses(following(convert(made, Pod), ip_family="IPv6")) == ["[fd00::1]:8000"]


def test_of_two_pods_at_one_address_the_older_one_has_it_until_it_is_gone() -> None:
    younger = a_pod("a", created="2026-05-04T09:00:01Z", host_network=True)
    older = a_pod("b", created="2026-05-04T09:00:00Z", host_network=True)
    members = following(younger, older)
    assert members.members() == (Member("10.0.0.1:8000", LABELS, "uid-b"),)
    assert reasons(members) == [("a", "10.0.0.1:8000", "address in use")]
    assert members.changed(a_pod("b", created="2026-05-04T09:00:00Z", ready=False)) is True
    assert members.members() == (Member("10.0.0.1:8000", LABELS, "uid-a"),)
    assert reasons(members) == [("b", "10.0.0.1:8000", "not ready")]


def test_two_pods_of_the_same_age_at_one_address_are_told_apart_by_name() -> None:
    assert [m.uid for m in following(a_pod("b"), a_pod("a")).members()] == ["uid-a"]


def test_labels_of_the_node_are_carried_over_where_asked_for() -> None:
    members = following(a_pod(), node_labels=["zone", "gpu"])
    assert members.members()[0].labels == LABELS
    assert members.node_listed([a_node(zone="z1", gpu="L40S", other="x"), a_node("n2", zone="z2")]) is True
    assert members.members()[0].labels == {**LABELS, "zone": "z1", "gpu": "L40S"}
    assert members.node_changed(a_node(zone="z1", gpu="L40S", other="y")) is False
    assert members.node_changed(a_node(zone="z3")) is True
    assert members.members()[0].labels == {**LABELS, "zone": "z3"}
    assert members.node_changed(a_node("n2", zone="z9")) is False
    assert members.changed(a_pod(node="n2")) is True
    assert members.members()[0].labels == {**LABELS, "zone": "z9"}
    assert members.node_deleted(a_node("n2")) is True
    assert members.members()[0].labels == LABELS


def test_a_pods_own_label_wins_over_that_of_its_node() -> None:
    members = following(a_pod(labels={"zone": "own"}), node_labels=["zone"])
    assert members.node_changed(a_node(zone="z1")) is False
    assert members.members()[0].labels == {"zone": "own"}


def test_nodes_that_vanished_between_two_lists_are_forgotten() -> None:
    members = following(a_pod(), node_labels=["zone"])
    members.node_listed([a_node(zone="z1")])
    assert members.node_listed([a_node("n2", zone="z2")]) is True
    assert members.members()[0].labels == LABELS


def test_nodes_tell_nothing_where_nobody_asked_for_their_labels() -> None:
    members = following(a_pod())
    assert members.node_listed([a_node(zone="z1")]) is False
    assert members.node_changed(a_node(zone="z2")) is False
    assert members.node_deleted(a_node()) is False
    assert members.members()[0].labels == LABELS


@pytest.mark.parametrize(
    ("ports", "told"),
    [
        ((), 'the ports of the pods are not known: say "port:"'),
        ((8000, 70000), "70000 is not a port: ports are 1..65535"),
        ((8000, "http"), None),
    ],
)
def test_ports_that_keep_pods_out_are_a_problem(ports: tuple[int | str, ...], told: str | None) -> None:
    assert following(a_pod(), ports=ports).problem() == told


def test_who_is_left_out_is_told_by_name() -> None:
    members = following(a_pod("b", ready=False), a_pod("a", "10.0.0.2", ready=False))
    assert members.excluded() == (
        Excluded("a", "10.0.0.2:8000", "not ready"),
        Excluded("b", "10.0.0.1:8000", "not ready"),
    )
