"""What `extproc manifests` makes of a pool and a gateway."""

from __future__ import annotations

import json

import pytest
from manifest_runs import GUIDE, Object, config_of, objects, of_kind, printed

MIRRORED = """
pools:
- name: chat
  kubernetes: {selector: {app: chat}, port: 8000}
  fallback_endpoints: 1
- name: code
  kubernetes: {service: coder}
  fallback_endpoints: 3
models:
- name: a
  pool: chat
  mirrors: [{name: shadow, percent: 5, service: "chat-v2:8001"}]
- name: b
  pool: chat
  mirrors: [{name: shadow, percent: 50, service: "chat-v2:8001"}, {name: other, percent: 1, service: "x:80"}]
default_pool: chat
"""
KINDS = [
    "ServiceAccount",
    "Role",
    "RoleBinding",
    "ConfigMap",
    "Deployment",
    "Service",
    "PodDisruptionBudget",
    "NetworkPolicy",
    "Service",
    "HTTPRouteFilter",
    "HTTPRoute",
    "EnvoyExtensionPolicy",
    "BackendTrafficPolicy",
    "ClientTrafficPolicy",
    "EnvoyProxy",
]


def rules(made: list[Object]) -> dict[str, Object]:
    return {rule["name"]: rule for rule in of_kind(made, "HTTPRoute")["spec"]["rules"]}


def test_the_guides_pool_gets_every_object_that_envoy_gateway_needs() -> None:
    made = objects("-f", str(GUIDE))
    assert [each["kind"] for each in made] == KINDS
    assert {each["metadata"]["namespace"] for each in made} == {"default"}


def test_the_annotation_names_the_gateway_and_its_port() -> None:
    made = objects("-f", str(GUIDE))
    assert of_kind(made, "HTTPRoute")["spec"]["parentRefs"] == [{"name": "inference-gateway", "port": 8081}]
    target = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "inference-gateway"}
    assert of_kind(made, "ClientTrafficPolicy")["spec"]["targetRefs"] == [target]


def test_the_command_line_overrides_the_annotation() -> None:
    made = objects("-f", str(GUIDE), "--gateway", "edge/public", "--port", "443")
    parent = {"name": "public", "namespace": "edge", "port": 443}
    assert of_kind(made, "HTTPRoute")["spec"]["parentRefs"] == [parent]
    elsewhere = {each["kind"] for each in made if each["metadata"]["namespace"] == "edge"}
    assert elsewhere == {"ClientTrafficPolicy", "EnvoyProxy"}


def test_the_pool_gets_a_service_over_its_pods() -> None:
    made = objects("-f", str(GUIDE))
    assert of_kind(made, "Service", "reasoning-pool")["spec"] == {
        "selector": {"app": "qwq-32b"},
        "ports": [{"name": "http", "port": 8000, "targetPort": 8000}],
    }


def test_a_service_that_is_there_is_taken() -> None:
    made = objects("-f", str(GUIDE), "--service", "qwq-32b-v1:8000")
    assert [each["metadata"]["name"] for each in made if each["kind"] == "Service"] == ["extproc"]
    backend = {"kind": "Service", "name": "qwq-32b-v1", "port": 8000}
    assert rules(made)["reasoning-pool"]["backendRefs"] == [backend]


def test_the_config_follows_the_inference_pool_in_the_cluster() -> None:
    assert config_of(objects("-f", str(GUIDE))) == {
        "pools": [
            {
                "name": "reasoning-pool",
                "kubernetes": {"inference_pool": "reasoning-pool"},
                "fallback_endpoints": 2,
            }
        ]
    }


def test_inline_the_config_says_what_the_files_say() -> None:
    assert config_of(objects("-f", str(GUIDE), "--inline")) == {
        "pools": [
            {
                "name": "reasoning-pool",
                "kubernetes": {"selector": {"app": "qwq-32b"}, "port": 8000},
                "fallback_endpoints": 2,
            }
        ],
        "models": [
            {
                "name": "qwq",
                "pool": "reasoning-pool",
                "criticality": "Critical",
                "targets": [{"model": "qwq-32b", "weight": 100}],
            }
        ],
    }


