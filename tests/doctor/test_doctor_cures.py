"""Every line that cures is one that Envoy or Envoy Gateway takes."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from doctor_cases import Trap
from doctor_pages import Pages
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import FilterConfig, Route
from envoy.extensions.filters.http.ext_proc.v3.ext_proc_pb2 import ExternalProcessor
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.extensions.http.early_header_mutation.header_mutation.v3.header_mutation_pb2 import HeaderMutation
from envoy.extensions.load_balancing_policies.override_host.v3.override_host_pb2 import OverrideHost
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions
from google.protobuf.json_format import ParseDict
from test_doctor_bodies import CASES as BODIES

from extproc.config import schema
from extproc.doctor.checks import CHECKS
from extproc.doctor.finding import Cure, Line

CRDS = Path(__file__).parents[1] / "data" / "crds"
MESSAGES = {
    message.DESCRIPTOR.name: message
    for message in (
        Listener,
        HttpConnectionManager,
        Route,
        Cluster,
        ExternalProcessor,
        HttpProtocolOptions,
        OverrideHost,
        FilterConfig,
        HeaderMutation,
    )
}


def _found_cures() -> list[Cure]:
    """Those that a check makes up as it goes."""
    cures = []
    for trap in (case for case in BODIES if isinstance(case, Trap)):
        pages = Pages()
        trap.spoil(pages)
        check = next(check for check in CHECKS if check.id == trap.id)
        cures += [found.cure for found in check.look(pages.setup()) if found.cure]
    return cures


CURES = [check.cure for check in CHECKS] + _found_cures()
GATEWAY = sorted({line for cure in CURES for line in cure.gateway}, key=repr)
ENVOY = sorted({line for cure in CURES for line in cure.envoy}, key=repr)
ROUTER = sorted({line for cure in CURES for line in cure.router}, key=repr)


def document(line: Line) -> Any:
    """What the line says as a whole document."""
    node: Any = yaml.safe_load(line.value)
    for key in reversed(line.path.split(".")):
        node = {key.removesuffix("[]"): [node] if key.endswith("[]") else node}
    return node


@pytest.mark.parametrize("line", ENVOY, ids=lambda line: f"{line.kind} {line.path}")
def test_envoy_knows_the_line(line: Line) -> None:
    ParseDict(document(line), MESSAGES[line.kind]())


@pytest.mark.parametrize("line", GATEWAY, ids=lambda line: f"{line.kind} {line.path}")
def test_the_manifests_schema_knows_the_line(line: Line) -> None:
    assert _faults(document(line), _schemas()[line.kind], "") == []


@pytest.mark.parametrize("line", ROUTER, ids=lambda line: line.path)
def test_the_routers_config_knows_the_line(line: Line) -> None:
    assert line.kind == "config"
    kinds = [kind for kind in vars(schema).values() if hasattr(kind, "__struct_fields__")]
    names = {field for kind in kinds for field in kind.__struct_fields__}

    assert {key.removesuffix("[]") for key in line.path.split(".")} <= names


def test_every_check_says_what_to_do() -> None:
    for check in CHECKS:
        assert check.cure != Cure(), check.id
        assert check.title
        assert check.why.endswith("."), check.id


@cache
def _schemas() -> dict[str, Any]:
    """By kind."""
    pages = [json.loads(path.read_text()) for path in CRDS.glob("gateway.*.json")]
    return {page["kind"]: page["schema"] for page in pages}


def _faults(node: Any, known: Any, path: str) -> list[str]:
    """Unknown fields and values that the schema does not allow; what is missing is not asked for."""
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int}
    kind = kinds.get(known.get("type"), object)
    if not known.get("x-kubernetes-int-or-string") and not isinstance(node, kind):
        return [f"{path}: {node!r} is no {known['type']}"]
    if "enum" in known and node not in known["enum"]:
        return [f"{path}: {node!r} is none of {known['enum']}"]
    if isinstance(node, str) and not re.search(known.get("pattern", ""), node):
        return [f"{path}: {node!r} does not match {known['pattern']}"]
    if isinstance(node, list):
        return [fault for item in node for fault in _faults(item, known["items"], f"{path}[]")]
    if not isinstance(node, dict):
        return []
    faults = []
    for key, value in node.items():
        field = known.get("properties", {}).get(key)
        faults += _faults(value, field, f"{path}.{key}") if field else [f"{path}.{key}: unknown"]
    return faults
