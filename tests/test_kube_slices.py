"""A pool of a Service's EndpointSlices: what they tell, joined with the Service, its pods and their nodes."""

from __future__ import annotations

from typing import Any

import pytest
from kube_objects import endpoint, endpoint_slice, node, pod, service
from msgspec import convert

from extproc.kube.membership import ZONE, Membership
from extproc.kube.objects import EndpointSlice, Node, Pod, Service
from extproc.kube.slice_members import SliceMembers
from extproc.member import Member

LABELS = {"app": "qwq"}


def at(ip: str = "10.0.0.1", name: str = "a", **told: Any) -> dict[str, Any]:
    return endpoint(ip, name, **{"uid": f"uid-{name}", **told})


def a_slice(*endpoints: dict[str, Any], name: str = "s1", **told: Any) -> EndpointSlice:
    return convert(endpoint_slice(name, endpoints=endpoints, **told), EndpointSlice)


def a_pod(name: str = "a", **told: Any) -> Pod:
    made = pod(name, **{"uid": f"uid-{name}", **told})
    made["metadata"]["labels"] = dict(told.get("labels", LABELS))
    return convert(made, Pod)


def a_service(*families: str) -> Service:
    return convert(service(families=families), Service)


def following(*slices: EndpointSlice, ports: tuple[int | str, ...] = (), **told: Any) -> SliceMembers:
    members = SliceMembers(ports, **told)
    members.listed(slices)
    return members


def addresses(members: Membership) -> list[str]:
    return [member.address for member in members.members()]


def reasons(members: Membership) -> list[tuple[str, str, str]]:
    return [(each.name, each.address, each.reason) for each in members.excluded()]


def test_ready_endpoints_are_members_by_the_names_of_their_pods() -> None:
    members = following(a_slice(at("10.0.0.2", "b")), a_slice(at("10.0.0.1", "a"), name="s2"))
    assert members.members() == (
        Member("10.0.0.1:8000", {}, "uid-a"),
        Member("10.0.0.2:8000", {}, "uid-b"),
    )
    assert (members.excluded(), members.problem()) == ((), None)


def test_labels_are_those_of_the_pod_as_soon_as_it_is_known() -> None:
    members = following(a_slice(at()))
    assert members.pod_listed([a_pod(), a_pod("other")]) is True
    assert members.members() == (Member("10.0.0.1:8000", LABELS, "uid-a"),)
    assert members.pod_changed(a_pod(annotations={"a": "b"}, ready=False)) is False
    assert members.pod_changed(a_pod(labels={"app": "new"})) is True
    assert members.members() == (Member("10.0.0.1:8000", {"app": "new"}, "uid-a"),)


def test_labels_of_another_pod_that_had_the_name_do_not_count() -> None:
    members = following(a_slice(at(uid="new")))
    assert members.pod_listed([a_pod(uid="old")]) is False
    assert members.members() == (Member("10.0.0.1:8000", {}, "new"),)


@pytest.mark.parametrize(
    ("conditions", "reason"),
    [
        ({"ready": True}, None),
        ({"ready": None, "serving": None, "terminating": None}, None),
        ({}, None),
        (None, None),
        ({"ready": False}, "not ready"),
        ({"ready": False, "serving": True, "terminating": True}, "terminating"),
        ({"ready": True, "serving": True, "terminating": True}, "terminating"),
        ({"ready": True, "serving": False, "terminating": False}, "not ready"),
    ],
)
def test_conditions_decide_and_serving_sees_through_a_service_that_publishes_all(
    conditions: dict[str, bool | None] | None, reason: str | None
) -> None:
    members = following(a_slice(at() | {"conditions": conditions}))
    assert addresses(members) == ([] if reason else ["10.0.0.1:8000"])
    assert reasons(members) == ([("a", "10.0.0.1:8000", reason)] if reason else [])


@pytest.mark.parametrize(
    ("told", "reason"),
    [({"terminating": True}, "terminating"), ({"annotations": {"extproc/cordon": "yes"}}, "cordoned")],
)
def test_a_pod_that_ends_or_is_cordoned_is_left_out_before_its_slice_says_so(
    told: dict[str, Any], reason: str
) -> None:
    members = following(a_slice(at()))
    members.pod_listed([a_pod()])
    assert members.pod_changed(a_pod(**told)) is True
    assert reasons(members) == [("a", "10.0.0.1:8000", reason)]