def test_a_pool_by_name_is_the_service_of_that_name() -> None:
    made = objects("vllm", "--gateway", "g", "--namespace", "models")
    assert config_of(made)["pools"] == [
        {"name": "vllm", "kubernetes": {"service": "vllm"}, "fallback_endpoints": 2}
    ]
    assert rules(made)["vllm"]["backendRefs"] == [{"kind": "Service", "name": "vllm", "port": 8000}]
    assert {each["metadata"]["namespace"] for each in made} == {"models"}


def test_several_pools_each_with_its_service() -> None:
    made = objects("a", "b", "--gateway", "g", "--service", "a=x:81", "--service", "b=y:82")
    backends = {name: rule["backendRefs"] for name, rule in rules(made).items() if name != "entry"}
    assert backends == {
        "a": [{"kind": "Service", "name": "x", "port": 81}],
        "b": [{"kind": "Service", "name": "y", "port": 82}],
    }
    assert [pool["kubernetes"] for pool in config_of(made)["pools"]] == [{"service": "x"}, {"service": "y"}]


def test_a_config_file_is_taken_as_it_stands() -> None:
    made = objects("-f", "-", "--gateway", "g", stdin="# mine\n" + MIRRORED)
    assert of_kind(made, "ConfigMap")["data"] == {"router.yaml": "# mine\n" + MIRRORED}


def test_every_request_enters_by_a_rule_that_answers_404() -> None:
    made = objects("-f", str(GUIDE))
    rule = of_kind(made, "HTTPRoute")["spec"]["rules"][0]
    extension = {"group": "gateway.envoyproxy.io", "kind": "HTTPRouteFilter", "name": "extproc"}
    assert rule == {
        "name": "entry",
        "matches": [{"path": {"type": "PathPrefix", "value": "/v1"}}],
        "filters": [{"type": "ExtensionRef", "extensionRef": extension}],
    }
    answer = of_kind(made, "HTTPRouteFilter")["spec"]["directResponse"]
    assert (answer["statusCode"], answer["contentType"]) == (404, "application/json")


def test_a_mirror_gets_a_rule_that_copies_what_we_mark() -> None:
    made = rules(objects("-f", "-", "--gateway", "g", stdin=MIRRORED))
    assert list(made) == ["entry", "chat", "chat-mirror-0", "chat-mirror-1", "code"]
    path = {"type": "PathPrefix", "value": "/v1"}
    headers = [{"name": "x-extproc-pool", "value": "chat"}, {"name": "x-extproc-mirror", "value": "shadow"}]
    copy = {"backendRef": {"kind": "Service", "name": "chat-v2", "port": 8001}, "percent": 100}
    assert made["chat-mirror-0"] == {
        "name": "chat-mirror-0",
        "matches": [{"path": path, "headers": headers}],
        "filters": [{"type": "RequestMirror", "requestMirror": copy}],
        "timeouts": {"request": "1h"},
        "backendRefs": [{"kind": "Service", "name": "chat", "port": 8000}],
    }


def test_a_mirror_that_two_models_have_needs_its_service_once() -> None:
    asks = "{name: m, pool: a, mirrors: [{name: s, percent: 1}]}"
    says = "{name: n, pool: a, mirrors: [{name: s, percent: 1, service: 'b:80'}]}"
    text = f"pools: [{{name: a, kubernetes: {{service: a}}}}]\nmodels: [{asks}, {says}]"
    made = rules(objects("-f", "-", "--gateway", "g", stdin=text))
    assert list(made) == ["entry", "a", "a-mirror-0"]


def test_retries_are_as_many_as_the_longest_pin_has_fallbacks() -> None:
    made = objects("-f", "-", "--gateway", "g", stdin=MIRRORED)
    assert of_kind(made, "BackendTrafficPolicy")["spec"]["retry"]["numRetries"] == 3


def test_without_fallbacks_nothing_is_retried() -> None:
    one = "pools: [{name: a, kubernetes: {service: a}}]"
    made = objects("-f", "-", "--gateway", "g", stdin=one)
    assert of_kind(made, "BackendTrafficPolicy")["spec"]["retry"] == {"numRetries": 0}


