"""Our own Deployment and what belongs to it."""

from __future__ import annotations

from typing import Any

from .plan import CONFIG_FILE, GRPC_PORT, HTTP_PORT, Plan
from .text import Object, Why

DRAIN_DELAY_S = 15
DRAIN_TIMEOUT_S = 600
GRACE_PERIOD_S = DRAIN_DELAY_S + DRAIN_TIMEOUT_S + 15
"""15 s for the process to start its drain and to end."""
CONFIG_DIRECTORY = "/etc/extproc"
USER_ID = 65532
"""The `nonroot` user of distroless images."""


def metadata(plan: Plan, name: str | None = None, namespace: str | None = None, **more: Any) -> Object:
    """Of an object; by default with our name, in our namespace."""
    return {
        "name": name or plan.name,
        "namespace": namespace or plan.namespace,
        "labels": plan.labels,
        **more,
    }


def config_map(plan: Plan) -> Object | Why:
    """The config file."""
    made: Object = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(plan),
        "data": {CONFIG_FILE: plan.config_text},
    }
    return Why(
        made, "Our config. An edit reaches the running pods within a minute; a faulty one changes nothing."
    )


def service_account(plan: Plan) -> Object:
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata(plan)}


def service(plan: Plan) -> Object:
    """What the gateway connects to."""
    protocol = Why("kubernetes.io/h2c", "gRPC is HTTP/2, here without TLS")
    if plan.target != "envoy-gateway":
        protocol = Why("http2", "gRPC, inside TLS")
    grpc: Object = {"name": "grpc", "port": GRPC_PORT, "targetPort": "grpc", "appProtocol": protocol}
    spec: Object = {
        "selector": plan.labels,
        "ports": [grpc, {"name": "http", "port": HTTP_PORT, "targetPort": "http"}],
    }
    if plan.target == "ai-gateway":
        reason = "headless: the gateway resolves the name; one address for all would tie it to one replica"
        spec = {"clusterIP": Why("None", reason), **spec}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata(plan), "spec": spec}


def pod_disruption_budget(plan: Plan) -> Object:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(plan),
        "spec": {
            "maxUnavailable": Why(
                1, "a node drain takes one replica after the other, each with its time to finish"
            ),
            "selector": {"matchLabels": plan.labels},
        },
    }


def service_monitor(plan: Plan) -> Object:
    """For the Prometheus operator."""
    ours = "our labels endpoint and namespace stay what they are; else the operator's take their place"
    endpoint: Object = {"port": "http", "path": "/metrics", "interval": "15s", "honorLabels": Why(True, ours)}
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "metadata": metadata(plan),
        "spec": {
            "selector": {"matchLabels": plan.labels},
            "endpoints": [endpoint],
        },
    }


def deployment(plan: Plan) -> Object:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(plan),
        "spec": {
            "replicas": Why(plan.replicas, "two survive the loss of one; each sees all of the pods"),
            "selector": {"matchLabels": plan.labels},
            "strategy": {
                "rollingUpdate": {
                    "maxSurge": 1,
                    "maxUnavailable": Why(0, "a new replica is ready before an old one leaves"),
                },
            },
            "template": {
                "metadata": {"labels": plan.labels},
                "spec": _pod(plan),
            },
        },
    }


def _pod(plan: Plan) -> Object:
    grace = f"the {DRAIN_DELAY_S} s and {DRAIN_TIMEOUT_S} s below, and 15 s to spare: longer answers are still counted"
    return {
        "serviceAccountName": plan.name,
        "terminationGracePeriodSeconds": Why(GRACE_PERIOD_S, grace),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "topologySpreadConstraints": [
            {
                "topologyKey": Why("kubernetes.io/hostname", "one node's end is not the end of all replicas"),
                "maxSkew": 1,
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": plan.labels},
            }
        ],
        "containers": [_container(plan)],
        "volumes": [{"name": "config", "configMap": {"name": plan.name}}],
    }


def _container(plan: Plan) -> Object:
    return {
        "name": "extproc",
        "image": Why(plan.image, "an image with this package whose entry point is `extproc`"),
        "imagePullPolicy": Why(
            "IfNotPresent", "else `latest` is pulled even where it was loaded onto the node"
        ),
        "args": _arguments(plan),
        **_environment(plan),
        "ports": [
            {"name": "grpc", "containerPort": GRPC_PORT},
            {"name": "http", "containerPort": HTTP_PORT},
        ],
        "readinessProbe": {
            "httpGet": {"path": Why("/readyz", "503 until the pods are known and tried"), "port": "http"},
            "periodSeconds": 2,
            "timeoutSeconds": 2,
        },
        "livenessProbe": {
            "httpGet": {"path": "/livez", "port": "http"},
            "periodSeconds": 10,
            "timeoutSeconds": Why(5, "a busy event loop is no reason to cut every open stream"),
            "failureThreshold": 3,
        },
        "resources": _resources(plan),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": Why(True, "nothing is written"),
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {
                "name": "config",
                "mountPath": Why(CONFIG_DIRECTORY, "the directory: a file mounted by subPath never changes"),
                "readOnly": True,
            }
        ],
    }


def _environment(plan: Plan) -> Object:
    if plan.otlp_endpoint is None:
        return {}
    collector = "traces and metrics go there; the NetworkPolicy has its port"
    return {"env": [{"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": Why(plan.otlp_endpoint, collector)}]}


def _arguments(plan: Plan) -> list[Any]:
    delay = "time for the gateway to learn that a replica leaves, before it takes no more requests"
    made: list[Any] = [
        "serve",
        f"--config={CONFIG_DIRECTORY}/{CONFIG_FILE}",
        f"--grpc-address=0.0.0.0:{GRPC_PORT}",
        f"--http-address=0.0.0.0:{HTTP_PORT}",
        Why(f"--drain-delay={DRAIN_DELAY_S}", delay),
        Why(f"--drain-timeout={DRAIN_TIMEOUT_S}", "open streams last as long as the model's answers"),
    ]
    if plan.target != "envoy-gateway":
        made.append(Why("--tls-self-signed", "this gateway insists on TLS and checks no certificate"))
    return made


def _resources(plan: Plan) -> Object:
    memory = "512 MiB for the process, and limits.max_buffered_bytes twice: as bodies came, and as they go on"
    return {
        "requests": {
            "cpu": Why(
                "1",
                "one process, one core: some 3,000 decisions a second; a limit would only stall it",
            ),
            "memory": "512Mi",
        },
        "limits": {"memory": Why(plan.memory_limit, memory)},
    }
