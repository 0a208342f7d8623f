"""Whether Envoy notices that a router is gone, and what that costs."""

from __future__ import annotations

from collections.abc import Iterator

from ..fields import records, seconds, text
from ..finding import Cure, Found, Line, Severity, check, span
from ..setup import Setup
from .processor import SETTINGS

SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"
SERVICES = ("", "liveness", "readiness", SERVICE)
"""What the router's gRPC health service knows; others are NOT_FOUND."""
GRPC_CHECK = (
    Line(
        "EnvoyExtensionPolicy",
        f"{SETTINGS}.healthCheck.active",
        f"{{type: GRPC, grpc: {{service: {SERVICE}}}, interval: 1s, timeout: 500ms, unhealthyThreshold: 1, "
        "healthyThreshold: 1}",
    ),
)
PANIC = Line("EnvoyExtensionPolicy", f"{SETTINGS}.healthCheck.panicThreshold", "1")
RAW_PANIC = Line("Cluster", "common_lb_config.healthy_panic_threshold", "{value: 1}")
LOW_PANIC = 10
"""Percent, below which no plausible number of routers is in panic while one is healthy."""
NO_TRAFFIC_S = 60.0
"""Envoy's default."""
LONG_PAUSE_S = 10.0
"""As long as a readiness probe usually takes to notice."""
RAW_GRPC_CHECK = (
    Line(
        "Cluster",
        "health_checks[]",
        f"{{timeout: 0.5s, interval: 1s, no_traffic_interval: 1s, unhealthy_threshold: 1, healthy_threshold: 1, "
        f"grpc_health_check: {{service_name: {SERVICE}}}}}",
    ),
)


@check(
    "no-health-check",
    Severity.WARNING,
    "A router that hangs is not noticed",
    "Only a gRPC health check sees it: with one of two hung, 200 of 400 requests got 504; retries, outlier "
    "detection and TCP checks did not help, with the gRPC check 20 of 600 failed, then none. Without any check "
    "LEAST_REQUEST prefers a dead replica, as it looks idle.",
    Cure(gateway=GRPC_CHECK, envoy=RAW_GRPC_CHECK),
)
def no_health_check(setup: Setup) -> Iterator[Found]:
    for cluster in setup.processor_clusters:
        checks = records(cluster.settings, "health_checks")
        if any("grpc_health_check" in entry for entry in checks):
            continue
        hosts = len(cluster.hosts or [])
        kinds = [key for entry in checks for key in entry if key.endswith("_health_check")]
        told = f"{', '.join(kinds) or 'no health check'}; {hosts} endpoint{'s' * (hosts != 1)}"
        yield Found(cluster.where, told, Severity.WARNING if hosts > 1 else Severity.NOTE)


@check(
    "health-check-service",
    Severity.SERIOUS,
    "The health check asks for a service that the router does not know",
    f"It answers NOT_FOUND, which is unhealthy; it knows {', '.join(name or 'the empty name' for name in SERVICES)}.",
    Cure(gateway=GRPC_CHECK, envoy=RAW_GRPC_CHECK),
)
def health_check_service(setup: Setup) -> Iterator[Found]:
    for cluster in setup.processor_clusters:
        for entry in records(cluster.settings, "health_checks"):
            name = text(entry, "grpc_health_check", "service_name")
            if name not in SERVICES:
                yield Found(cluster.where, f"service_name {name}")


@check(
    "panic-threshold",
    Severity.NOTE,
    "Below half of healthy routers, dead ones are asked too",
    "Envoy ignores its health checks when less than this share is healthy: in a rollout, routers that end get "
    "requests again. At 1 it does so only where none is left, when one that drains is better than none.",
    Cure(gateway=(PANIC,), envoy=(RAW_PANIC,)),
)
def panic_threshold(setup: Setup) -> Iterator[Found]:
    for cluster in setup.processor_clusters:
        if records(cluster.settings, "health_checks") and (share := cluster.panic_percent) > LOW_PANIC:
            yield Found(cluster.where, f"healthy_panic_threshold {share:g} %")


