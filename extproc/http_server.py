"""The HTTP port: metrics, probes, the state for people, and the verbs by which they change it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from .address import join, normalise
from .cordoning import Cordoned, Cordoning
from .http_auth import BearerGuard
from .recent import KEPT

SHUTDOWN_S = 1.0
"""How long an open request to this port may hold up our end."""
SHOWN = 10
"""Decisions, where `limit` asks for no more: at 1,000 endpoints each takes 10 ms to put into words."""


PROBES = frozenset(("/livez", "/readyz"))
"""Open to all: kubelets show no token."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class HttpServer:
    """`/metrics`, `/livez`, `/readyz`, `/debug/state`, `/debug/explain`; POST `/endpoints/ADDRESS/cordon|uncordon`."""

    def __init__(
        self,
        registry: CollectorRegistry,
        not_ready: Callable[[], list[str]],
        notes: Callable[[], list[str]],
        state: Callable[[], dict[str, Any]],
        explain: Callable[[int, str | None], list[dict[str, Any]]],
        cordoning: Cordoning | None = None,
        guard: BearerGuard | None = None,
        *,
        guard_reads: bool = False,
    ) -> None:
        """*notes*: what is not as it should be though we are ready.

        *explain* answers up to so many of the last decisions, of one request or of all; it is called in a thread.
        What changes something is refused where there is no *guard*; what only reads is guarded if *guard_reads*.
        """
        self._registry = registry
        self._not_ready = not_ready
        self._notes = notes
        self._state = state
        self._explain = explain
        self._guard = guard
        self._guard_reads = guard_reads
        app = web.Application(middlewares=[self._check])
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/debug/state", self._debug_state)
        app.router.add_get("/debug/explain", self._debug_explain)
        if cordoning is not None:
            for verb in (cordoning.cordon, cordoning.uncordon):
                app.router.add_post(f"/endpoints/{{address}}/{verb.__name__}", _verb(verb))
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_S)

    async def start(self, host: str, port: int) -> int:
        """Listen; answers the port.  Raises OSError where it is taken."""
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError as error:
            raise OSError(f"--http-address {join(host, port)}: {error.strerror or error}") from error
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        await self._runner.cleanup()

    @web.middleware
    async def _check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Whoever may not is told so before anything is looked at."""
        reads = request.method in ("GET", "HEAD")
        if not reads and self._guard is None:
            raise web.HTTPForbidden(text="only with a token: start the router with --http-token-file\n")
        guarded = not reads or (self._guard_reads and request.path not in PROBES)
        if guarded and self._guard is not None:
            self._guard.check(request)
        return await handler(request)

    async def _metrics(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        # In a thread: a thousand endpoints make a page that takes longer than a request may wait.
        body = await asyncio.to_thread(encode, self._registry)
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _livez(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        reasons = self._not_ready()
        lines = [*(reasons or ["ok"]), *self._notes()]
        return web.Response(text="\n".join(lines) + "\n", status=503 if reasons else 200)

    async def _debug_state(self, request: web.Request) -> web.Response:
        state = self._state()  # here, so that nothing in it changes meanwhile
        return await _json_response(lambda: state)

    async def _debug_explain(self, request: web.Request) -> web.Response:
        limit = request.query.get("limit", str(SHOWN))
        if not limit.isascii() or not limit.isdecimal() or len(limit) > 9 or int(limit) < 1:
            raise web.HTTPBadRequest(text=f"limit: expected an integer from 1, at most {KEPT} are kept\n")
        request_id = request.query.get("request_id")
        return await _json_response(lambda: {"decisions": self._explain(int(limit), request_id)})


def _verb(change: Callable[[str], Cordoned | None]) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        try:
            address = normalise(request.match_info["address"])
        except ValueError as error:
            raise web.HTTPBadRequest(text=f"{error}\n") from None
        told = change(address)
        if told is None:
            raise web.HTTPNotFound(text=f"{address} is no endpoint of any pool\n")
        return await _json_response(lambda: told)

    return handle


async def _json_response(answer: Callable[[], object]) -> web.Response:
    def body() -> bytes:
        return msgspec.json.format(msgspec.json.encode(answer(), order="deterministic"), indent=2)

    # In a thread, as above.
    return web.Response(body=await asyncio.to_thread(body), content_type="application/json")
