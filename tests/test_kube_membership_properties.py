"""However events come, members are those of the objects as they are now; and no object can break them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from random import Random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kube_objects import endpoint, endpoint_slice, inference_pool, node, pod, service
from msgspec import ValidationError, convert
from msgspec.structs import replace

from extproc.kube.membership import CORDON, ZONE, Membership
from extproc.kube.objects import EndpointSlice, InferencePoolV1, InferencePoolV1Alpha2, Node, Pod, Service
from extproc.kube.pod_members import PodMembers
from extproc.kube.pod_source import pool_source
from extproc.kube.slice_members import SliceMembers

NAMES, IPS, NODES = ["a", "b", "c"], ["10.0.0.1", "10.0.0.2", "fd00::1"], ["n1", "n2"]
PORTS: tuple[int | str, ...] = (8000, "http")
flags = st.booleans()
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""What is asked is what comes out, not how quickly on a machine that has other things to do."""


def a_pod(rng: Random) -> Pod:
    name = rng.choice(NAMES)
    made = pod(
        name,
        ips=rng.sample(IPS, rng.randrange(3)),
        labels={"v": rng.choice("12")},
        annotations={CORDON: ""} if rng.random() < 0.2 else None,
        ready=rng.random() < 0.8,
        terminating=rng.random() < 0.2,
        ports=rng.choice([{"http": 8000}, {"http": 8080}, {}]),
        node=rng.choice(NODES),
        uid=name + rng.choice("12"),
        created=rng.choice(["2026-05-04T09:00:00Z", "2026-05-04T09:00:01Z"]),
    )
    return convert(made, Pod)


def a_node(rng: Random) -> Node:
    made = node(rng.choice(NODES))
    made["metadata"]["labels"] = rng.choice([{}, {ZONE: "1"}, {ZONE: "2"}])
    return convert(made, Node)


def an_endpoint(rng: Random) -> dict[str, Any]:
    name = rng.choice(NAMES)
    made = endpoint(
        rng.choice(IPS),
        name,
        ready=rng.random() < 0.8,
        terminating=rng.random() < 0.2,
        node=rng.choice(NODES),
        zone=rng.choice([None, "1"]),
        uid=name + rng.choice("12"),
    )
    return made if rng.random() < 0.8 else {key: value for key, value in made.items() if key != "targetRef"}


def a_slice(rng: Random) -> EndpointSlice:
    made = endpoint_slice(
        rng.choice(["s1", "s2", "s3"]),
        endpoints=[an_endpoint(rng) for _ in range(rng.randrange(4))],
        ports=rng.choice([{"http": 8000}, {"http": 8000}, {"http": 8080}, {"http": 1, "metrics": 9090}, {}]),
        address_type=rng.choice(["IPv4", "IPv4", "IPv4", "IPv6", "FQDN"]),
    )
    return convert(made, EndpointSlice)


def some(make: Callable[[Random], Any], count: int) -> Any:
    """One of *count* objects; they are made once, since that is what would take the time."""
    rng = Random(count)
    return st.sampled_from([make(rng) for _ in range(count)])


PODS, NODE_STATES, SLICES = some(a_pod, 300), some(a_node, 20), some(a_slice, 300)


class Cluster:
    """The objects of one kind as events made them."""

    def __init__(self, listed: Callable[[Any], bool], changed: Any, deleted: Any) -> None:
        self.objects: dict[str, Any] = {}
        self._tell = {"list": listed, "change": changed, "delete": deleted}

    def play(self, action: str, objects: list[Any]) -> bool:
        """Has a membership told of it; answers what that said."""
        if action == "list":
            self.objects = {each.metadata.key: each for each in objects}
            return self._tell["list"](list(self.objects.values()))
        each = objects[0]
        if action == "change":
            self.objects[each.metadata.key] = each
        else:
            each = self.objects.pop(each.metadata.key, each)
        return self._tell[action](each)


def events(kinds: dict[str, Any]) -> Any:
    """(kind, action, objects), several times."""

    def of(kind: str) -> Any:
        count = st.lists(kinds[kind], min_size=1, max_size=3)
        return st.tuples(
            st.just(kind), st.sampled_from(["list", "change", "change", "change", "delete"]), count
        )

    return st.lists(st.one_of([of(kind) for kind in kinds]), max_size=12)


