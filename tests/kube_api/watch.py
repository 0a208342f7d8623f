"""Watches that run at the played API server, and how they go wrong."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import msgspec
from aiohttp import web

from .resources import Kind
from .selectors import Matcher
from .store import Change, Stored, event_line

MOST_PENDING = 20_000
"""Events that a watch may be behind before it is ended, as Kubernetes ends watches that do not read."""


class Watch:
    """One open watch: lines that wait to be written, and what was ordered to befall it."""

    def __init__(
        self, path: str, kind: Kind, version: str, matches: Matcher, bookmarks: bool, after: int
    ) -> None:
        self.path = path
        self.kind = kind
        self.version = version
        self.bookmarks = bookmarks
        self._matches = matches
        self._after = after
        self._pending: deque[bytes] = deque()
        self._wake = asyncio.Event()
        self._hung = False
        self._fate = ""

    def began(self, stored: Stored) -> None:
        """An object that was there before the watch."""
        if self._matches(stored.content):
            self.send(event_line("ADDED", stored.json(self.version)))

    def tell(self, change: Change, times: int = 1) -> None:
        event = change.seen(self._matches) if change.revision > self._after else ""
        for _ in range(times if event else 0):
            self.send(change.line(event, self.version))

    def bookmark(self, revision: int, annotations: dict[str, str] | None = None) -> None:
        """Says up to which revision everything was told, where the client asked for that."""
        if self.bookmarks:
            self.send(event_line("BOOKMARK", bookmark_object(self.kind, self.version, revision, annotations)))

    def send(self, line: bytes) -> None:
        if len(self._pending) >= MOST_PENDING:
            self._pending.clear()
            self.end()
        elif self._fate != "end":
            self._pending.append(line)
        self._wake.set()

    def hang(self, hung: bool) -> None:
        self._hung = hung
        self._wake.set()

    def end(self) -> None:
        """Ends it properly, as when its time is up."""
        self._fate = self._fate or "end"
        self._wake.set()

    def cut(self, mid_line: bool) -> None:
        """Breaks the connection: with a reset, or after half a line."""
        self._fate = "half" if mid_line else "reset"
        self._wake.set()

    async def serve(self, request: web.Request, response: web.StreamResponse, chunk_bytes: int) -> None:
        """Writes until the end. `chunk_bytes` > 0 cuts what is written into pieces of that size."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._fate in ("reset", "half"):
                return await self._break(request, response)
            if self._hung:
                continue
            while self._pending:
                await _write(response, self._pending.popleft(), chunk_bytes)
            if self._fate == "end":
                return None

    async def _break(self, request: web.Request, response: web.StreamResponse) -> None:
        transport = request.transport
        if transport is None:
            return
        if self._fate == "reset":
            transport.abort()
            return
        line = self._pending[0] if self._pending else event_line("MODIFIED", b'{"kind":"' + b"x" * 99)
        await response.write(line[: len(line) // 2])
        transport.close()


async def _write(response: web.StreamResponse, line: bytes, chunk_bytes: int) -> None:
    step = chunk_bytes or len(line)
    for start in range(0, len(line), step):
        await response.write(line[start : start + step])


def bookmark_object(kind: Kind, version: str, revision: int, annotations: dict[str, str] | None) -> bytes:
    """An object of the watched kind that has nothing but a resourceVersion (and Go's empty fields)."""
    metadata: dict[str, Any] = {"resourceVersion": str(revision), "creationTimestamp": None}
    obj: dict[str, Any] = {"kind": kind.name, "apiVersion": kind.api_version(version), "metadata": metadata}
    if annotations:
        metadata |= {"annotations": annotations}
    if kind.name == "Pod":
        obj |= {"spec": {"containers": None}, "status": {}}
    elif kind.name == "EndpointSlice":
        obj |= {"addressType": "", "endpoints": None, "ports": None}
    elif not kind.custom:
        obj |= {"spec": {}, "status": {}} if kind.status else {}
    return msgspec.json.encode(obj)
