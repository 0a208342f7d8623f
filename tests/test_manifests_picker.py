"""`extproc manifests --for`: gateways that speak InferencePool, whose endpoint picker we are."""

from __future__ import annotations

from manifest_runs import GUIDE, config_of, notes, objects, of_kind

PICKER = {
    "group": "",
    "kind": "Service",
    "name": "extproc",
    "port": {"number": 9002},
    "failureMode": "FailClose",
}


def test_ai_gateway_gets_a_pool_that_refers_to_us_in_full_duplex() -> None:
    made = objects("-f", str(GUIDE), "--for", "ai-gateway")
    pool = of_kind(made, "InferencePool")
    assert pool["apiVersion"] == "inference.networking.k8s.io/v1"
    assert pool["metadata"]["annotations"] == {
        "aigateway.envoyproxy.io/processing-body-mode": "duplex",
        "aigateway.envoyproxy.io/allow-mode-override": "false",
    }
    assert pool["spec"] == {
        "selector": {"matchLabels": {"app": "qwq-32b"}},
        "targetPorts": [{"number": 8000}],
        "endpointPickerRef": PICKER,
    }


def test_ai_gateway_takes_one_endpoint_over_tls_by_a_headless_service() -> None:
    made = objects("-f", str(GUIDE), "--for", "ai-gateway")
    assert config_of(made)["pools"][0]["fallback_endpoints"] == 0
    assert of_kind(made, "Service")["spec"]["clusterIP"] == "None"
    container = of_kind(made, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    assert "--tls-self-signed" in container["args"]


def test_ai_gateway_leaves_long_answers_and_long_prompts_alone() -> None:
    made = objects("-f", str(GUIDE), "--for", "ai-gateway")
    policy = of_kind(made, "BackendTrafficPolicy")["spec"]
    assert policy["timeout"]["http"]["requestTimeout"] == "0s"
    assert "loadBalancer" not in policy
    assert of_kind(made, "ClientTrafficPolicy")["spec"]["connection"] == {"bufferLimit": "48Mi"}


def test_istio_gets_tls_by_a_destination_rule_and_a_list_of_endpoints() -> None:
    made = objects("-f", str(GUIDE), "--for", "istio")
    assert of_kind(made, "DestinationRule")["spec"] == {
        "host": "extproc.default.svc.cluster.local",
        "trafficPolicy": {"tls": {"mode": "SIMPLE", "insecureSkipVerify": True}},
    }
    assert config_of(made)["pools"][0]["fallback_endpoints"] == 2
    assert "annotations" not in of_kind(made, "InferencePool")["metadata"]
    assert not {each["kind"] for each in made} & {"EnvoyExtensionPolicy", "ClientTrafficPolicy", "EnvoyProxy"}


def test_the_route_goes_to_the_pool() -> None:
    for target in ("ai-gateway", "istio"):
        route = of_kind(objects("-f", str(GUIDE), "--for", target), "HTTPRoute")
        assert [rule["backendRefs"] for rule in route["spec"]["rules"]] == [
            [{"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "reasoning-pool"}]
        ]


def test_envoys_of_istio_run_where_the_gateway_is() -> None:
    made = objects("-f", str(GUIDE), "--for", "istio", "--gateway", "edge/g")
    sources = of_kind(made, "NetworkPolicy")["spec"]["ingress"][0]["from"]
    assert sources == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "edge"}}}]


def test_mirrors_are_said_to_be_left_out() -> None:
    config = """
pools: [{name: a, kubernetes: {selector: {app: a}, port: 8000}}]
models: [{name: m, pool: a, mirrors: [{name: s, percent: 1, service: "x:80"}]}]
"""
    asked = ("-f", "-", "--gateway", "g", "--for", "istio")
    assert notes(*asked, stdin=config) == ["note: mirrors are Envoy Gateway's: none is written here"]