@pytest.mark.parametrize(
    ("queue", "timeout"),
    [("", "10s"), (", queue: {timeout_s: 2}", "10s"), (", queue: {timeout_s: 60.5}", "66s")],
)
def test_the_message_timeout_is_above_the_queues(queue: str, timeout: str) -> None:
    config = f"pools: [{{name: a, kubernetes: {{service: a}}{queue}}}]"
    made = objects("-f", "-", "--gateway", "g", stdin=config)
    assert of_kind(made, "EnvoyExtensionPolicy")["spec"]["extProc"][0]["messageTimeout"] == timeout


@pytest.mark.parametrize(("limit", "buffer"), [("", "48Mi"), ("limits: {max_body_bytes: 1000001}", "2Mi")])
def test_envoy_buffers_half_more_than_we_take(limit: str, buffer: str) -> None:
    config = f"pools: [{{name: a, kubernetes: {{service: a}}}}]\n{limit}"
    made = objects("-f", "-", "--gateway", "g", stdin=config)
    assert of_kind(made, "ClientTrafficPolicy")["spec"]["connection"] == {"bufferLimit": buffer}
    assert of_kind(made, "BackendTrafficPolicy")["spec"]["connection"] == {"bufferLimit": buffer}


def test_a_pod_with_several_ports_is_several_backends_of_one_service() -> None:
    config = "pools: [{name: dp, kubernetes: {selector: {app: x}, port: [8000, 8001]}}]"
    made = objects("-f", "-", "--gateway", "g", stdin=config)
    assert [ref["port"] for ref in rules(made)["dp"]["backendRefs"]] == [8000, 8001]
    assert of_kind(made, "Service", "dp")["spec"]["ports"] == [
        {"name": "port-8000", "port": 8000, "targetPort": 8000},
        {"name": "port-8001", "port": 8001, "targetPort": 8001},
    ]


def test_a_pool_of_another_namespace_gets_a_grant_and_a_role_there() -> None:
    config = "pools: [{name: a, kubernetes: {service: s, namespace: models}}]"
    made = objects("-f", "-", "--gateway", "g", "--namespace", "llm", stdin=config)
    grant = of_kind(made, "ReferenceGrant")
    assert grant["metadata"]["namespace"] == "models"
    assert grant["spec"] == {
        "from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "llm"}],
        "to": [{"group": "", "kind": "Service", "name": "s"}],
    }
    rights = {each["metadata"]["namespace"]: each["rules"] for each in made if each["kind"] == "Role"}
    assert [rule["resources"] for rule in rights["llm"]] == [["leases"]]
    assert ["pods", "services"] in [rule["resources"] for rule in rights["models"]]
    bound = {
        each["metadata"]["namespace"]: each["subjects"] for each in made if each["kind"] == "RoleBinding"
    }
    ours = [{"kind": "ServiceAccount", "name": "extproc", "namespace": "llm"}]
    assert bound == {"llm": ours, "models": ours}
    assert rules(made)["a"]["backendRefs"][0]["namespace"] == "models"


def test_labels_of_nodes_take_a_right_in_the_whole_cluster() -> None:
    config = "pools: [{name: a, kubernetes: {service: s, node_labels: [zone]}}]"
    made = objects("-f", "-", "--gateway", "g", stdin=config)
    role = of_kind(made, "ClusterRole")
    assert role["metadata"]["name"] == "default-extproc"
    assert role["rules"] == [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["list", "watch"]}]
    assert of_kind(made, "ClusterRoleBinding")["roleRef"]["name"] == "default-extproc"


def test_a_header_that_clients_may_send_is_left_to_them() -> None:
    config = """
pools: [{name: a, kubernetes: {service: s}}]
trusted_headers: [X-LLM-D-Inference-Objective, x-slo-ttft-ms]
"""
    made = objects("-f", "-", "--gateway", "g", stdin=config)
    removed = of_kind(made, "ClientTrafficPolicy")["spec"]["headers"]["earlyRequestHeaders"]
    assert "x-slo-ttft-ms" not in removed["remove"]
    assert {"type": "Prefix", "value": "x-llm-d-"} not in removed["removeOnMatch"]
    assert {"type": "Prefix", "value": "x-extproc-"} in removed["removeOnMatch"]


