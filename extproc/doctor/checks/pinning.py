"""Whether a request goes to the pod that the router chose, and only to that."""

from __future__ import annotations

from collections.abc import Iterator

from ...pin import DESTINATION, ENVOY_LB
from ..clusters import BACKEND, Cluster, Kind
from ..fields import Json, record, text
from ..finding import Cure, Found, Line, Severity, check
from ..processing import removed_early
from ..routes import Manager, Route
from ..setup import Setup

ANYWHERE = (Kind.ORIGINAL_DST, Kind.DYNAMIC)
"""Clusters that go wherever the pin says, whether that is a pod or not."""
OVERRIDE = (
    Line(
        "BackendTrafficPolicy",
        "spec.loadBalancer",
        "{type: LeastRequest, endpointOverride: {extractFrom: [{header: x-gateway-destination-endpoint}]}}",
    ),
)
RAW_OVERRIDE = (Line("OverrideHost", "override_host_sources", "[{header: x-gateway-destination-endpoint}]"),)
STEERING_PREFIX = "x-extproc-"


def unstripped(setup: Setup, manager: Manager) -> list[str]:
    """Headers by which requests are steered here and that a client can send."""
    steering = {
        name for route in manager.routes for name in route.headers if name.startswith(STEERING_PREFIX)
    }
    for route in manager.routes:
        steering.update(name for cluster in setup.clusters_of(route) for name in cluster.pin_headers)
        if (name := text(route.action, "host_rewrite_header").lower()) == DESTINATION:
            steering.add(name)
    removals = removed_early(manager.settings)
    return sorted(name for name in steering if not any(_removes(removal, name) for removal in removals))


def _removes(mutation: Json, name: str) -> bool:
    if text(mutation, "remove").lower() == name:
        return True
    matcher = record(mutation, "remove_on_match", "key_matcher")
    prefix = text(matcher, "prefix").lower()
    return text(matcher, "exact").lower() == name or bool(prefix and name.startswith(prefix))


@check(
    "client-pin",
    Severity.WARNING,
    "Clients can send the headers that steer requests",
    "The router replaces them on every request that it sees. On one that it does not see (a route without "
    "ext_proc, ext_proc failing open) a client chooses its own pod; on an ORIGINAL_DST cluster, any address "
    "that Envoy reaches.",
    Cure(
        gateway=(
            Line(
                "ClientTrafficPolicy",
                "spec.headers.earlyRequestHeaders.remove",
                "[x-gateway-destination-endpoint, x-extproc-pool, x-extproc-mirror]",
            ),
        ),
        envoy=(
            Line(
                "HttpConnectionManager",
                "early_header_mutation_extensions[]",
                "{name: envoy.http.early_header_mutation.header_mutation, typed_config: {'@type': "
                "type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation, "
                "mutations: [{remove: x-gateway-destination-endpoint}, {remove: x-extproc-pool}, {remove: "
                "x-extproc-mirror}]}}",
            ),
        ),
    ),
)
def client_pin(setup: Setup) -> Iterator[Found]:
    for manager in setup.managers:
        names = unstripped(setup, manager)
        if not names:
            continue
        unseen = [route.name for route in manager.routes if _pins_unseen(setup, route, names)]
        open_filters = [processing.filter for processing in manager.processings if processing.fails_open]
        told = ", ".join(names)
        if unseen:
            told += f"; ext_proc is off on route {unseen[0]}"
        elif open_filters:
            told += f"; filter {open_filters[0]} fails open"
        yield Found(manager.where, told, Severity.SERIOUS if unseen or open_filters else None)


def _pins_unseen(setup: Setup, route: Route, names: list[str]) -> bool:
    pins = {name for cluster in setup.clusters_of(route) for name in cluster.pin_headers}
    return not route.processings and bool(pins & set(names))


@check(
    "pin-removed",
    Severity.SERIOUS,
    "The pin is taken off before the pod is chosen",
    "A route that removes x-gateway-destination-endpoint (RequestHeaderModifier) removes it before Envoy "
    "chooses the host: the pin is lost (tried with Envoy 1.40).",
    Cure(
        envoy=(Line("Route", "request_headers_to_remove", "[]"),),
        words="take the header out of the HTTPRoute's RequestHeaderModifier; it does no harm upstream",
    ),
)
def pin_removed(setup: Setup) -> Iterator[Found]:
    for _, route in setup.served:
        pins = {name for cluster in setup.clusters_of(route) for name in cluster.pin_headers}
        if removed := sorted(pins & {name.lower() for name in route.removed}):
            yield Found(f"route {route.name}", f"request_headers_to_remove {', '.join(removed)}")


@check(
    "pin-ignored",
    Severity.SERIOUS,
    "The cluster does not follow the router's choice",
    "The router names the pod in the header x-gateway-destination-endpoint and in envoy.lb metadata under the "
    "same name; a cluster that reads neither spreads requests by its own load balancing, as if there were no "
    "router.",
    Cure(gateway=OVERRIDE, envoy=RAW_OVERRIDE),
)
def pin_ignored(setup: Setup) -> Iterator[Found]:
    for _, route in setup.served:
        for cluster in setup.clusters_of(route):
            if not _follows(cluster, route):
                read = [*cluster.pin_headers, *cluster.pin_metadata]
                how = f"reads {', '.join(read)}" if read else "reads no pin"
                yield Found(cluster.where, f"{cluster.kind.value}; {how}")


