"""An Envoy's admin pages and a router's state without any trap, to spoil one thing at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from extproc.doctor import router_view
from extproc.doctor.setup import Setup, build

Json = dict[str, Any]

HTTP = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
EXT_PROC = "envoy.filters.http.ext_proc"
PIN = "x-gateway-destination-endpoint"
PODS = ["10.0.0.1:8000", "10.0.0.2:8000"]
ROUTERS = ["10.0.1.1:9002", "10.0.1.2:9002"]
SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"


def any_of(kind: str, **fields: Any) -> Json:
    """A typed config; only the last part of its type is read."""
    return {"@type": f"type.googleapis.com/x.v3.{kind}", **fields}


def override_host(**fields: Any) -> Json:
    """A cluster's load balancing policy."""
    extension = {"name": "o", "typed_config": any_of("OverrideHost", **fields)}
    return {"policies": [{"typed_extension_config": extension}]}


def by_metadata(key: str = PIN) -> Json:
    return {"key": "envoy.lb", "path": [{"key": key}]}


def original_dst(header: str = PIN) -> Json:
    return {"use_http_header": True, "http_header_name": header}


def locality(region: str, zone: str = "") -> Json:
    place = {"region": region, "zone": zone} if zone else {"region": region}
    return {"locality": place, "lb_endpoints": [{}]}


def _cluster(name: str, **settings: Any) -> Json:
    breakers = {
        "max_connections": 100_000,
        "max_pending_requests": 100_000,
        "max_requests": 100_000,
        "max_retries": 1024,
    }
    return {"name": name, "type": "EDS", "circuit_breakers": {"thresholds": [breakers]}, **settings}


def _options(**fields: Any) -> Json:
    return {HTTP: any_of("HttpProtocolOptions", **fields)}


