"""Lists, whole and in chunks.

Source: https://kubernetes.io/docs/reference/using-api/api-concepts/#retrieving-large-results-sets-in-chunks
"""

from __future__ import annotations

import asyncio
import base64
import zlib
from collections import OrderedDict
from typing import Any

import msgspec
from aiohttp import web

from .paths import Target, number_of, revision_of
from .resources import Kind
from .selectors import Matcher
from .status import bad_request, expired_continue, expired_list, too_large
from .store import Store, Stored

MOST_SNAPSHOTS = 16
"""Lists in chunks that may be under way at once; the oldest expires."""
GZIP_FROM_BYTES = 128 * 1024
"""From here on Kubernetes compresses an answer, where the client takes it."""


class Continue(msgspec.Struct, frozen=True):
    """A continue token: which snapshot goes on where; rv -1: no snapshot, whatever is there now."""

    rv: int
    start: int
    after: tuple[str, str]
    snapshot: int

    def token(self) -> str:
        return base64.urlsafe_b64encode(msgspec.json.encode(self)).decode()


class Lists:
    """Answers lists; keeps the snapshots that chunks are cut from, so that all chunks are of one revision."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._snapshots: OrderedDict[int, list[Stored]] = OrderedDict()
        self._snapshots_made = 0

    async def answer(
        self, request: web.Request, target: Target, kind: Kind, matches: Matcher, fault: str
    ) -> web.Response:
        """A whole list, or a chunk of it."""
        query = request.query
        revision = revision_of(query.get("resourceVersion", ""), kind)
        if revision > self.store.version:
            raise too_large(revision, self.store.version)
        if query.get("resourceVersionMatch") == "Exact" and revision != self.store.version:
            raise expired_list()
        limit = number_of(query.get("limit", ""))
        revision, start, objects, snapshot = self._chunk(query.get("continue", ""), kind, matches)
        chunk = objects[start : start + limit] if limit else objects[start:]
        left = len(objects) - start - len(chunk)
        metadata: dict[str, Any] = {"resourceVersion": str(revision)}
        if left:
            metadata["continue"] = self._continue(revision, objects, start + len(chunk), snapshot)
            if not query.get("labelSelector") and not query.get("fieldSelector"):
                metadata["remainingItemCount"] = left
        head = {
            "kind": f"{kind.name}List",
            "apiVersion": kind.api_version(target.version),
            "metadata": metadata,
        }
        items = [stored.json(target.version, typed=kind.custom) for stored in chunk]
        return await _answer(request, msgspec.json.encode(head), items, fault)

    def _chunk(self, token: str, kind: Kind, matches: Matcher) -> tuple[int, int, list[Stored], int]:
        """The revision and objects that a list is cut from, where the chunk begins, and the snapshot's number."""
        if not token:
            return self.store.version, 0, self.store.select(kind, matches), 0
        try:
            said = msgspec.json.decode(base64.urlsafe_b64decode(token), type=Continue)
        except (ValueError, msgspec.DecodeError) as error:
            raise bad_request(f"continue key is not valid: {error}") from None
        if said.rv < 0:
            left = [stored for stored in self.store.select(kind, matches) if stored.key > said.after]
            return self.store.version, 0, left, 0
        if said.snapshot not in self._snapshots or not self.store.remembers(said.rv):
            raise expired_continue(msgspec.structs.replace(said, rv=-1).token())
        return said.rv, said.start, self._snapshots[said.snapshot], said.snapshot

    def _continue(self, revision: int, objects: list[Stored], start: int, snapshot: int) -> str:
        """Where the next chunk begins; the objects are kept as they are for it."""
        if not snapshot:
            self._snapshots_made += 1
            snapshot = self._snapshots_made
            self._snapshots[snapshot] = objects
        if len(self._snapshots) > MOST_SNAPSHOTS:
            self._snapshots.popitem(last=False)
        return Continue(revision, start, objects[start - 1].key, snapshot).token()


async def _answer(request: web.Request, head: bytes, items: list[bytes], fault: str) -> web.Response:
    if fault == "null_item":
        items = [*items[: len(items) // 2], b"null", *items[len(items) // 2 :]]
    body = (
        head[:-1]
        + b',"items":'
        + (b"null" if fault == "null_items" else b"[" + b",".join(items) + b"]")
        + b"}\n"
    )
    if fault == "truncated":
        body = body[: len(body) // 2]
    if fault == "not_json":
        body = b"<html>upstream connect error</html>"
    response = web.Response(body=body, content_type="application/json")
    if fault == "cut" and request.transport:
        await response.prepare(request)
        await response.write(body[: len(body) // 2])
        request.transport.close()
    elif len(body) > GZIP_FROM_BYTES and "gzip" in request.headers.get("Accept-Encoding", ""):
        response.body = await asyncio.to_thread(zlib.compress, body, 1, 31)
        response.headers["Content-Encoding"] = "gzip"
    return response
