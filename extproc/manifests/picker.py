"""What makes a gateway that speaks InferencePool ask us: we are its endpoint picker."""

from __future__ import annotations

from .plan import GRPC_PORT, Plan
from .text import Object, Why
from .workload import metadata

INFERENCE = "inference.networking.k8s.io"


def inference_pool(plan: Plan) -> Object:
    """The InferencePool, referring to us."""
    pool = plan.pools[0]
    more: Object = {}
    if plan.target == "ai-gateway":
        duplex = "any prompt length: with buffered, Envoy's 32 KiB limit answers 413"
        more["annotations"] = {
            "aigateway.envoyproxy.io/processing-body-mode": Why("duplex", duplex),
            "aigateway.envoyproxy.io/allow-mode-override": Why(
                "false", "in full duplex there is nothing to override"
            ),
        }
    failure = Why("FailClose", "open would send requests to any pod, with the client's model name")
    return {
        "apiVersion": f"{INFERENCE}/v1",
        "kind": "InferencePool",
        "metadata": metadata(plan, pool.name, pool.namespace, **more),
        "spec": {
            "selector": {"matchLabels": pool.selector},
            "targetPorts": [{"number": port} for port in pool.target_ports],
            "endpointPickerRef": {
                "group": "",
                "kind": "Service",
                "name": plan.name,
                "port": {"number": GRPC_PORT},
                "failureMode": failure,
            },
        },
    }


def destination_rule(plan: Plan) -> Object:
    """How Istio connects to us."""
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": metadata(plan),
        "spec": {
            "host": f"{plan.name}.{plan.namespace}.svc.cluster.local",
            "trafficPolicy": {
                "tls": {
                    "mode": Why(
                        "SIMPLE", "TLS with our certificate of --tls-self-signed, which nobody signed"
                    ),
                    "insecureSkipVerify": True,
                }
            },
        },
    }
