"""A `Cluster` that runs against the played API server, and what it tells."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from kube_api import KubeApi
from kube_followers import QUICK, Plain

from extproc.config import parse_config
from extproc.config.schema import Config
from extproc.kube.client import KubeClient
from extproc.kube.cluster import Cluster
from extproc.kube.reflector import SourceStatus
from extproc.kube.resource import Resource
from extproc.member import Member


class Observed:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.pools: dict[str, tuple[Member, ...]] = {}
        self.tellings: list[tuple[str, list[str]]] = []
        """(pool, addresses), as they were told."""
        self.problems: dict[str, str] = {}
        self.model_changes = 0
        self.reports: list[str] = []
        self.unreadable: list[str] = []
        self.failed_writes: list[tuple[str, str]] = []
        self.faults: list[Exception] = []

    def kube_members(self, pool: str, members: tuple[Member, ...]) -> None:
        self.pools[pool] = members
        self.tellings.append((pool, [each.address for each in members]))

    def kube_models(self) -> None:
        self.model_changes += 1

    def kube_problem(self, pool: str, text: str) -> None:
        self.problems[pool] = text

    def kube_object(self, resource: Resource, name: str, error: str) -> None:
        self.unreadable.append(name)

    def kube_report(self, text: str) -> None:
        self.reports.append(text)

    def kube_write_failed(self, resource: Resource, reason: str, detail: str) -> None:
        self.failed_writes.append((reason, detail))

    def kube_state(self, resource: Resource, status: SourceStatus) -> None:
        pass

    def kube_event(self, resource: Resource, type: str) -> None:
        pass

    def kube_error(self, resource: Resource, reason: str, detail: str) -> None:
        pass

    def kube_fault(self, where: Resource | str, error: Exception) -> None:
        self.faults.append(error)


class Talk:
    """The server, the cluster and what it told."""

    def __init__(self, api: KubeApi, cluster: Cluster, told: Observed, config: Config) -> None:
        self.api = api
        self.cluster = cluster
        self.told = told
        self.config = config

    def addresses(self, pool: str = "p") -> list[str]:
        return [each.address for each in self.told.pools.get(pool, ())]

    async def until(self, pool: str, *addresses: str) -> None:
        """*pool* consists of *addresses*."""
        await self.api.until(lambda: pool in self.told.pools and self.addresses(pool) == list(addresses))

    def follow(self, text: str) -> None:
        self.config = parse_config(text.encode())
        self.cluster.follow(self.config)

    def merged(self) -> Config:
        return self.cluster.merged(self.config).config

    def conditions(self, plural: str, name: str) -> dict[str, tuple[str, str]]:
        """(status, reason) of an object's conditions."""
        status: dict[str, Any] = self.api.get(plural, "llm", name).get("status", {})
        return {each["type"]: (each["status"], each["reason"]) for each in status.get("conditions", [])}


@asynccontextmanager
async def talking(api: KubeApi, text: str, told: Observed | None = None) -> AsyncIterator[Talk]:
    """A cluster that follows what the config *text* needs."""
    told = told or Observed()
    cluster = Cluster(KubeClient(Plain(api.url)), told, time.monotonic, random.Random(1), QUICK)
    running = asyncio.create_task(cluster.run(), name="kubernetes")
    talk = Talk(api, cluster, told, parse_config(text.encode()))
    try:
        talk.follow(text)
        yield talk
        assert not running.done(), "it ended by itself"
    finally:
        running.cancel()
        await asyncio.wait([running])
    assert told.faults == []
    assert not cluster._feeds._tasks