def pod_clusters(members: PodMembers) -> dict[str, Cluster]:
    return {
        "pods": Cluster(members.listed, members.changed, members.deleted),
        "nodes": Cluster(members.node_listed, members.node_changed, members.node_deleted),
    }


def slice_clusters(members: SliceMembers) -> dict[str, Cluster]:
    return {
        "slices": Cluster(members.listed, members.changed, members.deleted),
        "pods": Cluster(members.pod_listed, members.pod_changed, members.pod_deleted),
        "nodes": Cluster(members.node_listed, members.node_changed, members.node_deleted),
    }


def told(members: Membership) -> tuple[Any, ...]:
    return members.members(), members.excluded()


def kept(members: Any) -> list[Any]:
    """What is left in the collections inside, at any depth."""
    if isinstance(members, dict | list | set):
        return [members] if members else []
    parts = vars(members) if type(members).__module__.startswith("extproc.") else {}
    names = [name for name in parts if name not in ("_mode", "_ports")]
    return [found for name in names for found in kept(parts[name])]


def has_unique_addresses(members: Membership) -> bool:
    found = [member.address for member in members.members()]
    return len(found) == len(set(found))


POD_EVENTS = events({"pods": PODS, "nodes": NODE_STATES})
SLICE_EVENTS = events({"slices": SLICES, "nodes": NODE_STATES})
ALL_EVENTS = events({"slices": SLICES, "pods": PODS, "nodes": NODE_STATES})


def follow(members: Membership, clusters: dict[str, Cluster], played: Any) -> None:
    """Plays the events; each must answer whether members changed."""
    for kind, action, objects in played:
        before = members.members()
        changed = clusters[kind].play(action, objects)
        assert changed or members.members() == before
        assert has_unique_addresses(members)


@patient
@given(POD_EVENTS)
def test_pods_that_come_and_go_end_as_if_they_were_listed_now(played: Any) -> None:
    members, fresh = (PodMembers(PORTS, node_labels=[ZONE]) for _ in range(2))
    clusters = pod_clusters(members)
    follow(members, clusters, played)
    fresh.listed(clusters["pods"].objects.values())
    fresh.node_listed(clusters["nodes"].objects.values())
    assert told(members) == told(fresh)


@patient
@given(SLICE_EVENTS, st.sampled_from([(), ("http",), (8000,), ("http", 9090)]))
def test_slices_that_come_and_go_end_as_if_they_were_listed_now(played: Any, ports: Any) -> None:
    members, fresh = (SliceMembers(ports, node_labels=[ZONE]) for _ in range(2))
    clusters = slice_clusters(members)
    follow(members, clusters, played)
    fresh.node_listed(clusters["nodes"].objects.values())
    fresh.listed(clusters["slices"].objects.values())
    assert told(members) == told(fresh)
    assert members.problem() == fresh.problem()


def both_orders(objects: list[Pod]) -> Any:
    return st.tuples(st.just(objects), st.permutations(objects))


def caught_up(each: EndpointSlice, living: dict[str, Pod]) -> EndpointSlice:
    """The slice without the endpoints whose pod is no more."""
    uids = {pod.metadata.uid for pod in living.values()}
    left = [one for one in each.endpoints if one.target_ref is None or one.target_ref.uid in uids]
    return replace(each, endpoints=tuple(left))


@patient
@given(ALL_EVENTS)
def test_slices_and_pods_end_as_if_listed_now_once_the_slices_have_caught_up_with_the_pods(
    played: Any,
) -> None:
    members, fresh = (SliceMembers(("http",), node_labels=[ZONE]) for _ in range(2))
    clusters = slice_clusters(members)
    follow(members, clusters, played)
    living = clusters["pods"].objects
    for each in list(clusters["slices"].objects.values()):
        clusters["slices"].play("change", [caught_up(each, living)])
    fresh.listed(clusters["slices"].objects.values())
    fresh.pod_listed(living.values())
    fresh.node_listed(clusters["nodes"].objects.values())
    assert told(members) == told(fresh)


@patient
@given(st.lists(PODS, max_size=6, unique_by=lambda each: each.metadata.name).flatmap(both_orders))
def test_the_order_in_which_pods_are_told_of_does_not_matter(orders: tuple[list[Pod], list[Pod]]) -> None:
    first, second = PodMembers(PORTS), PodMembers(PORTS)
    for one, other in zip(*orders, strict=True):
        first.changed(one)
        second.changed(other)
    assert told(first) == told(second)


