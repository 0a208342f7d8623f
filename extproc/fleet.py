"""All endpoints of all pools, across reloads and as a cluster's pods come and go: endpoints keep their state."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from weakref import WeakSet

from . import address as addresses
from .config.schema import Config, MetricsConfig, PoolConfig
from .endpoint import Cordon, Endpoint
from .engine_metrics import EngineMetrics
from .engines import ENGINES, Page
from .health import Failure
from .member import Member
from .pool import Pool
from .router import Router

KEPT_S = 60.0
"""A pod whose readiness flaps comes back within this time, and has its speed, its counts and its health still.  One
that serves requests is kept for as long as they last."""

MAX_CORDONS = 10_000
"""That are remembered (some 5 MB), where hooks cordon each pod before it ends: a thousand pods a day, for ten days."""

NO_POD = frozenset(("",))
"""The uids at an address of which only the file tells."""

_Key = tuple[str, str, str]
"""(pool, address, uid)."""


class Fleet:
    """Owns the endpoints and says which router is in force."""

    def __init__(self) -> None:
        self.router: Router | None = None
        self._discovered: dict[str, dict[int, Member]] = {}
        """Of pools that a cluster tells of: what it last told, by identity; without an entry: nothing yet."""
        self._endpoints: dict[_Key, Endpoint] = {}
        self._departed: dict[_Key, tuple[Endpoint, float]] = {}
        """Pods that went, and when."""
        self._configs: dict[str, PoolConfig] = {}
        self._pools: dict[str, Pool] = {}
        self._superseded: dict[str, WeakSet[Pool]] = {}
        """Pools of routers before this one, while a stream that began with it is open."""
        self._by_address: dict[str, list[tuple[Pool, Endpoint]]] = {}
        self._cordons: dict[str, frozenset[str]] = {}
        """Addresses that were cordoned by command, with the uids of who was there then."""

    def apply(self, config: Config, loaded_at: float = 0.0) -> Router:
        """Put *config* in force, at *loaded_at* seconds since the epoch.

        Endpoints that it names again keep their counts and health, and their figures where the same page is read.
        """
        endpoints: dict[_Key, Endpoint] = {}
        pools: dict[str, Pool] = {}
        for pool_config in config.pools:
            self._hold(pool_config)
            members = self._members(pool_config)
            found = {_key(pool_config.name, each): self._endpoint(pool_config, each) for each in members}
            before = self._pools.get(pool_config.name)
            if before is not None:
                self._superseded.setdefault(before.name, WeakSet()).add(before)
            pool = pools[pool_config.name] = Pool(pool_config.name, found.values(), before)
            pool.load_reports = pool_config.metrics.orca
            if before is not None and _reads_otherwise(pool, self._configs[pool.name].metrics):
                pool.forget_scrapes()
            if pool.restricted:
                self._restrict(pool)
            endpoints.update(found)
        self._endpoints, self._pools = endpoints, pools
        self._configs = {pool.name: pool for pool in config.pools}
        self._discovered = {name: m for name, m in self._discovered.items() if self._follows(name)}
        self._superseded = {name: before for name, before in self._superseded.items() if before}
        self._by_address = {}
        self._look_up(endpoint.address for endpoint in endpoints.values())
        self.router = Router(config, pools, loaded_at)
        return self.router

    def replace_members(self, pool: str, members: Sequence[Member], now: float) -> None:
        """The cluster tells that *pool* consists of *members*: in force at once, for streams that are open, too.

        Told of a pool that the config in force does not have, or has in the file, it does nothing.
        """
        if not self._follows(pool):
            return
        before, after = self._discovered.get(pool, {}), _by_identity(members)
        self._discovered[pool] = after
        gone = [before[identity] for identity in before.keys() - after.keys()]
        come = [after[identity] for identity in after.keys() - before.keys()]
        for key in [_key(pool, member) for member in gone]:
            self._departed[key] = (self._endpoints.pop(key), now)
        entered = {member.address: self._enter(self._configs[pool], member) for member in come}
        in_force = self._pools[pool]
        found = in_force.by_address | entered
        in_force.replace(found[member.address] for member in members)
        for superseded in self._superseded.get(pool, ()):
            superseded.retain(frozenset(in_force.endpoints))
        self._look_up(member.address for member in (*gone, *come))

    def _enter(self, pool: PoolConfig, member: Member) -> Endpoint:
        key = _key(pool.name, member)
        endpoint = self._endpoints[key] = self._endpoint(pool, member)
        self._departed.pop(key, None)
        return endpoint

    def expire(self, now: float) -> None:
        """Let go of what lingered long enough: answers that nobody saw the end of, pods that went."""
        for _, endpoint in self.endpoints():
            endpoint.expire(now)
        for key, (endpoint, since) in list(self._departed.items()):
            endpoint.expire(now)
            if since + KEPT_S <= now and endpoint.in_flight == 0:
                del self._departed[key]

    def _follows(self, pool: str) -> bool:
        config = self._configs.get(pool)
        return config is not None and config.kubernetes is not None

    def _hold(self, pool: PoolConfig) -> None:
        """A pool of the file that the cluster is to tell of from now on keeps its members until it does."""
        before = self._pools.get(pool.name)
        if pool.kubernetes is not None and before is not None and pool.name not in self._discovered:
            held = [Member(each.address, dict(each.labels), each.uid) for each in before.endpoints]
            self._discovered[pool.name] = _by_identity(held)

    def _members(self, pool: PoolConfig) -> Iterable[Member]:
        if pool.kubernetes is not None:
            return self._discovered.get(pool.name, {}).values()
        return [
            Member(
                addresses.normalise(each.address),
                each.labels,
                max_in_flight=each.max_in_flight,
                cordoned=each.cordoned,
            )
            for each in pool.members()
        ]

    def _endpoint(self, pool: PoolConfig, member: Member) -> Endpoint:
        key = _key(pool.name, member)
        departed, _ = self._departed.get(key, (None, 0.0))
        endpoint = self._endpoints.get(key) or departed or Endpoint(member.address, uid=member.uid)
        most = pool.max_in_flight if member.max_in_flight is None else member.max_in_flight
        page = _page(pool.metrics, member.address)
        endpoint.configure(member.labels, pool.metrics.max_age_s, most, self._cordon_of(member), page)
        if page is None:
            endpoint.tried = True  # there is nothing to wait for
        return endpoint

    def _look_up(self, touched: Iterable[str]) -> None:
        """Other endpoints than before may be at these addresses."""
        for address in touched:
            entries = [
                (pool, endpoint)
                for pool in self._pools.values()
                if (endpoint := pool.by_address.get(address)) is not None
            ]
            if entries:
                self._by_address[address] = entries
            else:
                self._by_address.pop(address, None)

    def _cordon_of(self, member: Member) -> Cordon | None:
        if member.cordoned:
            return "config"
        return "command" if member.uid in self._cordons.get(member.address, ()) else None

    def cordon(self, address: str) -> list[tuple[Pool, Endpoint]]:
        """Those at *address*, who get no new request from now on, until `uncordon`; empty: nobody is there.

        It outlives reloads, and the absence of a pod.  A pod that gets the address later is another server.
        """
        found = self.at(address)
        if found:
            uids = frozenset(endpoint.uid for _, endpoint in found)
            before = self._cordons.pop(address, frozenset())
            # where a pod is now, the one before is gone for good
            self._cordons[address] = uids | (before if uids == NO_POD else before & NO_POD)
            self._forget_cordons()
        for pool, endpoint in found:
            endpoint.cordoned = endpoint.cordoned or "command"
            self._restrict(pool)
        return found

    def _forget_cordons(self) -> None:
        """Where they are too many, the oldest whose pods are not there."""
        if len(self._cordons) > MAX_CORDONS:
            gone = next((address for address in self._cordons if not self.at(address)), None)
            if gone is not None:
                del self._cordons[gone]

    def uncordon(self, address: str) -> list[tuple[Pool, Endpoint]] | None:
        """Takes back `cordon`, and answers who is at *address*; None: nobody is or was.

        What the config cordons stays so.
        """
        was = self._cordons.pop(address, None)
        found = self.at(address)
        for _, endpoint in found:
            if endpoint.cordoned == "command":
                endpoint.cordoned = None
        return None if was is None and not found else found

    def _restrict(self, pool: Pool) -> None:
        """Cordons hold for streams, too, that began before a reload."""
        for each in (pool, *self._superseded.get(pool.name, ())):
            each.restricted = True

    def size(self, pool: str) -> int:
        """How many endpoints *pool* has; 0 where the config in force has no such pool."""
        return len(self._pools[pool].endpoints) if pool in self._pools else 0

    def pools(self) -> Iterator[tuple[PoolConfig, Pool]]:
        """Every pool of the config in force."""
        for name, config in self._configs.items():
            yield config, self._pools[name]

    def endpoints(self) -> Iterator[tuple[Pool, Endpoint]]:
        """Every (pool, endpoint) of the config in force."""
        for pool in self._pools.values():  # replaced as a whole, never changed: metrics are read in a thread
            for endpoint in pool.by_address.values():
                yield pool, endpoint

    def at(self, address: str) -> list[tuple[Pool, Endpoint]]:
        """The endpoints at *address*: one a pool that names it."""
        return self._by_address.get(address, [])

    def readers(self, address: str, page: Page | None) -> list[tuple[Pool, Endpoint]]:
        """The endpoints at *address* of which *page* is read; None: any."""
        found = self.at(address)
        return found if page is None else [each for each in found if each[1].page == page]

    def scraped(
        self,
        address: str,
        metrics: EngineMetrics,
        now: float,
        asked_at: float = math.inf,
        page: Page | None = None,
    ) -> None:
        """*page* of *address*, asked for at *asked_at*, was read just now.

        Who is to be read otherwise, or no more, since it was asked for, hears nothing of it.
        """
        for pool, endpoint in self.readers(address, page):
            before = endpoint.metrics
            endpoint.observe(metrics, now, asked_at)
            pool.observed(endpoint, before)
            endpoint.health.reachable()

    def scrape_failed(
        self, address: str, *, refused: bool, now: float, page: Page | None = None
    ) -> list[tuple[Pool, Endpoint, float]]:
        """It could not be read; *refused*: by the port that serves requests.

        Answers (pool, endpoint, pause in seconds) for those that are set aside for it.
        """
        aside = []
        for pool, endpoint in self.readers(address, page):
            endpoint.unreadable(now)
            if refused and (pause_s := pool.failed(endpoint, Failure.SCRAPE_REFUSED, now)) is not None:
                aside.append((pool, endpoint, pause_s))
        return aside

    def unused(self, address: str, page: Page | None = None) -> None:
        """It was answered, and tells nothing before the first request."""
        for pool, endpoint in self.readers(address, page):
            if endpoint.metrics is not None:
                pool.index.forget(endpoint)
            endpoint.unused()
            endpoint.health.reachable()

    def not_tried(self) -> list[str]:
        """Addresses that no scrape has reached or failed to reach yet; readiness waits for them."""
        return [endpoint.address for _, endpoint in self.endpoints() if not endpoint.tried]


def _key(pool: str, member: Member) -> _Key:
    return pool, member.address, member.uid


def _page(metrics: MetricsConfig, address: str) -> Page | None:
    """What is scraped of the endpoint at *address*; None: nothing."""
    if metrics.engine == "none":
        return None
    engine = ENGINES[metrics.engine]
    port = metrics.port or int(address.rpartition(":")[2])  # to parse it anew takes ten times as long
    return Page(engine.names, port, metrics.path or engine.path)


def _reads_otherwise(pool: Pool, before: MetricsConfig) -> bool:
    """Whether an endpoint of *pool* has another page read than *before* says, or none."""
    return any(endpoint.page != _page(before, endpoint.address) for endpoint in pool.endpoints)


def _by_identity(members: Sequence[Member]) -> dict[int, Member]:
    """A cluster of a thousand pods tells of all of them when one changes, and the others are the same objects."""
    return dict(zip(map(id, members), members, strict=True))
