"""`/debug/state`: what the router knows and what it was told, for people and for `explain`.

Times are relative to now, and figures are not rounded: what `restoring` makes of them decides as the original.  No
credentials: even the path of a token file is left out.
"""

from __future__ import annotations

import math
from typing import Any

from msgspec import UNSET, Struct
from msgspec.structs import replace

from .canary import Target
from .config.schema import ANY_MODEL, Config
from .endpoint import NEVER, UNKNOWN_TOKEN_S, Cordon, Endpoint
from .engine_metrics import EngineMetrics
from .holding import Lobby
from .pool import Pool
from .router import Router
from .tiers import Tiers

FORMAT = 1
"""Raised when an older `extproc explain` would misread a state."""


class ConfigState(Struct, frozen=True, kw_only=True):
    """The config in force."""

    sha256: str
    loaded_at: float
    values: Config
    """Without endpoints, which the pools list with all that is known of them, and without files of tokens."""


class BacklogState(Struct, frozen=True, kw_only=True):
    """Prompts that it has yet to compute."""

    tokens: float = 0.0
    rate: float = 0.0
    others: float = 0.0


class SpeedState(Struct, frozen=True, kw_only=True):
    """How fast it works, as measured; 0: unknown."""

    step_s: float = 0.0
    token_s: float = 0.0
    iteration_s: float = 0.0
    prefill_rate: float = 0.0
    mean_output: float = 0.0
    compared_token_s: float = UNKNOWN_TOKEN_S
    """What counts, by comparison with the pool's others."""
    slowness: float = 1.0


class HealthState(Struct, frozen=True, kw_only=True):
    failures: int = 0
    failing: bool = False
    """Often enough to be set aside, and requests go there all the same: it is the last chance, or its pause is over."""
    set_aside_for_s: float = 0.0
    cause: str | None = None


class EndpointState(Struct, frozen=True, kw_only=True):
    """A model server; see `Endpoint`."""

    address: str
    labels: dict[str, str] = {}
    tier: str | None = None
    full: bool | None = None
    full_for_s: float | None = None
    """It was full for its tier, and counts as full for so long at least."""
    cordoned: Cordon | None = None
    max_in_flight: int | None = None
    in_flight: int = 0
    in_flight_at_scrape: int = 0
    lingering: int = 0
    external: int = 0
    requests: int = 0
    tokens_in_flight: float = 0.0
    loras_in_flight: dict[str, int] = {}
    allowance: int = 0
    backlog: BacklogState = BacklogState()
    speed: SpeedState = SpeedState()
    ready: bool = True
    health: HealthState = HealthState()
    metrics_age_s: float | None = None
    fresh: bool = False
    fresh_for_s: float | None = None
    queue_fresh_for_s: float | None = None
    kv_fresh_for_s: float | None = None
    """None where the engine does not tell of its KV cache, too."""
    metrics: EngineMetrics | None = None
    models: list[str] = []


class TierState(Struct, frozen=True, kw_only=True):
    name: str
    labels: dict[str, str]
    open: bool


class PoolState(Struct, frozen=True, kw_only=True):
    name: str
    tiers: list[TierState] = []
    mean_output: float = 0.0
    share: float = 1.0
    """Of the requests there, ours."""
    found: float = 0.0
    """Of our prompts, what was in a cache from us."""
    adapters: list[str] = []
    endpoints: list[EndpointState] = []


class QueueState(Struct, frozen=True, kw_only=True):
    """Who waits with us for a pool."""

    pool: str
    timeout_s: float
    critical: int
    standard: int
    bytes: int
    longest_wait_s: float


class State(Struct, frozen=True, kw_only=True):
    """What `restoring` needs of it."""

    format: int
    config: ConfigState
    pools: list[PoolState]
    queues: list[QueueState] = []


def describe(router: Router, config_hash: str, now: float) -> dict[str, Any]:
    """Pools with their endpoints, models with their targets, and the config with its hash and load time.

    Nothing in it changes afterwards, so that it may be encoded in a thread.
    """
    config = ConfigState(sha256=config_hash, loaded_at=router.loaded_at, values=_public(router.config))
    return {
        "format": FORMAT,
        "config": config,
        "default_pool": router.config.default_pool_name,
        "pools": [_pool(pool, router.tiers.get(pool.name), now) for pool in router.pools.values()],
        "models": [
            {
                "name": route.model.name,
                "pool": route.model.pool,
                "priority": route.priority,
                "sticky": route.sticky_header,
                "profile": route.model.profile,
                "never": sorted(route.barred_tiers),
                "targets": [_target(target) for target in route.all_targets_for(ANY_MODEL)],
            }
            for route in router.routes
        ],
    }