def _follows(cluster: Cluster, route: Route) -> bool:
    if cluster.kind is Kind.DYNAMIC:
        return text(route.action, "host_rewrite_header").lower() == DESTINATION
    return DESTINATION in cluster.pin_headers or f"{ENVOY_LB}/{DESTINATION}" in cluster.pin_metadata


@check(
    "pin-twice",
    Severity.WARNING,
    "The first retry goes to the pod that just failed",
    "override_host joins what its sources say; the router sets header and metadata alike, so that the list "
    "holds every pod twice: the first half of the retries is wasted.",
    Cure(gateway=OVERRIDE, envoy=RAW_OVERRIDE),
)
def pin_twice(setup: Setup) -> Iterator[Found]:
    for cluster in setup.pool_clusters:
        sources = [*cluster.pin_headers, *cluster.pin_metadata]
        if cluster.kind is Kind.OVERRIDE_HOST and len(sources) > 1:
            yield Found(cluster.where, f"override_host_sources {', '.join(sources)}")


@check(
    "pin-list",
    Severity.SERIOUS,
    "The pin is a list, and this cluster takes one pod",
    "With fallback_endpoints the pin reads `a,b`; only override_host walks a list. ORIGINAL_DST and a dynamic "
    "resolver answer 503 to it, a subset goes anywhere.",
    Cure(
        gateway=OVERRIDE,
        envoy=RAW_OVERRIDE,
        router=(Line("config", "pools[].fallback_endpoints", "0"),),
    ),
    needs_router=True,
)
def pin_list(setup: Setup) -> Iterator[Found]:
    for _, route in setup.served:
        pools = setup.pools_of(route)
        for cluster in setup.clusters_of(route):
            if cluster.kind not in (*ANYWHERE, Kind.SUBSET) or setup.router is None:
                continue
            for pool in pools:
                if fallbacks := setup.router.pool(pool.name).fallback_endpoints:
                    told = f"{cluster.kind.value}; pool {pool.name} has fallback_endpoints {fallbacks}"
                    yield Found(cluster.where, told)


@check(
    "fail-open",
    Severity.WARNING,
    "Without the router, requests go on unrouted",
    "failOpen lets requests through when the router is away or late: unpinned, with the client's model name "
    "not replaced, on the entry rule or a random pod; where a client's own pin survives it is obeyed, and a "
    "cluster that needs a pin answers 503.",
    Cure(
        gateway=(
            Line("EnvoyExtensionPolicy", "spec.extProc[].failOpen", "false"),
            Line("EnvoyExtensionPolicy", "spec.extProc[].statusOnError", "503"),
        ),
        envoy=(
            Line("ExternalProcessor", "failure_mode_allow", "false"),
            Line("ExternalProcessor", "status_on_error", "{code: ServiceUnavailable}"),
        ),
        words="two replicas of the router, rather",
    ),
)
def fail_open(setup: Setup) -> Iterator[Found]:
    anywhere = any(cluster.kind in ANYWHERE for cluster in setup.pool_clusters)
    for manager, processing in setup.processings:
        if processing.fails_open:
            names = unstripped(setup, manager)
            told = f"; clients can send {', '.join(names)}" if names else ""
            severity = Severity.SERIOUS if names or anywhere else None
            yield Found(f"filter {processing.filter}", f"failure_mode_allow true{told}", severity)


@check(
    "several-backends",
    Severity.SERIOUS,
    "Several backends in one rule",
    "The router's pod is in one of them, and Envoy draws which one to look in: with one Service without "
    "endpoints, 21 of 40 rightly pinned requests got 503 (Envoy Gateway makes weighted clusters of them then, "
    "tried with two).",
    Cure(
        gateway=(Line("HTTPRoute", "spec.rules[].backendRefs", "[{name: vllm, port: 8000}]"),),
        envoy=(Line("Route", "route.cluster", "vllm"),),
        words="one Service a rule; shares between versions belong into the router's models[].targets",
    ),
)
def several_backends(setup: Setup) -> Iterator[Found]:
    for _, route in setup.served:
        used = {name: weight for name, weight in route.clusters.items() if weight}
        if len(used) > 1:
            shares = ", ".join(f"{name} {weight}" for name, weight in used.items())
            yield Found(f"route {route.name}", f"weighted_clusters {shares}")
    for cluster in setup.pool_clusters:
        if len(cluster.localities) > 1:
            ours = all(BACKEND in locality for locality in cluster.localities)
            told = f"{len(cluster.localities)} localities: {', '.join(cluster.localities)}"
            yield Found(cluster.where, told, Severity.WARNING if ours else Severity.NOTE)


CHECKS = (
    client_pin,
    pin_removed,
    pin_ignored,
    pin_twice,
    pin_list,
    fail_open,
    several_backends,
)
