"""Runs the checks and gathers what they find."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from .finding import Check, Cure, Found, Severity
from .setup import Setup


class Place(Struct, frozen=True):
    """Where a trap is, with the figure that is there."""

    where: str
    figure: str


class Finding(Struct, frozen=True):
    """A trap that is there; places of different severity, or with different cures, make several."""

    id: str
    severity: Severity
    title: str
    found: list[Place]
    why: str
    cure: Cure


class NotMade(Struct, frozen=True):
    id: str
    reason: str


class Looked(Struct, frozen=True):
    """How much there was to look at."""

    listeners: int
    """Those with an HTTP connection manager."""
    routes: int
    served_routes: int
    clusters: int
    pool_clusters: int
    ext_proc_filters: int
    stats: int
    router_pools: int
    router_endpoints: int


class Diagnosis(Struct, frozen=True):
    envoy: str
    """Where it was asked."""
    router: str | None
    """None: it could not be asked."""
    no_router: str
    """Why it could not be; empty where it could."""
    looked_at: Looked
    checks_made: int
    not_made: list[NotMade]
    findings: list[Finding]
    """The worst first."""

    def count(self, severity: Severity) -> int:
        return sum(finding.severity is severity for finding in self.findings)


def diagnose(checks: Iterable[Check], setup: Setup, envoy: str, router: str, no_router: str) -> Diagnosis:
    """*no_router* says why the router could not be asked; empty where it could."""
    findings: list[Finding] = []
    not_made: list[NotMade] = []
    made = 0
    for check in checks:
        if check.needs_router and setup.router is None:
            not_made.append(NotMade(check.id, no_router))
            continue
        made += 1
        findings += _gathered(check, check.look(setup))
    return Diagnosis(
        envoy=envoy,
        router=router if setup.router else None,
        no_router=no_router,
        looked_at=_looked(setup),
        checks_made=made,
        not_made=not_made,
        findings=sorted(findings, key=lambda finding: finding.severity.rank),
    )


def _gathered(check: Check, found: Iterable[Found]) -> list[Finding]:
    groups: dict[tuple[Severity, Cure], list[Place]] = {}
    for place in found:
        key = (place.severity or check.severity, place.cure or check.cure)
        places = groups.setdefault(key, [])
        if (said := Place(place.where, place.figure)) not in places:
            places.append(said)
    return [
        Finding(check.id, severity, check.title, places, check.why, cure)
        for (severity, cure), places in groups.items()
    ]


def _looked(setup: Setup) -> Looked:
    pools = setup.router.pools if setup.router else []
    return Looked(
        listeners=len({manager.listener for manager in setup.managers}),
        routes=sum(len(manager.routes) for manager in setup.managers),
        served_routes=sum(route.is_served for manager in setup.managers for route in manager.routes),
        clusters=len(setup.clusters),
        pool_clusters=len(setup.pool_clusters),
        ext_proc_filters=sum(len(manager.chain) for manager in setup.managers),
        stats=len(setup.stats),
        router_pools=len(pools),
        router_endpoints=sum(len(pool.endpoints) for pool in pools),
    )
