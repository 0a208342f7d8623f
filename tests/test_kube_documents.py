"""Kubernetes YAML as it stands is a config: the guide's own, and what else an operator may have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc import strict_yaml
from extproc.config.schema import (
    Config,
    Criticality,
    KubernetesConfig,
    ModelConfig,
    ObjectiveConfig,
    PoolConfig,
    TargetConfig,
)
from extproc.errors import ConfigError
from extproc.kube.documents import AttachTo, attach_to, is_documents, read_documents
from extproc.kube.model_objects import X_GROUP
from extproc.kube.objects import InferencePoolV1Alpha1, ObjectMeta

GUIDE = Path(__file__).parent / "data" / "guide"
GUIDES_CONFIG = Config(
    [PoolConfig("reasoning-pool", kubernetes=KubernetesConfig(selector={"app": "qwq-32b"}, port=8000))],
    [
        ModelConfig(
            "qwq", "reasoning-pool", criticality=Criticality.CRITICAL, targets=[TargetConfig("qwq-32b", 100)]
        )
    ],
)
POOL = """
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata: {name: p, namespace: ns}
spec: {selector: {matchLabels: {app: vllm}}, targetPorts: [{number: 8000}]}
"""
MODEL = """
apiVersion: inference.networking.x-k8s.io/v1alpha2
kind: InferenceModel
metadata: {name: m, namespace: ns}
spec: {modelName: qwq, poolRef: {name: p}}
"""


def read(*documents: str) -> Config:
    return read_documents(strict_yaml.parse_all("\n---\n".join(documents).encode()))


def faults(*documents: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(*documents)
    return [str(fault) for fault in caught.value.faults]


def guide(*names: str) -> list[str]:
    return [(GUIDE / f"{name}.yaml").read_text() for name in names]


def test_the_guides_yaml_works_as_it_stands() -> None:
    whole = guide("deployment", "gateway", "inference-pool", "inference-model")
    assert is_documents(strict_yaml.parse_all("\n---\n".join(whole).encode()))
    assert read(*whole) == GUIDES_CONFIG
    assert read(*guide("inference-model", "inference-pool")) == GUIDES_CONFIG


def test_the_guides_pool_says_where_it_is_attached() -> None:
    (value,) = strict_yaml.parse_all(guide("inference-pool")[0].encode())
    assert attach_to(msgspec.convert(value, InferencePoolV1Alpha1)) == AttachTo("inference-gateway", 8081)


@pytest.mark.parametrize(
    ("version", "spec"),
    [
        ("inference.networking.k8s.io/v1", "{selector: {matchLabels: {a: b}}, targetPorts: [{number: 80}]}"),
        ("inference.networking.x-k8s.io/v1alpha2", "{selector: {a: b}, targetPortNumber: 80}"),
        ("inference.networking.x-k8s.io/v1alpha1", "{selector: {a: b}, targetPortNumber: 80}"),
    ],
)
def test_an_inference_pool_of_any_version_is_a_pool(version: str, spec: str) -> None:
    text = f"apiVersion: {version}\nkind: InferencePool\nmetadata: {{name: p, namespace: ns}}\nspec: {spec}"
    source = KubernetesConfig(selector={"a": "b"}, port=80, namespace="ns")
    assert read(text).pools == [PoolConfig("p", kubernetes=source)]


def test_several_target_ports_are_a_list() -> None:
    (pool,) = read(POOL.replace("[{number: 8000}]", "[{number: 1}, {number: 2}]")).pools
    assert pool.kubernetes is not None
    assert pool.kubernetes.port == [1, 2]


def test_rewrites_and_objectives_are_taken_too() -> None:
    rewrite = (
        "{apiVersion: llm-d.ai/v1alpha2, kind: InferenceModelRewrite, metadata: {name: r, namespace: ns}, "
        "spec: {poolRef: {name: p}, rules: [{targets: [{modelRewrite: base}]}]}}"
    )
    objective = (
        "{apiVersion: llm-d.ai/v1alpha2, kind: InferenceObjective, metadata: {name: o, namespace: ns}, "
        "spec: {poolRef: {name: p}, priority: 3}}"
    )
    made = read(POOL, rewrite, objective)
    assert made.models == [ModelConfig("*", "p", targets=[TargetConfig("base")])]
    assert made.objectives == [ObjectiveConfig("o", 3, "p")]


def test_what_kubectl_prints_is_read_empty_documents_lists_and_times_included() -> None:
    items = "".join("- " + text.strip().replace("\n", "\n  ") + "\n" for text in (POOL, MODEL))
    listed = "apiVersion: v1\nkind: List\nitems:\n" + items
    timed = listed.replace("{name: m,", "{creationTimestamp: 2025-03-01T00:00:00Z, name: m,")
    assert read("", timed, "# nothing", "") == read(POOL, MODEL)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (POOL, True),
        ("pools: []", False),
        ("pools: []\nkind: x", False),
        ("", False),
        ("[]", False),
        ("pools: []\n---" + POOL, True),
    ],
)
def test_kubernetes_documents_are_told_from_a_config(text: str, expected: bool) -> None:
    assert is_documents(strict_yaml.parse_all(text.encode())) is expected


FAULTY: list[tuple[tuple[str, ...], list[str]]] = [
    ((MODEL,), ["$: no InferencePool among the documents"]),
    ((POOL, "pools: []"), ["document 2: no Kubernetes object: it needs apiVersion and kind"]),
    (("- x", POOL), ["document 1: no Kubernetes object: it needs apiVersion and kind"]),
    (
        (POOL.replace("io/v1", "io/v9"),),
        [
            "document 1: $.apiVersion: 'inference.networking.k8s.io/v9' of InferencePool is unknown; allowed: "
            "inference.networking.k8s.io/v1, inference.networking.x-k8s.io/v1alpha2, "
            "inference.networking.x-k8s.io/v1alpha1"
        ],
    ),
    (
        (POOL.replace("8000", "'8000'"),),
        ["document 1: $.spec.targetPorts[0].number: Expected int, got str"],
    ),
    (
        (POOL.replace("{name: p, namespace: ns}", "{}"),),
        ["document 1: $.metadata: Object missing required field name"],
    ),
    (
        ("{apiVersion: v1, kind: Pod}", POOL.replace("8000", "70000")),
        ["document 2: $.spec.targetPorts: 70000 is no port; allowed: 1..65535"],
    ),
    (
        (POOL.replace("app: vllm", ""),),
        [
            "document 1: $.spec.selector.matchLabels: empty; it would select every pod of the namespace, name at "
            "least one label"
        ],
    ),
    (
        (
            "{apiVersion: inference.networking.x-k8s.io/v1alpha1, kind: InferencePool, metadata: {name: p}, "
            "spec: {selector: {'a b': c}}}",
        ),
        [
            "document 1: $.spec.selector: 'a b' is no label key; expected [prefix/]name, the name of 1..63 characters",
            "document 1: $.spec.targetPortNumber: missing; a selector needs the pods' port",
        ],
    ),
    ((POOL, POOL), ["document 2: $.metadata.name: 'p' is there already, in document 1"]),
    (
        (POOL, POOL.replace("ns}", "other}")),
        ["document 2: $.metadata.name: 'p' is there already, at $.pools[0].name"],
    ),
    (
        (POOL, MODEL.replace("poolRef: {name: p}", "poolRef: {name: q}")),
        ["document 2: $.spec.poolRef: no InferencePool ns/q in these documents; there: ns/p"],
    ),
    (
        (POOL, MODEL.replace(", namespace: ns", "")),
        ["document 2: $.spec.poolRef: no InferencePool p in these documents; there: ns/p"],
    ),
    (
        (POOL, MODEL, MODEL.replace("name: m", "name: n")),
        ["document 3: $.spec: model `qwq` is in use by InferenceModel ns/m (created: never stored)"],
    ),
    (
        (
            POOL,
            "{apiVersion: llm-d.ai/v1alpha2, kind: InferenceModelRewrite, metadata: {name: r, namespace: ns}, "
            "spec: {poolRef: {name: p}, rules: [{targets: [{modelRewrite: base}]}, {matches: []}]}}",
        ),
        ["document 2: $.spec.rules[1]: no targets; the rule is skipped"],
    ),
]


@pytest.mark.parametrize(("documents", "expected"), FAULTY, ids=range(len(FAULTY)))
def test_a_fault_names_the_document_the_path_and_what_is_wrong(
    documents: tuple[str, ...], expected: list[str]
) -> None:
    assert faults(*documents) == expected


def test_an_item_of_a_list_is_named_by_its_place() -> None:
    item = MODEL.strip().replace("qwq", "''").replace("\n", "\n  ")
    assert faults(POOL, "apiVersion: v1\nkind: List\nitems:\n- " + item) == [
        "document 2: $.items[0]: $.spec: modelName is missing"
    ]


def test_a_key_that_stands_twice_is_refused_in_every_document() -> None:
    with pytest.raises(ConfigError) as caught:
        strict_yaml.parse_all((POOL + "---\na: 1\na: 2").encode())
    assert str(caught.value) == "$: not YAML: line 8, column 1: key 'a' stands twice"


PATH = "$.metadata.annotations['inference.networking.x-k8s.io/attach-to']"


def attached(text: str | None) -> AttachTo | None:
    annotations = {} if text is None else {f"{X_GROUP}/attach-to": text}
    return attach_to(InferencePoolV1Alpha1(ObjectMeta("p", annotations=annotations)))


def test_without_the_annotation_a_pool_is_attached_nowhere() -> None:
    assert attached(None) is None


def test_without_a_port_it_is_attached_to_all_listeners() -> None:
    assert attached("name: gw") == AttachTo("gw", None)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", f"{PATH}: expected a mapping, got nothing"),
        ("gw", f"{PATH}: expected a mapping, got 'gw'"),
        ("port: 1", f"{PATH}.name: missing, it is required"),
        ("name: Gate way", f"{PATH}.name: expected the name of a Gateway, got 'Gate way'"),
        ("name: gw\nport: '81'", f"{PATH}.port: expected an integer from 1 up to 65535 or nothing, got '81'"),
        ("name: gw\nport: 0", f"{PATH}.port: expected an integer from 1 up to 65535 or nothing, got 0"),
        ("name: gw\nports: 1", f"{PATH}.ports: unknown key (did you mean 'port'?); allowed: name, port"),
        ("name: a\nname: b", f"{PATH}: not YAML: line 2, column 1: key 'name' stands twice"),
        (
            "[" * 9999,
            f"{PATH}: not YAML: line 1, column 65: nested too deeply; a config needs less than ten levels",
        ),
    ],
)
def test_an_annotation_that_cannot_be_understood_is_a_fault(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        attached(text)
    assert [str(fault) for fault in caught.value.faults] == [told]


WORDS = st.sampled_from(
    [
        "apiVersion",
        "kind",
        "metadata",
        "spec",
        "name",
        "items",
        "selector",
        "matchLabels",
        "targetPorts",
        "number",
    ]
)
HEADS = st.sampled_from(
    [
        {"apiVersion": "v1", "kind": "List"},
        {"apiVersion": "inference.networking.k8s.io/v1", "kind": "InferencePool"},
        {"apiVersion": "inference.networking.x-k8s.io/v1alpha1", "kind": "InferencePool"},
        {"apiVersion": "llm-d.ai/v1alpha2", "kind": "InferenceModelRewrite"},
    ]
)
LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["p", "ns"])
VALUES: st.SearchStrategy[Any] = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(WORDS | st.text(max_size=2), inner, max_size=4)
        | st.builds(lambda head, rest: {**rest, **head}, HEADS, st.dictionaries(WORDS, inner, max_size=4))
    ),
)


@given(st.lists(VALUES, max_size=4))
def test_whatever_the_documents_hold_the_answer_is_a_config_or_faults(documents: list[Any]) -> None:
    try:
        found: list[Any] = list(read_documents(documents).pools)
    except ConfigError as error:
        found = list(error.faults)
    assert found != []
