"""Connection managers and their routes, as ext_proc meets them."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from ..pin import POOL
from .config_dump import ConfigDump
from .fields import Json, each_typed, number, record, records, seconds, strings, text, typed, whole
from .processing import ExtProcFilter, Processing, filters, on_route

CONNECTION_BUFFER_BYTES = 1024 * 1024
"""Envoy's default of `per_connection_buffer_limit_bytes`."""
STREAM_IDLE_S = 300.0
ROUTE_TIMEOUT_S = 15.0
"""Envoy's defaults."""
STREAM_WINDOW_BYTES = 16 * 1024 * 1024
"""Envoy's default; older ones have 256 MiB."""


class Route(Struct, frozen=True):
    """One that ends at a cluster, or in an answer of Envoy's own (`action` is empty)."""

    name: str
    action: Json
    pool: str | None
    """The value of x-extproc-pool that it asks for."""
    processings: list[Processing]
    clusters: dict[str, int]
    """Where it goes to, with weights."""
    retry: Json
    buffer_bytes: int | None
    """Its own limit of request bodies."""
    removed: frozenset[str]
    """Request headers that are taken off on the way to the upstream."""
    headers: frozenset[str]
    """On which it matches."""

    @property
    def forwards(self) -> bool:
        return bool(self.action)

    @property
    def is_served(self) -> bool:
        """We process its requests, or send requests there."""
        return bool(self.processings) or self.pool is not None

    @property
    def timeout_s(self) -> float:
        """0: none."""
        found = seconds(self.action, "timeout")
        return ROUTE_TIMEOUT_S if found is None else found

    @property
    def idle_timeout_s(self) -> float | None:
        return seconds(self.action, "idle_timeout")


class Manager(Struct, frozen=True):
    """An HTTP connection manager."""

    listener: str
    settings: Json
    buffer_bytes: int
    chain: list[ExtProcFilter]
    hosts: list[list[Route]]
    """Routes by virtual host."""

    @property
    def where(self) -> str:
        return f"listener {self.listener}"

    @property
    def routes(self) -> list[Route]:
        return [route for routes in self.hosts for route in routes]

    @property
    def served(self) -> list[Route]:
        """Those routes that go to a cluster and that we have to do with."""
        return [route for route in self.routes if route.is_served and route.forwards] if self.chain else []

    @property
    def processings(self) -> list[Processing]:
        """Each different one once."""
        found: list[Processing] = []
        for route in self.routes:
            found += [processing for processing in route.processings if processing not in found]
        return found

    @property
    def stat_prefix(self) -> str:
        return text(self.settings, "stat_prefix")

    @property
    def window_bytes(self) -> int:
        """How much of an HTTP/2 request is buffered."""
        found = whole(self.settings, "http2_protocol_options", "initial_stream_window_size")
        return STREAM_WINDOW_BYTES if found is None else found

    @property
    def stream_idle_s(self) -> float:
        found = seconds(self.settings, "stream_idle_timeout")
        return STREAM_IDLE_S if found is None else found

    def idle_s(self, route: Route) -> float:
        """After how long without a byte Envoy gives up; 0: never."""
        return self.stream_idle_s if route.idle_timeout_s is None else route.idle_timeout_s


def managers(dump: ConfigDump, wanted: str) -> list[Manager]:
    """All of them; *wanted* is part of the name of our ext_proc filters or of their cluster."""
    found = []
    for listener in dump.listeners:
        for settings in _settings(listener):
            chain = filters(records(settings, "http_filters"), dump.filters, wanted)
            limit = whole(listener, "per_connection_buffer_limit_bytes")
            manager = Manager(
                listener=text(listener, "name") or "unnamed",
                settings=settings,
                buffer_bytes=CONNECTION_BUFFER_BYTES if limit is None else limit,
                chain=chain,
                hosts=[list(host) for table in _tables(settings, dump) for host in _hosts(table, chain)],
            )
            if manager not in found:
                found.append(manager)
    return found


def _settings(listener: Json) -> Iterator[Json]:
    for chain in [*records(listener, "filter_chains"), record(listener, "default_filter_chain")]:
        yield from each_typed(records(chain, "filters"), "HttpConnectionManager")


def _tables(settings: Json, dump: ConfigDump) -> list[Json]:
    """Route configurations: inline, by RDS, or by scope (then all, as the dump does not say which)."""
    if inline := record(settings, "route_config"):
        return [inline]
    if "scoped_routes" in settings:
        return dump.routes
    name = text(settings, "rds", "route_config_name")
    return [table for table in dump.routes if text(table, "name") == name]


def _hosts(table: Json, chain: list[ExtProcFilter]) -> Iterator[Iterator[Route]]:
    for host in records(table, "virtual_hosts"):
        yield (_route(route, host, table, chain) for route in records(host, "routes"))


def _route(route: Json, host: Json, table: Json, chain: list[ExtProcFilter]) -> Route:
    levels = [record(level, "typed_per_filter_config") for level in (table, host, route)]
    action = record(route, "route")
    return Route(
        name=_name(route, host),
        action=action,
        pool=_pool(route),
        processings=list(on_route(chain, levels)),
        clusters=_clusters(action),
        retry=record(action, "retry_policy") or record(host, "retry_policy"),
        buffer_bytes=_buffer(route, levels) or _buffer(host, []),
        removed=frozenset(
            name for level in (table, host, route) for name in strings(level, "request_headers_to_remove")
        ),
        headers=frozenset(text(header, "name").lower() for header in records(route, "match", "headers")),
    )


def _name(route: Json, host: Json) -> str:
    match = record(route, "match")
    path = next(
        (text(match, key) for key in ("prefix", "path", "path_separated_prefix") if key in match), "?"
    )
    return f"{text(host, 'name')}/{text(route, 'name') or path}"


def _pool(route: Json) -> str | None:
    for header in records(route, "match", "headers"):
        if text(header, "name").lower() == POOL:
            return text(header, "string_match", "exact") or text(header, "exact_match")
    return None


def _clusters(action: Json) -> dict[str, int]:
    if name := text(action, "cluster"):
        return {name: 1}
    weighted = records(action, "weighted_clusters", "clusters")
    return {text(entry, "name"): whole(entry, "weight") or 0 for entry in weighted}


def _buffer(level: Json, filter_configs: list[Json]) -> int | None:
    """A limit that a route or a virtual host has, or a buffer filter that runs before us."""
    found = number(level, "request_body_buffer_limit")
    for said in (said for config in filter_configs for said in config.values()):
        if typed(said) == "BufferPerRoute":
            found = number(said, "buffer", "max_request_bytes") or found
    return None if found is None else int(found)
