"""Upstreams that say exactly what reached them: the far side of Envoy in the end-to-end tests."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from aiohttp import WSMsgType, web

from extproc.sim.listener import reset

IDLE_METRICS = """\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 0.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="m"} 0.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.0
"""
"""What an idle vLLM 0.32 says about itself, the lines that matter."""


@dataclass
class Received:
    """One request as it arrived."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    """In the order of the wire, names as they were spelled there."""
    body: bytes

    def values(self, name: str) -> list[str]:
        """All values of a header, in order."""
        return [value for key, value in self.headers if key.lower() == name]


@dataclass
class EchoUpstream:
    """Answers any request with what it received; runs in the test's event loop.

    The answer is JSON: `served_by`, `method`, `path`, `headers` ([[name, value], …]), `body_sha256`,
    `body_bytes`. Query parameters ask for more: `status=503` (that status), `sse_s=2` (server-sent events for
    2 s, one each `every_s`, default 0.1, then `[DONE]`), `hold_s=1` (answers after a second), `reset=0` (resets
    the connection instead of an answer, or after so many events), `gated` (one event, and `[DONE]` once `gate` is
    set), `bytes=9` (that many, those of `noise`). A WebSocket is echoed.

    `/metrics`, `/health` and `/v1/models` answer as a model server does and are not kept in `requests`.
    """

    models: list[str] = field(default_factory=lambda: ["m"])
    metrics: str = IDLE_METRICS
    status: int = 200
    """Of answers whose request asks for no other; 0 resets the connection instead."""
    holds: bool = False
    """It answers nobody before its `release`."""
    requests: list[Received] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    aborted: int = 0
    """Requests whose client went away before the answer was complete."""
    port: int = 0
    """0 for a free one; known once started, and kept when started again."""
    _runner: web.AppRunner | None = None
    _released: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        app = web.Application(client_max_size=0)
        for path in ("/metrics", "/metrics/"):
            app.router.add_get(path, self._metrics)
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1, auto_decompress=False
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Connections to it are refused from here on."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def release(self) -> None:
        """Answer those that wait, and all that come."""
        self._released.set()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(text=self.metrics)

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response()

    async def _models(self, request: web.Request) -> web.Response:
        entries = [{"id": name, "object": "model", "created": 0, "owned_by": "test"} for name in self.models]
        return web.json_response({"object": "list", "data": entries})

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.raw_headers]
        received = Received(request.method, request.path_qs, headers, await request.read())
        self.requests.append(received)
        try:
            if self.holds:
                await self._released.wait()
            if request.headers.get("upgrade", "").lower() == "websocket":
                return await self._echo_websocket(request)
            await asyncio.sleep(float(request.query.get("hold_s", 0)))
            if request.query.get("reset") == "0" or not self.status:
                return await self._reset(request)
            if "sse_s" in request.query and self.status == 200:
                return await self._stream_events(request)
            if "gated" in request.query and self.status == 200:
                return await self._stream_gated(request)
            if "bytes" in request.query:
                body = noise(int(request.query["bytes"]))
                return web.Response(body=body, headers={"x-served-by": self.address})
        except (asyncio.CancelledError, ConnectionError):
            self.aborted += 1
            raise
        return self._echo(received, int(request.query.get("status", self.status)))

    def _echo(self, received: Received, status: int) -> web.Response:
        echo = {
            "served_by": self.address,
            "method": received.method,
            "path": received.path,
            "headers": received.headers,
            "body_sha256": hashlib.sha256(received.body).hexdigest(),
            "body_bytes": len(received.body),
        }
        return web.json_response(echo, status=status, headers={"x-served-by": self.address})

    async def _stream_events(self, request: web.Request) -> web.StreamResponse:
        headers = {"content-type": "text/event-stream", "x-served-by": self.address}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        ends_at, number = time.monotonic() + float(request.query["sse_s"]), 0
        while time.monotonic() < ends_at:
            if request.query.get("reset") == str(number):
                return await self._reset(request)
            await response.write(b'data: {"number": %d}\n\n' % number)
            number += 1
            await asyncio.sleep(float(request.query.get("every_s", 0.1)))
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _stream_gated(self, request: web.Request) -> web.StreamResponse:
        headers = {"content-type": "text/event-stream", "x-served-by": self.address}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        await response.write(b'data: {"number": 0}\n\n')
        await self.gate.wait()
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _reset(self, request: web.Request) -> web.StreamResponse:
        reset(request.transport)
        return await asyncio.get_running_loop().create_future()  # cancelled, as the connection is gone

    async def _echo_websocket(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        socket.headers["x-served-by"] = self.address
        await socket.prepare(request)
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                await socket.send_str(message.data)
            elif message.type is WSMsgType.BINARY:
                await socket.send_bytes(message.data)
        return socket


def noise(count: int) -> bytes:
    """So many bytes, the same each time, in which no piece can be taken for another."""
    return random.Random(count).randbytes(count)


@dataclass
class TrailerUpstream:
    """An HTTP/1.1 server down at the bytes: keeps the trailers it gets, and ends its answer with one."""

    requests: list[tuple[bytes, bytes, bytes]] = field(default_factory=list)
    """Head, body (chunks joined) and trailers of each request."""
    address: str = ""
    _server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.requests.append(await read_message(reader))
            head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
            writer.write(head + b"2\r\nok\r\n0\r\nx-answer-trailer: there\r\n\r\n")
            await writer.drain()
        except asyncio.IncompleteReadError:
            pass  # a connection opened and closed without a request
        finally:
            writer.close()


async def read_message(reader: asyncio.StreamReader) -> tuple[bytes, bytes, bytes]:
    """Head, body and trailers of one HTTP/1.1 message. Raises IncompleteReadError."""
    head = await reader.readuntil(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.splitlines()[1:] if line)
    if fields.get(b"transfer-encoding") != b"chunked":
        return head, await reader.readexactly(int(fields.get(b"content-length", 0))), b""
    body = b""
    while size := int(await reader.readline(), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    trailers = b""
    while (line := await reader.readline()) not in (b"\r\n", b""):
        trailers += line
    return head, body, trailers


async def exchange(url: str, request: bytes) -> tuple[bytes, bytes, bytes]:
    """Sends the bytes of one HTTP/1.1 request; head, body and trailers of the answer.

    For what an HTTP library would not send.
    """
    host, _, port = url.removeprefix("http://").rpartition(":")
    async with asyncio.timeout(20):
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(request)
            return await read_message(reader)
        finally:
            writer.close()
            await writer.wait_closed()
