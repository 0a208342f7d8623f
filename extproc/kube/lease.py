"""One replica at a time: leadership by a Lease of coordination.k8s.io, as client-go's leader election does it.

Ours, not kubernetes_asyncio's: that one keeps its record in annotations of other objects, judges by wall clocks, and
leads on while a renewal hangs.
"""

from __future__ import annotations

import asyncio
import datetime
import random
from collections.abc import Callable
from contextlib import suppress

from msgspec import UNSET, Struct, UnsetType, structs

from .client import KubeClient
from .failures import Conflict, Forbidden, KubeError, NotFound, Reason
from .resource import Resource


class LeaseMeta(Struct, frozen=True, rename="camel", omit_defaults=True):
    name: str
    namespace: str = ""
    resource_version: str | UnsetType = UNSET
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class LeaseSpec(Struct, frozen=True, rename="camel", omit_defaults=True):
    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None


class Lease(Struct, frozen=True, rename="camel"):
    """coordination.k8s.io/v1 Lease."""

    metadata: LeaseMeta
    spec: LeaseSpec = LeaseSpec()
    api_version: str = "coordination.k8s.io/v1"
    kind: str = "Lease"


class LeaseTimings(Struct, frozen=True):
    """Seconds."""

    duration_s: int = 15
    """How long others wait after the last renewal that they saw: client-go's own figure."""
    renew_s: float = 5.0
    """Two renewals may fail before leadership is lost."""
    margin_s: float = 5.0
    """How much earlier than others may take over we stop: a write that is on its way must be over by then."""
    request_s: float = 4.0
    """Less than renew_s: a request that hangs must leave time for another."""
    forbidden_s: float = 60.0
    """Somebody has to change a Role first."""
    release_s: float = 2.0
    """A replica that stops does not wait longer to say so."""


TIMINGS = LeaseTimings()


def lease_resource(namespace: str) -> Resource:
    return Resource("coordination.k8s.io", "v1", "leases", namespace, Lease)


class Election:
    """Stands for leadership while `run` runs.

    *on_error(resource, reason, detail)* is told of failures, of those in a row with the same reason only of the first.
    *identity* must be unique among processes, not only pods: a container that restarts is somebody else.
    """

    def __init__(
        self,
        client: KubeClient,
        namespace: str,
        name: str,
        identity: str,
        clock: Callable[[], float],
        rng: random.Random,
        on_error: Callable[[Resource, str, str], object],
        timings: LeaseTimings = TIMINGS,
    ) -> None:
        self._client = client
        self._resource = lease_resource(namespace)
        self._name = name
        self._identity = identity
        self._clock = clock
        self._rng = rng
        self._on_error = on_error
        self._timings = timings
        self._seen: Lease | None = None
        self._seen_at = 0.0
        self._leads_until: float | None = None
        self._told: Reason | None = None

    @property
    def leading(self) -> bool:
        """Whether this is the one: false as soon as somebody else could be, whatever a request may hang on."""
        return self._leads_until is not None and self._clock() < self._leads_until

    async def run(self) -> None:
        """Until cancelled; then leadership is given up, so that another need not wait."""
        try:
            while True:
                pause_s = await self._attempt()
                await asyncio.sleep(pause_s * self._rng.uniform(0.8, 1.0))
        finally:
            await self._release()

    async def _attempt(self) -> float:
        try:
            async with asyncio.timeout(self._timings.request_s):
                await self._acquire_or_renew()
        except TimeoutError:
            self._tell("unavailable", f"cannot renew {self._resource} {self._name}: no answer in time")
        except Conflict:
            self._leads_until = None  # somebody else was faster
        except KubeError as error:
            self._tell(error.reason, error.detail)
            if isinstance(error, Forbidden):
                self._leads_until = None
                return self._timings.forbidden_s
        else:
            self._told = None
        return self._timings.renew_s

    async def _acquire_or_renew(self) -> None:
        started_at = self._clock()
        try:
            lease: Lease = await self._client.get(self._resource, self._name)
        except NotFound:
            meta = LeaseMeta(self._name, self._resource.namespace or "")
            await self._client.create(self._resource, self._name, Lease(meta, self._claim(None)))
        else:
            if not self._may_take(lease):
                self._leads_until = None
                return
            claimed = Lease(lease.metadata, self._claim(lease.spec))
            await self._client.replace(self._resource, self._name, claimed)
        timings = self._timings
        self._leads_until = started_at + timings.duration_s - timings.margin_s

    def _may_take(self, lease: Lease) -> bool:
        """Ours, nobody's, or not renewed for as long as it says.

        How long, we measure from when we saw it change: the clocks of two machines are not to be compared.
        """
        spec, now = lease.spec, self._clock()
        if self._seen is None or self._seen.spec != spec:
            self._seen, self._seen_at = lease, now
        if not spec.holder_identity or spec.holder_identity == self._identity:
            return True
        return now >= self._seen_at + max(spec.lease_duration_seconds or 0, self._timings.duration_s)

    def _claim(self, spec: LeaseSpec | None) -> LeaseSpec:
        now = _micro_time()
        if spec is not None and spec.holder_identity == self._identity:
            return structs.replace(spec, renew_time=now, lease_duration_seconds=self._timings.duration_s)
        transitions = 0 if spec is None else (spec.lease_transitions or 0) + 1
        return LeaseSpec(self._identity, self._timings.duration_s, now, now, transitions)

    async def _release(self) -> None:
        if not self.leading:
            return None
        self._leads_until = None
        try:
            async with asyncio.timeout(self._timings.release_s):
                with suppress(Conflict):
                    return await self._give_up()
                await self._give_up()  # our last renewal, cut off by the cancellation, had arrived after all
        except (KubeError, TimeoutError):
            pass  # it runs out by itself

    async def _give_up(self) -> None:
        lease: Lease = await self._client.get(self._resource, self._name)
        if lease.spec.holder_identity == self._identity:
            # Left out, not "": newer API servers take no empty identity.
            spec = structs.replace(lease.spec, holder_identity=None, lease_duration_seconds=1)
            await self._client.replace(self._resource, self._name, Lease(lease.metadata, spec))

    def _tell(self, reason: Reason, detail: str) -> None:
        if reason != self._told:
            self._told = reason
            self._on_error(self._resource, reason, detail)


def _micro_time() -> str:
    """metav1.MicroTime of now, for humans: nobody here compares it."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
