"""What the objects are made from: everything decided, nothing read any more."""

from __future__ import annotations

import math
from typing import Literal
from urllib.parse import urlsplit

from msgspec import Struct

from ..config import Config

GRPC_PORT = 9002
HTTP_PORT = 9090
"""Where `extproc serve` listens by default."""
MI = 1024 * 1024
CONFIG_FILE = "router.yaml"
"""The config's key in its ConfigMap, and its file's name."""
MAX_BODY_BYTES = 511 * MI
"""A buffered body is one gRPC message, of which ours takes up to 512 MiB (`extproc.grpc_server`)."""

ENVOY_NAMESPACE = "envoy-gateway-system"
"""Where Envoy Gateway runs its Envoys unless told otherwise."""
Target = Literal["envoy-gateway", "ai-gateway", "istio"]


class ManifestError(Exception):
    """What the operator has to change; one line: where, what, and what is allowed."""


class GatewayRef(Struct, frozen=True):
    """The Gateway whose requests come to us."""

    name: str
    namespace: str
    port: int | None = None
    """Of the listener; None: every listener."""


class Mirror(Struct, frozen=True):
    """A Service that gets a copy of the requests that carry our mirror header with this name."""

    name: str
    service: str
    port: int


class PoolPlan(Struct, frozen=True):
    """A pool, and the Service by which the gateway knows its pods."""

    name: str
    namespace: str
    service: str
    service_ports: tuple[int, ...]
    """Of the Service; several where each pod serves on several."""
    target_ports: tuple[int | str, ...]
    """Of the pods, in the same order."""
    metrics_port: int | None = None
    """Where it is another."""
    selector: dict[str, str] | None = None
    """The pods, where we make the Service or the InferencePool; None: unknown, the Service is there already."""
    own_service: bool = False
    """Whether the Service is among the objects."""
    ip_family: Literal["IPv4", "IPv6"] | None = None
    mirrors: tuple[Mirror, ...] = ()

    @property
    def asked_ports(self) -> tuple[int | str, ...]:
        """Where we ask the pods ourselves: for `/v1/models`, and for their metrics."""
        metrics = () if self.metrics_port is None else (self.metrics_port,)
        return tuple(dict.fromkeys((*self.target_ports, *metrics)))


class Plan(Struct, frozen=True):
    """Pools behind one gateway, and how we run there."""

    target: Target
    name: str
    namespace: str
    """Ours, and the route's."""
    gateway: GatewayRef
    pools: tuple[PoolPlan, ...]
    config: Config
    config_text: str
    image: str
    replicas: int = 2
    path_prefixes: tuple[str, ...] = ("/v1",)
    envoy_namespace: str = ENVOY_NAMESPACE
    """Where the gateway's Envoys run."""
    with_gateway: bool = False
    service_monitor: bool = False
    fail_open: bool = False
    """Whether answers that are under way outlive a router that dies."""
    otlp_endpoint: str | None = None
    """URL, with its port, of an OpenTelemetry collector."""

    @property
    def labels(self) -> dict[str, str]:
        return {"app.kubernetes.io/name": self.name}

    @property
    def pool_namespaces(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(pool.namespace for pool in self.pools))

    @property
    def otlp_port(self) -> int | None:
        """Of the collector; None: there is none."""
        return None if self.otlp_endpoint is None else urlsplit(self.otlp_endpoint).port

    @property
    def needs_nodes(self) -> bool:
        """Whether labels of nodes are carried over, which takes a right in the whole cluster."""
        return any(pool.kubernetes is not None and pool.kubernetes.node_labels for pool in self.config.pools)

    @property
    def queue_timeout_s(self) -> float:
        """The longest that a request may wait with us; 0: none does."""
        return max((pool.queue.timeout_s for pool in self.config.pools if pool.queue is not None), default=0)

    @property
    def message_timeout_s(self) -> int:
        """Above the queue's timeout by what our answer needs; 10 s at least, as reading a 32 MiB body under load
        takes a second, and 3,600 s at most, which is what the gateway allows."""
        return min(max(10, math.ceil(self.queue_timeout_s) + 5), 3600)

    @property
    def retries(self) -> int:
        """As many as a pin has fallbacks."""
        return max(pool.fallback_endpoints for pool in self.config.pools)

    @property
    def buffer_limit(self) -> str:
        """Half above `limits.max_body_bytes`: what is too long is refused by us, in the words of OpenAI's API."""
        wanted = math.ceil(self.config.limits.max_body_bytes * 1.5 / MI)
        return f"{min(wanted, MAX_BODY_BYTES // MI)}Mi"

    @property
    def memory_limit(self) -> str:
        """Of one replica: 512 MiB for the process, its index and ten thousand open streams of 28 KB, and every body
        twice, as it came and as it goes on."""
        return f"{512 + math.ceil(2 * self.config.limits.max_buffered_bytes / MI)}Mi"
