"""GET /metrics, in order and out of order."""

from __future__ import annotations

import asyncio
from random import Random

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from extproc.sim.faults import Fault
from extproc.sim.http_metrics import HttpMetrics
from extproc.sim.page import MetricsPage, restrict

HUGE_BYTES = 100_000_000
CHUNK = b'vllm:num_requests_waiting{engine="0",model_name="huge"} 1.0\n' * 1000
GARBAGE_BYTES = 50_000


class MetricsRoute:
    def __init__(self, page: MetricsPage, http: HttpMetrics, seed: int) -> None:
        self._page = page
        self._http = http
        # Noise with true names in it: what a careless parser takes for figures.
        self._garbage = b"\n".join(
            (
                b"<html>vllm:num_requests_running",
                b'vllm:num_requests_running{model_name="qwq" NaN',
                b"vllm:num_requests_waiting 1e999999",
                b'vllm:kv_cache_usage_perc{engine="0"} -inf extra words',
                b"vllm:kv_cache_usage_perc{",
                Random(seed).randbytes(GARBAGE_BYTES),
            )
        )

    def render(self) -> str:
        return self._page.render() + self._http.render()

    async def answer(self, request: web.Request, fault: Fault) -> web.StreamResponse:
        match fault.kind:
            case "slow":
                await asyncio.sleep(fault.number)
            case "garbage":
                return page(self._garbage)
            case "error":
                return web.Response(status=500, text="Internal Server Error")
            case "huge":
                return await flood(request, HUGE_BYTES)
            case "endless":
                return await flood(request, None)
            case "stall":
                await asyncio.get_running_loop().create_future()
        return page(self._restricted(request).encode())

    def _restricted(self, request: web.Request) -> str:
        """As in vLLM, where `/metrics` is prometheus-fastapi-instrumentator's, which has no `name[]`. It hides
        prometheus_client's own page, which does: only `/metrics/` reaches that."""
        names = frozenset(request.query.getall("name[]", ()))
        text = self.render()
        return restrict(text, names) if names and request.path == "/metrics/" else text


def page(body: bytes) -> web.Response:
    return web.Response(body=body, headers={"content-type": CONTENT_TYPE_LATEST})


async def flood(request: web.Request, length: int | None) -> web.StreamResponse:
    """Series after series up to `length` bytes; None: until the client has had enough."""
    response = web.StreamResponse(headers={"content-type": CONTENT_TYPE_LATEST})
    await response.prepare(request)
    sent = 0
    while length is None or sent < length:
        await response.write(CHUNK)
        sent += len(CHUNK)
    await response.write_eof()
    return response