def test_a_pod_that_is_no_more_does_not_come_back_by_a_slice_that_is_behind() -> None:
    members = following(a_slice(at()))
    members.pod_listed([a_pod()])
    assert members.pod_deleted(a_pod()) is True
    assert members.changed(a_slice(at(), at("10.0.0.2", "b"))) is True
    assert addresses(members) == ["10.0.0.2:8000"]
    assert reasons(members) == [("a", "10.0.0.1:8000", "terminating")]


def test_a_pod_that_vanished_between_two_lists_does_not_come_back_either() -> None:
    members = following(a_slice(at(), at("10.0.0.2", "b")))
    members.pod_listed([a_pod(), a_pod("b")])
    assert members.pod_listed([a_pod("b")]) is True
    assert addresses(members) == ["10.0.0.2:8000"]


def test_a_pod_whose_name_was_taken_over_is_no_more() -> None:
    members = following(a_slice(at(uid="old"), at("10.0.0.2", uid="new")))
    members.pod_listed([a_pod(uid="old")])
    assert members.pod_changed(a_pod(uid="new")) is True
    assert members.members() == (Member("10.0.0.2:8000", LABELS, "new"),)
    assert members.pod_deleted(a_pod(uid="old")) is False
    assert members.members() == (Member("10.0.0.2:8000", LABELS, "new"),)


def test_a_pod_that_matches_the_selector_again_is_back() -> None:
    members = following(a_slice(at()))
    members.pod_listed([a_pod()])
    members.pod_deleted(a_pod())
    assert members.pod_changed(a_pod()) is True
    assert members.members() == (Member("10.0.0.1:8000", LABELS, "uid-a"),)


def test_an_endpoint_in_two_slices_is_one_and_ready_if_either_says_so() -> None:
    members = following(a_slice(at(ready=False), name="s1"), a_slice(at(), name="s2"))
    assert addresses(members) == ["10.0.0.1:8000"]
    assert members.deleted(a_slice(at(ready=False), name="s1")) is False
    assert members.changed(a_slice(at(ready=False), name="s2")) is True
    assert reasons(members) == [("a", "10.0.0.1:8000", "not ready")]


def test_an_endpoint_in_two_slices_is_terminating_if_either_says_so() -> None:
    members = following(a_slice(at(), name="s1"), a_slice(at(terminating=True), name="s2"))
    assert reasons(members) == [("a", "10.0.0.1:8000", "terminating")]


def test_an_endpoint_twice_in_one_slice_is_ready_if_either_says_so() -> None:
    assert addresses(following(a_slice(at(ready=False), at()))) == ["10.0.0.1:8000"]
    assert addresses(following(a_slice(at(), at(ready=False)))) == ["10.0.0.1:8000"]


def test_an_endpoint_has_the_ports_of_the_slices_that_call_it_ready() -> None:
    old, new = a_slice(at(), ports={"http": 8000}), a_slice(at(), name="s2", ports={"http": 8080})
    assert addresses(following(old, new)) == ["10.0.0.1:8000", "10.0.0.1:8080"]
    old = a_slice(at(ready=False), ports={"http": 8000})
    assert addresses(following(old, new)) == ["10.0.0.1:8080"]
    assert reasons(following(old)) == [("a", "10.0.0.1:8000", "not ready")]


def test_the_order_in_which_slices_are_told_of_does_not_matter() -> None:
    one, two = a_slice(at(zone="z1")), a_slice(at(zone="z2"), name="s2")
    orders = following(one, two, node_labels=[ZONE]), following(two, one, node_labels=[ZONE])
    assert [members.members()[0].labels for members in orders] == [{ZONE: "z1"}, {ZONE: "z1"}]


def test_moving_an_endpoint_between_slices_never_loses_it() -> None:
    members = following(a_slice(at(), name="s1"), a_slice(name="s2"))
    assert members.changed(a_slice(at(), name="s2")) is False
    assert members.changed(a_slice(name="s1")) is False
    assert addresses(members) == ["10.0.0.1:8000"]


