"""ORCA load reports of simulated vLLM servers, through a real Envoy."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from stack import BUFFERED, DUPLEX, Stack, Way, client_of, eventually, running, running_service

from extproc.demo.bootstrap import POOL
from extproc.demo.envoy import Envoy
from extproc.demo.service import Sim

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="function")]

CHAT = "/v1/chat/completions"
REPORT = "endpoint-load-metrics"
LONG = {
    "model": "m",
    "max_tokens": 3000,
    "stream": True,
    "messages": [{"role": "user", "content": "x" * 4000}],
}
SHORT = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "Hi"}]}


def config(address: str, *, orca: bool) -> dict[str, Any]:
    """A page is read once in ten minutes: whatever is known after the first is known from answers."""
    metrics = {"orca": orca, "interval_s": 600, "max_age_s": 3600}
    return {"pools": [{"name": POOL, "endpoints": [address], "metrics": metrics}]}


async def busy(client: aiohttp.ClientSession, streams: int) -> list[aiohttp.ClientResponse]:
    """Streams whose first tokens are here."""
    responses = await asyncio.gather(*(client.post(CHAT, json=LONG) for _ in range(streams)))
    for response in responses:
        await response.content.readuntil(b"\n\n")
    return responses


@pytest.mark.parametrize("way", [BUFFERED, DUPLEX], ids=lambda way: way.bootstrap)
@pytest.mark.parametrize("orca", [True, False], ids=["asked for", "not asked for"])
async def test_answers_refresh_what_a_scrape_told_and_clients_see_nothing_of_it(
    tmp_path: Path, way: Way, orca: bool
) -> None:
    sim = Sim(tmp_path, "--model", "m", name="sim")
    async with (
        running(sim),
        running_service(config(sim.address, orca=orca), tmp_path) as service,
    ):
        envoy = Envoy(way.bootstrap, tmp_path, pools={POOL: [sim.address]}, ext_proc=service.grpc)
        async with running(envoy), client_of(envoy) as client:
            stack = Stack(client, envoy, service, [], way)

            async def usage() -> float:
                (endpoint,) = (await stack.endpoints()).values()
                return float(endpoint["metrics"]["kv_cache_usage"])

            assert await usage() == 0.0
            streams = await busy(client, 3)
            assert await usage() == 0.0  # streamed answers carry no report

            async with client.post(CHAT, json=SHORT) as response:
                assert (response.status, REPORT in response.headers) == (200, False)
            if orca:
                assert await eventually(usage, bool) > 0.0
            assert await stack.metric("load_reports_total", result="ok") == float(orca)
            assert (await usage() > 0.0) is orca
            for stream in streams:
                stream.close()
            await stack.idle()
