"""Whether Envoy and the router know the same model servers."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from ..clusters import Cluster, Host, Kind
from ..finding import Cure, Found, Line, Severity, check
from ..router_view import PoolView
from ..setup import Setup

SHOWN = 5
"""Addresses in a figure."""


class Pair(Struct, frozen=True):
    """A cluster and the pools whose requests go there."""

    cluster: Cluster
    hosts: list[Host]
    pools: list[PoolView]

    @property
    def ours(self) -> set[str]:
        return {address for pool in self.pools for address in pool.addresses}

    @property
    def theirs(self) -> set[str]:
        return {host.address for host in self.hosts}

    @property
    def is_service(self) -> bool:
        """One host that is no pod of ours: the Service's own address."""
        return len(self.theirs) == 1 and bool(self.ours) and not self.theirs & self.ours


def _pairs(setup: Setup) -> Iterator[Pair]:
    """Clusters with hosts of their own, once each."""
    pools: dict[str, dict[str, PoolView]] = {}
    for _, route in setup.served:
        for name in route.clusters:
            pools.setdefault(name, {}).update((pool.name, pool) for pool in setup.pools_of(route))
    for name, found in pools.items():
        cluster = setup.clusters.get(name)
        if cluster is None or cluster.hosts is None or not found:
            continue
        if cluster.kind not in (Kind.ORIGINAL_DST, Kind.DYNAMIC):
            yield Pair(cluster, cluster.hosts, list(found.values()))


def _listed(addresses: set[str]) -> str:
    shown = sorted(addresses)[:SHOWN]
    return ", ".join(shown) + (f" and {len(addresses) - SHOWN} more" if len(addresses) > SHOWN else "")


@check(
    "service-ip",
    Severity.SERIOUS,
    "Envoy knows the Service's address, not the pods'",
    "A pin names a pod; Envoy finds it among its hosts or not at all. With a ClusterIP as the only host every "
    "request goes where kube-proxy sends it.",
    Cure(
        gateway=(
            Line("EnvoyProxy", "spec.routingType", "Endpoint"),
            Line("BackendTrafficPolicy", "spec.routingType", "Endpoint"),
        ),
        words="without Envoy Gateway: EDS, or a headless Service with STRICT_DNS",
    ),
    needs_router=True,
)
def service_ip(setup: Setup) -> Iterator[Found]:
    for pair in _pairs(setup):
        if pair.is_service:
            yield Found(
                pair.cluster.where,
                f"its only host {_listed(pair.theirs)} is none of the router's endpoints ({_listed(pair.ours)})",
            )


@check(
    "stale-endpoints",
    Severity.SERIOUS,
    "Envoy and the router know different pods",
    "A pin to a pod that Envoy does not know goes to any other, with 200: prefix caches, adapters and tiers "
    "are missed, and nobody is told. A pod that only Envoy knows gets nothing but unpinned requests.",
    Cure(
        words="the same Service or selector for both: pools[].kubernetes in the router's config and the rule's "
        "backendRefs; targetPort and pod readiness; if it passes within seconds, it was a pod that came or went",
    ),
    needs_router=True,
)
def stale_endpoints(setup: Setup) -> Iterator[Found]:
    for pair in _pairs(setup):
        if pair.is_service:
            continue
        if unknown := pair.ours - pair.theirs:
            yield Found(pair.cluster.where, f"the router picks, Envoy does not know: {_listed(unknown)}")
        if extra := pair.theirs - pair.ours:
            told = f"Envoy knows, the router does not: {_listed(extra)}"
            yield Found(pair.cluster.where, told, Severity.WARNING)


@check(
    "health-disagrees",
    Severity.WARNING,
    "Envoy holds a pod for dead that the router picks",
    "override_host goes to a pinned pod whatever Envoy's health checks, outlier detection and EDS say of it.",
    Cure(
        words="why Envoy's check fails: path, port, a NetworkPolicy; the router judges by answers and scrapes"
    ),
    needs_router=True,
)
def health_disagrees(setup: Setup) -> Iterator[Found]:
    for pair in _pairs(setup):
        ready = {endpoint.address for pool in pair.pools for endpoint in pool.endpoints if endpoint.ready}
        for host in pair.hosts:
            if host.unhealthy and host.address in ready:
                yield Found(pair.cluster.where, f"{host.address} {host.unhealthy}")


@check(
    "pool-without-route",
    Severity.SERIOUS,
    "The router has a pool that no route leads to",
    "Its requests carry x-extproc-pool with that name; no rule matches, so that they get the entry rule's 404.",
    Cure(
        gateway=(
            Line("HTTPRoute", "spec.rules[].matches[].headers", "[{name: x-extproc-pool, value: POOL}]"),
        ),
        envoy=(Line("Route", "match.headers", "[{name: x-extproc-pool, string_match: {exact: POOL}}]"),),
    ),
    needs_router=True,
)
def pool_without_route(setup: Setup) -> Iterator[Found]:
    routed = {route.pool for manager in setup.managers if manager.chain for route in manager.routes}
    if routed <= {None}:
        return
    for pool in setup.router.pools if setup.router else ():
        if pool.name not in routed:
            yield Found(f"pool {pool.name}", f"routes ask for {', '.join(sorted(filter(None, routed)))}")


CHECKS = (service_ip, stale_endpoints, health_disagrees, pool_without_route)
