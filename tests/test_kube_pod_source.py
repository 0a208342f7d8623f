"""An InferencePool stands for pods, in each of its versions."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from kube_objects import inference_pool
from msgspec import convert

from extproc.kube.objects import InferencePoolV1, InferencePoolV1Alpha1, InferencePoolV1Alpha2
from extproc.kube.pod_source import POOL_KINDS, PodSource, pool_source, preferred, selector_text

GUIDE = """
apiVersion: inference.networking.x-k8s.io/v1alpha1
kind: InferencePool
metadata:
  annotations:
    inference.networking.x-k8s.io/attach-to: |
      name: inference-gateway
      port: 8081
  name: reasoning-pool
spec:
  targetPortNumber: 8000
  selector:
    app: qwq-32b
"""


def v1(spec: Any) -> PodSource:
    return pool_source(convert({"metadata": {"name": "p"}, "spec": spec}, InferencePoolV1))


def alpha(spec: Any) -> PodSource:
    return pool_source(convert({"metadata": {"name": "p"}, "spec": spec}, InferencePoolV1Alpha2))


def test_the_pool_of_the_guide_selects_its_pods_without_an_endpoint_picker() -> None:
    pool = convert(yaml.safe_load(GUIDE), InferencePoolV1Alpha1)
    assert pool_source(pool) == PodSource({"app": "qwq-32b"}, (8000,))


@pytest.mark.parametrize("version", ["v1", "v1alpha2", "v1alpha1"])
def test_every_version_says_the_same(version: str) -> None:
    obj = inference_pool(version=version, selector={"app": "qwq"}, ports=[8000])
    group, _, _ = obj["apiVersion"].partition("/")
    pool = convert(obj, POOL_KINDS[group, version])
    assert pool_source(pool) == PodSource({"app": "qwq"}, (8000,))


def test_v1_may_have_several_ports() -> None:
    ports = [{"number": 8001}, {"number": 8000}, {"number": 8001}]
    spec = {"selector": {"matchLabels": {"a": "b"}}, "targetPorts": ports}
    assert v1(spec) == PodSource({"a": "b"}, (8001, 8000))


@pytest.mark.parametrize(
    ("selector", "told"),
    [
        ({}, "its selector is empty, which selects nothing"),
        (None, "its selector is empty, which selects nothing"),
        ({"a": "x,b!=c"}, "its selector has a: 'x,b!=c', which is no label value"),
        ({"a in (b)": ""}, "its selector has 'a in (b)', which is no label name"),
        ({"a\n": ""}, "its selector has 'a\\n', which is no label name"),
    ],
)
def test_a_selector_that_would_mean_other_pods_selects_none(selector: Any, told: str) -> None:
    expected = PodSource({}, (), told)
    assert alpha({"selector": selector, "targetPortNumber": 8000}) == expected
    assert v1({"selector": {"matchLabels": selector}, "targetPorts": [{"number": 8000}]}) == expected


@pytest.mark.parametrize(
    ("number", "told"),
    [(None, "it has no target port"), (0, "its target port 0 is not one of 1..65535")],
)
def test_a_pool_without_a_port_selects_nothing(number: Any, told: str) -> None:
    assert alpha({"selector": {"a": "b"}, "targetPortNumber": number}) == PodSource({}, (), told)


def test_an_empty_pool_is_a_problem_and_no_error() -> None:
    assert v1(None).problem == alpha(None).problem == "its selector is empty, which selects nothing"


def test_of_one_pool_in_several_groups_the_newest_version_counts() -> None:
    pools = [convert({"metadata": {"name": "p"}}, kind) for kind in POOL_KINDS.values()]
    assert [type(pool).__name__ for pool in pools] == [
        "InferencePoolV1",
        "InferencePoolV1Alpha2",
        "InferencePoolV1Alpha1",
    ]
    assert preferred(reversed(pools)) is pools[0]
    assert preferred(reversed(pools[1:])) is pools[1]
    assert preferred(pools[2:]) is pools[2]
    assert preferred([]) is None


def test_a_selector_is_asked_for_in_one_order() -> None:
    assert selector_text({"app": "x"}) == "app=x"
    assert selector_text({"example.com/a": "1.2_3", "b": ""}) == "b=,example.com/a=1.2_3"
