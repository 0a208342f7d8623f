"""The Kubernetes side of the router: follows what a config's pools need, tells what becomes of it, writes statuses."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Protocol

from msgspec import Struct

from ..config.schema import Config, KubernetesConfig
from ..member import Member
from .client import KubeClient
from .cluster_models import ClusterModels
from .feeds import Feed, Feeds
from .models import Merged, PoolIdentity
from .pool_follower import PoolFollower
from .reflector import TIMINGS, SourceStatus, Timings, Watcher
from .resource import Resource
from .statuses import Statuses

FAULT_PAUSE_S = 10.0
"""After a bug of ours, which the same objects may meet again."""


class Observer(Watcher, Protocol):
    """Who is told; all calls come from the event loop."""

    def kube_members(self, pool: str, members: tuple[Member, ...]) -> None:
        """*pool* consists of these now."""

    def kube_models(self) -> None:
        """The models of the cluster changed: `merged` says what they come to."""

    def kube_problem(self, pool: str, text: str) -> None:
        """Why *pool* has no endpoints where it should; "" once that is over."""

    def kube_object(self, resource: Resource, name: str, error: str) -> None:
        """An object cannot be read and counts as absent."""

    def kube_report(self, text: str) -> None:
        """What an object asks for and does not get; told once."""

    def kube_write_failed(self, resource: Resource, reason: str, detail: str) -> None:
        """A status or the lease could not be written; of failures in a row only the first is told."""

    def kube_fault(self, where: Resource | str, error: Exception) -> None:
        """A bug of ours; what was last known holds."""


class Cluster:
    """Follows the API while `run` runs."""

    def __init__(
        self,
        client: KubeClient,
        observer: Observer,
        clock: Callable[[], float],
        rng: random.Random,
        timings: Timings = TIMINGS,
    ) -> None:
        self._client = client
        self._observer = observer
        self._clock = clock
        self._rng = rng
        self._feeds = Feeds(client, _StateWatcher(observer, self._state_changed), clock, rng, timings)
        self._pools: dict[str, PoolFollower] = {}
        self._pools_in_all = 0
        """Of the config, with those of the file."""
        self._statuses = Statuses(client, clock, rng, observer.kube_write_failed)
        self._models = ClusterModels(
            self._feeds,
            self._statuses,
            clock,
            observer.kube_models,
            observer.kube_report,
            observer.kube_object,
        )

    # -- what is followed ---------------------------------------------------------------------------------------

    def follow(self, config: Config) -> None:
        """Follow what the pools of *config* need from now on; what another config needed too goes on."""
        self._pools_in_all = len(config.pools)
        wanted = {pool.name: pool.kubernetes for pool in config.pools if pool.kubernetes is not None}
        for name, follower in list(self._pools.items()):
            if wanted.get(name) != follower.source:
                follower.stop()
                del self._pools[name]
        for name, source in wanted.items():
            if name not in self._pools:
                namespace = source.namespace or self._client.namespace
                self._pools[name] = PoolFollower(
                    name, source, namespace, self._feeds, self, self._observer.kube_object
                )
        identities = {name: each for name, source in wanted.items() if (each := self._identity(source))}
        self._models.follow(config, identities)

    def _identity(self, source: KubernetesConfig) -> PoolIdentity | None:
        if source.inference_pool is None:
            return None
        return PoolIdentity(source.namespace or self._client.namespace, source.inference_pool)

    # -- what the followers tell ----------------------------------------------------------------------------------

    def members(self, pool: str, members: tuple[Member, ...]) -> None:
        self._observer.kube_members(pool, members)

    def problem(self, pool: str, text: str) -> None:
        self._observer.kube_problem(pool, text)

    def _state_changed(self) -> None:
        for follower in list(self._pools.values()):
            follower.look()
        self._models.look()

    def merged(self, config: Config) -> Merged:
        """*config*, the one that is followed, with the models of the cluster; the objects that they come from are
        told so in their status."""
        return self._models.merged(config)

    @property
    def leading(self) -> bool:
        """Whether we are the replica that writes statuses."""
        return self._statuses.leading

    async def run(self) -> None:
        """Until cancelled."""
        try:
            await asyncio.gather(
                self._keep("statuses", self._statuses.run), self._keep("models", self._models.run)
            )
        finally:
            await self._feeds.close()
            await self._statuses.close()
            await self._client.close()

    async def _keep(self, what: str, run: Callable[[], Awaitable[None]]) -> None:
        """A bug there is reported, and does not end what else is followed."""
        while True:
            try:
                await run()
            except Exception as error:
                self._observer.kube_fault(what, error)
                await asyncio.sleep(FAULT_PAUSE_S)

    # -- how it stands ------------------------------------------------------------------------------------------------

    def waiting(self) -> list[str]:
        """What is not known yet that requests need."""
        found = []
        for follower in self._pools.values():
            if not follower.told:
                detail = follower.problem or _why(follower.feeds())
                found.append(
                    f"pool {follower.pool}: its endpoints were not listed yet{detail and f': {detail}'}"
                )
        missing = [follower for follower in self._pools.values() if follower.told and follower.missing]
        if len(missing) == self._pools_in_all:  # a name with a typo must not replace routers that work
            found += [f"pool {follower.pool}: {follower.problem}" for follower in missing]
        return found + self._models.waiting()

    def notes(self) -> list[str]:
        """What is not as it should be, though requests are served."""
        now = self._clock()
        found = []
        for follower in self._pools.values():
            if follower.told and follower.problem:
                found.append(f"pool {follower.pool}: {follower.problem}")
            elif follower.emptiness:
                found.append(f"pool {follower.pool}: it has no endpoints ({follower.emptiness})")
        for feed in self.feeds():
            status = feed.status
            if status.state == "lost":
                since = f"for {now - status.since:.0f} s"
                found.append(
                    f"{feed.resource}: no contact {since}, what was last known holds: {status.detail}"
                )
            elif status.state == "forbidden":
                found.append(f"{feed.resource}: {status.detail}")
        return found

    def feeds(self) -> Iterator[Feed]:
        """All collections that are followed; metrics ask for them in a thread, while that changes."""
        for follower in list(self._pools.values()):
            yield from follower.feeds()
        yield from self._models.feeds()

    def describe(self) -> dict[str, Any]:
        """For `/debug/state`."""
        now = self._clock()
        return {
            "namespace": self._client.namespace,
            "writes_statuses": self.leading,
            "sources": [_Source.of(feed.resource, feed.status, now) for feed in self.feeds()],
            "pools": [
                {
                    "name": each.pool,
                    "namespace": each.namespace,
                    "problem": each.problem,
                    "excluded": list(each.excluded()),
                }
                for each in self._pools.values()
            ],
        }


class _Source(Struct, frozen=True):
    resource: str
    selector: str
    state: str
    for_s: float
    last_contact_s: float | None
    objects: int
    detail: str

    @classmethod
    def of(cls, resource: Resource, status: SourceStatus, now: float) -> _Source:
        return cls(
            resource=str(resource),
            selector=resource.label_selector or resource.field_selector,
            state=status.state,
            for_s=now - status.since,
            last_contact_s=None if status.last_contact is None else now - status.last_contact,
            objects=status.objects,
            detail=status.detail,
        )


class _StateWatcher:
    """Passes on to the observer, and tells us of states: with a right refused there is nothing more to wait for."""

    def __init__(self, observer: Observer, changed: Callable[[], None]) -> None:
        self._observer = observer
        self._changed = changed

    def kube_state(self, resource: Resource, status: SourceStatus) -> None:
        self._observer.kube_state(resource, status)
        asyncio.get_running_loop().call_soon(self._changed)

    def kube_event(self, resource: Resource, type: str) -> None:
        self._observer.kube_event(resource, type)

    def kube_error(self, resource: Resource, reason: str, detail: str) -> None:
        self._observer.kube_error(resource, reason, detail)

    def kube_fault(self, where: Resource, error: Exception) -> None:
        self._observer.kube_fault(where, error)


def _why(feeds: Iterator[Feed]) -> str:
    return next((feed.status.detail for feed in feeds if feed.status.detail), "")
