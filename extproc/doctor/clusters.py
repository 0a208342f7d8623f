"""Envoy's clusters: how they choose a host, what they let through, and whom they know."""

from __future__ import annotations

import enum
from collections.abc import Iterator

from msgspec import Struct

from ..address import normalise
from ..pin import DESTINATION
from .config_dump import ConfigDump
from .fields import Json, each_typed, flag, get, number, record, records, text, whole

BREAKER = 1024
"""Envoy's default of max_connections, max_pending_requests and max_requests."""
RETRIES = 3
"""Of max_retries."""
HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
BACKEND = "/backend/"
"""In the region of a locality that Envoy Gateway made of a backendRef."""
ORIGINAL_DST_HEADER = "x-envoy-original-dst-host"
"""What Envoy reads where no name is given."""


class Kind(enum.Enum):
    """How a cluster's host is chosen."""

    OVERRIDE_HOST = "override_host"
    ORIGINAL_DST = "ORIGINAL_DST"
    SUBSET = "lb_subset_config"
    DYNAMIC = "dynamic_forward_proxy"
    PLAIN = "load balancing"


class Host(Struct, frozen=True):
    """As `/clusters` shows it."""

    address: str
    unhealthy: str
    """Why Envoy would not choose it by itself; empty: it would."""


class Cluster(Struct, frozen=True):
    settings: Json
    hosts: list[Host] | None
    """None: `/clusters` does not say."""
    localities: list[str]

    @property
    def name(self) -> str:
        return text(self.settings, "name")

    @property
    def where(self) -> str:
        return f"cluster {self.name}"

    @property
    def stats(self) -> str:
        """The beginning of its counters' names."""
        name = text(self.settings, "alt_stat_name") or self.name
        return f"cluster.{name.replace(':', '_')}."

    @property
    def http(self) -> Json:
        return record(self.settings, "typed_extension_protocol_options", HTTP_OPTIONS)

    @property
    def http2(self) -> Json | None:
        """HTTP/2 options; None where it speaks HTTP/1."""
        for options in (
            get(self.http, "explicit_http_config", "http2_protocol_options"),
            get(self.http, "use_downstream_protocol_config", "http2_protocol_options"),
            get(self.http, "auto_config", "http2_protocol_options"),
            get(self.settings, "http2_protocol_options"),
        ):
            if isinstance(options, dict):
                return options
        return {} if "auto_config" in self.http else None

    @property
    def kind(self) -> Kind:
        if self._override() is not None:
            return Kind.OVERRIDE_HOST
        extension = text(self.settings, "cluster_type", "name")
        if text(self.settings, "type") == "ORIGINAL_DST" or extension == "envoy.cluster.original_dst":
            return Kind.ORIGINAL_DST
        if extension == "envoy.clusters.dynamic_forward_proxy":
            return Kind.DYNAMIC
        return Kind.SUBSET if "lb_subset_config" in self.settings else Kind.PLAIN

    @property
    def pin_headers(self) -> list[str]:
        """Headers that choose its host."""
        match self.kind:
            case Kind.OVERRIDE_HOST:
                sources = records(self._override(), "override_host_sources")
                return [text(source, "header").lower() for source in sources if "header" in source]
            case Kind.ORIGINAL_DST:
                config = self._original_dst()
                name = text(config, "http_header_name") or ORIGINAL_DST_HEADER
                return [name.lower()] if flag(config, "use_http_header") else []
        return []

    @property
    def pin_metadata(self) -> list[str]:
        """Keys of dynamic metadata that choose its host: `envoy.lb/KEY`."""
        match self.kind:
            case Kind.OVERRIDE_HOST:
                sources = records(self._override(), "override_host_sources")
                return [_key(record(source, "metadata")) for source in sources if "metadata" in source]
            case Kind.ORIGINAL_DST:
                key = record(self._original_dst(), "metadata_key")
                return [_key(key)] if key else []
            case Kind.SUBSET:
                selectors = records(self.settings, "lb_subset_config", "subset_selectors")
                keys = [get(selector, "keys") for selector in selectors]
                return [f"envoy.lb/{DESTINATION}"] if [DESTINATION] in keys else []
        return []

    @property
    def tells_served(self) -> bool:
        """Whether it writes down which host served."""
        return bool(record(self._override() or {}, "selected_host_key"))

    def breaker(self, name: str) -> int:
        """A threshold of the default priority."""
        default = RETRIES if name == "max_retries" else BREAKER
        for threshold in records(self.settings, "circuit_breakers", "thresholds"):
            if text(threshold, "priority") in ("", "DEFAULT"):
                found = whole(threshold, name)
                return default if found is None else found
        return default

    @property
    def panic_percent(self) -> float:
        """With fewer healthy hosts than this share requests go to all; Envoy's default is 50, and 0 is not dumped."""
        threshold = get(self.settings, "common_lb_config", "healthy_panic_threshold")
        return 50.0 if threshold is None else number(threshold, "value") or 0.0

    @property
    def has_retry_budget(self) -> bool:
        thresholds = records(self.settings, "circuit_breakers", "thresholds")
        return any("retry_budget" in threshold for threshold in thresholds)

    def _override(self) -> Json | None:
        policies = records(self.settings, "load_balancing_policy", "policies")
        extensions = [record(policy, "typed_extension_config") for policy in policies]
        return next(each_typed(extensions, "OverrideHost"), None)

    def _original_dst(self) -> Json:
        config = record(self.settings, "cluster_type", "typed_config")
        return record(config, "original_dst_lb_config") or record(self.settings, "original_dst_lb_config")


