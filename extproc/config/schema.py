"""What a config file may say (CONTRACT section 3).  Unknown keys are errors.

Everything that several fields must agree on is in `checks`.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from ..canary import Target
from ..mirror import Mirror
from ..scheduling.plugin import Seconds
from ..scheduling.profile import DEFAULT, Profile, default_profile
from ..tiers import Never, Spill, Tier
from .responses import ResponsesConfig

Name = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?\Z",
        max_length=253,
        description="1..253 letters, digits, '.', '_' and '-', with a letter or digit at both ends",
    ),
]
"""A pool's name: it becomes a header value and a metric label."""
Count = Annotated[int, Meta(ge=0, le=16)]
Bytes = Annotated[int, Meta(ge=1, le=1 << 40)]
MaxInFlight = Annotated[int, Meta(ge=1, le=1_000_000)]
"""Requests of ours at one endpoint; to send it none, cordon it."""
Port = Annotated[int, Meta(ge=1, le=65535)]
Priority = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
HeaderName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+\Z",
        max_length=256,
        description="a header name (RFC 9110 token of 1..256 characters)",
    ),
]


class Criticality(enum.Enum):
    """How much a request matters when a pool is saturated; the value is what the config says."""

    CRITICAL = "Critical"
    STANDARD = "Standard"
    SHEDDABLE = "Sheddable"

    @property
    def priority(self) -> int:
        return {"Critical": 1, "Standard": 0, "Sheddable": -1}[self.value]


class EndpointConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """One static model server."""

    address: str
    """`ip:port`, IPv6 in brackets."""
    labels: dict[str, str] = {}
    max_in_flight: MaxInFlight | None = None
    """Absent: the pool's."""
    cordoned: bool = False
    """It gets no new request."""


class KubernetesConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Endpoints that a cluster tells of: those of exactly one of `inference_pool`, `service` and `selector`."""

    inference_pool: str | None = None
    """An InferencePool: its selector and target ports."""
    service: str | None = None
    """A Service: its EndpointSlices."""
    selector: dict[str, str] | None = None
    """Labels of pods; needs `port`."""
    namespace: str | None = None
    """Absent: our own, as the service account or the kubeconfig's context says."""
    port: int | str | list[int | str] | None = None
    """A number or a name, or several; absent: what the InferencePool or the Service says."""
    ip_family: Literal["IPv4", "IPv6"] | None = None
    """Absent: the pod's primary address."""
    node_labels: list[str] = []
    """Labels of the pod's node to carry over, as for tiers; takes the right to watch nodes."""

    @property
    def ports(self) -> tuple[int | str, ...]:
        """`port` as a sequence; empty: the cluster says."""
        if self.port is None:
            return ()
        return tuple(self.port) if isinstance(self.port, list) else (self.port,)


class MetricsConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """How a pool's endpoints are scraped."""

    engine: Literal["vllm", "sglang", "trtllm", "triton", "llamacpp", "none"] = "vllm"
    """Whose metric names to read; `none`: the endpoints have no metrics page."""
    path: (
        Annotated[
            str, Meta(pattern=r"^/[!-~]*\Z", max_length=2048, description="a path that begins with '/'")
        ]
        | None
    ) = None
    """Absent: the engine's."""
    port: Port | None = None
    """Another port than the endpoint's."""
    scheme: Literal["http", "https"] = "http"
    bearer_token_file: str | None = None
    """Read again for each connection, as Kubernetes rotates its tokens."""
    insecure_skip_verify: bool = False
    ca_file: str | None = None
    """Whose certificates to trust, in PEM; absent: the system's.  Read again when it has changed."""
    server_name: Annotated[str, Meta(min_length=1, max_length=253)] | None = None
    """What the certificate must be for; absent: the endpoint's IP address, which pods' certificates hardly name."""
    select: bool = True
    """Ask for the needed metrics only (`?name[]=…`) where the engine understands that: vLLM."""
    orca: bool = False
    """Ask for load reports in the answers' headers, too (ORCA), which refresh the figures between scrapes: vLLM."""
    interval_s: Annotated[float, Meta(ge=0.02, le=3600)] = 0.2
    timeout_s: Annotated[float, Meta(ge=0.01, le=60)] = 1.0
    max_age_s: Seconds = 2.0
    """Older figures no longer count as knowledge: such an endpoint scores as the pool's median."""