@patient
@given(POD_EVENTS)
def test_nothing_is_kept_of_pods_that_are_no_more(played: Any) -> None:
    members = PodMembers(PORTS, node_labels=[ZONE])
    clusters = pod_clusters(members)
    clusters["pods"].play("change", [convert(pod("a"), Pod)])
    assert len(kept(members)) > 2
    follow(members, clusters, played)
    for cluster in clusters.values():
        for each in list(cluster.objects.values()):
            cluster.play("delete", [each])
    members.members()
    assert kept(members) == []


@patient
@given(ALL_EVENTS)
def test_nothing_is_kept_of_slices_that_are_no_more(played: Any) -> None:
    members = SliceMembers(("http",), node_labels=[ZONE])
    clusters = slice_clusters(members)
    follow(members, clusters, played)
    for cluster in clusters.values():
        for each in list(cluster.objects.values()):
            cluster.play("delete", [each])
    members.members()
    assert kept(members) == []


def told_of(obj: dict[str, Any]) -> dict[str, Any]:
    """*obj* without what is only ballast, so that what happens to it happens where we look."""
    meta = {key: value for key, value in obj["metadata"].items() if key != "managedFields"}
    return obj | {"metadata": meta}


VALID = [
    (Pod, pod(ips=["10.0.0.1", "fd00::1"])),
    (EndpointSlice, endpoint_slice(endpoints=[endpoint(), endpoint("10.0.0.2", "vllm-1")])),
    (Service, service()),
    (Node, node()),
    (InferencePoolV1, inference_pool()),
    (InferencePoolV1Alpha2, inference_pool(version="v1alpha2")),
]
VALID = [(kind, told_of(obj)) for kind, obj in VALID]
texts = st.text("aA09.:/%,-_ =[]\n\0é🙂", max_size=40)
JSON = st.recursive(
    st.none() | flags | st.integers(-(2**70), 2**70) | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=4,
)
SCALARS = {
    str: texts,
    int: st.integers(-(2**40), 2**40),
    bool: flags | st.none(),
    list: st.just([]),
    dict: st.just({}),
}


def places(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything inside *value*."""
    found: list[tuple[Any, Any]] = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += [(value, key), *places(inner)]
    return found


def mutate(obj: Any, data: st.DataObject) -> Any:
    """*obj* with some of what is in it gone, null, another of its type, or anything."""
    obj = copy.deepcopy(obj)
    for _ in range(data.draw(st.integers(1, 6))):
        found = places(obj)
        if not found:
            break
        container, key = data.draw(st.sampled_from(found))
        how = data.draw(st.sampled_from(["drop", "null", "same type", "same type", "anything"]))
        if how == "drop":
            del container[key]
        elif how == "null":
            container[key] = None
        elif how == "same type":
            container[key] = data.draw(SCALARS.get(type(container[key]), st.none()))
        else:
            container[key] = data.draw(JSON)
    return obj


def tell(pod_members: PodMembers, slice_members: SliceMembers, each: Any) -> None:
    match each:
        case Pod():
            pod_members.changed(each)
            slice_members.pod_changed(each)
        case EndpointSlice():
            slice_members.changed(each)
        case Service():
            slice_members.service_changed(each)
        case Node():
            pod_members.node_changed(each)
            slice_members.node_changed(each)
        case _:
            source = pool_source(each)
            assert (source.problem is None) is bool(source.selector and source.ports)


@patient
@given(st.data())
def test_no_object_that_can_be_read_breaks_anything(data: st.DataObject) -> None:
    ports = data.draw(st.sampled_from([(), (8000,), ("http", 8000)]))
    pod_members, slice_members = PodMembers(ports, None, [ZONE]), SliceMembers(ports, None, [ZONE])
    for kind, valid in VALID:
        tell(pod_members, slice_members, convert(valid, kind))
    for _ in range(4):
        kind, valid = data.draw(st.sampled_from(VALID))
        try:
            each = convert(mutate(valid, data), kind)
        except ValidationError:
            continue
        tell(pod_members, slice_members, each)
        for members in (pod_members, slice_members):
            assert has_unique_addresses(members)
            assert all(excluded.reason for excluded in members.excluded())
            members.problem()
