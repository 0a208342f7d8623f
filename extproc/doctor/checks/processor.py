"""The cluster of the ext_proc service: whether Envoy gets through to a router that lives."""

from __future__ import annotations

from collections.abc import Iterator

from ..clusters import BREAKER, Cluster
from ..fields import whole
from ..finding import Cure, Found, Line, Severity, check
from ..setup import Setup

SETTINGS = "spec.extProc[].backendSettings"


@check(
    "ext-proc-circuit-breaker",
    Severity.SERIOUS,
    "The ext_proc cluster's circuit breaker opens at 1,024 requests",
    "An ext_proc stream lives as long as its answer, so that the limit is one of answers at once: with 1,100 "
    "of them 76 got 500 (tried with Envoy 1.40). Envoy Gateway leaves Envoy's default of 1,024.",
    Cure(
        gateway=(
            Line(
                "EnvoyExtensionPolicy",
                f"{SETTINGS}.circuitBreaker",
                "{maxConnections: 100000, maxPendingRequests: 100000, maxParallelRequests: 100000}",
            ),
        ),
        envoy=(
            Line(
                "Cluster",
                "circuit_breakers.thresholds",
                "[{max_connections: 100000, max_pending_requests: 100000, max_requests: 100000}]",
            ),
        ),
        words="Envoy AI Gateway has no setting for it: an EnvoyPatchPolicy, or plain Envoy Gateway",
    ),
)
def ext_proc_circuit_breaker(setup: Setup) -> Iterator[Found]:
    yield from tripped(setup, setup.processor_clusters, Severity.SERIOUS)


def tripped(setup: Setup, clusters: list[Cluster], severity: Severity) -> Iterator[Found]:
    """Clusters whose breakers are low, or have opened."""
    for cluster in clusters:
        limits = {
            name: cluster.breaker(name)
            for name in ("max_requests", "max_pending_requests", "max_connections")
        }
        low = {name: limit for name, limit in limits.items() if limit <= BREAKER}
        counts = {
            name: setup.count(cluster.stats + name)
            for name in ("upstream_rq_active_overflow", "upstream_rq_pending_overflow")
        }
        overflow = ", ".join(f"{name} {count:,}" for name, count in counts.items() if count)
        if not low and not overflow:
            continue
        told = ", ".join(f"{name} {limit:,}" for name, limit in (low or limits).items())
        if overflow:
            told += f"; so far {overflow}"
        worst = Severity.SERIOUS if overflow and low else severity
        yield Found(cluster.where, told, worst if "max_requests" in low else Severity.WARNING)


@check(
    "ext-proc-streams",
    Severity.WARNING,
    "Few ext_proc streams fit through the connections allowed",
    "max_concurrent_streams spreads streams over more connections; with max_connections it limits answers at once.",
    Cure(
        gateway=(Line("EnvoyExtensionPolicy", f"{SETTINGS}.http2.maxConcurrentStreams", "100"),),
        envoy=(
            Line(
                "HttpProtocolOptions",
                "explicit_http_config.http2_protocol_options.max_concurrent_streams",
                "100",
            ),
        ),
        words="and max_connections far above the answers at once divided by it",
    ),
)
def ext_proc_streams(setup: Setup) -> Iterator[Found]:
    for cluster in setup.processor_clusters:
        streams, connections = (
            whole(cluster.http2, "max_concurrent_streams"),
            cluster.breaker("max_connections"),
        )
        if streams is not None and streams * connections <= 10 * BREAKER:
            told = f"max_concurrent_streams {streams:,} × max_connections {connections:,}"
            yield Found(cluster.where, told)


@check(
    "not-http2",
    Severity.SERIOUS,
    "The ext_proc cluster does not speak HTTP/2",
    "gRPC needs it: every request fails.",
    Cure(
        envoy=(Line("HttpProtocolOptions", "explicit_http_config.http2_protocol_options", "{}"),),
        words="Envoy Gateway sets it for extProc backends by itself",
    ),
)
def not_http2(setup: Setup) -> Iterator[Found]:
    for cluster in setup.processor_clusters:
        if cluster.http2 is None:
            yield Found(cluster.where, "no http2_protocol_options")


@check(
    "ext-proc-unreachable",
    Severity.SERIOUS,
    "Envoy has no healthy router",
    "Every request fails, or goes on unrouted where ext_proc fails open.",
    Cure(
        gateway=(
            Line(
                "EnvoyExtensionPolicy",
                "spec.extProc[].backendRefs",
                '[{group: "", kind: Service, name: extproc, port: 9002}]',
            ),
        ),
        words="the router's pods, their readiness, the Service's selector and port, NetworkPolicies",
    ),
)
def ext_proc_unreachable(setup: Setup) -> Iterator[Found]:
    names = {processing.cluster for _, processing in setup.processings} - {""}
    for name in sorted(names - setup.clusters.keys()):
        yield Found(f"cluster {name}", "named by ext_proc, and not there")
    for cluster in setup.processor_clusters:
        if cluster.hosts is not None and all(host.unhealthy for host in cluster.hosts):
            hosts = ", ".join(f"{host.address} ({host.unhealthy})" for host in cluster.hosts)
            if hosts and cluster.panic_percent > 0:  # as just after the start, before the first check
                yield Found(
                    cluster.where, f"{hosts}; in panic Envoy asks them all the same", Severity.WARNING
                )
            else:
                yield Found(cluster.where, hosts or "no endpoints")


CHECKS = (ext_proc_circuit_breaker, ext_proc_streams, not_http2, ext_proc_unreachable)
