"""`/debug/state`: what the router knows and what it was told, for people and for `explain`."""

from __future__ import annotations

from typing import Any

from .canary import Target
from .endpoint import Endpoint
from .holding import Lobby
from .pool import Pool
from .router import Router
from .tiers import Tiers


def describe(router: Router, config_hash: str, now: float) -> dict[str, Any]:
    """Pools with their endpoints, models with their targets, and the config's hash and load time."""
    return {
        "config": {"sha256": config_hash, "loaded_at": router.loaded_at},
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
                "targets": [_target(target) for target in route.model.effective_targets],
            }
            for route in router.routes.values()
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


def _target(target: Target) -> dict[str, Any]:
    return {"model": target.model, "weight": target.share, "labels": target.labels}


def _pool(pool: Pool, tiers: Tiers | None, now: float) -> dict[str, Any]:
    return {
        "name": pool.name,
        "tiers": _tiers(tiers, now) if tiers else [],
        "endpoints": [_endpoint(endpoint, tiers, now) for endpoint in pool.endpoints],
    }


def _tiers(tiers: Tiers, now: float) -> list[dict[str, Any]]:
    return [
        {"name": tier.name, "labels": tier.labels, "open": is_open}
        for tier, is_open in zip(tiers.tiers, tiers.open(now), strict=True)
    ]


def _endpoint(endpoint: Endpoint, tiers: Tiers | None, now: float) -> dict[str, Any]:
    health, metrics = endpoint.health, endpoint.metrics
    return {
        "address": endpoint.address,
        "labels": endpoint.labels,
        "tier": tiers.name(endpoint) if tiers else None,
        "full": tiers.is_full(endpoint, now) if tiers else None,
        "in_flight": endpoint.in_flight,
        "lingering": len(endpoint.lingering),
        "external": endpoint.external,
        "requests": endpoint.requests,
        "ready": not health.is_set_aside(now),
        "health": {
            "failures": health.failures,
            "set_aside_for_s": round(max(0.0, health.set_aside_until - now), 3),
            "cause": health.cause.name.lower() if health.cause else None,
        },
        "metrics_age_s": round(now - endpoint.scraped_at, 3) if metrics else None,
        "fresh": endpoint.is_fresh(now),
        "metrics": metrics
        and {
            "waiting": metrics.waiting,
            "running": metrics.running,
            "kv_cache_usage": metrics.kv_cache_usage,
            "running_loras": sorted(metrics.running_loras),
            "waiting_loras": sorted(metrics.waiting_loras),
            "max_loras": metrics.max_loras,
        },
        "models": endpoint.models,
    }
