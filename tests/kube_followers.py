"""Who listens to a reflector, and reflectors that run during a test."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from kube_api import KubeApi
from kube_objects import pod
from msgspec import structs

from extproc.kube.client import KubeClient
from extproc.kube.credentials import Access
from extproc.kube.objects import Pod
from extproc.kube.reflector import Reflector, SourceStatus, Timings
from extproc.kube.resource import Resource

PODS = Resource("", "v1", "pods", "llm", Pod)
QUICK = Timings(
    watch_s=1.0,
    grace_s=0.3,
    healthy_s=0.2,
    first_pause_s=0.01,
    max_pause_s=0.05,
    forbidden_pause_s=0.05,
    absent_pause_s=0.05,
    absent_after_s=0.2,
)
PATIENT = structs.replace(QUICK, watch_s=30.0)
"""For tests in which no watch is to end by itself."""


class Plain:
    """Credentials for a server that asks for none."""

    namespace = "llm"

    def __init__(self, url: str) -> None:
        self._url = url

    async def access(self) -> tuple[Access, str | None]:
        return Access(self._url), None

    def refused(self) -> None:
        pass


class Heard:
    """Keeps what a listener would know, and what was told on the way."""

    def __init__(self) -> None:
        self.objects: dict[str, Any] = {}
        self.lists = 0
        self.told: list[str] = []
        """What came after the first list: `changed a`, `deleted a`, `listed a b`."""
        self.states: list[str] = []
        self.events: list[str] = []
        self.errors: list[tuple[str, str]] = []
        self.faults: list[Exception] = []
        self.unreadable: dict[str, str] = {}
        self.fail_on = ""

    def listed(self, resource: Resource, objects: list[Any]) -> None:
        self.lists += 1
        self.objects = {obj.metadata.name: obj for obj in objects}
        self._tell("listed " + " ".join(sorted(self.objects)))

    def changed(self, resource: Resource, obj: Any) -> None:
        self.objects[obj.metadata.name] = obj
        self._tell(f"changed {obj.metadata.name}")

    def deleted(self, resource: Resource, obj: Any) -> None:
        del self.objects[obj.metadata.name]
        self._tell(f"deleted {obj.metadata.name}")

    def malformed(self, resource: Resource, name: str, error: str) -> None:
        self.objects.pop(name, None)
        self.unreadable[name] = error
        self._tell(f"malformed {name}")

    def _tell(self, what: str) -> None:
        self.told.append(what)
        if self.fail_on and what.startswith(self.fail_on):
            self.fail_on = ""
            raise RuntimeError(f"a bug at: {what}")

    def kube_state(self, resource: Resource, status: SourceStatus) -> None:
        self.states.append(status.state)

    def kube_event(self, resource: Resource, type: str) -> None:
        self.events.append(type)

    def kube_error(self, resource: Resource, reason: str, detail: str) -> None:
        self.errors.append((reason, detail))

    def kube_fault(self, resource: Resource, error: Exception) -> None:
        self.faults.append(error)

    @property
    def reasons(self) -> list[str]:
        return [reason for reason, _ in self.errors]

    @property
    def uids(self) -> dict[str, tuple[str, str]]:
        """(uid, resourceVersion) by name."""
        found = ((obj.metadata.name, obj.metadata) for obj in self.objects.values())
        return {name: (meta.uid, meta.resource_version) for name, meta in found}


def stored(api: KubeApi, plural: str = "pods") -> dict[str, tuple[str, str]]:
    """As `Heard.uids`, but what the server has."""
    metas = [obj["metadata"] for obj in api.objects(plural)]
    return {meta["name"]: (meta["uid"], meta["resourceVersion"]) for meta in metas}


class Following:
    """A reflector that runs."""

    def __init__(self, reflector: Reflector, heard: Heard, task: asyncio.Task[None]) -> None:
        self.reflector = reflector
        self.heard = heard
        self.task = task

    @property
    def status(self) -> SourceStatus:
        return self.reflector.status


def broken(name: str) -> dict[str, Any]:
    """A pod that cannot be read."""
    return pod(name) | {"status": "yes"}


async def converged(api: KubeApi, follows: Following) -> None:
    """Waits until the listener knows what the server has."""
    await api.until(lambda: follows.heard.uids == stored(api))


@asynccontextmanager
async def following(
    api: KubeApi,
    resource: Resource = PODS,
    timings: Timings = QUICK,
    heard: Heard | None = None,
    client: KubeClient | None = None,
    until: str = "watching",
) -> AsyncIterator[Following]:
    """Follows *resource*, from when it is watched."""
    heard = heard or Heard()
    async with client or KubeClient(Plain(api.url)) as client:
        reflector = Reflector(client, resource, heard, heard, time.monotonic, random.Random(1), timings)
        task = asyncio.create_task(reflector.run(), name=f"watch {resource}")
        try:
            if until == "watching":
                await api.until(lambda: api.watching.get(resource.path) and heard.states)
            yield Following(reflector, heard, task)
        finally:
            assert not task.done(), "it ended by itself"
            task.cancel()
            await asyncio.wait([task])
