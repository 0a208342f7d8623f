"""What listens where the collector should: it costs no memory, and nothing counts as arrived that did not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from ext_proc_service import serving
from otlp_talk import answered, begun, routed

from extproc.otlp.exporters import MAX_ANSWER_BYTES

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]
ON_THE_WAY = 32 * 1024 * 1024
"""More than sockets hold."""


@asynccontextmanager
async def listening(answer: Answer) -> AsyncIterator[str]:
    """The URL of who answers each request so, and closes the connection."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await answer(writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def told_by(url: str) -> list[str]:
    """What the log says came of the traces of one request."""
    env = {"OTEL_TRACES_SAMPLER": "always_on", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}
    async with serving() as (service, envoy):
        otlp = begun(service, url, {**env, "OTEL_METRICS_EXPORTER": "none"})
        stream, _, _ = await routed(envoy)
        await answered(stream)
        await service.idle()
        await otlp.close()
        lines = await service.log_lines()
        assert service.sample("extproc_otlp_exports_total", signal="traces", result="ok") == 0
        assert service.sample("extproc_otlp_dropped_total", signal="traces") == 2
    return [line["reason"] for line in lines if line["event"] == "otlp_export_failed"]


@pytest.mark.parametrize("head", ["HTTP/1.1 400 No", "HTTP/1.1 400 No\r\ncontent-encoding: gzip"])
async def test_an_answer_without_end_is_read_to_where_an_answer_would_have_ended(head: str) -> None:
    sent = 0

    async def endless(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(head.encode() + b"\r\n\r\n")
        while sent < ON_THE_WAY:
            writer.write(b"x" * MAX_ANSWER_BYTES)
            sent += MAX_ANSWER_BYTES
            await writer.drain()

    async with listening(endless) as url:
        (reason,) = await told_by(url)
    assert "400" in reason
    assert sent < ON_THE_WAY


async def test_a_redirect_is_no_arrival_and_takes_no_header_elsewhere() -> None:
    calls = 0

    async def elsewhere(writer: asyncio.StreamWriter) -> None:
        nonlocal calls
        calls += 1
        writer.write(b"HTTP/1.1 307 Moved\r\nlocation: /else/where\r\ncontent-length: 0\r\n\r\n")

    async with listening(elsewhere) as url:
        (reason,) = await told_by(url)
    assert "it answered 307" in reason
    assert calls == 1
