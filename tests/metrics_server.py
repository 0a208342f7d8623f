"""Plays a model server with a metrics page, on a real socket, and notes what the scraper tells."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from extproc.engine_metrics import EngineMetrics, MetricNames
from extproc.http_response import Failure
from extproc.scraper import Scraper, ScrapeTarget

PAGE = b"vllm:num_requests_waiting 3.0\nvllm:num_requests_running 2.0\n"
METRICS = EngineMetrics(waiting=3, running=2)
BUSY_PAGE = (Path(__file__).parent / "data" / "vllm-0.32-busy.prom").read_bytes()
UNUSED_PAGE = (Path(__file__).parent / "data" / "trtllm-serve-unused.prom").read_bytes()
SHORT_NAMES = MetricNames(waiting=("vllm:num_requests_waiting",), running=("vllm:num_requests_running",))
SELECT_PATH = "/metrics/?name[]=vllm:num_requests_waiting&name[]=vllm:num_requests_running"
BOUND_S = 20.0
"""How long a test waits for what must happen."""

Responder = Callable[["ModelServer", str, asyncio.StreamWriter], Awaitable[None]]


def http(body: bytes = PAGE, status: str = "200 OK", *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def always(answer: bytes) -> Responder:
    async def respond(_server: ModelServer, _path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()

    return respond


async def never(_server: ModelServer, _path: str, _writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def hang_up(_server: ModelServer, _path: str, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def endless(_server: ModelServer, _path: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"10000\r\n" + b"#" * 0xFFFF + b"\n\r\n")
        await writer.drain()


async def drip(_server: ModelServer, _path: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
    while True:
        writer.write(b"#")
        await writer.drain()
        await asyncio.sleep(0.01)


class ModelServer:
    """Plays a model server that answers as `respond` does; notes paths, headers and connections."""

    def __init__(self, respond: Responder) -> None:
        self.respond = respond
        self.paths: list[str] = []
        self.heads: list[str] = []
        self.connections = 0
        self.open = 0
        self.port = 0

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            while not writer.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                self.heads.append(head)
                self.paths.append(head.split(" ")[1])
                await self.respond(self, self.paths[-1], writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
            writer.close()

    def target(self, **fields: Any) -> ScrapeTarget:
        settings = {"interval_s": 0.02, "select": False, "names": SHORT_NAMES} | fields
        return ScrapeTarget(address=f"10.0.0.1:{self.port}", host="127.0.0.1", port=self.port, **settings)


@asynccontextmanager
async def serving(
    respond: Responder, port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[ModelServer]:
    server, conversations = ModelServer(respond), set[asyncio.Task[None]]()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        conversations.add(task)
        try:
            await server.converse(reader, writer)
        except asyncio.CancelledError:
            pass  # the end of the test
        finally:
            conversations.discard(task)

    listening = await asyncio.start_server(accept, "127.0.0.1", port, ssl=tls)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        for task in list(conversations):
            task.cancel()
        if conversations:
            await asyncio.wait(list(conversations))


class Heard:
    """A listener that notes what it is told."""

    def __init__(self) -> None:
        self.read: list[tuple[ScrapeTarget, EngineMetrics]] = []
        self.failed: list[tuple[ScrapeTarget, Failure, str]] = []
        self.times: list[tuple[float, float]] = []
        self.faults: list[tuple[ScrapeTarget, Exception, int]] = []
        self.error: Exception | None = None

    def scraped(
        self, target: ScrapeTarget, metrics: EngineMetrics, started_at: float, duration_s: float
    ) -> None:
        self.read.append((target, metrics))
        self.times.append((started_at, duration_s))
        if self.error:
            raise self.error

    def scrape_failed(self, target: ScrapeTarget, reason: Failure, detail: str, duration_s: float) -> None:
        self.failed.append((target, reason, detail))
        assert duration_s >= 0

    def report_fault(self, target: ScrapeTarget, error: Exception, unreported: int) -> None:
        self.faults.append((target, error, unreported))

    def reads_of(self, target: ScrapeTarget) -> int:
        return sum(of == target for of, _ in self.read)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(BOUND_S):
        while not condition():  # noqa: ASYNC110 - anything may be waited for
            await asyncio.sleep(0.005)


@asynccontextmanager
async def scraper_for(heard: Heard) -> AsyncIterator[Scraper]:
    """A scraper that must leave no task behind."""
    scraper = Scraper(heard, heard.report_fault)
    yield scraper
    await scraper.close()
    assert scrape_tasks() == []


def scrape_tasks() -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks() if task.get_name().startswith("scrape ")]