class Saturation(Struct, frozen=True, forbid_unknown_fields=True):
    """An endpoint is saturated at or over one of these; a pool, when every eligible endpoint is."""

    waiting: Annotated[float, Meta(gt=0)] = 5
    """Requests in the endpoint's queue."""
    kv_usage: Annotated[float, Meta(gt=0, le=1)] = 0.9
    """Share of its KV cache."""


class NeverConfig(Never, frozen=True, forbid_unknown_fields=True):
    """The header is one of `trusted_headers`: a client that could set or leave it out would choose its tier."""

    header: HeaderName


class TierConfig(Tier, frozen=True, forbid_unknown_fields=True):
    """A tier with the words that a config must keep to."""

    name: Name
    never: NeverConfig | None = None


class TenantHeader(Struct, frozen=True, forbid_unknown_fields=True):
    """Requests with the same value are one tenant's; those without are one tenant's too."""

    header: HeaderName


class QueueConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Requests wait with us while every endpoint that could serve them has a waiting queue."""

    timeout_s: Annotated[float, Meta(gt=0, le=3600)] = 0.15
    """Must stay below Envoy's `message_timeout` (200 ms unless raised): the rest is for our answer to get there."""
    max_requests: Annotated[int, Meta(ge=1, le=100_000)] = 1000
    """A held stream costs 30 KB besides its body."""
    max_bytes: Bytes = 256 * 1024 * 1024
    """Of held bodies: a quarter of what `limits.max_buffered_bytes` allows all streams."""
    order: Literal["fifo", "shortest"] = "fifo"
    """Which of a tenant's requests goes first; `shortest`: the one with the least expected work."""
    tenant: TenantHeader | Literal["api-key", "none"] = "none"
    """Between whom to be fair; `api-key`: those with the same `authorization` or `x-api-key`."""
    waiting: Annotated[int, Meta(ge=1, le=1000)] = 1
    """Requests that an endpoint's queue holds before it gets no more."""


class PoolConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Endpoints that serve the same thing."""

    name: Name
    endpoints: list[str | EndpointConfig] | UnsetType = UNSET
    """Static ones; or else `kubernetes`."""
    kubernetes: KubernetesConfig | None = None
    metrics: MetricsConfig = MetricsConfig()
    profile: str = DEFAULT
    fallback_endpoints: Count = 0
    """How many more endpoints of the same target follow the chosen one in the pin."""
    max_in_flight: MaxInFlight | None = None
    """Of each endpoint that has none of its own; absent: no maximum."""
    saturation: Saturation = Saturation()
    queue: QueueConfig | None = None
    """Absent: no request ever waits with us."""
    tiers: list[TierConfig] = []
    """In order of preference; endpoints without the labels of one are of the last."""
    spill: Spill = Spill()
    """When an endpoint is full, so that the next tier gets the excess."""
    profile_header: HeaderName | None = None
    """One of `trusted_headers`; its value names the profile."""

    def members(self) -> list[EndpointConfig]:
        """The static endpoints, all in the long form."""
        endpoints = self.endpoints or []
        return [EndpointConfig(e) if isinstance(e, str) else e for e in endpoints]


class Sticky(Struct, frozen=True, forbid_unknown_fields=True):
    """Requests with the same key get the same target."""

    header: HeaderName


ModelName = Annotated[str, Meta(min_length=1, description="a model name of 1..256 bytes")]


class TargetConfig(Target, frozen=True, forbid_unknown_fields=True):
    """A target with the ranges that a config must keep to."""

    model: ModelName
    weight: Annotated[int, Meta(ge=0, le=1_000_000_000)] | None = None


class MirrorConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """A share of a model's requests that Envoy sends to others, too, whose answers it throws away."""

    name: Name
    """What the header `x-extproc-mirror` says; a route rule matches it."""
    percent: Annotated[float, Meta(gt=0, le=100)]
    sticky: Sticky | None = None
    """Requests with the same key are mirrored all or not at all."""
    mode: Literal["envoy"] = "envoy"
    service: str | None = None
    """`NAME:PORT` of the mirror's Service, for `extproc manifests`."""


