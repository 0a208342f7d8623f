"""Traces and metrics to a collector: the variable and the way out of the network policy go together, wherever said."""

from __future__ import annotations

import itertools
import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubectl_program import HOW, kubectl
from manifest_runs import GUIDE, Object, objects, of_kind, printed, refused
from markdown_pages import PAGES, ROOT, page

from extproc.otlp import settings

URL = "http://otel-collector.observability:4317"
INLINE = ("-f", str(GUIDE), "--inline")
needs_kubectl = pytest.mark.skipif(kubectl() is None, reason=HOW)


def environment(made: list[Object]) -> dict[str, str]:
    """Of the router's container."""
    (container,) = of_kind(made, "Deployment")["spec"]["template"]["spec"]["containers"]
    return {each["name"]: each["value"] for each in container.get("env", [])}


def egress(made: list[Object]) -> list[Object]:
    rules: list[Object] = of_kind(made, "NetworkPolicy")["spec"]["egress"]
    return rules


def in_order(rules: list[Object]) -> list[Object]:
    """Which comes first means nothing to Kubernetes."""
    return sorted(rules, key=json.dumps)


def test_without_a_collector_there_is_no_variable_and_no_way_out() -> None:
    made = objects(*INLINE)
    assert environment(made) == {}
    pods: Any = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}},
        "podSelector": {"matchLabels": {"app": "qwq-32b"}},
    }
    assert egress(made) == [
        {"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]},
        {"ports": [{"port": 443, "protocol": "TCP"}, {"port": 6443, "protocol": "TCP"}]},
        {"to": [pods], "ports": [{"port": 8000, "protocol": "TCP"}]},
    ]


@pytest.mark.parametrize(
    ("url", "port"),
    [(URL, 4317), ("https://otlp.example.com:443/a/b", 443), ("http://[2001:db8::7]:4318", 4318)],
)
def test_with_one_the_router_knows_it_and_its_port_is_let_out(url: str, port: int) -> None:
    made = objects(*INLINE, "--otlp-endpoint", url)
    read = settings.read(None, environment(made))
    assert read is not None
    assert read == settings.read(url, {})
    rule = {"ports": [{"port": port, "protocol": "TCP"}]}
    assert in_order(egress(made)) == in_order([*egress(objects(*INLINE)), rule])


def test_each_way_out_says_what_it_is_for_and_what_to_change() -> None:
    lines = [line.strip() for line in printed(*INLINE, "--otlp-endpoint", URL).splitlines()]
    comments = {after: line for line, after in itertools.pairwise(lines) if line.startswith("# ")}
    assert comments["- ports: [{port: 443, protocol: TCP}, {port: 6443, protocol: TCP}]"] == (
        "# the API server, which no selector can name; if it listens on another port, put that here"
    )
    assert comments["- ports: [{port: 4317, protocol: TCP}]"] == (
        "# OTLP, to any address, as a URL names no pods; if its Service has another targetPort, put that here"
    )


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("collector:4317", "'collector:4317' is not a URL like http://collector:4317"),
        ("", "'' is not a URL like http://collector:4317"),
        ("http://u:p@collector:4317", "credentials belong into OTEL_EXPORTER_OTLP_HEADERS"),
        (
            "http://collector",
            "'http://collector' has no port, which the NetworkPolicy is to open; 4317 is usual for gRPC, 4318 for HTTP",
        ),
    ],
)
def test_what_is_no_url_of_a_collector_is_refused(url: str, message: str) -> None:
    assert refused(*INLINE, "--otlp-endpoint", url) == f"--otlp-endpoint: {message}"


def test_metrics_on_another_port_leave_the_pods_list_of_models_reachable() -> None:
    config = "pools: [{name: a, kubernetes: {selector: {app: x}, port: 8000}, metrics: {engine: triton, port: 8002}}]"
    *_, pods = egress(objects("-f", "-", "--gateway", "g", stdin=config))
    assert [each["port"] for each in pods["ports"]] == [8000, 8002]


# -- as the documents have it, with the real kubectl --------------------------------------------------------------


def run(*args: str, stdin: str | None = None) -> str:
    program = kubectl()
    assert program is not None
    done = subprocess.run(
        [program, *args], input=stdin, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def is_as_printed(made: list[Object]) -> None:
    whole = objects(*INLINE, "--otlp-endpoint", URL)
    assert environment(made) == environment(whole)
    assert in_order(egress(made)) == in_order(egress(whole))


@needs_kubectl
def test_the_commands_for_a_router_that_runs_already_do_the_same(tmp_path: Path) -> None:
    (block,) = [block for block in page("tracing").blocks if "kubectl patch networkpolicy" in block.text]
    made = []
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line)[1:]
        kind = "Deployment" if "set" in words else "NetworkPolicy"
        file = tmp_path / "object.yaml"
        file.write_text(yaml.safe_dump(of_kind(objects(*INLINE), kind)))
        names = {"deployment/extproc", "networkpolicy", "extproc"}
        kept = [word for word in words if word not in names]
        assert len(words) - len(kept) == (1 if kind == "Deployment" else 2)
        made.append(yaml.safe_load(run(*kept, "--local", "-f", str(file), "-o", "yaml")))
    is_as_printed(made)


@needs_kubectl
def test_the_patches_for_kustomize_do_the_same(tmp_path: Path) -> None:
    (block,) = [block for block in PAGES["k8s/README.md"].blocks if "patches:" in block.text]
    printed(*INLINE, "--output", str(tmp_path / "base"))
    (tmp_path / "mine").mkdir()
    text = block.text.replace("../envoy-gateway", "../base")
    assert text != block.text
    assert (ROOT / "k8s" / "envoy-gateway").is_dir()
    (tmp_path / "mine" / "kustomization.yaml").write_text(text)
    is_as_printed(list(yaml.safe_load_all(run("kustomize", str(tmp_path / "mine")))))


@needs_kubectl
def test_so_does_the_flag_on_top_of_a_directory_without_it(tmp_path: Path) -> None:
    base, mine = tmp_path / "base", tmp_path / "mine"
    printed(*INLINE, "--output", str(base))
    printed(*INLINE, "--otlp-endpoint", URL, "--base", str(base), "--output", str(mine))
    assert sorted(path.name for path in mine.iterdir()) == [
        "kustomization.yaml",
        "patch-deployment.yaml",
        "patch-networkpolicy.yaml",
    ]
    is_as_printed(list(yaml.safe_load_all(run("kustomize", str(mine)))))
