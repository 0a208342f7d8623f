"""What the router says of itself."""

from __future__ import annotations

from collections.abc import Iterator

from ..finding import Cure, Found, Line, Severity, check
from ..router_view import PoolView
from ..setup import Setup


def _pools(setup: Setup) -> list[PoolView]:
    return setup.router.pools if setup.router else []


def _several(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


@check(
    "router-not-ready",
    Severity.SERIOUS,
    "The router is not ready",
    "Kubernetes takes it out of its Service: Envoy sends it nothing, or has no router at all.",
    Cure(words="the reasons; those of /readyz"),
    needs_router=True,
)
def router_not_ready(setup: Setup) -> Iterator[Found]:
    for reason in setup.router.not_ready if setup.router else ():
        yield Found("router", reason)


@check(
    "pool-empty",
    Severity.SERIOUS,
    "A pool has no endpoints",
    "All its requests get 503 no_endpoints.",
    Cure(
        router=(Line("config", "pools[].kubernetes", "{service: vllm}"),),
        words="pods that are ready and carry the labels; the selector, the port, the namespace, the Role",
    ),
    needs_router=True,
)
def pool_empty(setup: Setup) -> Iterator[Found]:
    for pool in _pools(setup):
        if not pool.endpoints:
            yield Found(f"pool {pool.name}", "0 endpoints")


@check(
    "metrics-missing",
    Severity.WARNING,
    "The router does not know how busy model servers are",
    "It cannot read their metrics page, or what it read is old: they count as the pool's median, and requests "
    "are spread by the router's own counts alone.",
    Cure(
        router=(
            Line("config", "pools[].metrics", "{engine: vllm, path: /metrics, port: 8000}"),
            Line("config", "pools[].metrics.max_age_s", "2.0"),
        ),
        words="engine: none where there is no such page; a NetworkPolicy; extproc_scrapes_total tells the cause",
    ),
    needs_router=True,
)
def metrics_missing(setup: Setup) -> Iterator[Found]:
    for pool in _pools(setup):
        if setup.router is None or setup.router.pool(pool.name).metrics.engine == "none":
            continue
        old = [endpoint for endpoint in pool.endpoints if not endpoint.fresh]
        names = _several(
            [
                f"{e.address} ({'never' if e.metrics_age_s is None else f'{e.metrics_age_s:.1f} s old'})"
                for e in old
            ]
        )
        if old:
            yield Found(f"pool {pool.name}", f"{len(old)} of {len(pool.endpoints)}: {names}")


@check(
    "endpoints-set-aside",
    Severity.WARNING,
    "Model servers that failed are set aside",
    "They refused, reset or answered 502, 503 or 504 several times in a row; others carry their load.",
    Cure(words="these pods; the port that Envoy reaches them on"),
    needs_router=True,
)
def endpoints_set_aside(setup: Setup) -> Iterator[Found]:
    for pool in _pools(setup):
        away = [f"{e.address} ({e.health.cause or 'unknown'})" for e in pool.endpoints if not e.ready]
        if away:
            everyone = len(away) == len(pool.endpoints)
            told = f"{len(away)} of {len(pool.endpoints)}: {_several(away)}"
            yield Found(f"pool {pool.name}", told, Severity.SERIOUS if everyone else None)


CHECKS = (router_not_ready, pool_empty, metrics_missing, endpoints_set_aside)
