"""What the router says of itself: `/debug/state`, read leniently, as it may be of another version than the doctor."""

from __future__ import annotations

import msgspec
from msgspec import Struct

DEFAULT_MAX_BODY_BYTES = 32 * 1024 * 1024
"""The config's default."""


class Health(Struct, frozen=True):
    cause: str | None = None


class EndpointView(Struct, frozen=True):
    address: str
    ready: bool = True
    fresh: bool = False
    metrics_age_s: float | None = None
    health: Health = Health()


class PoolView(Struct, frozen=True):
    name: str
    endpoints: list[EndpointView] = []

    @property
    def addresses(self) -> set[str]:
        return {endpoint.address for endpoint in self.endpoints}


class MetricsValues(Struct, frozen=True):
    engine: str = "vllm"


class QueueValues(Struct, frozen=True):
    timeout_s: float = 0.15


class PoolValues(Struct, frozen=True):
    """A pool in the config."""

    name: str
    fallback_endpoints: int = 0
    metrics: MetricsValues = MetricsValues()
    queue: QueueValues | None = None


class HeaderValue(Struct, frozen=True):
    header: str


class ModelValues(Struct, frozen=True):
    sticky: HeaderValue | None = None


class Limits(Struct, frozen=True):
    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES


class ResponsesValues(Struct, frozen=True):
    percent: float = 100


class Values(Struct, frozen=True):
    """The config in force."""

    pools: list[PoolValues] = []
    models: list[ModelValues] = []
    limits: Limits = Limits()
    trusted_headers: list[str] = []
    responses: ResponsesValues | None = None


class ConfigView(Struct, frozen=True):
    values: Values = Values()


class RouterView(Struct, frozen=True):
    config: ConfigView = ConfigView()
    pools: list[PoolView] = []
    not_ready: list[str] = []
    in_flight_counts: str = "exact"
    version: str = ""

    @property
    def values(self) -> Values:
        return self.config.values

    @property
    def client_headers(self) -> set[str]:
        """Headers of clients that the router goes by."""
        sticky = {model.sticky.header for model in self.values.models if model.sticky}
        return {name.lower() for name in sticky | set(self.values.trusted_headers)}

    def pool(self, name: str) -> PoolValues:
        return next((pool for pool in self.values.pools if pool.name == name), PoolValues(name))


def read(page: bytes) -> RouterView:
    """Raises msgspec.MsgspecError (ValidationError, DecodeError) where it is no state."""
    return msgspec.json.decode(page, type=RouterView)
