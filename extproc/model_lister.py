"""Asks the default pool's endpoints what they serve (`/v1/models`), so that clients can be told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import aiohttp
import msgspec

from .endpoint import Endpoint
from .model_name import is_usable

INTERVAL_S = 10.0
"""LoRA adapters are loaded by hand or by a controller: seconds are soon enough."""
FIRST_INTERVAL_S = 1.0
"""While an endpoint has not answered yet; doubled each time."""
TIMEOUT_S = 2.0
MAX_PAGE_BYTES = 1024 * 1024
"""Thousands of adapters fit."""
AT_ONCE = 16
"""Requests at a time: a pool of hundreds is asked in a second without a burst."""


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


class ModelLister:
    """Keeps `Endpoint.models` of `endpoints()` up to date."""

    def __init__(self, endpoints: Callable[[], Iterable[Endpoint]]) -> None:
        self._endpoints = endpoints

    async def run(self) -> None:
        """Until cancelled."""
        async with aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept-Encoding": "identity"},
            auto_decompress=False,  # a compressed page was not asked for, and could be a bomb
        ) as client:
            pause_s = FIRST_INTERVAL_S
            while True:
                if await self._ask_all(client):
                    pause_s = INTERVAL_S
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, INTERVAL_S)

    async def _ask_all(self, client: aiohttp.ClientSession) -> bool:
        """Whether every endpoint has answered by now."""
        endpoints = list(self._endpoints())
        slots = asyncio.Semaphore(AT_ONCE)
        async with asyncio.TaskGroup() as group:
            for endpoint in endpoints:
                group.create_task(_ask(client, endpoint, slots), name=f"models of {endpoint.address}")
        return all(endpoint.models for endpoint in endpoints)


async def _ask(client: aiohttp.ClientSession, endpoint: Endpoint, slots: asyncio.Semaphore) -> None:
    """What it listed last stays where it does not answer."""
    async with slots:
        try:
            page = await _page(client, f"http://{endpoint.address}/v1/models")
            models = msgspec.json.decode(page, type=_Models)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, RecursionError):
            return
        endpoint.models = tuple(model.id for model in models.data if is_usable(model.id))


async def _page(client: aiohttp.ClientSession, url: str) -> bytes:
    """Raises ValueError for a page that is too long."""
    async with client.get(url, allow_redirects=False, raise_for_status=True) as answer:
        page = b""
        async for chunk in answer.content.iter_chunked(MAX_PAGE_BYTES):
            page += chunk
            if len(page) > MAX_PAGE_BYTES:
                raise ValueError("the list of models is too long")
        return page