def test_a_new_list_replaces_what_was_known() -> None:
    members = following(a_slice(at()), a_slice(at("10.0.0.2", "b"), name="s2"))
    assert members.listed([a_slice(at("10.0.0.2", "b"), name="s3")]) is True
    assert addresses(members) == ["10.0.0.2:8000"]
    assert members.deleted(a_slice(name="s3")) is True
    assert addresses(members) == []


def test_an_endpoint_without_a_pod_is_a_member_without_labels() -> None:
    manual = {"addresses": ["192.0.2.7"]}
    external = {"addresses": ["192.0.2.8"], "targetRef": {"kind": "Node", "name": "n1", "uid": "u"}}
    members = following(a_slice(manual, external))
    assert members.members() == (Member("192.0.2.7:8000"), Member("192.0.2.8:8000", {}, "u"))


def test_only_the_first_address_of_an_endpoint_counts() -> None:
    members = following(
        a_slice(at() | {"addresses": ["10.0.0.1", "10.0.0.9"]}, at(name="b") | {"addresses": None})
    )
    assert addresses(members) == ["10.0.0.1:8000"]
    assert reasons(members) == [("b", "", "no address")]


def test_of_two_pods_at_one_address_one_has_it() -> None:
    members = following(a_slice(at(name="b"), at(name="a")))
    assert members.members() == (Member("10.0.0.1:8000", {}, "uid-a"),)
    members.pod_listed(
        [a_pod("a", created="2026-05-04T09:00:01Z"), a_pod("b", created="2026-05-04T09:00:00Z")]
    )
    assert members.members() == (Member("10.0.0.1:8000", LABELS, "uid-b"),)
    assert reasons(members) == [("a", "10.0.0.1:8000", "address in use")]


def test_host_names_are_no_endpoints() -> None:
    members = following(a_slice({"addresses": ["vllm.example"]}, address_type="FQDN"))
    assert reasons(members) == [("vllm.example", "vllm.example", "host name")]
    assert members.problem() == "the Service has no IPv4 endpoints, only FQDN"


FOUR = a_slice(at("10.0.0.1"), name="four")
SIX = a_slice(at("fd00::1"), name="six", address_type="IPv6")


@pytest.mark.parametrize(
    ("ip_family", "families", "expected"),
    [
        (None, (), "10.0.0.1:8000"),
        (None, ("IPv4", "IPv6"), "10.0.0.1:8000"),
        (None, ("IPv6", "IPv4"), "[fd00::1]:8000"),
        ("IPv6", ("IPv4", "IPv6"), "[fd00::1]:8000"),
        ("IPv4", ("IPv6", "IPv4"), "10.0.0.1:8000"),
    ],
)
def test_of_two_families_one_counts(ip_family: Any, families: tuple[str, ...], expected: str) -> None:
    members = following(FOUR, SIX, ip_family=ip_family)
    members.service_listed([a_service(*families)])
    assert addresses(members) == [expected]
    assert (members.excluded(), members.problem()) == ((), None)


def test_the_only_family_there_is_counts_without_a_word_of_the_service() -> None:
    members = following(SIX)
    assert addresses(members) == ["[fd00::1]:8000"]
    assert members.changed(FOUR) is True
    assert addresses(members) == ["10.0.0.1:8000"]


def test_the_service_may_change_its_mind() -> None:
    members = following(FOUR, SIX)
    assert members.service_changed(a_service("IPv6", "IPv4")) is True
    assert members.service_deleted(a_service("IPv6", "IPv4")) is True
    assert addresses(members) == ["10.0.0.1:8000"]


def test_a_family_without_endpoints_is_a_problem() -> None:
    members = following(FOUR, ip_family="IPv6")
    assert addresses(members) == []
    assert members.problem() == "the Service has no IPv6 endpoints, only IPv4"


def test_the_only_port_needs_no_saying() -> None:
    pair = a_slice(at(), ports={"http": 8000}), a_slice(at("10.0.0.2", "b"), name="s2", ports={"http": 8080})
    assert addresses(following(*pair)) == ["10.0.0.1:8000", "10.0.0.2:8080"]


