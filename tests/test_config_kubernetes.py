"""Pools whose endpoints a cluster tells: what the config may say, and what it gets for faults."""

from __future__ import annotations

import pytest

from extproc.config import parse_config
from extproc.config.schema import KubernetesConfig, ObjectiveConfig
from extproc.errors import ConfigError

NAME = "allowed: 1..253 lower case letters, digits, '.' and '-', with a letter or digit at both ends"
LABEL = "allowed: 1..63 lower case letters, digits and '-', with a letter or digit at both ends"
ONE = "give exactly one of inference_pool, service, selector"


def pool(source: str, rest: str = "") -> str:
    return f"pools: [{{name: a, kubernetes: {source}}}]\n{rest}"


def faults(text: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        parse_config(text.encode())
    return [str(fault) for fault in raised.value.faults]


@pytest.mark.parametrize(
    ("source", "means", "ports"),
    [
        ("{inference_pool: reasoning-pool}", KubernetesConfig(inference_pool="reasoning-pool"), ()),
        (
            "{service: vllm, namespace: llm, port: http}",
            KubernetesConfig(service="vllm", namespace="llm", port="http"),
            ("http",),
        ),
        (
            "{selector: {app: vllm, example.com/gpu: a10}, port: [8000, 8001], ip_family: IPv6}",
            KubernetesConfig(
                selector={"app": "vllm", "example.com/gpu": "a10"}, port=[8000, 8001], ip_family="IPv6"
            ),
            (8000, 8001),
        ),
        (
            "{inference_pool: p, node_labels: [topology.kubernetes.io/zone]}",
            KubernetesConfig(inference_pool="p", node_labels=["topology.kubernetes.io/zone"]),
            (),
        ),
    ],
)
def test_a_pool_is_discovered_by_an_inference_pool_a_service_or_a_selector(
    source: str, means: KubernetesConfig, ports: tuple[int | str, ...]
) -> None:
    config = parse_config(pool(source).encode())
    assert config.pools[0].kubernetes == means
    assert means.ports == ports
    assert config.pools[0].members() == []


def test_objectives_are_priorities_by_name_of_one_pool_or_of_all() -> None:
    config = parse_config(
        pool(
            "{service: v}", "objectives: [{name: batch, priority: -10}, {name: batch, pool: a, priority: 5}]"
        ).encode()
    )
    assert config.objectives == [ObjectiveConfig("batch", -10), ObjectiveConfig("batch", 5, "a")]


@pytest.mark.parametrize(
    "row",
    [
        ("pools: [{name: a}]", "$.pools[0].endpoints: missing; give either endpoints or kubernetes"),
        (
            "pools: [{name: a, endpoints: [], kubernetes: {service: v}}]",
            "$.pools[0].kubernetes: give either endpoints or kubernetes, not both",
        ),
        (pool("{}"), f"$.pools[0].kubernetes: nothing to discover by; {ONE}"),
        (
            pool("{service: v, inference_pool: p}"),
            f"$.pools[0].kubernetes: inference_pool, service exclude each other; {ONE}",
        ),
        (
            pool("{inference_pool: A_b}"),
            f"$.pools[0].kubernetes.inference_pool: 'A_b' is no name in Kubernetes; {NAME}",
        ),
        (pool("{service: a.b}"), f"$.pools[0].kubernetes.service: 'a.b' is no name in Kubernetes; {LABEL}"),
        (
            pool("{service: v, namespace: ''}"),
            f"$.pools[0].kubernetes.namespace: '' is no name in Kubernetes; {LABEL}",
        ),
        (
            pool("{selector: {}, port: 1}"),
            "$.pools[0].kubernetes.selector: empty; it would select every pod of the namespace, "
            "name at least one label",
        ),
        (
            pool("{selector: {app: a}}"),
            "$.pools[0].kubernetes.port: missing; a selector needs the pods' port",
        ),
        (
            pool("{selector: {'a/b/c': x, app: 'x y'}, port: 1}"),
            "$.pools[0].kubernetes.selector: 'a/b/c' is no label key; expected [prefix/]name, "
            "the name of 1..63 characters",
            "$.pools[0].kubernetes.selector.app: 'x y' is no label value of at most 63 letters, digits, '-_.'",
        ),
        (
            pool("{service: v, port: [80, 80]}"),
            "$.pools[0].kubernetes.port: a port stands twice",
        ),
        (
            pool("{service: v, port: []}"),
            "$.pools[0].kubernetes.port: empty; leave it out, or name at least one port",
        ),
        (
            pool("{service: v, port: [1, 2, 3, 4, 5, 6, 7, 8, 9]}"),
            "$.pools[0].kubernetes.port: 9 ports; at most 8 are allowed",
        ),
        (
            pool("{service: v, port: 65536}"),
            "$.pools[0].kubernetes.port: 65536 is no port; allowed: 1..65535",
        ),
        (
            pool("{service: v, port: '8000'}"),
            "$.pools[0].kubernetes.port: '8000' is no port's name; allowed: 1..15 lower case letters, digits, '-'",
        ),
        (
            pool("{service: v, node_labels: ['-']}"),
            "$.pools[0].kubernetes.node_labels[0]: '-' is no label key; expected [prefix/]name, "
            "the name of 1..63 characters",
        ),
        (
            pool("{service: v, ip_family: ipv4}"),
            "$.pools[0].kubernetes.ip_family: expected one of IPv4, IPv6 or nothing, got 'ipv4'",
        ),
        (
            pool(
                "{service: v}",
                "objectives: [{name: x, priority: 1}, {name: x, priority: 2}, {name: '', priority: 0}]",
            ),
            "$.objectives[2].name: expected a name of 1..253 characters, got ''",
        ),
        (
            pool(
                "{service: v}",
                "objectives: [{name: x, priority: 1}, {name: x, priority: 2}, {name: y, pool: b, priority: 0}]",
            ),
            "$.objectives[1].name: 'x' is there already, at $.objectives[0]",
            "$.objectives[2].pool: 'b' is not defined; defined: a",
        ),
        (
            "pools: [{name: a, endpoints: []}, {name: b, endpoints: []}]\nmodels: [{name: '*', pool: a}]",
            "$.models[0].pool: never reached: models that are not listed are refused, as there is no default_pool",
        ),
        (
            "pools: [{name: a, endpoints: []}, {name: b, endpoints: []}]\nmodels: [{name: '*', pool: a}]\n"
            "default_pool: b",
            "$.models[0].pool: never reached: models that are not listed go to b",
        ),
    ],
)
def test_a_fault_says_where_what_and_what_is_allowed(row: tuple[str, ...]) -> None:
    assert faults(row[0]) == list(row[1:])
