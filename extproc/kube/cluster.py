"""The Kubernetes side of the router: follows what a config's pools need, tells what becomes of it, writes statuses."""

from __future__ import annotations

import asyncio
import hashlib
import random
import secrets
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from msgspec import Struct

from ..config.schema import Config, KubernetesConfig
from ..member import Member
from .client import KubeClient
from .feeds import Feed, Feeds
from .lease import Election
from .model_follower import ModelFollower
from .model_objects import Verdict
from .models import Merged, ModelObjects, PoolIdentity, merge
from .pool_follower import PoolFollower
from .reflector import TIMINGS, SourceStatus, Timings, Watcher
from .resource import Resource
from .status_writer import StatusWriter

SETTLE_S = 0.05
"""Changes of models within this time are one: a `kubectl apply` of a hundred is one new config, not a hundred."""
MAX_REPORTED = 10_000
"""Reports that are remembered so as to be logged once."""


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
        self._models: ModelFollower | None = None
        self._identities: dict[str, PoolIdentity] = {}
        self._reported: set[str] = set()
        self._soon: asyncio.TimerHandle | None = None
        self._writer = StatusWriter(client, self._leads, clock, observer.kube_write_failed)
        self._election: Election | None = None
        self._elections: set[asyncio.Task[None]] = set()
        """The one, and those that end."""
        self._standing_for: list[str] = []
        self._objects: ModelObjects | None = None

    # -- what is followed ---------------------------------------------------------------------------------------

    def follow(self, config: Config) -> None:
        """Follow what the pools of *config* need from now on; what another config needed too goes on."""
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
        self._identities = {name: each for name, source in wanted.items() if (each := self._identity(source))}
        self._follow_models(frozenset(identity.namespace for identity in self._identities.values()))

    def _identity(self, source: KubernetesConfig) -> PoolIdentity | None:
        if source.inference_pool is None:
            return None
        return PoolIdentity(source.namespace or self._client.namespace, source.inference_pool)

    def _follow_models(self, namespaces: frozenset[str]) -> None:
        if self._models is not None and self._models.namespaces == namespaces:
            return
        if self._models is not None:
            self._models.stop()
            self._models = None
        if namespaces:
            self._models = ModelFollower(
                namespaces, self._feeds, self._models_changed, self._observer.kube_object
            )

    # -- what the followers tell ----------------------------------------------------------------------------------

    def members(self, pool: str, members: tuple[Member, ...]) -> None:
        self._observer.kube_members(pool, members)

    def problem(self, pool: str, text: str) -> None:
        self._observer.kube_problem(pool, text)

    def _models_changed(self) -> None:
        if self._soon is None:
            self._soon = asyncio.get_running_loop().call_later(SETTLE_S, self._settled)

    def _settled(self) -> None:
        self._soon = None
        if self._models is not None and self._models.told:
            self._objects = self._models.objects()
            self._observer.kube_models()

    def _state_changed(self) -> None:
        for follower in list(self._pools.values()):
            follower.look()
        if self._models is not None and self._objects is None:
            self._models.look()

    def merged(self, config: Config) -> Merged:
        """*config* with the models of the cluster; the objects that they come from are told so in their status."""
        merged = merge(config, self._identities, self._objects or ModelObjects())
        self._write(merged.verdicts)
        for text in merged.reports:
            if text not in self._reported and len(self._reported) < MAX_REPORTED:
                self._reported.add(text)
                self._observer.kube_report(text)
        self._reported.intersection_update(merged.reports)
        return merged

    # -- statuses ---------------------------------------------------------------------------------------------------

    def _write(self, verdicts: Sequence[Verdict]) -> None:
        self._writer.update(verdicts)
        pools = sorted(f"{each.namespace}/{each.name}" for each in self._identities.values())
        if verdicts and pools != self._standing_for:
            self._standing_for = pools
            self._stand(lease_name(pools))

    def _stand(self, lease: str) -> None:
        """For the one replica that writes."""
        self._step_down()
        self._election = Election(
            self._client,
            self._client.namespace,
            lease,
            f"{socket.gethostname()}_{secrets.token_hex(4)}",
            self._clock,
            self._rng,
            self._observer.kube_write_failed,
        )
        self._elections.add(asyncio.create_task(self._election.run(), name=f"election {lease}"))

    def _step_down(self) -> None:
        self._election = None
        self._elections = {task for task in self._elections if not task.done()}
        for task in self._elections:
            task.cancel()

    def _leads(self) -> bool:
        return self._election is not None and self._election.leading

    @property
    def leading(self) -> bool:
        """Whether we are the replica that writes statuses."""
        return self._leads()

    async def run(self) -> None:
        """Until cancelled."""
        try:
            await self._writer.run()
        finally:
            await self._close()

    async def _close(self) -> None:
        if self._soon is not None:
            self._soon.cancel()
        await self._feeds.close()
        self._step_down()
        await asyncio.gather(*self._elections, return_exceptions=True)
        await self._client.close()

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
        if self._models is not None and not self._models.told:
            detail = _why(self._models.feeds())
            found.append(f"models were not listed yet{detail and f': {detail}'}")
        return found

    def notes(self) -> list[str]:
        """What is not as it should be, though requests are served."""
        now = self._clock()
        found = [
            f"pool {follower.pool}: {follower.problem}"
            for follower in self._pools.values()
            if follower.told and follower.problem
        ]
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
        """All collections that are followed."""
        for follower in self._pools.values():
            yield from follower.feeds()
        if self._models is not None:
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

    def kube_fault(self, resource: Resource, error: Exception) -> None:
        self._observer.kube_fault(resource, error)


def _why(feeds: Iterator[Feed]) -> str:
    return next((feed.status.detail for feed in feeds if feed.status.detail), "")


def lease_name(pools: Sequence[str]) -> str:
    """Of the Lease that routers of the same *pools* (`namespace/name`) stand for: others have another."""
    digest = hashlib.sha256("\n".join(pools).encode()).hexdigest()
    return f"extproc-{digest[:10]}"