@dataclass
class Pages:
    """What may be spoilt, as the pages hold it: proto JSON."""

    ext_proc: Json = field(
        default_factory=lambda: any_of(
            "ExternalProcessor",
            grpc_service={
                "envoy_grpc": {"cluster_name": "extproc"},
                "retry_policy": {"retry_on": "unavailable", "num_retries": 2},
            },
            message_timeout="10s",
            processing_mode={"request_body_mode": "BUFFERED"},
            response_attributes=["upstream.address", "response.code_details"],
            metadata_options={
                "receiving_namespaces": {"untyped": ["envoy.lb", "extproc"]},
                "forwarding_namespaces": {"untyped": ["envoy.lb"]},
            },
        )
    )
    filter: Json = field(default_factory=lambda: {"name": EXT_PROC})
    more_filters: list[Json] = field(default_factory=list)
    """Before ext_proc."""
    manager: Json = field(
        default_factory=lambda: any_of(
            "HttpConnectionManager",
            stat_prefix="in",
            stream_idle_timeout="3600s",
            max_request_headers_kb=96,
            common_http_protocol_options={"max_headers_count": 200},
            early_header_mutation_extensions=[
                {
                    "typed_config": any_of(
                        "HeaderMutation", mutations=[{"remove": PIN}, {"remove": "x-extproc-pool"}]
                    )
                }
            ],
        )
    )
    listener: Json = field(
        default_factory=lambda: {"name": "llm", "per_connection_buffer_limit_bytes": 67_108_864}
    )
    rule: Json = field(
        default_factory=lambda: {
            "name": "qwq",
            "match": {
                "prefix": "/",
                "headers": [{"name": "x-extproc-pool", "string_match": {"exact": "qwq"}}],
            },
            "route": {
                "cluster": "pods",
                "timeout": "0s",
                "retry_policy": {"retry_on": "connect-failure,retriable-status-codes", "num_retries": 2},
            },
        }
    )
    """The route of the pool."""
    entry: Json = field(
        default_factory=lambda: {
            "name": "entry",
            "match": {"prefix": "/"},
            "direct_response": {"status": 404},
        }
    )
    more_routes: list[Json] = field(default_factory=list)
    host: Json = field(default_factory=lambda: {"name": "all", "domains": ["*"]})
    pods: Json = field(
        default_factory=lambda: _cluster(
            "pods",
            load_balancing_policy=override_host(override_host_sources=[{"header": PIN}]),
            typed_extension_protocol_options=_options(common_http_protocol_options={"idle_timeout": "4s"}),
        )
    )
    """The pool's cluster."""
    processor: Json = field(
        default_factory=lambda: _cluster(
            "extproc",
            outlier_detection={},
            health_checks=[{"grpc_health_check": {"service_name": SERVICE}}],
            common_lb_config={"healthy_panic_threshold": {"value": 1}},
            typed_extension_protocol_options=_options(
                explicit_http_config={"http2_protocol_options": {"connection_keepalive": {"interval": "10s"}}}
            ),
        )
    )
    """The cluster of ext_proc."""
    more_clusters: list[Json] = field(default_factory=list)
    hosts: dict[str, list[str]] = field(default_factory=lambda: {"pods": [*PODS], "extproc": [*ROUTERS]})
    unhealthy: dict[str, Json] = field(default_factory=dict)
    """`health_status` by address."""
    localities: list[Json] = field(default_factory=lambda: [locality("")])
    """Of the pool's cluster."""
    stats: dict[str, int] = field(default_factory=dict)
    info: Json = field(
        default_factory=lambda: {
            "version": "abc/1.40.0/Clean/RELEASE/BoringSSL",
            "state": "LIVE",
            "command_line_options": {"drain_time": "600s"},
        }
    )
    rejected: list[Json] = field(default_factory=list)
    """Entries of dynamic clusters."""
    state: Json | None = field(
        default_factory=lambda: {
            "config": {
                "values": {
                    "pools": [{"name": "qwq", "fallback_endpoints": 2, "queue": {"timeout_s": 5.0}}],
                    "models": [{"sticky": {"header": "x-user-id"}}],
                    "limits": {"max_body_bytes": 33_554_432},
                }
            },
            "pools": [{"name": "qwq", "endpoints": [{"address": pod, "fresh": True} for pod in PODS]}],
            "not_ready": [],
            "in_flight_counts": "exact",
        }
    )
    """The router's; None: it was not asked."""

    @property
    def mode(self) -> Json:
        mode: Json = self.ext_proc["processing_mode"]
        return mode

    @property
    def pool(self) -> Json:
        """In the router's state."""
        assert self.state is not None
        pool: Json = self.state["pools"][0]
        return pool

    @property
    def pool_values(self) -> Json:
        """In the router's config."""
        assert self.state is not None
        pool: Json = self.state["config"]["values"]["pools"][0]
        return pool

    def http(self, cluster: Json) -> Json:
        options: Json = cluster["typed_extension_protocol_options"][HTTP]
        return options

    def breaker(self, cluster: Json) -> Json:
        threshold: Json = cluster["circuit_breakers"]["thresholds"][0]
        return threshold

    @property
    def config_dump(self) -> Json:
        routes = [self.rule, *self.more_routes, *([self.entry] if self.entry else [])]
        table = {"name": "table", "virtual_hosts": [{**self.host, "routes": routes}]}
        chain = [
            *self.more_filters,
            *([{**self.filter, "typed_config": self.ext_proc}] if self.filter else []),
        ]
        manager = {**self.manager, "http_filters": chain, "rds": {"route_config_name": "table"}}
        listener = {
            **self.listener,
            "filter_chains": [{"filters": [{"name": "hcm", "typed_config": manager}]}],
        }
        clusters = [{"cluster": cluster} for cluster in (self.pods, self.processor, *self.more_clusters)]
        assignment = {"cluster_name": "pods", "endpoints": self.localities}
        return {
            "configs": [
                any_of(
                    "ListenersConfigDump",
                    dynamic_listeners=[{"name": "llm", "active_state": {"listener": listener}}],
                ),
                any_of("RoutesConfigDump", dynamic_route_configs=[{"route_config": table}]),
                any_of("ClustersConfigDump", dynamic_active_clusters=clusters + self.rejected),
                any_of("EndpointsConfigDump", dynamic_endpoint_configs=[{"endpoint_config": assignment}]),
            ]
        }

    @property
    def clusters_page(self) -> Json:
        statuses = []
        for name, addresses in self.hosts.items():
            hosts = []
            for address in addresses:
                ip, _, port = address.rpartition(":")
                socket = {"socket_address": {"address": ip, "port_value": int(port)}}
                hosts.append({"address": socket, "health_status": self.unhealthy.get(address, {})})
            statuses.append({"name": name, "host_statuses": hosts})
        return {"cluster_statuses": statuses}

    @property
    def stats_page(self) -> Json:
        return {"stats": [{"name": name, "value": value} for name, value in self.stats.items()]}

    def setup(self, wanted: str = "") -> Setup:
        router = router_view.read(msgspec.json.encode(self.state)) if self.state is not None else None
        return build(self.config_dump, self.clusters_page, self.stats_page, self.info, router, wanted)


Spoil = Callable[[Pages], object]
