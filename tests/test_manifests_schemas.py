"""Every object that `extproc manifests` prints would be stored by an API server: schemas and CEL rules."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
from crd_validation import cel_rules, errors, has_schema
from manifest_runs import GUIDE, Object, objects, of_kind

WITHOUT_SCHEMA = {
    "ServiceMonitor": "of the Prometheus operator; asserted as a whole in test_manifests",
    "DestinationRule": "of Istio; asserted as a whole in test_manifests_picker",
}
RICH = """
pools:
- name: chat
  kubernetes: {selector: {app: chat}, port: [http, 8001], namespace: models, ip_family: IPv6, node_labels: [zone]}
  fallback_endpoints: 1
  queue: {timeout_s: 30}
- name: Code_1
  kubernetes: {service: coder}
models:
- {name: a, pool: chat, mirrors: [{name: shadow, percent: 5, service: "chat-v2:8001"}]}
trusted_headers: [x-llm-d-inference-objective]
"""
WAYS: dict[str, tuple[str, ...]] = {
    "the guide": ("-f", str(GUIDE)),
    "inline": ("-f", str(GUIDE), "--inline", "--with-gateway", "--service-monitor"),
    "another namespace": ("-f", str(GUIDE), "--gateway", "edge/g", "--namespace", "llm", "--with-gateway"),
    "by name": ("vllm", "--gateway", "g", "--path-prefix", "/v1", "--path-prefix", "/openai"),
    "twenty pools": (*(f"p{index}" for index in range(20)), "--gateway", "g"),
    "a rich config": ("-f", "-", "--gateway", "g"),
    "ai-gateway": ("-f", str(GUIDE), "--for", "ai-gateway", "--with-gateway"),
    "istio": ("-f", str(GUIDE), "--for", "istio"),
}


@pytest.mark.parametrize("way", WAYS)
def test_an_api_server_would_take_every_object(way: str) -> None:
    made = objects(*WAYS[way], stdin=RICH)
    assert [error for each in made if has_schema(each) for error in errors(each)] == []
    assert {each["kind"] for each in made if not has_schema(each)} <= set(WITHOUT_SCHEMA)


def test_every_rule_is_evaluated() -> None:
    before = cel_rules().evaluated
    made = [each for args in WAYS.values() for each in objects(*args, stdin=RICH) if has_schema(each)]
    assert [error for each in made for error in errors(each)] == []
    assert cel_rules().not_evaluated == set()
    assert cel_rules().evaluated - before > 500


def _processor(made: list[Object]) -> Object:
    processor: Object = of_kind(made, "EnvoyExtensionPolicy")["spec"]["extProc"][0]
    return processor


def _unknown_field(made: list[Object]) -> None:
    of_kind(made, "BackendTrafficPolicy")["spec"]["timeout"]["http"]["requestTimeOut"] = "0s"


def _unknown_core_field(made: list[Object]) -> None:
    of_kind(made, "Deployment")["spec"]["template"]["spec"]["terminationGracePeriod"] = 1


def _enum(made: list[Object]) -> None:
    _processor(made)["processingMode"]["request"]["body"] = "buffered"


def _pattern(made: list[Object]) -> None:
    _processor(made)["messageTimeout"] = "10 seconds"


def _attribute(made: list[Object]) -> None:
    _processor(made)["processingMode"]["response"]["attributes"].append("xds.cluster_name")


def _range(made: list[Object]) -> None:
    of_kind(made, "HTTPRoute")["spec"]["rules"][1]["backendRefs"][0]["port"] = 65536


def _missing(made: list[Object]) -> None:
    del of_kind(made, "BackendTrafficPolicy")["spec"]["loadBalancer"]["type"]


def _type(made: list[Object]) -> None:
    of_kind(made, "NetworkPolicy")["spec"]["ingress"][0]["ports"][0]["port"] = 9002.5


def _rule(made: list[Object]) -> None:
    _processor(made)["failOpen"] = True
    _processor(made)["processingMode"]["request"]["body"] = "FullDuplexStreamed"


def _twice(made: list[Object]) -> None:
    parents = of_kind(made, "HTTPRoute")["spec"]["parentRefs"]
    parents.append(copy.deepcopy(parents[0]))


@pytest.mark.parametrize(
    ("breaks", "found"),
    [
        (_unknown_field, ["BackendTrafficPolicy/extproc.spec.timeout.http: unknown field requestTimeOut"]),
        (
            _unknown_core_field,
            ["Deployment/extproc.spec.template.spec: unknown field terminationGracePeriod"],
        ),
        (
            _enum,
            [
                "EnvoyExtensionPolicy/extproc.spec.extProc[0].processingMode.request.body: 'buffered' is none of "
                "['Streamed', 'Buffered', 'BufferedPartial', 'FullDuplexStreamed']"
            ],
        ),
        (
            _pattern,
            [
                "EnvoyExtensionPolicy/extproc.spec.extProc[0].messageTimeout: '10 seconds' does not match "
                "^([0-9]{1,5}(h|m|s|ms)){1,4}$"
            ],
        ),
        (
            _attribute,
            [
                "EnvoyExtensionPolicy/extproc.spec.extProc[0].processingMode.response.attributes[2]: "
                r"'xds.cluster_name' does not match ^(connection\.|source\.|destination\.|request\.|response\.|"
                r"upstream\.|xds\.route_)[a-z_1-9]*$"
            ],
        ),
        (_range, ["HTTPRoute/extproc.spec.rules[1].backendRefs[0].port: 65536 is out of range"]),
        (_missing, ["BackendTrafficPolicy/extproc.spec.loadBalancer: type is missing"]),
        (
            _type,
            ["NetworkPolicy/extproc.spec.ingress[0].ports[0].port: 9002.5 is of no type that is allowed"],
        ),
        (
            _rule,
            [
                "EnvoyExtensionPolicy/extproc.spec.extProc[0]: If FullDuplexStreamed body processing mode is used, "
                "FailOpen must be false."
            ],
        ),
        (
            _twice,
            [
                "HTTPRoute/extproc.spec.parentRefs: sectionName or port must be unique when parentRefs includes 2 "
                "or more references to the same parent"
            ],
        ),
    ],
)
def test_a_broken_copy_is_caught(breaks: Callable[[list[Object]], None], found: list[str]) -> None:
    made = objects(*WAYS["the guide"])
    breaks(made)
    assert [error for each in made for error in errors(each)] == found
