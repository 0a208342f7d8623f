"""What we may read in the cluster, and who may connect to whom."""

from __future__ import annotations

from collections.abc import Sequence

from ..kube.model_objects import LLM_D_GROUP, X_GROUP
from .plan import GRPC_PORT, HTTP_PORT, Plan, PoolPlan
from .text import Object, Why
from .workload import metadata

RBAC = "rbac.authorization.k8s.io"
WATCH = ("list", "watch")
API_SERVER = "the API server, which no selector can name; if it listens on another port, put that here"
COLLECTOR = (
    "OTLP, to any address, as a URL names no pods; if its Service has another targetPort, put that here"
)
POOL_GROUPS = ("inference.networking.k8s.io", X_GROUP)


def roles(plan: Plan) -> list[Object | Why]:
    """A Role and its binding in every namespace that has a pool, in ours the Lease too; nodes where asked for."""
    made: list[Object | Why] = []
    for namespace in dict.fromkeys((plan.namespace, *plan.pool_namespaces)):
        rules = _pool_rules() if namespace in plan.pool_namespaces else []
        if namespace == plan.namespace:
            rules += _lease_rules(plan)
        made.append(_role(plan, "Role", rules, namespace))
        made.append(_binding(plan, "Role", namespace))
    if plan.needs_nodes:
        rules = [_rule("", ["nodes"], WATCH, "node_labels: a pod does not carry the labels of its node")]
        made += [_role(plan, "ClusterRole", rules), _binding(plan, "ClusterRole")]
    return made


def _pool_rules() -> list[Object]:
    others = ["inferencemodelrewrites", "inferenceobjectives"]
    accepted = "to say there whether it was accepted"
    return [
        _rule("", ["pods", "services"], WATCH, "who serves, and whether it is ready or leaving"),
        _rule("discovery.k8s.io", ["endpointslices"], WATCH, "pools that are a Service"),
        _rule(POOL_GROUPS, ["inferencepools"], WATCH, "selector and ports of a pool; either group"),
        _rule(X_GROUP, ["inferencemodels"], WATCH, "models, their weights and priorities"),
        _rule((X_GROUP, LLM_D_GROUP), others, WATCH, "the same, newer"),
        _rule(X_GROUP, ["inferencemodels/status"], ["patch"], accepted),
        _rule((X_GROUP, LLM_D_GROUP), [f"{name}/status" for name in others], ["patch"], accepted),
    ]


def _lease_rules(plan: Plan) -> list[Object]:
    lease = "one replica at a time writes status"
    return [_rule("coordination.k8s.io", ["leases"], ["get", "create", "update"], lease)]


def _rule(groups: str | Sequence[str], resources: list[str], verbs: Sequence[str], why: str) -> Object:
    return {
        "apiGroups": [groups] if isinstance(groups, str) else list(groups),
        "resources": Why(resources, why),
        "verbs": list(verbs),
    }


def _scoped(plan: Plan, namespace: str | None) -> Object:
    """The name of a cluster-wide object says whose it is, as two of us may live in one cluster."""
    if namespace is None:
        return {"name": f"{plan.namespace}-{plan.name}", "labels": plan.labels}
    return metadata(plan, namespace=namespace)


def _role(plan: Plan, kind: str, rules: list[Object], namespace: str | None = None) -> Object:
    return {
        "apiVersion": f"{RBAC}/v1",
        "kind": kind,
        "metadata": _scoped(plan, namespace),
        "rules": rules,
    }


def _binding(plan: Plan, kind: str, namespace: str | None = None) -> Object:
    made = _scoped(plan, namespace)
    return {
        "apiVersion": f"{RBAC}/v1",
        "kind": f"{kind}Binding",
        "metadata": made,
        "roleRef": {"apiGroup": RBAC, "kind": kind, "name": made["name"]},
        "subjects": [{"kind": "ServiceAccount", "name": plan.name, "namespace": plan.namespace}],
    }


def network_policy(plan: Plan) -> Object:
    """Who may connect to us, and where we connect to."""
    gateway = {"namespaceSelector": _namespace(plan.envoy_namespace)}
    metrics = "metrics and probes, for the cluster; /debug/explain shows hashes and scores, no prompts"
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(plan),
        "spec": {
            "podSelector": {"matchLabels": plan.labels},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                {"from": Why([gateway], "the namespace where Envoy runs"), "ports": [_port(GRPC_PORT)]},
                {"from": Why([{"namespaceSelector": {}}], metrics), "ports": [_port(HTTP_PORT)]},
            ],
            "egress": [
                {"ports": Why([{"port": 53, "protocol": "UDP"}, _port(53)], "DNS")},
                {"ports": Why([_port(443), _port(6443)], API_SERVER)},
                *_to_collector(plan),
                *(_to_pods(pool) for pool in plan.pools),
            ],
        },
    }


def _to_collector(plan: Plan) -> list[Object]:
    return [] if plan.otlp_port is None else [{"ports": Why([_port(plan.otlp_port)], COLLECTOR)}]


def _to_pods(pool: PoolPlan) -> Object:
    pods: Object = {"namespaceSelector": _namespace(pool.namespace)}
    if pool.selector is not None:
        pods["podSelector"] = {"matchLabels": pool.selector}
    return {
        "to": Why([pods], f"the pods of {pool.name}: their metrics, and which models they have"),
        "ports": [_port(port) for port in pool.asked_ports],
    }


def _namespace(name: str) -> Object:
    return {"matchLabels": {"kubernetes.io/metadata.name": name}}


def _port(port: int | str) -> Object:
    return {"port": port, "protocol": "TCP"}
