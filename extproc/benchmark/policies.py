"""All policies by the names under which the report shows them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from msgspec import Struct

from extproc.benchmark.baselines import GoPicker, LeastRequest, PowerOfTwo, Random, RoundRobin
from extproc.benchmark.oracle import Oracle
from extproc.benchmark.ours import POOL, TENANT_HEADER, Extproc
from extproc.benchmark.results import LEAST_REQUEST, ORACLE, OURS
from extproc.benchmark.simulation import Policy
from extproc.config.schema import PoolConfig, QueueConfig, TenantHeader, TierConfig
from extproc.scheduling.profile import Profile

GO_PICKER = "Go picker default"
ROUND_ROBIN = "round robin"
RANDOM = "random"
P2C = "P2C (Envoy default)"
LATE_BINDING = "extproc, late binding"
TIERED = "extproc, tiers"
OWN = "extproc, your config"

LATE_BINDING_TIMEOUT_S = 5.0
"""With Envoy's message timeout raised accordingly: what an interactive client may wait in a queue."""

Factory = Callable[[int, int], Policy]
"""From a seed and the number of routers."""


def _late_binding(seed: int, routers: int) -> Policy:
    queue = QueueConfig(timeout_s=LATE_BINDING_TIMEOUT_S, tenant=TenantHeader(TENANT_HEADER))
    return Extproc(seed, routers=routers, pool=PoolConfig(POOL, [], queue=queue))


def _tiered(seed: int, routers: int) -> Policy:
    tiers = [TierConfig("idc", {"tier": "idc"}), TierConfig("cloud", {"tier": "cloud"})]
    return Extproc(seed, routers=routers, pool=PoolConfig(POOL, [], tiers=tiers))


class OwnConfig(Struct, frozen=True):
    """What a user's config file says of how to choose."""

    pool: PoolConfig
    profile: Profile


def make(name: str, seed: int, routers: int = 1, own: OwnConfig | None = None) -> Policy:
    """The policy called *name*; OWN is what *own* says."""
    if name == OWN and own is not None:
        return Extproc(seed, own.profile, routers, own.pool.metrics.interval_s, own.pool)
    return POLICIES[name](seed, routers)


POLICIES: Mapping[str, Factory] = MappingProxyType(
    {
        OURS: lambda seed, routers: Extproc(seed, routers=routers),
        ROUND_ROBIN: lambda seed, _: RoundRobin(seed),
        RANDOM: lambda seed, _: Random(seed),
        LEAST_REQUEST: lambda seed, _: LeastRequest(seed),
        P2C: lambda seed, _: PowerOfTwo(seed),
        GO_PICKER: lambda seed, _: GoPicker(seed),
        ORACLE: lambda seed, _: Oracle(seed),
        LATE_BINDING: _late_binding,
        TIERED: _tiered,
    }
)
