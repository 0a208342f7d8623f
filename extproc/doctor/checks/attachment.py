"""Whether requests come by ext_proc at all, and whether what it says takes effect."""

from __future__ import annotations

from collections.abc import Iterator

from ...pin import POOL
from ..fields import flag, text
from ..finding import Cure, Found, Line, Severity, check
from ..setup import Setup

FILTER_CONFIG = "{'@type': type.googleapis.com/envoy.config.route.v3.FilterConfig, config: {}}"
TARGET = "[{group: gateway.networking.k8s.io, kind: HTTPRoute, name: llm}]"


@check(
    "no-ext-proc",
    Severity.SERIOUS,
    "No listener has an ext_proc filter",
    "Envoy does not ask the router about any request: pods are chosen by its own load balancing.",
    Cure(
        gateway=(Line("EnvoyExtensionPolicy", "spec.targetRefs", TARGET),),
        envoy=(Line("HttpConnectionManager", "http_filters[].name", "envoy.filters.http.ext_proc"),),
        words="the policy's status says why Envoy Gateway did not take it",
    ),
)
def no_ext_proc(setup: Setup) -> Iterator[Found]:
    if not any(manager.chain for manager in setup.managers):
        yield Found("envoy", f"{len(setup.managers)} HTTP connection managers, none with ext_proc")


@check(
    "ext-proc-off",
    Severity.SERIOUS,
    "The ext_proc filter runs on no route",
    "It is `disabled: true`, as Envoy Gateway programs it, and no route turns it on: the policy's targetRef "
    "names something that no request takes.",
    Cure(
        gateway=(Line("EnvoyExtensionPolicy", "spec.targetRefs", TARGET),),
        envoy=(
            Line("Route", "typed_per_filter_config", f"{{envoy.filters.http.ext_proc: {FILTER_CONFIG}}}"),
        ),
    ),
)
def ext_proc_off(setup: Setup) -> Iterator[Found]:
    for manager in setup.managers:
        if manager.chain and not manager.processings:
            names = ", ".join(entry.name for entry in manager.chain)
            yield Found(manager.where, f"{names}: on none of {len(manager.routes)} routes")


@check(
    "entry-without-ext-proc",
    Severity.SERIOUS,
    "Requests meet a route without ext_proc first",
    "The filter chain is that of the route matched first, before x-extproc-pool is there. Where that route has "
    "no ext_proc, or there is none, no request ever gets to a pool's rule.",
    Cure(
        gateway=(Line("EnvoyExtensionPolicy", "spec.targetRefs", TARGET),),
        envoy=(
            Line("Route", "typed_per_filter_config", f"{{envoy.filters.http.ext_proc: {FILTER_CONFIG}}}"),
        ),
        words="an entry rule without x-extproc-pool in the same HTTPRoute, answering 404 by an HTTPRouteFilter",
    ),
)
def entry_without_ext_proc(setup: Setup) -> Iterator[Found]:
    for manager in setup.managers:
        runs_anyway = any(not entry.disabled for entry in manager.chain)
        for routes in manager.hosts:
            entries = [route for route in routes if POOL not in route.headers]
            if len(entries) == len(routes) or any(route.processings for route in entries):
                continue
            if entries:
                yield Found(
                    f"route {entries[0].name}", "matches requests without x-extproc-pool; ext_proc is off"
                )
            elif not runs_anyway:
                yield Found(f"route {routes[0].name}", "every route beside it asks for x-extproc-pool too")


@check(
    "bypass",
    Severity.WARNING,
    "A route leads to a pool's cluster past the router",
    "Its requests are neither spread by load nor counted: the router learns of them only when it scrapes, and "
    "a pin that the client sends stays in force.",
    Cure(
        gateway=(Line("EnvoyExtensionPolicy", "spec.targetRefs", TARGET),),
        envoy=(
            Line("Route", "typed_per_filter_config", f"{{envoy.filters.http.ext_proc: {FILTER_CONFIG}}}"),
        ),
    ),
)
def bypass(setup: Setup) -> Iterator[Found]:
    pools = {cluster.name for cluster in setup.pool_clusters}
    for manager in setup.managers:
        for route in manager.routes:
            if not route.is_served and (shared := sorted(pools & route.clusters.keys())):
                yield Found(f"route {route.name}", f"goes to {', '.join(shared)}; ext_proc is off")


@check(
    "several-ext-procs",
    Severity.NOTE,
    "Several ext_proc services: all were looked at as if they were this router",
    "What is found in the others may be as it should be.",
    Cure(words="extproc doctor --filter TEXT, part of the name of the router's filter or cluster"),
)
def several_ext_procs(setup: Setup) -> Iterator[Found]:
    names = sorted({processing.cluster or processing.filter for _, processing in setup.processings})
    if len(names) > 1:
        yield Found("envoy", ", ".join(names))


@check(
    "route-cache",
    Severity.SERIOUS,
    "The route is not chosen anew after ext_proc",
    "The router sets x-extproc-pool and asks for a new choice of route; here Envoy does not make it, so that "
    "every request stays on the entry rule.",
    Cure(envoy=(Line("ExternalProcessor", "route_cache_action", "DEFAULT"),)),
)
def route_cache(setup: Setup) -> Iterator[Found]:
    for manager, processing in setup.processings:
        kept = flag(processing.settings, "disable_clear_route_cache")
        kept = kept or text(processing.settings, "route_cache_action") == "RETAIN"
        if kept and any(route.pool for route in manager.routes):
            yield Found(f"filter {processing.filter}", "route_cache_action RETAIN")


@check(
    "observability-mode",
    Severity.SERIOUS,
    "ext_proc only watches",
    "With observability_mode (Envoy Gateway: shadowMode) Envoy does not wait for the router's answers: nothing "
    "is pinned, and gRPC errors still fail requests.",
    Cure(
        gateway=(Line("EnvoyExtensionPolicy", "spec.extProc[].shadowMode", "false"),),
        envoy=(Line("ExternalProcessor", "observability_mode", "false"),),
    ),
)
def observability_mode(setup: Setup) -> Iterator[Found]:
    for _, processing in setup.processings:
        if flag(processing.settings, "observability_mode"):
            yield Found(f"filter {processing.filter}", "observability_mode true")


@check(
    "config-rejected",
    Severity.SERIOUS,
    "Envoy has refused configuration",
    "It runs on with what it had before: what the manifests say is not what happens. An EnvoyPatchPolicy is "
    "the usual cause.",
    Cure(words="the details; the status of the policies; Envoy Gateway's log"),
)
def config_rejected(setup: Setup) -> Iterator[Found]:
    for name, details in setup.rejected:
        yield Found(name, details[:300])
    for kind, counter in (
        ("listeners", "listener_manager.lds.update_rejected"),
        ("clusters", "cluster_manager.cds.update_rejected"),
    ):
        if not setup.rejected and (count := setup.count(counter)):
            yield Found("envoy", f"{kind}: update_rejected {count:,} since its start", Severity.NOTE)


@check(
    "envoy-not-live",
    Severity.WARNING,
    "Envoy is starting or draining",
    "What it shows now is not what clients meet.",
    Cure(words="ask another replica, or again later"),
)
def envoy_not_live(setup: Setup) -> Iterator[Found]:
    if setup.state not in ("", "LIVE"):
        yield Found("envoy", f"state {setup.state}")


CHECKS = (
    no_ext_proc,
    ext_proc_off,
    entry_without_ext_proc,
    bypass,
    several_ext_procs,
    route_cache,
    observability_mode,
    config_rejected,
    envoy_not_live,
)
