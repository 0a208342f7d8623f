"""Requests to the Kubernetes API server: a small client that decodes only what is needed.

Ours, not the generated client of kubernetes_asyncio: that builds a tree of objects of every field of every pod, at 50
times the CPU, on the event loop that routes requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from msgspec import DecodeError, Raw, Struct, field
from msgspec.json import Decoder, decode, encode

from .connection import Connection, Request, let_go, translated, whole
from .credentials import Credentials
from .failures import Action, Malformed
from .lines import Lines, LineTooLong
from .resource import Resource

MAX_PAGE_BYTES = 64 * 1024 * 1024
"""Of a page of a list: a hundred objects of etcd's largest size would be 150 MB, but such do not occur in hundreds."""
MAX_LINE_BYTES = 8 * 1024 * 1024
"""Of a watch event.  etcd takes objects of 1.5 MiB, in protobuf; as JSON they are two to three times that."""


class Limits(Struct, frozen=True):
    """How long requests may take."""

    connect_s: float = 5.0
    """TCP and TLS; within a cluster it takes milliseconds, and a dead API server's replica is to be given up soon."""
    request_s: float = 30.0
    """A whole request, or a page of a list: the API server itself gives up after 60 s, etcd after some 10 s."""
    page_items: int = 100
    """Objects a page of a list.  A page is decoded at one go on the event loop that routes requests: a hundred pods of
    10 KB take 1 ms; a list of thousands takes more round trips, which nobody waits for."""


LIMITS = Limits()


class Page(Struct, frozen=True):
    """A part of a list."""

    items: list[Raw]
    resource_version: str
    """Of the whole list: what a watch goes on from."""


class _ListMeta(Struct):
    resource_version: str | None = field(default=None, name="resourceVersion")
    continue_: str | None = field(default=None, name="continue")


class _List(Struct):
    metadata: _ListMeta
    items: list[Raw] | None = None


_list = Decoder(_List)


class KubeClient:
    """A session with one API server.  Use as `async with`, or `close` it.  Every method raises KubeError."""

    def __init__(self, credentials: Credentials, limits: Limits = LIMITS) -> None:
        self._connection = Connection(credentials)
        self._limits = limits

    @property
    def namespace(self) -> str:
        """Our own."""
        return self._connection.credentials.namespace

    async def __aenter__(self) -> KubeClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._connection.close()

    async def pages(self, resource: Resource) -> AsyncIterator[Page]:
        """The collection as it is now (no resourceVersion asked for: the newest, not a cache's), part by part.

        Gone where the list grew too old between two pages: what was read then is to be thrown away.
        """
        action = Action("list", resource)
        query = resource.selectors | {"limit": str(self._limits.page_items)}
        while True:
            body = await self._request(action, "GET", resource.path, query)
            page = _page(action, body)
            meta = page.metadata
            if not meta.resource_version:
                raise Malformed(f"cannot {action}: the list has no resourceVersion")
            yield Page(page.items or [], meta.resource_version)
            if not meta.continue_:
                return
            query = resource.selectors | {
                "limit": str(self._limits.page_items),
                "continue": meta.continue_,
            }

    @asynccontextmanager
    async def watch(
        self, resource: Resource, resource_version: str, timeout_s: int, grace_s: float
    ) -> AsyncIterator[Watch]:
        """Events after *resource_version*.

        The server is asked to end it after *timeout_s*; Unavailable where it has not, *grace_s* later.
        """
        action = Action("watch", resource)
        query = resource.selectors | {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(timeout_s),
        }
        timeout = aiohttp.ClientTimeout(total=timeout_s + grace_s, sock_connect=self._limits.connect_s)
        with translated(action):  # the headers come at once
            async with asyncio.timeout(self._limits.request_s):
                answer = await self._connection.open(Request(action, "GET", resource.path, query), timeout)
        try:
            yield Watch(action, answer)
        finally:
            answer.close()

    async def get(self, resource: Resource, name: str) -> Any:
        """An object, as `resource.kind`."""
        action = Action("get", resource, name)
        return _object(action, await self._request(action, "GET", resource.path_of(name)))

    async def create(self, resource: Resource, name: str, body: Any) -> Any:
        """The object as it was stored.  Conflict where there is one of that name."""
        action = Action("create", resource, name)
        return _object(action, await self._request(action, "POST", resource.path, body=body))

    async def replace(self, resource: Resource, name: str, body: Any) -> Any:
        """The object as it was stored.  Conflict where its resourceVersion is not that in *body*."""
        action = Action("update", resource, name)
        return _object(action, await self._request(action, "PUT", resource.path_of(name), body=body))

    async def patch_status(self, resource: Resource, name: str, patch: Any) -> None:
        """Merge *patch* into the object's status.  Conflict where its resourceVersion is not that in *patch*."""
        action = Action("patch", resource, name, "status")
        await self._request(action, "PATCH", resource.path_of(name, "status"), body=patch)

    async def _request(
        self, action: Action, method: str, path: str, query: dict[str, str] | None = None, body: Any = None
    ) -> bytes:
        limits = self._limits
        timeout = aiohttp.ClientTimeout(total=limits.request_s, sock_connect=limits.connect_s)
        content = None if body is None else encode(body)
        request = Request(action, method, path, query or {}, content)
        answer = await self._connection.open(request, timeout)
        try:
            with translated(action):
                return await whole(action, answer, MAX_PAGE_BYTES)
        finally:
            let_go(answer)


class Watch:
    """The answer to a watch."""

    def __init__(self, action: Action, answer: aiohttp.ClientResponse) -> None:
        self._action = action
        self._answer = answer
        self._lines = Lines(MAX_LINE_BYTES)

    async def read(self) -> list[bytes] | None:
        """The events that are there, one JSON text each, at times none; None at the end.

        A line that the end cut off is no event: whoever resumes is told of it again.
        """
        with translated(self._action):
            chunk = await self._answer.content.readany()
        if not chunk:
            return None
        try:
            return self._lines.feed(chunk)
        except LineTooLong as error:
            raise Malformed(f"cannot {self._action}: {error}") from None


def _page(action: Action, body: bytes) -> _List:
    try:
        return _list.decode(body)
    except (DecodeError, RecursionError) as error:
        raise Malformed(f"cannot {action}: {error}") from None


def _object(action: Action, body: bytes) -> Any:
    try:
        return decode(body, type=action.resource.kind)
    except (DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Malformed(f"cannot {action}: {error}") from None