@check(
    "health-check-start",
    Severity.WARNING,
    "A router that starts after Envoy is not asked for a minute",
    "Before a cluster's first request Envoy checks its health only every no_traffic_interval (60 s unless set), and "
    "with a panic threshold of 0 it sends no request to what is not healthy: 503 for 56 s after the router was "
    "there, with a threshold of 1 none (tried with Envoy 1.40). Envoy Gateway cannot set the interval.",
    Cure(
        gateway=(PANIC,),
        envoy=(RAW_PANIC, Line("Cluster", "health_checks[].no_traffic_interval", "1s")),
    ),
)
def health_check_start(setup: Setup) -> Iterator[Found]:
    for cluster in setup.processor_clusters:
        for entry in records(cluster.settings, "health_checks"):
            pause = seconds(entry, "no_traffic_interval")
            pause = NO_TRAFFIC_S if pause is None else pause
            if cluster.panic_percent == 0 and pause > LONG_PAUSE_S:
                yield Found(cluster.where, f"no_traffic_interval {span(pause)}, healthy_panic_threshold 0 %")


@check(
    "no-grpc-retry",
    Severity.NOTE,
    "A router that goes takes requests with it",
    "In a restart of one of two routers 1,028 of 3,000 requests failed; with outlier detection and a gRPC "
    "retry none (SIGTERM) or four (SIGKILL).",
    Cure(
        gateway=(
            Line("EnvoyExtensionPolicy", f"{SETTINGS}.retry.numRetries", "2"),
            Line(
                "EnvoyExtensionPolicy",
                f"{SETTINGS}.retry.retryOn.triggers",
                "[connect-failure, refused-stream, reset, unavailable, cancelled]",
            ),
            Line(
                "EnvoyExtensionPolicy",
                f"{SETTINGS}.healthCheck.passive",
                "{interval: 1s, baseEjectionTime: 5s, consecutive5XxErrors: 2, maxEjectionPercent: 50}",
            ),
        ),
        envoy=(
            Line(
                "ExternalProcessor",
                "grpc_service.retry_policy",
                '{num_retries: 2, retry_on: "connect-failure,refused-stream,reset,unavailable,cancelled"}',
            ),
            Line(
                "Cluster",
                "outlier_detection",
                "{interval: 1s, base_ejection_time: 5s, consecutive_5xx: 2, max_ejection_percent: 50}",
            ),
        ),
    ),
)
def no_grpc_retry(setup: Setup) -> Iterator[Found]:
    for _, processing in setup.processings:
        cluster = setup.clusters.get(processing.cluster)
        if cluster is None or len(cluster.hosts or []) < 2:
            continue
        missing = []
        if not text(processing.settings, "grpc_service", "retry_policy", "retry_on"):
            missing.append("grpc_service.retry_policy")
        if "outlier_detection" not in cluster.settings:
            missing.append("outlier_detection")
        if missing:
            yield Found(cluster.where, f"{len(cluster.hosts or [])} endpoints; no {' and no '.join(missing)}")


@check(
    "keepalive",
    Severity.NOTE,
    "A router whose node is gone is noticed late",
    "Nothing closes the connection then: without HTTP/2 pings (or health checks) streams hang until each "
    "message timeout, and new ones go there.",
    Cure(
        gateway=(
            Line(
                "EnvoyExtensionPolicy",
                f"{SETTINGS}.http2.connectionKeepalive",
                "{interval: 10s, timeout: 3s}",
            ),
        ),
        envoy=(
            Line(
                "HttpProtocolOptions",
                "explicit_http_config.http2_protocol_options.connection_keepalive",
                "{interval: 10s, timeout: 3s}",
            ),
        ),
    ),
)
def keepalive(setup: Setup) -> Iterator[Found]:
    for cluster in setup.processor_clusters:
        if cluster.http2 is not None and "connection_keepalive" not in cluster.http2:
            unchecked = not records(cluster.settings, "health_checks")
            told = "no connection_keepalive" + (", no health check" if unchecked else "")
            yield Found(cluster.where, told, Severity.WARNING if unchecked else None)


CHECKS = (
    no_health_check,
    health_check_service,
    panic_threshold,
    health_check_start,
    no_grpc_retry,
    keepalive,
)
