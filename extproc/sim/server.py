"""A simulated vLLM server: the OpenAI API over HTTP in front of a simulated engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any

import msgspec
from aiohttp import WSMsgType, web

from extproc.sim.calls import ApiError
from extproc.sim.clockwork import Clockwork
from extproc.sim.config import SimConfig
from extproc.sim.engine import Engine
from extproc.sim.faults import Faults
from extproc.sim.generate import Api
from extproc.sim.http_metrics import HttpMetrics
from extproc.sim.listener import Listener, reset
from extproc.sim.metrics_route import MetricsRoute
from extproc.sim.page import MetricsPage
from extproc.sim.record import Record

MAX_BODY_BYTES = 64 * 1024 * 1024
"""Twice what the router lets through by default: it is never the simulated server that says no."""

SHUTDOWN_TIMEOUT_S = 0.01
"""Nobody waits for a simulated server's answers; to aiohttp 0 would mean without a limit."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class SimServer:
    """`async with SimServer(config) as sim:` serves at `sim.address`; any number of them in one process."""

    def __init__(self, config: SimConfig) -> None:
        self.config = config
        self.engine = Engine(config.engine)
        self.faults = config.faults
        self.record = Record(config.record_bodies)
        self._http = HttpMetrics()
        self._reopening: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """`ip:port`, IPv6 in brackets."""
        host = f"[{self._listener.host}]" if ":" in self._listener.host else self._listener.host
        return f"{host}:{self._listener.port}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    async def __aenter__(self) -> SimServer:
        loop_time, unix_time = asyncio.get_running_loop().time(), time.time()
        page = MetricsPage(self.engine, self.config.models[0], unix_time, unix_time - loop_time)
        self._metrics = MetricsRoute(page, self._http, self.config.seed)
        self._clockwork = Clockwork(self.engine, self.config.stream_interval)
        self._runner = web.AppRunner(
            self._app(),
            access_log=None,
            # a client that goes away ends its request in the engine
            handler_cancellation=True,
            shutdown_timeout=SHUTDOWN_TIMEOUT_S,
        )
        await self._runner.setup()
        try:
            self._listener = Listener(self._runner, self.config.host, self.config.port)
            await self.set_faults(self.faults)
        except BaseException:
            await self._runner.cleanup()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop_reopening()
        self._clockwork.stop()
        await self._listener.close()
        await self._runner.cleanup()

    async def set_faults(self, faults: Faults) -> None:
        """Misbehave like this from now on."""
        await self._stop_reopening()
        self.faults = faults
        fault = faults.request_fault
        if fault.kind != "refuse":
            await self._listener.open()
            return
        await self._listener.refuse()
        if fault.number:
            self._reopening = asyncio.create_task(self._reopen(fault.number), name="sim-reopen")

    async def _reopen(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
        self.faults = msgspec.structs.replace(self.faults, requests="ok")
        await self._listener.open()

    async def _stop_reopening(self) -> None:
        task, self._reopening = self._reopening, None
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))

    # -- routes ---------------------------------------------------------------------------------------------

    def _app(self) -> web.Application:
        app = web.Application(middlewares=[self._around], client_max_size=MAX_BODY_BYTES)
        app.on_response_prepare.append(self._sign)
        api = Api(self.config, self._clockwork, lambda: self.faults)
        app.add_routes(api.routes())
        for path in ("/metrics", "/metrics/"):
            app.router.add_get(path, self._get_metrics)
        app.router.add_get("/v1/realtime", echo)
        app.router.add_get("/sim/requests", self._get_requests)
        app.router.add_delete("/sim/requests", self._clear_requests)
        app.router.add_get("/sim/faults", self._get_faults)
        app.router.add_put("/sim/faults", self._put_faults)
        return app

    async def _sign(self, request: web.Request, response: web.StreamResponse) -> None:
        response.headers["x-sim-server"] = self.config.name

    @web.middleware
    async def _around(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.startswith(("/metrics", "/sim/")):
            return await handler(request)
        started = time.monotonic()
        try:
            self.record.add(request, await request.read())
            await self._misbehave(request)
            response = await handler(request)
        except ApiError as error:
            response = web.Response(body=error.body(), status=error.status, content_type="application/json")
        except web.HTTPException as error:
            response = json_response({"detail": error.reason}, error.status)
        resource = request.match_info.route.resource
        self._http.observe(
            method=request.method,
            handler=resource.canonical if resource is not None else "none",
            status=response.status,
            duration_s=time.monotonic() - started,
            request_bytes=request.content_length or 0,
            response_bytes=response.content_length or 0,
        )
        return response

    async def _misbehave(self, request: web.Request) -> None:
        if self.faults.latency_s:
            await asyncio.sleep(self.faults.latency_s)
        kind = self.faults.request_fault.kind
        match kind:
            case "500" | "502" | "503" | "504":
                raise ApiError(int(kind), "InternalServerError", "simulated fault")
            case "reset":
                reset(request.transport)
                await asyncio.get_running_loop().create_future()
            case "stall":
                await asyncio.get_running_loop().create_future()

    async def _get_metrics(self, request: web.Request) -> web.StreamResponse:
        return await self._metrics.answer(request, self.faults.metrics_fault)

    async def _get_requests(self, request: web.Request) -> web.Response:
        return json_response(list(self.record.requests))

    async def _clear_requests(self, request: web.Request) -> web.Response:
        self.record.requests.clear()
        return web.Response(status=204)

    async def _get_faults(self, request: web.Request) -> web.Response:
        return json_response(self.faults)

    async def _put_faults(self, request: web.Request) -> web.StreamResponse:
        try:
            faults = Faults.decode(await request.read())
        except (ValueError, RecursionError) as error:
            return json_response({"detail": str(error)}, 400)
        # answered first: `refuse` takes this connection down too
        response = json_response(faults)
        await response.prepare(request)
        await response.write_eof()
        await self.set_faults(faults)
        return response


def json_response(data: Any, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(data), status=status, content_type="application/json")


async def echo(request: web.Request) -> web.WebSocketResponse:
    """A WebSocket that says everything back, to try upgrades with."""
    socket = web.WebSocketResponse()
    if not socket.can_prepare(request):
        raise web.HTTPUpgradeRequired
    await socket.prepare(request)
    async for message in socket:
        match message.type:
            case WSMsgType.TEXT:
                await socket.send_str(message.data)
            case WSMsgType.BINARY:
                await socket.send_bytes(message.data)
    return socket
