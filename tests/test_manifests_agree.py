"""The manifests say what the service does: its ports, headers, flags, names and rights."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from manifest_runs import GUIDE, Object, objects, of_kind

import extproc.kube
from extproc import http_server, pin
from extproc.answer_reading import facts_of
from extproc.cli import serve
from extproc.config.load import parse_config
from extproc.demo.bootstrap import ext_proc_filter, load
from extproc.grpc_server import MAX_MESSAGE_BYTES, READINESS
from extproc.kube.model_follower import KINDS
from extproc.kube.pod_source import POOL_KINDS
from extproc.manifests.plan import GRPC_PORT, HTTP_PORT, MAX_BODY_BYTES
from extproc.options import Options
from extproc.server import SERVICE_NAME

NODES = "pools: [{name: a, kubernetes: {service: s, node_labels: [zone]}}]"


@pytest.fixture(scope="module")
def made() -> list[Object]:
    return objects("-f", str(GUIDE))


def processor(made: list[Object]) -> Object:
    only: list[Object] = of_kind(made, "EnvoyExtensionPolicy")["spec"]["extProc"]
    assert len(only) == 1
    return only[0]


def container(made: list[Object]) -> Object:
    found: Object = of_kind(made, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    return found


def test_the_ports_are_those_that_serve_listens_on_by_default(made: list[Object]) -> None:
    options = Options(config=Path("x"))
    assert options.grpc_address.rpartition(":")[2] == str(GRPC_PORT)
    assert options.http_address.rpartition(":")[2] == str(HTTP_PORT)
    ports = {each["name"]: each["containerPort"] for each in container(made)["ports"]}
    assert ports == {"grpc": GRPC_PORT, "http": HTTP_PORT}
    service = of_kind(made, "Service", "extproc")["spec"]["ports"]
    assert {each["name"]: (each["port"], each["targetPort"]) for each in service} == {
        "grpc": (GRPC_PORT, "grpc"),
        "http": (HTTP_PORT, "http"),
    }
    assert [each["ports"][0]["port"] for each in of_kind(made, "NetworkPolicy")["spec"]["ingress"]] == [
        GRPC_PORT,
        HTTP_PORT,
    ]
    assert processor(made)["backendRefs"] == [{"kind": "Service", "name": "extproc", "port": GRPC_PORT}]


@pytest.mark.parametrize("target", ["envoy-gateway", "ai-gateway", "istio"])
def test_the_arguments_are_real_flags(target: str) -> None:
    args = container(objects("-f", str(GUIDE), "--for", target))["args"]
    assert args[0] == serve.name
    with serve.make_context("serve", args[1:]) as context:
        options = Options(**context.params)
    assert options.tls_self_signed is (target != "envoy-gateway")
    assert options.grpc_address == f"0.0.0.0:{GRPC_PORT}"
    assert options.http_address == f"0.0.0.0:{HTTP_PORT}"


def test_a_pod_has_time_to_drain(made: list[Object]) -> None:
    with serve.make_context("serve", container(made)["args"][1:]) as context:
        options = Options(**context.params)
    grace = of_kind(made, "Deployment")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace > options.drain_delay_s + options.drain_timeout_s
    drain = of_kind(made, "EnvoyProxy")["spec"]["shutdown"]["drainTimeout"]
    assert drain == f"{options.drain_timeout_s:.0f}s"


def test_the_config_is_where_the_flag_looks_for_it(made: list[Object]) -> None:
    with serve.make_context("serve", container(made)["args"][1:]) as context:
        config: Path = context.params["config"]
    (mount,) = container(made)["volumeMounts"]
    (volume,) = of_kind(made, "Deployment")["spec"]["template"]["spec"]["volumes"]
    config_map = of_kind(made, "ConfigMap")
    assert str(config.parent) == mount["mountPath"]
    assert mount["name"] == volume["name"]
    assert volume["configMap"]["name"] == config_map["metadata"]["name"]
    assert list(config_map["data"]) == [config.name]


@pytest.mark.parametrize(
    "args",
    [
        ("-f", str(GUIDE)),
        ("-f", str(GUIDE), "--inline"),
        ("a", "b", "--gateway", "g"),
        ("-f", str(GUIDE), "--for", "istio"),
    ],
)
def test_the_config_is_valid(args: tuple[str, ...]) -> None:
    text = of_kind(objects(*args), "ConfigMap")["data"]["router.yaml"]
    assert parse_config(text.encode()).pools


def test_probes_ask_for_pages_that_are_there(made: list[Object]) -> None:
    pages = inspect.getsource(http_server)
    for probe in ("readinessProbe", "livenessProbe"):
        asked = container(made)[probe]["httpGet"]
        assert asked["port"] == "http"
        assert f'add_get("{asked["path"]}"' in pages


def test_envoy_checks_a_health_service_that_we_serve(made: list[Object]) -> None:
    checked = processor(made)["backendSettings"]["healthCheck"]["active"]["grpc"]["service"]
    assert checked == SERVICE_NAME
    assert checked in READINESS


def test_the_namespaces_are_those_that_a_decision_writes(made: list[Object]) -> None:
    assert processor(made)["metadata"] == {
        "writableNamespaces": [pin.ENVOY_LB, pin.NAMESPACE],
        "accessibleNamespaces": [pin.ENVOY_LB],
    }


def test_the_access_log_prints_what_a_decision_writes(made: list[Object]) -> None:
    start = f"%DYNAMIC_METADATA({pin.NAMESPACE}:"
    fields = access_log(made).values()
    facts = {field.removeprefix(start).removesuffix(")%") for field in fields if field.startswith(start)}
    of_decisions = re.findall(r'"(\w+)":|facts\["(\w+)"\]', inspect.getsource(pin._facts))
    of_answers = re.findall(r'"(\w+)":', inspect.getsource(facts_of))
    assert facts == {*filter(None, itertools.chain(*of_decisions)), *of_answers}


def access_log(made: list[Object]) -> dict[str, str]:
    """What Envoy Gateway's Envoys print."""
    (settings,) = of_kind(made, "EnvoyProxy")["spec"]["telemetry"]["accessLog"]["settings"]
    fields: dict[str, str] = settings["format"]["json"]
    return fields


