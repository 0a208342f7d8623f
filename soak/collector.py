"""An OpenTelemetry collector that takes what it is sent, or does not."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from aiohttp import web


class Collector:
    """OTLP over HTTP, at `url`.  While `answers` is clear it answers nobody; what it `refuses` gets a 503."""

    def __init__(self) -> None:
        self.answers = asyncio.Event()
        self.refuses = False
        self.url = ""
        app = web.Application(client_max_size=0)
        app.router.add_post("/{signal:.*}", self._take)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)

    def recover(self) -> None:
        self.refuses = False
        self.answers.set()

    async def __aenter__(self) -> Self:
        self.recover()
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        await request.read()
        await self.answers.wait()
        if self.refuses:
            return web.Response(status=503)
        return web.Response(content_type="application/x-protobuf")
