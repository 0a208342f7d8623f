"""Runs the reflectors: each is a task that somebody started and stops."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from .client import KubeClient
from .reflector import Listener, Reflector, SourceStatus, Timings, Watcher
from .resource import Resource


class Feed:
    """One collection that is followed."""

    def __init__(self, resource: Resource, reflector: Reflector, task: asyncio.Task[None]) -> None:
        self.resource = resource
        self._reflector = reflector
        self._task = task

    @property
    def status(self) -> SourceStatus:
        return self._reflector.status

    def stop(self) -> None:
        """The listener hears no more of it."""
        self._task.cancel()


class Feeds:
    """Owns the tasks; `close` it."""

    def __init__(
        self,
        client: KubeClient,
        watcher: Watcher,
        clock: Callable[[], float],
        rng: random.Random,
        timings: Timings,
    ) -> None:
        self._client = client
        self._watcher = watcher
        self._clock = clock
        self._rng = rng
        self._timings = timings
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, resource: Resource, listener: Listener) -> Feed:
        """Follow *resource* until the feed is stopped."""
        reflector = Reflector(
            self._client, resource, listener, self._watcher, self._clock, self._rng, self._timings
        )
        task = asyncio.create_task(reflector.run(), name=f"watch {resource}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return Feed(resource, reflector, task)

    async def close(self) -> None:
        """End all of them."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
