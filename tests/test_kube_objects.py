"""Objects of the API are read leniently: what we do not need, or what is null, spoils nothing."""

from __future__ import annotations

from typing import Any

import pytest
from kube_objects import endpoint, endpoint_slice, inference_pool, node, pod, service
from msgspec import Struct, ValidationError, convert, json

from extproc.kube.objects import (
    Container,
    ContainerPort,
    EndpointConditions,
    EndpointSlice,
    InferencePoolV1,
    Node,
    ObjectMeta,
    ObjectReference,
    Pod,
    PodCondition,
    PodIP,
    Service,
    SliceEndpoint,
    SlicePort,
)


def decoded(obj: dict[str, Any], kind: type[Struct]) -> Any:
    return json.decode(json.encode(obj), type=kind)


def test_a_pod_as_a_cluster_shows_it_is_read_with_what_we_need_of_it() -> None:
    read = decoded(pod("vllm-0", ips=["10.0.0.1", "fd00::1"], uid="u0", annotations={"a": "b"}), Pod)
    assert (read.metadata.key, read.metadata.uid) == ("llm/vllm-0", "u0")
    assert (read.metadata.labels["app"], read.metadata.annotations) == ("vllm", {"a": "b"})
    assert read.spec.node_name == "node-a"
    assert read.spec.containers == (Container(ports=(ContainerPort(8000, "http", "TCP"),)),)
    assert (read.status.phase, read.status.pod_ip) == ("Running", "10.0.0.1")
    assert read.status.pod_ips == (PodIP("10.0.0.1"), PodIP("fd00::1"))
    assert PodCondition("Ready", "True") in read.status.conditions


def test_an_endpoint_slice_is_read_with_its_endpoints_and_ports() -> None:
    read = decoded(endpoint_slice(endpoints=[endpoint("10.0.0.1", "vllm-0", uid="u0")]), EndpointSlice)
    assert read.endpoints == (
        SliceEndpoint(
            addresses=("10.0.0.1",),
            conditions=EndpointConditions(ready=True, serving=True, terminating=False),
            node_name="node-a",
            zone="eu-central-1a",
            target_ref=ObjectReference("Pod", "llm", "vllm-0", "u0"),
        ),
    )
    assert read.ports == (SlicePort(8000, "http", "TCP"),)


def test_a_service_and_a_node_are_read() -> None:
    read = decoded(service(families=("IPv6", "IPv4")), Service)
    assert (read.spec.selector, read.spec.ip_families) == ({"app": "vllm"}, ("IPv6", "IPv4"))
    assert decoded(node("node-a", labels={"tier": "gold"}), Node).metadata.labels["tier"] == "gold"


def test_null_counts_as_absent_wherever_a_field_is_optional() -> None:
    absent = {"metadata": {"name": "a"}}
    null_meta = dict.fromkeys(
        ("namespace", "uid", "labels", "annotations", "creationTimestamp", "deletionTimestamp")
    )
    null = {"metadata": {"name": "a", **null_meta}, "spec": None, "status": None}
    assert decoded(null, Pod) == decoded(absent, Pod)
    lists: dict[str, Any] = {"addressType": "IPv4", "endpoints": None, "ports": None}
    assert decoded(absent | lists, EndpointSlice) == EndpointSlice(ObjectMeta("a"), "IPv4")
    fields = dict.fromkeys(("addresses", "conditions", "nodeName", "zone", "targetRef", "hostname"))
    assert decoded(fields, SliceEndpoint) == SliceEndpoint()


def test_null_gives_every_object_a_value_of_its_own() -> None:
    first, second = (convert({"name": "a", "labels": None}, ObjectMeta) for _ in range(2))
    assert first.labels == second.labels == {}
    assert first.labels is not second.labels


def test_a_field_that_we_do_not_read_may_be_anything() -> None:
    pool = inference_pool(version="v1")
    pool["spec"] |= {"endpointPickerRef": 5, "appProtocol": ["?"]}
    assert decoded(pool, InferencePoolV1).spec.target_ports[0].number == 8000


@pytest.mark.parametrize(
    ("obj", "told"),
    [
        ({"metadata": {}}, "Object missing required field `name` - at `$.metadata`"),
        (
            {"metadata": {"name": "a", "labels": {"n": 1}}},
            "Expected `str`, got `int` - at `$.metadata.labels[...]`",
        ),
        (
            {"metadata": {"name": "a"}, "spec": {"containers": {}}},
            "Expected `array | null`, got `object` - at `$.spec.containers`",
        ),
    ],
)
def test_a_field_of_a_wrong_type_is_an_error_that_says_where(obj: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError) as caught:
        decoded(obj, Pod)
    assert str(caught.value) == told