WITH_FACTS = (
    "buffered-original-dst",
    "buffered-override-host",
    "duplex-original-dst",
    "duplex-override-host",
)


@pytest.mark.parametrize("name", [*WITH_FACTS, "envoy-gateway"])
def test_the_bootstraps_print_the_same(made: list[Object], name: str) -> None:
    bootstrap = load(name)
    manager = bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    (log,) = manager["access_log"]
    ext_proc = f"%FILTER_STATE({ext_proc_filter(bootstrap)['name']}:PLAIN)%"
    assert log["typed_config"]["log_format"] == {"json_format": access_log(made) | {"ext_proc": ext_proc}}


def test_envoy_reads_the_header_that_we_write(made: list[Object]) -> None:
    balancer = of_kind(made, "BackendTrafficPolicy")["spec"]["loadBalancer"]
    assert balancer["endpointOverride"]["extractFrom"] == [{"header": pin.DESTINATION}]
    rule = of_kind(made, "HTTPRoute")["spec"]["rules"][1]
    assert rule["matches"][0]["headers"] == [{"name": pin.POOL, "value": "reasoning-pool"}]


def test_what_clients_may_not_send_is_removed_before_any_route_is_looked_for(made: list[Object]) -> None:
    removed = of_kind(made, "ClientTrafficPolicy")["spec"]["headers"]["earlyRequestHeaders"]
    assert set(removed["remove"]) >= {
        *pin.CONTROL_HEADERS,
        pin.DESTINATION,
        pin.POOL,
        pin.MIRROR,
        pin.MODEL_NAME,
    }
    assert all(pin.is_control_header(name) for name in removed["remove"])
    assert removed["removeOnMatch"] == [{"type": "Prefix", "value": start} for start in pin.CONTROL_PREFIXES]


def test_a_body_that_envoy_buffers_fits_into_a_message() -> None:
    config = f"pools: [{{name: a, kubernetes: {{service: s}}}}]\nlimits: {{max_body_bytes: {MAX_BODY_BYTES}}}"
    limit = of_kind(objects("-f", "-", "--gateway", "g", stdin=config), "ClientTrafficPolicy")
    assert limit["spec"]["connection"]["bufferLimit"] == f"{MAX_BODY_BYTES // 2**20}Mi"
    assert MAX_BODY_BYTES < MAX_MESSAGE_BYTES


def rights(made: list[Object]) -> dict[tuple[str, str], set[str]]:
    """Verbs by (group, resource)."""
    found: dict[tuple[str, str], set[str]] = {}
    for rule in (rule for each in made if each["kind"] in ("Role", "ClusterRole") for rule in each["rules"]):
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                found.setdefault((group, resource), set()).update(rule["verbs"])
    return found


def test_we_may_do_what_we_do_and_no_more() -> None:
    watch = {"list", "watch"}
    pools = {(group, "inferencepools") for group, _ in POOL_KINDS}
    models = {(group, kind.PLURAL) for group, _, kind in KINDS}
    plain = {("", "pods"), ("", "services"), ("", "nodes"), ("discovery.k8s.io", "endpointslices")}
    assert rights(objects("-f", "-", "--gateway", "g", stdin=NODES)) == {
        **dict.fromkeys(pools | models | plain, watch),
        **{(group, f"{plural}/status"): {"patch"} for group, plural in models},
        ("coordination.k8s.io", "leases"): {"get", "create", "update"},
    }


def named_resources() -> Iterator[str]:
    """What the Kubernetes client names in its own source, in `Resource(group, version, plural, ...)`."""
    assert extproc.kube.__file__ is not None
    for path in Path(extproc.kube.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Resource":
                plural = node.args[2]
                if isinstance(plural, ast.Constant):
                    yield str(plural.value)


def test_no_resource_of_the_client_is_forgotten() -> None:
    known = {resource for _, resource in rights(objects("-f", "-", "--gateway", "g", stdin=NODES))}
    assert set(named_resources()) == {
        "pods",
        "services",
        "nodes",
        "endpointslices",
        "inferencepools",
        "leases",
    }
    assert set(named_resources()) <= known


def test_the_pod_runs_with_the_least(made: list[Object]) -> None:
    pod = of_kind(made, "Deployment")["spec"]["template"]["spec"]
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container(made)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
