"""Follows one collection of the Kubernetes API: lists it, watches it, and lists again where it must.

A watch is asked to end after `Timings.watch_s`, which is short: whatever became of the connection or of the server
behind it (a peer that vanished, a proxy or a server that hangs), it is noticed when that end does not come.  TCP
keepalive would notice only the first, bookmarks come about once a minute and are not promised.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any, Literal, Protocol

from msgspec import Struct

from .client import KubeClient, Watch
from .decoding import Item, ObjectDecoder
from .failures import MAX_DETAIL, Forbidden, Gone, KubeError, Malformed, NotFound
from .known import Known
from .resource import Resource

State = Literal["starting", "synced", "lost", "absent", "forbidden"]
SLICE = 32
"""Objects decoded at a go: half a millisecond, after which requests that wait are routed."""


class Listener(Protocol):
    """Who is told of objects, from the event loop; nothing is told before the first list."""

    def listed(self, resource: Resource, objects: list[Any]) -> None:
        """The whole collection: what is not in it is gone."""

    def changed(self, resource: Resource, obj: Any) -> None:
        """It was added or modified; it replaces the one of that name, which may have had another uid."""

    def deleted(self, resource: Resource, obj: Any) -> None:
        """It is gone, or no longer selected; never told of what was not there."""

    def malformed(self, resource: Resource, name: str, error: str) -> None:
        """It cannot be decoded and counts as absent: what was known of that name holds no more.

        *name* is `namespace/name` where all namespaces are followed; "" where not even that could be read.
        """


class SourceStatus(Struct):
    """How it stands with one collection."""

    state: State = "starting"
    """`lost`: no contact; the last known set holds.  `absent`: no such resource, so no objects either."""
    since: float = 0.0
    """Monotonic, as are all times here."""
    last_contact: float | None = None
    """When the server last said something."""
    objects: int = 0
    detail: str = ""
    """What went wrong last; "" while all is well."""


class Watcher(Protocol):
    """Who is told of what is worth a metric or a log line."""

    def kube_state(self, resource: Resource, status: SourceStatus) -> None:
        """The state has changed."""

    def kube_event(self, resource: Resource, type: str) -> None:
        """An event came: ADDED, MODIFIED, DELETED, BOOKMARK or ERROR."""

    def kube_error(self, resource: Resource, reason: str, detail: str) -> None:
        """An attempt failed; it is tried again."""

    def kube_fault(self, where: Resource, error: Exception) -> None:
        """A bug of ours; the collection is listed again."""


class Timings(Struct, frozen=True):
    """Seconds.  Whatever many of us do at the same time is jittered."""

    watch_s: float = 45.0
    """How long a watch may last, at most: see above.  A new one costs the server next to nothing."""
    grace_s: float = 10.0
    """How much later its end may come, on a slow server or network."""
    healthy_s: float = 5.0
    """A watch that lasted as long has shown that all is well: its end is no reason to wait."""
    first_pause_s: float = 0.25
    """Doubled with each failure in a row."""
    max_pause_s: float = 10.0
    """An API server that is back is found within this time: what was last known is all the older."""
    forbidden_pause_s: float = 60.0
    """Somebody has to change a Role first."""
    absent_pause_s: float = 60.0
    """Somebody has to install a CRD first."""
    absent_after_s: float = 30.0
    """How long 404 must be the answer before what was there counts as gone: an API server that starts may not know
    its CRDs yet."""


TIMINGS = Timings()


class Reflector:
    """Tells *listener* what is in a collection, from its first list until `run` is cancelled."""

    def __init__(
        self,
        client: KubeClient,
        resource: Resource,
        listener: Listener,
        watcher: Watcher,
        clock: Callable[[], float],
        rng: random.Random,
        timings: Timings = TIMINGS,
    ) -> None:
        self.resource = resource
        self.status = SourceStatus(since=clock())
        self._client = client
        self._listener = listener
        self._watcher = watcher
        self._clock = clock
        self._rng = rng
        self._timings = timings
        self._decoder = ObjectDecoder(resource)
        self._known: Known | None = None
        self._failures = 0
        self._missing_since: float | None = None
        self._told = False
        self._contacted = False

    async def run(self) -> None:
        """Until cancelled; nothing else ends it."""
        while True:
            pause_s = await self._attempt()
            await asyncio.sleep(pause_s)

    async def _attempt(self) -> float:
        """List if that is needed, then watch.  How long to wait before the next attempt."""
        self._contacted = False
        try:
            try:
                if self._known is None:
                    self._known = await self._list()
                return await self._watch(self._known)
            except KubeError as error:
                return self._cope(error)
        except Exception as error:
            self._known = None
            self._watcher.kube_fault(self.resource, error)
            self._lose(f"fault: {error!r}"[:MAX_DETAIL])
            return self._pause_s()

    async def _list(self) -> Known:
        known: Known | None = None
        objects: list[Any] = []
        unreadable: list[Item] = []
        async for page in self._client.pages(self.resource):
            self.status.last_contact = self._clock()
            known = Known(page.resource_version) if known is None else known
            for start in range(0, len(page.items), SLICE):
                for item in map(self._decoder.item, page.items[start : start + SLICE]):
                    if item.error:
                        unreadable.append(item)
                    else:
                        known.add(item.meta)
                        objects.append(item.obj)
                await asyncio.sleep(0)
        assert known is not None  # a list has a page
        self._tell_list(objects)
        for item in unreadable:
            self._listener.malformed(self.resource, item.name, item.error)
        self._missing_since = None
        self._become("synced")
        return known

    async def _watch(self, known: Known) -> float:
        timings, started_at = self._timings, self._clock()
        timeout_s = max(1, round(timings.watch_s * self._rng.uniform(0.75, 1.0)))
        try:
            async with self._client.watch(self.resource, known.version, timeout_s, timings.grace_s) as watch:
                self._contacted = True
                self.status.last_contact = self._clock()
                self._become("synced")
                await self._follow(known, watch)
        finally:
            if self._clock() - started_at >= timings.healthy_s:
                self._failures = 0
        return 0.0 if self._clock() - started_at >= timings.healthy_s else self._pause_s()

    async def _follow(self, known: Known, watch: Watch) -> None:
        while (lines := await watch.read()) is not None:
            self.status.last_contact = self._clock()
            for number, line in enumerate(lines, 1):
                self._take(known, line)
                if number % SLICE == 0:
                    await asyncio.sleep(0)

    def _take(self, known: Known, line: bytes) -> None:
        """One event."""
        event = self._decoder.event(line)
        self._watcher.kube_event(self.resource, event.type)
        if event.type == "ERROR":
            raise self._decoder.failure(event.object)
        if event.type == "BOOKMARK":
            known.reached(self._decoder.bookmark(event.object))
            return
        item = self._decoder.item(event.object)
        if not item.meta.name:
            raise self._decoder.malformed(item.error)
        self._apply(known, event.type, item)
        known.reached(item.meta.resource_version)
        self.status.objects = len(known)

    def _apply(self, known: Known, type: str, item: Item) -> None:
        """Tell the listener what is news of it."""
        if not (known.delete(item.meta) if type == "DELETED" else known.put(item.meta)):
            return
        if item.error:
            known.delete(item.meta)
            self._listener.malformed(self.resource, item.name, item.error)
        elif type == "DELETED":
            self._listener.deleted(self.resource, item.obj)
        else:
            self._listener.changed(self.resource, item.obj)

    def _cope(self, error: KubeError) -> float:
        """How long to wait after that."""
        self._watcher.kube_error(self.resource, error.reason, error.detail)
        if isinstance(error, Gone | Malformed | NotFound | Forbidden):
            self._known = (
                None  # where lists are allowed and watches are not, there is a list now and then at least
            )
        jitter = self._rng.uniform(0.75, 1.0)
        pause_s = max(self._pause_s(), error.retry_after_s * (2.0 - jitter))
        if isinstance(error, Forbidden):
            self._become("forbidden", error.detail)
            return jitter * self._timings.forbidden_pause_s
        if isinstance(error, NotFound) and self._is_absent():
            self._become("absent", error.detail)
            return jitter * self._timings.absent_pause_s
        if not self._contacted and not isinstance(error, Gone):
            self._lose(error.detail)
        return pause_s

    def _is_absent(self) -> bool:
        """Whether 404 is to be believed; then the listener is told, once."""
        now, objects = self._clock(), self.status.objects
        self._missing_since = now if self._missing_since is None else self._missing_since
        if objects and now - self._missing_since < self._timings.absent_after_s:
            return False
        if objects or not self._told:
            self._tell_list([])
        return True

    def _tell_list(self, objects: list[Any]) -> None:
        self._listener.listed(self.resource, objects)
        self._told = True
        self.status.objects = len(objects)

    def _lose(self, detail: str) -> None:
        """What was never had cannot be lost: until the first list the state stays as it is."""
        self._become("lost" if self._told else self.status.state, detail)

    def _become(self, state: State, detail: str = "") -> None:
        status = self.status
        status.detail = detail
        if state != status.state:
            status.state, status.since = state, self._clock()
            self._watcher.kube_state(self.resource, status)

    def _pause_s(self) -> float:
        """Exponential back-off with full jitter: many of us do not come back at the same time."""
        longest_s = min(self._timings.first_pause_s * 2.0**self._failures, self._timings.max_pause_s)
        self._failures = min(self._failures + 1, 30)
        return self._rng.uniform(0.0, longest_s)
