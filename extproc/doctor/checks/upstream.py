"""The clusters of model servers: how many requests they let through, and what is tried again."""

from __future__ import annotations

from collections.abc import Iterator

from ..clusters import RETRIES, Kind
from ..fields import text, whole
from ..finding import Cure, Found, Line, Severity, check
from ..routes import Route
from ..setup import Setup
from .processor import tripped

NUM_RETRIES = 1
"""Envoy's default of a retry policy."""
ON_REFUSAL = {"connect-failure", "reset", "5xx"}
"""Conditions that cover a pod that refuses connections."""
ON_ANY_ERROR = {"5xx", "gateway-error"}


@check(
    "pool-circuit-breaker",
    Severity.WARNING,
    "A pool's circuit breaker opens at 1,024 requests",
    "For all its pods together: 8 pods of 128 sequences reach it. Envoy answers 503 (flags UO) to what is "
    "above, and the router's own queue never gets to order it.",
    Cure(
        gateway=(
            Line(
                "BackendTrafficPolicy",
                "spec.circuitBreaker",
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
    ),
)
def pool_circuit_breaker(setup: Setup) -> Iterator[Found]:
    yield from tripped(setup, setup.pool_clusters, Severity.WARNING)


def _retries(route: Route) -> set[str]:
    return {word.strip() for word in text(route.retry, "retry_on").split(",")} - {""}


@check(
    "retry-circuit-breaker",
    Severity.WARNING,
    "Three retries at once, and no more",
    "When a pod dies, all its requests are retried in the same moment; Envoy's default lets three of them, the "
    "others fail. Envoy Gateway sets 1,024.",
    Cure(
        gateway=(Line("BackendTrafficPolicy", "spec.circuitBreaker.maxParallelRetries", "1024"),),
        envoy=(Line("Cluster", "circuit_breakers.thresholds[].max_retries", "1024"),),
    ),
)
def retry_circuit_breaker(setup: Setup) -> Iterator[Found]:
    retried = {name for _, route in setup.served if _retries(route) for name in route.clusters}
    for cluster in setup.pool_clusters:
        overflow = setup.count(f"{cluster.stats}upstream_rq_retry_overflow")
        low = cluster.breaker("max_retries") <= RETRIES and not cluster.has_retry_budget
        if cluster.name in retried and (low or overflow):
            told = f"max_retries {cluster.breaker('max_retries'):,}"
            yield Found(cluster.where, told + (f"; {overflow:,} retries not made" if overflow else ""))


@check(
    "retry-missing",
    Severity.WARNING,
    "Fallback pods are never asked",
    "The router names fallbacks in the pin; it is the route's retry policy that walks them. Without one a pod "
    "that refuses connections is a 503 for the client.",
    Cure(
        gateway=(
            Line("BackendTrafficPolicy", "spec.retry.numRetries", "2"),
            Line("BackendTrafficPolicy", "spec.retry.retryOn.triggers", "[connect-failure, refused-stream]"),
            Line("BackendTrafficPolicy", "spec.retry.retryOn.httpStatusCodes", "[503]"),
        ),
        envoy=(
            Line(
                "Route",
                "route.retry_policy",
                "{num_retries: 2, retry_on: "
                '"connect-failure,refused-stream,retriable-status-codes", retriable_status_codes: [503]}',
            ),
        ),
    ),
    needs_router=True,
)
def retry_missing(setup: Setup) -> Iterator[Found]:
    for _, route in setup.served:
        kinds = {cluster.kind for cluster in setup.clusters_of(route)}
        for pool in setup.pools_of(route) if setup.router and Kind.OVERRIDE_HOST in kinds else ():
            fallbacks = setup.router.pool(pool.name).fallback_endpoints if setup.router else 0
            retries = whole(route.retry, "num_retries")
            retries = NUM_RETRIES if retries is None else retries
            where, told = f"route {route.name}", f"pool {pool.name} has fallback_endpoints {fallbacks}"
            if fallbacks and not ON_REFUSAL & _retries(route):
                on = ", ".join(sorted(_retries(route)))
                yield Found(where, f"{told}; {f'retry_on {on}' if on else 'no retry policy'}")
            elif retries < fallbacks:
                yield Found(where, f"{told}; num_retries {retries}", Severity.NOTE)


@check(
    "retry-any-error",
    Severity.WARNING,
    "Every server error is computed again",
    "5xx and gateway-error also retry a 500 or 504 that came after minutes of work: one bad prompt is computed "
    "on every pod in turn, and an overload makes itself worse.",
    Cure(
        gateway=(
            Line("BackendTrafficPolicy", "spec.retry.retryOn.triggers", "[connect-failure, refused-stream]"),
            Line("BackendTrafficPolicy", "spec.retry.retryOn.httpStatusCodes", "[503]"),
        ),
        envoy=(
            Line(
                "Route",
                "route.retry_policy.retry_on",
                '"connect-failure,refused-stream,retriable-status-codes"',
            ),
        ),
    ),
)
def retry_any_error(setup: Setup) -> Iterator[Found]:
    for _, route in setup.served:
        if found := sorted(ON_ANY_ERROR & _retries(route)):
            yield Found(f"route {route.name}", f"retry_on {', '.join(found)}")


CHECKS = (pool_circuit_breaker, retry_circuit_breaker, retry_missing, retry_any_error)
