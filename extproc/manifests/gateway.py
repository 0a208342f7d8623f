"""What tells Envoy Gateway to ask us, to do as we say, and to leave long answers alone."""

from __future__ import annotations

from .. import pin
from ..server import SERVICE_NAME
from .plan import GRPC_PORT, Plan
from .text import Object, Why
from .workload import metadata

ENVOY_GATEWAY = "gateway.envoyproxy.io"
GATEWAY_API = "gateway.networking.k8s.io"
UNBOUNDED = 4_294_967_295
"""The largest figure that Envoy takes for a circuit breaker."""
BACKOFF = {"backOff": {"baseInterval": "25ms", "maxInterval": "250ms"}}


def extension_policy(plan: Plan, routes: list[str]) -> Object:
    """EnvoyExtensionPolicy: that, how, and how often Envoy asks us."""
    timeout = "bounds our answer, not the model's"
    if plan.queue_timeout_s:
        timeout += (
            f"; above queue.timeout_s ({plan.queue_timeout_s:g} s), or requests that wait with us get 504"
        )
    processor: Object = {
        "backendRefs": [{"kind": "Service", "name": plan.name, "port": GRPC_PORT}],
        "messageTimeout": Why(f"{plan.message_timeout_s}s", timeout),
        "failOpen": _fail_open(plan),
        "statusOnError": Why(503, "what clients retry; the default is 500"),
        "processingMode": _processing_mode(plan),
        "metadata": {
            "writableNamespaces": Why(
                [pin.ENVOY_LB, pin.NAMESPACE], "the pick, and what the access log prints"
            ),
            "accessibleNamespaces": Why([pin.ENVOY_LB], "subset hints, and who served"),
        },
        "backendSettings": _processor_backend(plan),
    }
    return {
        "apiVersion": f"{ENVOY_GATEWAY}/v1alpha1",
        "kind": "EnvoyExtensionPolicy",
        "metadata": metadata(plan),
        "spec": {"targetRefs": _routes(routes), "extProc": [processor]},
    }


def _fail_open(plan: Plan) -> Why:
    if plan.fail_open:
        return Why(True, "answers outlive a router that dies; what enters meanwhile ends at the entry rule")
    return Why(False, "no request passes us by; a router that dies takes with it the answers that it counts")


def _processing_mode(plan: Plan) -> Object:
    body = "the whole body before a pod is picked; with Streamed the pick would come too late"
    override = "an upgrade (WebSocket) has no end of body to wait for: we say so at its headers"
    served = "no body: the tokens never pass through us. With headers the stream stays open to the end of the answer"
    if plan.config.responses is not None:
        override += ". By it we ask for the bodies of answers that are to be read (responses)"
        served = "no body: the answers that are to be read we ask for. With headers the stream stays open to their end"
    return {
        "allowModeOverride": Why(True, override),
        "request": {"body": Why("Buffered", body)},
        "response": Why(
            {"attributes": ["upstream.address", "response.code_details"]},
            f"{served}, which counts requests in flight; the attributes say who served, and whose a 503 was",
        ),
    }


def _processor_backend(plan: Plan) -> Object:
    """How Envoy treats our own pods."""
    breaker = "a stream lives as long as an answer; Envoy's default of 1024 fails what exceeds it with 500"
    return {
        "circuitBreaker": {
            "maxConnections": UNBOUNDED,
            "maxPendingRequests": UNBOUNDED,
            "maxParallelRequests": Why(UNBOUNDED, breaker),
            "maxParallelRetries": 1024,
        },
        "connection": {"bufferLimit": plan.buffer_limit},
        "timeout": {"tcp": {"connectTimeout": "1s"}},
        "tcpKeepalive": {"probes": 3, "idleTime": "10s", "interval": "5s"},
        "http2": {
            "initialStreamWindowSize": Why("16Mi", "a long prompt goes in one piece"),
            "initialConnectionWindowSize": "64Mi",
            "connectionKeepalive": Why({"interval": "10s", "timeout": "3s"}, "notices a peer that vanished"),
        },
        "loadBalancer": {
            "type": Why("LeastRequest", "safe only with the health checks below: the dead look idle")
        },
        "healthCheck": _processor_health(),
        "retry": _processor_retry(),
    }