def test_more_pools_than_a_route_has_rules_get_a_second_route() -> None:
    names = [f"pool-{index:02}" for index in range(20)]
    made = objects(*names, "--gateway", "g")
    routes = [each for each in made if each["kind"] == "HTTPRoute"]
    assert [(each["metadata"]["name"], len(each["spec"]["rules"])) for each in routes] == [
        ("extproc", 16),
        ("extproc-2", 5),
    ]
    for kind in ("EnvoyExtensionPolicy", "BackendTrafficPolicy"):
        targets = of_kind(made, kind)["spec"]["targetRefs"]
        assert [target["name"] for target in targets] == ["extproc", "extproc-2"]


def test_a_gateway_that_is_not_there_yet() -> None:
    made = objects(
        "vllm", "--gateway", "edge/llm", "--port", "8081", "--namespace", "models", "--with-gateway"
    )
    entry = of_kind(made, "Gateway")
    assert entry["metadata"]["namespace"] == "edge"
    parameters = {"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": "extproc"}
    assert entry["spec"]["infrastructure"]["parametersRef"] == parameters
    selector = {"matchLabels": {"kubernetes.io/metadata.name": "models"}}
    assert entry["spec"]["listeners"] == [
        {
            "name": "llm",
            "protocol": "HTTP",
            "port": 8081,
            "allowedRoutes": {"namespaces": {"from": "Selector", "selector": selector}},
        }
    ]
    assert of_kind(made, "GatewayClass")["spec"] == {
        "controllerName": "gateway.envoyproxy.io/gatewayclass-controller"
    }


def test_a_service_monitor_for_the_prometheus_operator() -> None:
    made = objects("vllm", "--gateway", "g", "--service-monitor")
    assert of_kind(made, "ServiceMonitor") == {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "metadata": {
            "name": "extproc",
            "namespace": "default",
            "labels": {"app.kubernetes.io/name": "extproc"},
        },
        "spec": {
            "selector": {"matchLabels": {"app.kubernetes.io/name": "extproc"}},
            "endpoints": [{"port": "http", "path": "/metrics", "interval": "15s", "honorLabels": True}],
        },
    }


def test_the_image_the_name_and_the_replicas_are_the_operators() -> None:
    made = objects(
        "vllm", "--gateway", "g", "--name", "router", "--image", "r.example/x:1", "--replicas", "5"
    )
    deployment = of_kind(made, "Deployment")
    assert (deployment["metadata"]["name"], deployment["spec"]["replicas"]) == ("router", 5)
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == "r.example/x:1"
    assert of_kind(made, "EnvoyExtensionPolicy")["spec"]["extProc"][0]["backendRefs"][0]["name"] == "router"


def test_the_same_input_prints_the_same_text_with_reasons() -> None:
    text = printed("-f", str(GUIDE))
    assert text == printed("-f", str(GUIDE))
    assert "requestTimeout: 0s  # none: Envoy's default cuts every answer after 15 s, with 504" in text
    assert max(map(len, text.splitlines())) < 160


@pytest.mark.parametrize(
    ("flags", "open_", "status", "reason"),
    [((), False, 404, "no_route"), (("--fail-open",), True, 503, "no_router")],
)
def test_answers_outlive_a_router_that_dies_only_where_asked(
    flags: tuple[str, ...], open_: bool, status: int, reason: str
) -> None:
    made = objects("-f", "-", "--gateway", "g", *flags, stdin=MIRRORED)
    (processor,) = of_kind(made, "EnvoyExtensionPolicy")["spec"]["extProc"]
    assert processor["failOpen"] is open_
    answer = of_kind(made, "HTTPRouteFilter")["spec"]["directResponse"]
    assert answer["statusCode"] == status
    assert answer["header"]["set"] == [{"name": "x-extproc-reason", "value": reason}]
    assert json.loads(answer["body"]["inline"])["error"].keys() == {"message", "type", "param", "code"}
