"""What Envoy Gateway lets in, and how its Envoys run."""

from __future__ import annotations

import json
from typing import Any

from .. import pin
from .gateway import ENVOY_GATEWAY, GATEWAY_API
from .plan import Plan
from .text import Object, Why
from .workload import DRAIN_TIMEOUT_S, metadata

CONTROLLER = "gateway.envoyproxy.io/gatewayclass-controller"
CONTROL_HEADERS = (
    pin.DESTINATION,
    pin.SUBSET,
    pin.SERVED,
    pin.POOL,
    pin.MIRROR,
    pin.MODEL_NAME,
    *sorted(pin.CONTROL_HEADERS),
)
"""What a client must not set (`extproc.pin` removes them too, and at those routes that ask us)."""


def client_policy(plan: Plan) -> Object:
    """ClientTrafficPolicy: what clients may send."""
    limit = "the default of 32 KiB answers longer prompts with 413; ours (413 too) is lower: limits.max_body_bytes"
    gateway = plan.gateway
    return {
        "apiVersion": f"{ENVOY_GATEWAY}/v1alpha1",
        "kind": "ClientTrafficPolicy",
        "metadata": metadata(plan, namespace=gateway.namespace),
        "spec": {
            "targetRefs": [{"group": GATEWAY_API, "kind": "Gateway", "name": gateway.name}],
            "connection": {"bufferLimit": Why(plan.buffer_limit, limit)},
            "http2": {
                "maxConcurrentStreams": Why(1000, "of one client connection; the default is 100"),
                "initialStreamWindowSize": Why(
                    plan.buffer_limit,
                    "a smaller one answers longer bodies with 413, whatever bufferLimit says",
                ),
                "initialConnectionWindowSize": plan.buffer_limit,
            },
            "timeout": {
                "http": {
                    "requestReceivedTimeout": "0s",
                    "idleTimeout": "1h",
                    "streamIdleTimeout": Why(
                        "30m", "the default of 5 minutes ends the silence before a first token"
                    ),
                }
            },
            "headers": {
                "earlyRequestHeaders": _removed_headers(plan),
                "maxRequestHeaderLimit": Why(
                    "96Ki",
                    "what we add must not take a client's headers over the limit, which is answered with 500",
                ),
            },
        },
    }


def _removed_headers(plan: Plan) -> Object:
    """Names, and beginnings of names unless they would take a header that the config trusts clients to send."""
    kept = {name.lower() for name in plan.config.trusted_headers}
    kept = kept.union(*(model.sticky_headers for model in plan.config.models))
    names = [name for name in CONTROL_HEADERS if name not in kept]
    starts = [start for start in pin.CONTROL_PREFIXES if not any(name.startswith(start) for name in kept)]
    return {
        "remove": Why(names, "a client must not pick its pod, its pool or its mirror"),
        "removeOnMatch": [{"type": "Prefix", "value": start} for start in starts],
    }


def envoy_proxy(plan: Plan) -> Why:
    """EnvoyProxy: how the gateway's Envoys run."""
    gateway = plan.gateway
    drain = f"{DRAIN_TIMEOUT_S}s"
    made: Object = {
        "apiVersion": f"{ENVOY_GATEWAY}/v1alpha1",
        "kind": "EnvoyProxy",
        "metadata": metadata(plan, namespace=gateway.namespace),
        "spec": {
            "routingType": Why(
                "Endpoint", "Envoy knows the pods' addresses; with Service only one, and no pin works"
            ),
            "shutdown": {
                "drainTimeout": Why(drain, "as long as the longest answer"),
                "minDrainDuration": "10s",
            },
            "telemetry": {"accessLog": {"settings": [_access_log(plan)]}},
        },
    }
    return Why(made, _proxy_note(plan))


def _proxy_note(plan: Plan) -> str:
    if plan.with_gateway:
        return "The Gateway below refers to it."
    gateway = plan.gateway
    reference = json.dumps({"group": ENVOY_GATEWAY, "kind": "EnvoyProxy", "name": plan.name})
    return (
        f"In force once Gateway {gateway.namespace}/{gateway.name} refers to it: spec.infrastructure."
        f"parametersRef: {reference} (or its GatewayClass: spec.parametersRef, with namespace {gateway.namespace}). "
        "One that is referred to already stays: carry routingType, shutdown and telemetry over to it."
    )


def _access_log(plan: Plan) -> Object:
    def fact(name: str) -> str:
        return f"%DYNAMIC_METADATA({pin.NAMESPACE}:{name})%"

    processor = f"envoy.filters.http.ext_proc/envoyextensionpolicy/{plan.namespace}/{plan.name}/extproc/0"
    fields: dict[str, Any] = {
        "time": "%START_TIME%",
        "request_id": "%REQ(X-REQUEST-ID)%",
        "method": "%REQ(:METHOD)%",
        "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
        "status": "%RESPONSE_CODE%",
        "details": Why("%RESPONSE_CODE_DETAILS%", "who decided on the status: Envoy, we, or the pod"),
        "flags": Why("%RESPONSE_FLAGS%", "UC, UF: the pod or the way to it; UT: a timeout; UAEX: we"),
        "reason": Why("%RESP(X-EXTPROC-REASON)%", "why we refused"),
        "duration_ms": "%DURATION%",
        "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
        "upstream": "%UPSTREAM_HOST%",
        "model": fact("model"),
        "target_model": fact("target_model"),
        "pool": fact("pool"),
        "endpoint": Why(fact("endpoint"), "what we chose; upstream is what served"),
        "mirror": fact("mirror"),
        "prompt_tokens": Why(
            fact("prompt_tokens"), "from here to time_per_token_ms: of answers that are read"
        ),
        **{name: fact(name) for name in ("cached_tokens", "completion_tokens", "finish_reason")},
        **{name: fact(name) for name in ("ttft_ms", "time_per_token_ms")},
        "ext_proc": Why(f"%FILTER_STATE({processor}:PLAIN)%", "microseconds that Envoy waited for us"),
    }
    return {
        "format": {"type": "JSON", "json": fields},
        "sinks": [{"type": "File", "file": {"path": "/dev/stdout"}}],
    }


def gateway(plan: Plan) -> list[Object]:
    """GatewayClass and Gateway, for a cluster that has none yet."""
    listener = plan.gateway
    gateway_class: Object = {
        "apiVersion": f"{GATEWAY_API}/v1",
        "kind": "GatewayClass",
        "metadata": {"name": listener.name, "labels": plan.labels},
        "spec": {"controllerName": CONTROLLER},
    }
    allowed = {} if listener.namespace == plan.namespace else _from_namespace(plan.namespace)
    parameters = {"group": ENVOY_GATEWAY, "kind": "EnvoyProxy", "name": plan.name}
    entry: Object = {
        "apiVersion": f"{GATEWAY_API}/v1",
        "kind": "Gateway",
        "metadata": metadata(plan, listener.name, listener.namespace),
        "spec": {
            "gatewayClassName": listener.name,
            "infrastructure": {"parametersRef": parameters},
            "listeners": [{"name": "llm", "protocol": "HTTP", "port": listener.port or 80, **allowed}],
        },
    }
    return [gateway_class, entry]


def _from_namespace(name: str) -> Object:
    selector = {"matchLabels": {"kubernetes.io/metadata.name": name}}
    return {"allowedRoutes": {"namespaces": {"from": "Selector", "selector": selector}}}