def queues(router: Router, lobby: Lobby[Any], now: float) -> list[dict[str, Any]]:
    """Who waits with us, of each pool whose requests may."""
    return [
        {
            "pool": pool.name,
            "timeout_s": pool.queue.timeout_s,
            "critical": waiting.critical,
            "standard": waiting.standard,
            "bytes": waiting.size_bytes,
            "longest_wait_s": round(waiting.longest_s, 3),
        }
        for pool in router.config.pools
        if pool.queue is not None and (waiting := lobby.waiting(pool.name, now))
    ]


def _public(config: Config) -> Config:
    pools = [
        replace(
            pool,
            endpoints=UNSET if pool.kubernetes else [],
            metrics=replace(pool.metrics, bearer_token_file=None),
        )
        for pool in config.pools
    ]
    return replace(config, pools=pools)


def _target(target: Target) -> dict[str, Any]:
    return {"model": target.model, "weight": target.share, "labels": target.labels}


def _pool(pool: Pool, tiers: Tiers | None, now: float) -> PoolState:
    return PoolState(
        name=pool.name,
        tiers=_tiers(tiers, now) if tiers else [],
        mean_output=pool.mean_output,
        share=pool.others.share,
        found=pool.others.found,
        adapters=sorted(pool.adapters),
        endpoints=[_endpoint(endpoint, tiers, now) for endpoint in pool.endpoints],
    )


def _tiers(tiers: Tiers, now: float) -> list[TierState]:
    return [
        TierState(name=tier.name, labels=tier.labels, open=is_open)
        for tier, is_open in zip(tiers.tiers, tiers.open(now), strict=True)
    ]


def _endpoint(endpoint: Endpoint, tiers: Tiers | None, now: float) -> EndpointState:
    health, backlog = endpoint.health, endpoint.backlog
    return EndpointState(
        address=endpoint.address,
        labels=dict(endpoint.labels),
        tier=tiers.name(endpoint) if tiers else None,
        full=tiers.is_full(endpoint, now) if tiers else None,
        full_for_s=None if endpoint.full_until == NEVER else endpoint.full_until - now,
        cordoned=endpoint.cordoned,
        max_in_flight=None if endpoint.max_in_flight == math.inf else int(endpoint.max_in_flight),
        in_flight=endpoint.in_flight,
        in_flight_at_scrape=endpoint.in_flight_at_scrape,
        lingering=len(endpoint.lingering),
        external=endpoint.external,
        requests=endpoint.requests,
        tokens_in_flight=endpoint.tokens_in_flight,
        loras_in_flight=dict(endpoint.loras_in_flight),
        allowance=endpoint.allowance,
        backlog=BacklogState(tokens=backlog.left(now), rate=backlog.rate, others=backlog.others),
        speed=_speed(endpoint),
        ready=not health.is_set_aside(now),
        health=HealthState(
            failures=health.failures,
            failing=health.is_failing(now),
            set_aside_for_s=max(0.0, health.set_aside_until - now),
            cause=health.cause.name.lower() if health.cause else None,
        ),
        metrics_age_s=now - endpoint.scraped_at if endpoint.metrics else None,
        fresh=endpoint.is_fresh(now),
        fresh_for_s=endpoint.fresh_until - now if endpoint.metrics else None,
        queue_fresh_for_s=_finite(endpoint.queue_fresh_until - now),
        kv_fresh_for_s=_finite(endpoint.kv_fresh_until - now),
        metrics=endpoint.metrics,
        models=list(endpoint.models),
    )


def _finite(seconds: float) -> float | None:
    return seconds if math.isfinite(seconds) else None


def _speed(endpoint: Endpoint) -> SpeedState:
    step_time = endpoint.step_time
    return SpeedState(
        step_s=step_time.step_s,
        token_s=step_time.token_s,
        iteration_s=step_time.iteration_s,
        prefill_rate=step_time.prefill_rate,
        mean_output=step_time.mean_output,
        compared_token_s=endpoint.token_s,
        slowness=endpoint.slowness,
    )