def clusters(dump: ConfigDump, page: Json) -> dict[str, Cluster]:
    """By name; *page* is `/clusters?format=json`."""
    hosts = {text(s, "name"): list(_hosts(s)) for s in records(page, "cluster_statuses")}
    return {
        text(settings, "name"): Cluster(
            settings, hosts.get(text(settings, "name")), list(_localities(settings, dump))
        )
        for settings in dump.clusters
    }


def _hosts(status: Json) -> Iterator[Host]:
    for entry in records(status, "host_statuses"):
        address = record(entry, "address", "socket_address")
        port = whole(address, "port_value")
        yield Host(_joined(text(address, "address"), port), _unhealthy(record(entry, "health_status")))


def _joined(ip: str, port: int | None) -> str:
    """As the router writes addresses; a pipe or an internal address stays as it is."""
    try:
        return normalise(f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}")
    except ValueError:
        return f"{ip}:{port}"


def _unhealthy(status: Json) -> str:
    signs = [name for name, value in status.items() if name.startswith("failed_") and value is True]
    told = text(status, "eds_health_status")
    if told not in ("", "UNKNOWN", "HEALTHY"):
        signs.append(f"eds {told}")
    return ", ".join(signs)


def _localities(settings: Json, dump: ConfigDump) -> Iterator[str]:
    """Of the load assignment, each once; those without hosts are left out.

    Envoy Gateway names regions after backendRefs (`…/backend/0`); the zones inside one are no others.
    """
    service = text(settings, "eds_cluster_config", "service_name")
    name = service or text(settings, "name")
    groups = dump.localities.get(name) or records(settings, "load_assignment", "endpoints")
    seen = set()
    for group in groups:
        locality = record(group, "locality")
        parts = [text(locality, key) for key in ("region", "zone", "sub_zone") if key in locality]
        label = parts[0] if parts and BACKEND in parts[0] else "/".join(parts)
        if records(group, "lb_endpoints") and label not in seen:
            seen.add(label)
            yield label


def _key(metadata: Json) -> str:
    path = [text(step, "key") for step in records(metadata, "path")]
    return "/".join([text(metadata, "key"), *path])
