"""A client's view of simulated servers, for the tests of them."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec

from extproc.sim.config import SimConfig
from extproc.sim.server import SimServer

FAST = 200.0
"""Tokens in a tenth of a millisecond; 1.0 where a test must come in between."""
MESSAGES = [{"role": "user", "content": "twelve chars"}]
"""Seven tokens: four a message, one for every four characters."""


@contextlib.asynccontextmanager
async def served(**config: Any) -> AsyncIterator[tuple[SimServer, aiohttp.ClientSession]]:
    settings = {"speed": FAST, "name": "pod-1", **config}
    async with SimServer(SimConfig(**settings)) as sim, aiohttp.ClientSession(sim.url) as client:
        yield sim, client


async def events(response: aiohttp.ClientResponse) -> list[Any]:
    """Data of a whole stream of server-sent events; [DONE] stays text."""
    body = (await response.read()).decode()
    assert body.endswith("\n\n")
    data = [re.sub(r"^(event: .*\n)?data: ", "", event) for event in body.removesuffix("\n\n").split("\n\n")]
    return [entry if entry == "[DONE]" else msgspec.json.decode(entry) for entry in data]


def values(page: str, name: str) -> list[float]:
    return [float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith((f"{name}{{",))]


async def until(sim: SimServer, running: int) -> None:
    """Wait until so many requests run."""
    while sim.engine.num_running != running:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
