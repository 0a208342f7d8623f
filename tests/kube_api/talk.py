"""A plain HTTP client for the tests of the played API server: what it answers and what a watch says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp

from .server import BOUND_S, KubeApi

PODS = "/api/v1/namespaces/llm/pods"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/llm/leases"
MODELS = "/apis/inference.networking.x-k8s.io/v1alpha2/namespaces/llm/inferencemodels"
MERGE = {"Content-Type": "application/merge-patch+json"}


class Talk:
    """Requests to one API server. Answers are (status, document)."""

    def __init__(self, api: KubeApi, session: aiohttp.ClientSession) -> None:
        self.api = api
        self.session = session

    async def get(self, path: str, **query: str) -> tuple[int, Any]:
        return await self.send("GET", path, params=query)

    async def send(self, method: str, path: str, **said: Any) -> tuple[int, Any]:
        async with self.session.request(method, self.api.url + path, **said) as response:
            text = await response.text()
            document = json.loads(text) if response.content_type == "application/json" else text
            return response.status, document

    async def post(self, path: str, obj: dict[str, Any]) -> tuple[int, Any]:
        return await self.send("POST", path, json=obj)

    async def put(self, path: str, obj: dict[str, Any]) -> tuple[int, Any]:
        return await self.send("PUT", path, json=obj)

    async def patch(self, path: str, patch: Any) -> tuple[int, Any]:
        return await self.send("PATCH", path, data=json.dumps(patch), headers=MERGE)

    async def revision(self, path: str = PODS) -> str:
        """The revision of a list, which a watch then begins from."""
        _status, document = await self.get(path)
        return str(document["metadata"]["resourceVersion"])


class Watching:
    """One watch: its events so far, and how its connection ended ("" while open, "end" properly, else a fault)."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.garbage: list[bytes] = []
        self.status = 0
        self.ended = ""

    @property
    def told(self) -> list[tuple[str, str]]:
        """Types and names of the events."""
        return [(event["type"], event["object"]["metadata"].get("name", "")) for event in self.events]

    async def run(self, session: aiohttp.ClientSession, url: str, query: dict[str, str]) -> None:
        try:
            async with session.get(url, params=query) as response:
                self.status = response.status
                async for line in response.content:
                    self._take(line)
            self.ended = "end"
        except aiohttp.ClientError as error:
            self.ended = type(error).__name__

    def _take(self, line: bytes) -> None:
        try:
            self.events.append(json.loads(line))
        except ValueError:
            self.garbage.append(line)


@asynccontextmanager
async def watching(talk: Talk, revision: str, path: str = PODS, **query: str) -> AsyncIterator[Watching]:
    """A watch from that revision, open (or answered) when the block begins."""
    watch = Watching()
    before = talk.api.watching.get(path, 0)
    asked = {"watch": "1", "resourceVersion": revision} | query
    task = asyncio.create_task(watch.run(talk.session, talk.api.url + path, asked))
    try:
        await talk.api.until(lambda: talk.api.watching.get(path, 0) > before or task.done())
        yield watch
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def talking(api: KubeApi, **session: Any) -> AsyncIterator[Talk]:
    timeout = aiohttp.ClientTimeout(total=BOUND_S)
    async with api, aiohttp.ClientSession(timeout=timeout, **session) as client:
        yield Talk(api, client)