def test_which_of_several_ports_must_be_said() -> None:
    several = a_slice(at(), ports={"metrics": 9090, "http": 8000})
    members = following(several)
    assert (members.members(), members.excluded()) == ((), ())
    assert (
        members.problem()
        == 'the Service has several ports: http (8000), metrics (9090); say which one with "port:"'
    )
    assert members.changed(a_slice(at(), ports={"http": 8000})) is True
    assert (addresses(members), members.problem()) == (["10.0.0.1:8000"], None)
    assert members.changed(several) is True
    assert addresses(members) == []


@pytest.mark.parametrize(
    ("ports", "expected"),
    [
        (("http",), ["10.0.0.1:8000"]),
        ((9090,), ["10.0.0.1:9090"]),
        (("metrics", 8000), ["10.0.0.1:9090", "10.0.0.1:8000"]),
        ((8000, "http"), ["10.0.0.1:8000"]),
    ],
)
def test_ports_are_said_by_name_or_number(ports: tuple[int | str, ...], expected: list[str]) -> None:
    assert addresses(following(a_slice(at(), ports={"metrics": 9090, "http": 8000}), ports=ports)) == expected


def test_a_port_that_the_service_does_not_have_is_a_problem() -> None:
    members = following(a_slice(at(), ports={"http": 8000}), ports=("http", "grpc"))
    assert addresses(members) == ["10.0.0.1:8000"]
    assert reasons(members) == [("a", "10.0.0.1", "no such port")]
    assert members.problem() == "the Service has no port grpc; it has http (8000)"


def test_a_message_lists_ten_ports_at_most() -> None:
    many = a_slice(at(), ports={f"p{number}": number for number in range(10, 22)})
    assert following(many, ports=(1,)).problem() == (
        "the Service has no port 1; it has p10 (10), p11 (11), p12 (12), p13 (13), p14 (14), p15 (15), "
        "p16 (16), p17 (17), p18 (18), p19 (19), 2 more"
    )


@pytest.mark.parametrize("ports", [None, [], [{"port": None}]])
def test_a_slice_without_ports_has_the_number_that_is_asked_for_and_no_name(ports: Any) -> None:
    each = convert(endpoint_slice(endpoints=[at()]) | {"ports": ports}, EndpointSlice)
    assert addresses(following(each, ports=(8000,))) == ["10.0.0.1:8000"]
    assert reasons(following(each, ports=("http",))) == [("a", "10.0.0.1", "no such port")]
    assert following(each).problem() == 'the Service names no port: say which one with "port:"'


def test_a_service_without_endpoints_has_no_problem() -> None:
    empty = convert(endpoint_slice() | {"endpoints": None, "ports": None}, EndpointSlice)
    assert following(empty).problem() is None
    assert following().problem() is None


def test_a_service_that_is_not_there_is_a_problem() -> None:
    members = following()
    members.service_listed([])
    assert members.problem() == "there is no such Service"
    members.service_changed(a_service())
    assert members.problem() is None
    members.service_deleted(a_service())
    assert members.problem() == "there is no such Service"


def test_ports_of_another_protocol_do_not_count() -> None:
    each = endpoint_slice(endpoints=[at()], ports={"http": 8000, "quic": 8443})
    each["ports"][1]["protocol"] = "UDP"
    assert addresses(following(convert(each, EndpointSlice))) == ["10.0.0.1:8000"]


def test_the_zone_is_that_of_the_slice_until_the_node_is_known() -> None:
    members = following(a_slice(at(node="n1", zone="z1")), node_labels=[ZONE])
    assert members.members()[0].labels == {ZONE: "z1"}
    assert members.node_listed([convert(node("n1", labels={ZONE: "z2"}), Node)]) is True
    assert members.members()[0].labels == {ZONE: "z2"}
    members.pod_listed([a_pod(labels={ZONE: "z3"})])
    assert members.members()[0].labels == {ZONE: "z3"}
    assert following(a_slice(at(zone="z1")), node_labels=["gpu"]).members()[0].labels == {}
