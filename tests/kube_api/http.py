"""The HTTP face of the played API server: paths, lists, watches, writes, discovery.

Source: https://kubernetes.io/docs/reference/using-api/api-concepts/
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from aiohttp import web

from .faults import Faults
from .lists import Lists
from .paths import Target, named, number_of, revision_of, target_of, verb_of
from .resources import Kind, Registry
from .selectors import Matcher, matcher
from .status import (
    ApiError,
    bad_request,
    forbidden,
    no_such_resource,
    not_found,
    unauthorized,
    unsupported,
)
from .store import Stored, event_line
from .watch import Watch
from .writes import Writes

LONGEST_WATCH_S = 1800
"""How long a watch runs for which the client names no time (`--min-request-timeout`)."""
INITIAL_END = {"k8s.io/initial-events-end": "true"}
VERSION = {"major": "1", "minor": "33", "gitVersion": "v1.33.1", "platform": "linux/amd64"}


class Api(Faults):
    """Answers requests; has no socket."""

    def __init__(self, registry: Registry, writes: Writes) -> None:
        super().__init__()
        self.registry = registry
        self.writes = writes
        self.store = writes.store
        self.tokens: set[str] | None = None
        self._lists = Lists(self.store)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """One request, from faults and credentials to its verb."""
        await self._black_hole.wait()
        if self.slow_s:
            await asyncio.sleep(self.slow_s)
        try:
            failure = self._failure(request.method, request.path)
            if failure:
                raise failure
            self._authenticate(request)
            target = target_of(request.path)
            if target is None:
                return self._discover(request.path)
            return await self._act(request, target)
        except ApiError as error:
            return _refused(error)

    def _authenticate(self, request: web.Request) -> None:
        """Who shows no credentials is let in, but may do nothing; who shows wrong ones is not."""
        if self.tokens is None or "Authorization" not in request.headers:
            return
        scheme, _, token = request.headers["Authorization"].partition(" ")
        if not by_certificate(request) and (scheme.lower() != "bearer" or token not in self.tokens):
            raise unauthorized()

    def _is_anonymous(self, request: web.Request) -> bool:
        shown = "Authorization" in request.headers or by_certificate(request)
        return self.tokens is not None and not shown

    def _discover(self, path: str) -> web.Response:
        parts = path.strip("/").split("/")
        document: dict[str, Any] | None = None
        if parts == ["version"]:
            document = VERSION
        elif parts[0] in ("livez", "readyz", "healthz"):
            return web.Response(text="ok")
        elif parts == ["api"]:
            document = {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
        elif parts == ["apis"]:
            document = self.registry.group_list()
        elif parts[0] == "api" and parts[1:] == ["v1"]:
            document = self.registry.resource_list("", "v1")
        elif parts[0] == "apis" and len(parts) == 2:
            document = self.registry.group(parts[1])
        elif parts[0] == "apis" and len(parts) == 3 and self.registry.known_group(*parts[1:]):
            document = self.registry.resource_list(parts[1], parts[2])
        return _json(document) if document else _page_not_found()

    async def _act(self, request: web.Request, target: Target) -> web.StreamResponse:
        verb = verb_of(request.method, target, request.query)
        name = named(target, request.query)
        asked = (verb, target.plural, target.group, target.namespace, name, target.subresource)
        if self._is_anonymous(request):
            raise forbidden("system:anonymous", *asked)
        refusal = self._refusal(*asked)
        if refusal:
            raise refusal
        kind = self.registry.find(target.group, target.version, target.plural)
        built_in = target.group in ("", "discovery.k8s.io", "coordination.k8s.io")
        if kind is None or (target.subresource and not (target.subresource == "status" and kind.status)):
            if built_in and self.registry.known_group(target.group, target.version):
                raise no_such_resource()
            return _page_not_found()
        if verb == "list":
            fault = self._list_faults.pop(0) if self._list_faults else ""
            return await self._lists.answer(
                request, target, kind, self._matcher(request, target, kind), fault
            )
        if verb == "watch":
            return await self._watch(request, target, kind)
        if verb == "get":
            return _stored(self._found(kind, target), target.version)
        return await self._write(request, target, kind, verb)

    def _found(self, kind: Kind, target: Target) -> Stored:
        found = self.store.get(kind, target.namespace, target.name)
        if not found:
            raise not_found(kind, target.name)
        return found

    async def _write(self, request: web.Request, target: Target, kind: Kind, verb: str) -> web.Response:
        if (kind.namespaced and not target.namespace) or bool(target.name) == (verb == "create"):
            raise ApiError(
                405, "MethodNotAllowed", "the server does not allow this method on the requested resource"
            )
        accepted = "application/merge-patch+json" if verb == "patch" else "application/json"
        if verb != "delete" and request.content_type != accepted:
            raise unsupported(accepted)
        body = await _body(request)
        if kind.custom and isinstance(body, dict) and isinstance(body.get("status"), dict):
            known = kind.status_fields(target.version)
            body["status"] = {field: value for field, value in body["status"].items() if field in known}
        status = target.subresource == "status"
        place = (kind, target.namespace)
        if verb == "create":
            return _stored(self.writes.create(*place, body), target.version, 201)
        if verb == "update":
            return _stored(self.writes.update(*place, target.name, body, status), target.version)
        if verb == "patch":
            return _stored(self.writes.patch(*place, target.name, body, status), target.version)
        return self._deleted(kind, target, body or {})

    def _deleted(self, kind: Kind, target: Target, options: dict[str, Any]) -> web.Response:
        stored, gone = self.writes.delete(kind, target.namespace, target.name, options)
        if not gone or kind.name == "Pod":
            return _stored(stored, target.version)
        details = {"name": target.name, "group": kind.group, "kind": kind.plural}
        details["uid"] = stored.content["metadata"]["uid"]
        return _json(
            {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
        )

    def _matcher(self, request: web.Request, target: Target, kind: Kind) -> Matcher:
        selected = matcher(
            kind, request.query.get("labelSelector", ""), request.query.get("fieldSelector", "")
        )
        if not target.namespace:
            return selected
        return lambda obj: obj["metadata"].get("namespace") == target.namespace and selected(obj)

    async def _watch(self, request: web.Request, target: Target, kind: Kind) -> web.StreamResponse:
        query = request.query
        revision = revision_of(query.get("resourceVersion", ""), kind)
        initial = query.get("sendInitialEvents") == "true"
        wants_bookmarks = query.get("allowWatchBookmarks") in ("1", "true")
        matches = self._matcher(request, target, kind)
        watch = Watch(request.path, kind, target.version, matches, wants_bookmarks, revision)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        try:
            self._begin(watch, kind, revision, initial)
        except ApiError as error:
            if self.expired_as == "http":
                raise
            watch.send(event_line("ERROR", msgspec.json.encode(error.status())))
            watch.end()
        self.watches.add(watch)
        lasts_s = number_of(query.get("timeoutSeconds", "")) or LONGEST_WATCH_S
        timer = asyncio.get_running_loop().call_later(lasts_s, self._time_up, watch)
        try:
            await response.prepare(request)
            await watch.serve(request, response, self.chunk_bytes)
        except ConnectionError:
            pass
        finally:
            timer.cancel()
            self.watches.discard(watch)
        return response

    def _begin(self, watch: Watch, kind: Kind, revision: int, initial: bool) -> None:
        """What is told first: without a revision all objects, else the changes since."""
        if revision and not initial:
            for change in self.store.since(kind, revision):
                watch.tell(change)
            return
        for stored in self.store.select(kind, lambda _obj: True):
            watch.began(stored)
        if initial:
            watch.bookmark(self.store.version, INITIAL_END)

    def _time_up(self, watch: Watch) -> None:
        watch.bookmark(self.store.version)
        watch.end()


def by_certificate(request: web.Request) -> bool:
    return bool(request.transport and request.transport.get_extra_info("peercert"))


async def _body(request: web.Request) -> Any:
    raw = await request.read()
    if not raw and request.method == "DELETE":
        return {}
    try:
        return msgspec.json.decode(raw)
    except msgspec.DecodeError as error:
        raise bad_request(f"couldn't get version/kind; json parse error: {error}") from None


def _stored(stored: Stored, version: str, code: int = 200) -> web.Response:
    return web.Response(status=code, body=stored.json(version) + b"\n", content_type="application/json")


def _json(document: dict[str, Any], code: int = 200) -> web.Response:
    return web.Response(
        status=code, body=msgspec.json.encode(document) + b"\n", content_type="application/json"
    )


def _page_not_found() -> web.Response:
    return web.Response(status=404, text="404 page not found\n")


def _refused(error: ApiError) -> web.Response:
    response = _json(error.status(), error.code)
    retry_after_s = (error.details or {}).get("retryAfterSeconds")
    if retry_after_s is not None:
        response.headers["Retry-After"] = str(retry_after_s)
    return response
