"""An Envoy and a router as one thing that checks look at."""

from __future__ import annotations

import re
from collections.abc import Iterator

from msgspec import Struct

from . import config_dump
from .clusters import Cluster, clusters
from .config_dump import ConfigDump
from .fields import Json, number, record, records, seconds, text
from .processing import Processing
from .router_view import DEFAULT_MAX_BODY_BYTES, PoolView, RouterView
from .routes import Manager, Route, managers


class Setup(Struct, frozen=True):
    """Everything there is to know; `build` makes it."""

    managers: list[Manager]
    clusters: dict[str, Cluster]
    stats: dict[str, float]
    """Counters and gauges by name; empty where Envoy did not tell."""
    version: tuple[int, int] | None
    """Envoy's."""
    state: str
    """`LIVE`, `DRAINING` …"""
    drain_s: float | None
    rejected: list[tuple[str, str]]
    router: RouterView | None
    """None: it could not be asked."""

    @property
    def served(self) -> Iterator[tuple[Manager, Route]]:
        """Routes to clusters that we have to do with."""
        for manager in self.managers:
            for route in manager.served:
                yield manager, route

    @property
    def processings(self) -> Iterator[tuple[Manager, Processing]]:
        """Each different way in which ext_proc runs."""
        for manager in self.managers:
            for processing in manager.processings:
                yield manager, processing

    @property
    def pool_clusters(self) -> list[Cluster]:
        """Where served routes go to."""
        names = {name: None for _, route in self.served for name in route.clusters}
        return [self.clusters[name] for name in names if name in self.clusters]

    @property
    def processor_clusters(self) -> list[Cluster]:
        """Where ext_proc services are."""
        names = {processing.cluster: None for _, processing in self.processings}
        return [self.clusters[name] for name in names if name in self.clusters]

    @property
    def max_body_bytes(self) -> int:
        """What the router takes; its default where it could not be asked."""
        return self.router.values.limits.max_body_bytes if self.router else DEFAULT_MAX_BODY_BYTES

    @property
    def reads_answers(self) -> bool:
        """Whether the router is configured to."""
        return self.router is not None and self.router.values.responses is not None

    def clusters_of(self, route: Route) -> list[Cluster]:
        return [self.clusters[name] for name in route.clusters if name in self.clusters]

    def pools_of(self, route: Route) -> list[PoolView]:
        """The router's pools whose requests take this route, as far as names tell."""
        pools = self.router.pools if self.router else []
        if route.pool is not None:
            return [pool for pool in pools if pool.name == route.pool]
        return [pool for pool in pools if pool.name in route.clusters] or (pools if len(pools) == 1 else [])

    def count(self, name: str) -> int:
        """A counter's value; 0 where there is none."""
        return int(self.stats.get(name, 0))


def build(
    config: Json, clusters_page: Json, stats: Json, info: Json, router: RouterView | None, wanted: str
) -> Setup:
    """From the admin pages `/config_dump?include_eds`, `/clusters`, `/stats`, `/server_info`, all as JSON.

    *wanted* is part of the name of our ext_proc filters or of their cluster; empty: all are ours.
    """
    dump: ConfigDump = config_dump.read(config)
    return Setup(
        managers=managers(dump, wanted),
        clusters=clusters(dump, clusters_page),
        stats=_stats(stats),
        version=_version(text(info, "version")),
        state=text(info, "state"),
        drain_s=seconds(record(info, "command_line_options"), "drain_time"),
        rejected=dump.rejected,
        router=router,
    )


def _stats(page: Json) -> dict[str, float]:
    found = ((text(stat, "name"), number(stat, "value")) for stat in records(page, "stats"))
    return {name: value for name, value in found if value is not None}


def _version(text: str) -> tuple[int, int] | None:
    """Of "REVISION/1.40.0/Clean/RELEASE/BoringSSL"."""
    found = re.search(r"/(\d+)\.(\d+)\.\d+", text)
    return (int(found[1]), int(found[2])) if found else None