ANY_MODEL = "*"
"""The name of the rule for models that are not listed."""


class ModelConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """What clients write in `model`, and what serves it."""

    name: ModelName
    """`*`: the models not listed, of the default pool."""
    pool: str
    criticality: Criticality | None = None
    priority: Priority | None = None
    targets: list[TargetConfig] | None = None
    sticky: Sticky | None = None
    profile: str | None = None
    """Absent: the pool's."""
    never: str | list[str] = []
    """The tiers that never serve it."""
    mirrors: list[MirrorConfig] = []
    reserved: bool = False
    """Nobody serves it: requests for it are refused."""

    @property
    def barred_tiers(self) -> frozenset[str]:
        return frozenset((self.never,) if isinstance(self.never, str) else self.never)

    @property
    def effective_priority(self) -> int:
        """> 0 is never refused for load alone, < 0 is shed first; absent: Standard."""
        if self.priority is not None:
            return self.priority
        return (self.criticality or Criticality.STANDARD).priority

    @property
    def effective_targets(self) -> Sequence[Target]:
        """The targets; absent: the name itself."""
        return self.targets or (Target(self.name),)

    @property
    def effective_mirrors(self) -> tuple[Mirror, ...]:
        return tuple(
            Mirror(mirror.name, mirror.percent, mirror.sticky.header.lower() if mirror.sticky else None)
            for mirror in self.mirrors
        )

    @property
    def sticky_headers(self) -> frozenset[str]:
        """In lower case: by whose values targets and mirrors are chosen."""
        stickies = (self.sticky, *(mirror.sticky for mirror in self.mirrors))
        return frozenset(sticky.header.lower() for sticky in stickies if sticky is not None)


class ObjectiveConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """A priority that a request can ask for by a trusted header."""

    name: Annotated[str, Meta(min_length=1, max_length=253, description="a name of 1..253 characters")]
    priority: Priority
    pool: str | None = None
    """Absent: of every pool."""


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """What one client and all clients together may make us hold."""

    max_body_bytes: Bytes = 32 * 1024 * 1024
    """One body."""
    max_buffered_bytes: Bytes = 1024 * 1024 * 1024
    """All bodies held at once."""


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """A whole config file."""

    pools: Annotated[list[PoolConfig], Meta(min_length=1)]
    models: list[ModelConfig] = []
    default_pool: str | UnsetType | None = UNSET
    """For models not listed; absent: the only pool, where there is one; null: they are refused."""
    profiles: list[Profile] = []
    objectives: list[ObjectiveConfig] = []
    limits: Limits = Limits()
    trusted_headers: list[HeaderName] = []
    """Control headers that clients may use; all others are ignored and removed."""
    encoded_bodies: Literal["keep", "decode"] = "keep"
    """How a body with a content-encoding goes on whose model does not change; a changed one is always plain."""
    list_models: Literal["answer", "forward"] = "answer"
    """Whether we answer /v1/models or a model server does."""
    responses: ResponsesConfig | None = None
    """Absent: no answer is read."""

    @property
    def default_pool_name(self) -> str | None:
        if self.default_pool is UNSET:
            return self.pools[0].name if len(self.pools) == 1 else None
        return self.default_pool

    def profile(self, name: str) -> Profile:
        """The profile called *name*; `default` is built in unless the file defines it."""
        return next((p for p in self.profiles if p.name == name), None) or default_profile()


__all__ = [
    "ANY_MODEL",
    "Config",
    "Criticality",
    "EndpointConfig",
    "KubernetesConfig",
    "Limits",
    "MetricsConfig",
    "MirrorConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "PoolConfig",
    "QueueConfig",
    "ResponsesConfig",
    "Saturation",
    "Sticky",
    "TargetConfig",
]
