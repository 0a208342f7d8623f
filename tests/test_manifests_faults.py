"""Input that `extproc manifests` cannot use: it says where, what, and what is allowed, exits 1, and prints nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from manifest_runs import GUIDE, notes, refused

from extproc.manifests.command import manifests

POOL = """
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata: {name: p, annotations: {inference.networking.x-k8s.io/attach-to: "name: g"}}
spec: {selector: {matchLabels: {app: p}}, targetPorts: [{number: 8000}]}
"""
STATIC = "pools: [{name: a, endpoints: ['10.0.0.1:8000']}]"
FOLLOWED = "pools: [{name: a, kubernetes: {inference_pool: a}}]"
SERVICE = "pools: [{name: a, kubernetes: {service: s}, fallback_endpoints: 2}]"
MIRROR = "pools: [{name: a, kubernetes: {service: s}}]\nmodels: "
NAMES = "allowed: 1..63 letters a-z, digits and '-', a letter first"
IN = ("-f", "-")
G = (*IN, "--gateway", "g")
TABLE: list[tuple[tuple[str, ...], str | None, str]] = [
    (("vllm",), None, "no gateway; give --gateway NAME, or an InferencePool with the attach-to annotation"),
    (
        ("--gateway", "g"),
        None,
        "no pool; name one, or give -f FILE with an InferencePool or a config of ours",
    ),
    (("a", "--gateway", "/g"), None, "--gateway '/g': allowed: NAME or NAMESPACE/NAME"),
    (
        ("a", "--gateway", "G_"),
        None,
        "--gateway: 'G_' is no name; allowed: letters a-z, digits, '-' and '.'",
    ),
    (("a", "--gateway", "g", "--name", "X"), None, f"--name: 'X' is no name; {NAMES}"),
    (("a", "--gateway", "g", "--namespace", "a.b"), None, f"--namespace: 'a.b' is no name; {NAMES}"),
    (
        ("a", "--gateway", "g", "--path-prefix", "v1"),
        None,
        "--path-prefix: 'v1' is no path that begins with '/'",
    ),
    (
        ("A", "--gateway", "g"),
        None,
        "POOL 'A': a Service's name has 1..63 letters a-z, digits and '-'",
    ),
    (
        ("a", "b", "--gateway", "g", "--service", "s:80"),
        None,
        "--service: say of which pool, as in a=NAME:PORT",
    ),
    (("a", "--gateway", "g", "--service", "b=s:80"), None, "--service: 'b' is no pool; pools: a"),
    (
        ("a", "--gateway", "g", "--service", "s:80", "--service", "t:80"),
        None,
        "--service: the pool stands twice",
    ),
    (("a", "--gateway", "g", "--inline"), None, "--inline goes with -f FILE of an InferencePool"),
    ((*IN,), "a: [", "-: $: not YAML: line 1, column 5: expected the node content, but found '<stream end>'"),
    (
        (*IN,),
        POOL.replace("number: 8000", "number: 0"),
        "-: document 1: $.spec.targetPorts: 0 is no port; allowed: 1..65535",
    ),
    (
        (*IN,),
        POOL.replace("k8s.io/v1", "k8s.io/v3"),
        "-: document 1: $.apiVersion: 'inference.networking.k8s.io/v3' of InferencePool is unknown; allowed: "
        "inference.networking.k8s.io/v1, inference.networking.x-k8s.io/v1alpha2, "
        "inference.networking.x-k8s.io/v1alpha1",
    ),
    (
        (*IN,),
        POOL.replace("name: g", "gateway: g"),
        "-: InferencePool p: $.metadata.annotations['inference.networking.x-k8s.io/attach-to'].gateway: "
        "unknown key; allowed: name, port\n"
        "-: InferencePool p: $.metadata.annotations['inference.networking.x-k8s.io/attach-to'].name: "
        "missing, it is required",
    ),
    (
        (*IN,),
        POOL + "---\n" + POOL.replace("name: p", "name: q").replace("name: g", "name: h"),
        "-: InferencePool p: g, port None; -: InferencePool q: h, port None; run once for each gateway and port",
    ),
    ((*G, "x"), SERVICE, "POOL x: the config names the pools; leave it out"),
    ((*G, "--inline"), SERVICE, "--inline goes with InferencePools; a config says its pools itself"),
    (
        G,
        STATIC,
        "$.pools[0].endpoints: static; Envoy learns a pod's address from its Service: say kubernetes: "
        "{service: NAME}, {selector: {...}, port: N} or {inference_pool: NAME} instead",
    ),
    (
        G,
        FOLLOWED,
        "$.pools[0].kubernetes.inference_pool: the pods of a are not known here; give its InferencePool with -f "
        "FILE, or --service NAME:PORT of a Service over them",
    ),
    (
        G,
        "pools: [{name: A.b, kubernetes: {selector: {app: x}, port: 80}}]",
        "$.pools[0].name: no Service can be called 'A.b' (1..63 letters a-z, digits and '-', not extproc); give "
        "--service NAME:PORT of one over its pods",
    ),
    (
        G,
        MIRROR + "[{name: m, pool: a, mirrors: [{name: s, percent: 1}]}]",
        "$.models[0].mirrors[0].service: missing; the route needs NAME:PORT of the mirror's Service",
    ),
    (
        G,
        SERVICE + "\nlimits: {max_body_bytes: 600000000}",
        "$.limits.max_body_bytes: 600000000; Envoy Gateway hands us a body in one message, of at most 535822336 "
        "bytes",
    ),
    (
        (*G, "--for", "ai-gateway"),
        "pools: [{name: a, kubernetes: {selector: {app: x}, port: 80}, fallback_endpoints: 1}]",
        "$.pools[0].fallback_endpoints: 1; this gateway takes one endpoint (ORIGINAL_DST) and answers 503 to a "
        "list: 0 is allowed",
    ),
    (
        ("a", "b", "--gateway", "g", "--for", "istio"),
        None,
        "an endpoint picker has one pool here; run once a pool, each with another --name",
    ),
    (
        ("a", "--gateway", "g", "--for", "istio"),
        None,
        "a: an InferencePool needs the labels of its pods; give -f FILE with an InferencePool, or a config with "
        "kubernetes: {selector: {...}, port: N}",
    ),
    (
        (*G, "--for", "istio"),
        "pools: [{name: a, kubernetes: {selector: {app: x}, port: 80, namespace: b}}]",
        "--namespace default: an endpoint picker lives with its pool: b",
    ),
    (
        (*G, "--for", "istio"),
        "pools: [{name: a, kubernetes: {selector: {app: x}, port: http}}]",
        "a: an InferencePool's ports are numbers, got ['http']",
    ),
    (G, "pools: []", "-: $.pools: expected a list of at least 1, got an empty list"),
]


@pytest.mark.parametrize(("args", "stdin", "message"), TABLE, ids=[row[2][:60] for row in TABLE])
def test_a_fault_gets_a_line_that_says_where_what_and_what_is_allowed(
    args: tuple[str, ...], stdin: str | None, message: str
) -> None:
    assert refused(*args, stdin=stdin) == message


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    name = str(tmp_path / "none.yaml")
    assert refused("-f", name) == f"{name}: cannot be read: No such file or directory"


def test_two_configs_are_one_too_many(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(SERVICE)
    (tmp_path / "b.yaml").write_text(SERVICE)
    names = [str(tmp_path / name) for name in ("a.yaml", "b.yaml")]
    assert refused("-f", names[0], "-f", names[1]) == f"{names[1]}: a second config; one is allowed"


@pytest.mark.parametrize("value", ["s", "s:0", "s:65536", "S:80", "=s:80", "a=s"])
def test_a_service_is_a_name_and_a_port(value: str) -> None:
    result = CliRunner().invoke(manifests, ["a", "--gateway", "g", "--service", value])
    assert result.exit_code == 2
    assert f"{value!r} is not [POOL=]NAME:PORT, with a Service's name and a port of 1..65535" in result.stderr


def test_what_is_left_to_do_is_said_beside_the_objects() -> None:
    assert notes("-f", str(GUIDE)) == [
        "note: pods and models of reasoning-pool are read from its InferencePool and InferenceModels in the "
        "cluster: apply those too, or take them into the config with --inline",
        "note: Gateway default/inference-gateway must refer to the EnvoyProxy extproc; see the comment above it",
    ]


def test_a_config_without_fallbacks_is_noted() -> None:
    config = "pools: [{name: a, kubernetes: {service: s}}]"
    assert notes(*G, "--with-gateway", stdin=config) == [
        "note: fallback_endpoints is 0 in every pool: no retries; 2 is right with Envoy Gateway"
    ]


def test_a_config_in_another_encoding_fits_into_no_config_map(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_bytes(SERVICE.encode("utf-16"))
    assert refused("-f", str(file), "--gateway", "g") == f"{file}: not UTF-8, as a ConfigMap's text must be"
