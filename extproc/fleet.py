"""All endpoints of all pools, across reloads: a new config gets a new router, but endpoints keep their state."""

from __future__ import annotations

from collections.abc import Iterator

from . import address as addresses
from .config.schema import Config, EndpointConfig, PoolConfig
from .endpoint import Endpoint
from .health import Failure
from .pool import Pool
from .router import Router
from .vllm import EngineMetrics


class Fleet:
    """Owns the endpoints and says which router is in force."""

    def __init__(self) -> None:
        self.router: Router | None = None
        self._endpoints: dict[tuple[str, str], Endpoint] = {}
        self._pools: dict[str, Pool] = {}
        self._by_address: dict[str, list[tuple[Pool, Endpoint]]] = {}

    def apply(self, config: Config, loaded_at: float = 0.0) -> Router:
        """Put *config* in force, at *loaded_at* seconds since the epoch.

        Endpoints that it names again keep their counts, figures and health.
        """
        endpoints: dict[tuple[str, str], Endpoint] = {}
        pools: dict[str, Pool] = {}
        for pool_config in config.pools:
            members = [self._endpoint(pool_config, member) for member in pool_config.members()]
            pools[pool_config.name] = Pool(pool_config.name, members, self._pools.get(pool_config.name))
            endpoints.update({(pool_config.name, member.address): member for member in members})
        self._endpoints = endpoints
        self._pools = pools
        self._by_address = {}
        for pool in pools.values():
            for endpoint in pool.endpoints:
                self._by_address.setdefault(endpoint.address, []).append((pool, endpoint))
        self.router = Router(config, pools, loaded_at)
        return self.router

    def _endpoint(self, pool: PoolConfig, member: EndpointConfig) -> Endpoint:
        address = addresses.normalise(member.address)
        endpoint = self._endpoints.get((pool.name, address)) or Endpoint(address)
        endpoint.configure(member.labels, pool.metrics.max_age_s)
        if pool.metrics.engine == "none":
            endpoint.tried = True  # there is nothing to wait for
        return endpoint

    def endpoints(self) -> Iterator[tuple[Pool, Endpoint]]:
        """Every (pool, endpoint) of the config in force."""
        for entries in self._by_address.values():
            yield from entries

    def at(self, address: str) -> list[tuple[Pool, Endpoint]]:
        """The endpoints at *address*: one a pool that names it."""
        return self._by_address.get(address, [])

    def scraped(self, address: str, metrics: EngineMetrics, now: float) -> None:
        """The metrics page at *address* was read just now."""
        for pool, endpoint in self.at(address):
            before = endpoint.metrics
            endpoint.observe(metrics, now)
            pool.observed(endpoint, before)
            endpoint.health.reachable()

    def scrape_failed(self, address: str, *, refused: bool, now: float) -> list[tuple[Pool, Endpoint, float]]:
        """It could not be read; *refused*: by the port that serves requests.

        Answers (pool, endpoint, pause in seconds) for those that are set aside for it.
        """
        aside = []
        for pool, endpoint in self.at(address):
            endpoint.tried = True
            if refused and (pause_s := pool.failed(endpoint, Failure.SCRAPE_REFUSED, now)) is not None:
                aside.append((pool, endpoint, pause_s))
        return aside

    def not_tried(self) -> list[str]:
        """Addresses that no scrape has reached or failed to reach yet; readiness waits for them."""
        return [endpoint.address for _, endpoint in self.endpoints() if not endpoint.tried]