def _processor_health() -> Object:
    """Actively by gRPC, as nothing else notices a process that hangs; passively, as it takes a second to."""
    return {
        "panicThreshold": Why(
            1,
            "never send to replicas known to be dead; with 0, a router that starts after Envoy is asked a minute late",
        ),
        "active": {
            "type": "GRPC",
            "grpc": {"service": Why(SERVICE_NAME, "a hung process accepts connections, and answers nothing")},
            "interval": "1s",
            "timeout": "500ms",
            "unhealthyThreshold": 1,
            "healthyThreshold": 1,
        },
        "passive": {
            "interval": "1s",
            "baseEjectionTime": "5s",
            "consecutive5XxErrors": 2,
            "consecutiveGatewayErrors": 2,
            "maxEjectionPercent": Why(50, "of two replicas never both"),
        },
    }


def _processor_retry() -> Object:
    """Before an answer came; what was exchanged on a stream is not sent again."""
    return {
        "numRetries": Why(2, "another replica decides as well as the one that left"),
        "perRetry": BACKOFF,
        "retryOn": {
            "triggers": [
                "connect-failure",
                "refused-stream",
                "reset",
                "unavailable",
                "cancelled",
                "resource-exhausted",
                "internal",
            ]
        },
    }


def backend_policy(plan: Plan, routes: list[str]) -> Object:
    """BackendTrafficPolicy: that Envoy goes where we say, and for how long."""
    override = {
        "extractFrom": [{"header": Why(pin.DESTINATION, "the pod that we chose, then its fallbacks")}]
    }
    balancer = {"type": Why("LeastRequest", "for requests without a pin only"), "endpointOverride": override}
    spec: Object = {
        "targetRefs": _routes(routes),
        "loadBalancer": balancer,
        "timeout": _answer_timeouts(),
        "circuitBreaker": {
            "maxConnections": 100_000,
            "maxPendingRequests": 100_000,
            "maxParallelRequests": Why(
                100_000, "answers last minutes; the default of 1024 turns load into 503"
            ),
            "maxParallelRetries": 1024,
        },
        "connection": {
            "bufferLimit": Why(plan.buffer_limit, "a body over it is not sent again to a fallback")
        },
        "healthCheck": {
            "active": {
                "type": "HTTP",
                "http": {
                    "path": Why(
                        "/health", "vLLM's; for requests without a pin: a pin is followed all the same"
                    )
                },
                "interval": "5s",
                "timeout": "2s",
                "unhealthyThreshold": 3,
                "healthyThreshold": 1,
            },
            "panicThreshold": 0,
        },
        "retry": _retry(plan),
    }
    return _backend_policy(plan, spec)


def long_answers(plan: Plan, routes: list[str]) -> Object:
    """The same for a gateway that pins by itself: timeouts only."""
    return _backend_policy(plan, {"targetRefs": _routes(routes), "timeout": _answer_timeouts()})


def _backend_policy(plan: Plan, spec: Object) -> Object:
    return {
        "apiVersion": f"{ENVOY_GATEWAY}/v1alpha1",
        "kind": "BackendTrafficPolicy",
        "metadata": metadata(plan),
        "spec": spec,
    }


def _answer_timeouts() -> Object:
    return {
        "tcp": {"connectTimeout": "2s"},
        "http": {
            "requestTimeout": Why("0s", "none: Envoy's default cuts every answer after 15 s, with 504"),
            "connectionIdleTimeout": Why(
                "4s", "vLLM closes idle connections after 5 s: 503 for who is on its way"
            ),
            "streamIdleTimeout": Why("30m", "a reasoning model may think for long before its first token"),
        },
    }


def _retry(plan: Plan) -> Object:
    if plan.retries == 0:
        return {
            "numRetries": Why(0, "fallback_endpoints is 0: a retry would go to any pod, of whatever version")
        }
    return {
        "numRetries": Why(plan.retries, "fallback_endpoints: each retry takes the next of the pin's list"),
        "perRetry": BACKOFF,
        "retryOn": {
            "httpStatusCodes": [503],
            "triggers": ["connect-failure", "refused-stream", "retriable-status-codes"],
        },
    }


def _routes(names: list[str]) -> list[Object]:
    return [{"group": GATEWAY_API, "kind": "HTTPRoute", "name": name} for name in names]
