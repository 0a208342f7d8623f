"""Asks Envoy's admin port and the router for what the checks look at."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import MappingProxyType

import aiohttp
import msgspec
from msgspec import Struct

from . import router_view
from .fields import Json
from .router_view import RouterView
from .setup import Setup, build

FETCH_S = 20.0
"""All pages together: an Envoy of 10,000 clusters takes seconds to write its dump."""
MAX_BYTES = 256 * 1024 * 1024
"""Of a page: the dump of such an Envoy has about 100 MB."""
PAGES = ("/config_dump?include_eds", "/clusters?format=json", "/stats?format=json", "/server_info")

NO_TOKEN: Mapping[str, str] = MappingProxyType({})


class FetchError(Exception):
    """A page could not be had; the message says which, and why."""


class Fetched(Struct, frozen=True):
    setup: Setup
    no_router: str
    """Why the router could not be asked; empty where it could."""


async def fetch(envoy: str, router: str, wanted: str, token: Mapping[str, str]) -> Fetched:
    """Asks both, the router with the headers *token*; an empty *router* is not asked.

    Raises FetchError where Envoy does not answer.
    """
    timeout = aiohttp.ClientTimeout(FETCH_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        pages = await asyncio.gather(*(_json(session, envoy.rstrip("/") + page) for page in PAGES))
        config, clusters, stats, info = pages
        if "configs" not in config:
            raise FetchError(f"{envoy}: not an Envoy's admin port: its /config_dump has no `configs`")
        view, why = await _ask_router(session, router.rstrip("/"), token)
    return Fetched(build(config, clusters, stats, info, view, wanted), why)


async def _ask_router(
    session: aiohttp.ClientSession, router: str, token: Mapping[str, str]
) -> tuple[RouterView | None, str]:
    if not router:
        return None, "no router was named"
    try:
        return router_view.read(await _page(session, f"{router}/debug/state", token)), ""
    except FetchError as error:
        return None, f"router {error}"
    except msgspec.MsgspecError as error:
        return None, f"router {router}/debug/state: not a router's state: {error}"


async def _json(session: aiohttp.ClientSession, url: str) -> Json:
    try:
        page = msgspec.json.decode(await _page(session, url), type=Json)
    except msgspec.MsgspecError as error:
        raise FetchError(f"{url}: not JSON of an Envoy's admin port: {error}") from None
    return page


async def _page(session: aiohttp.ClientSession, url: str, headers: Mapping[str, str] = NO_TOKEN) -> bytes:
    """The whole page; a redirect is not followed, as a token is nobody else's. Raises FetchError."""
    text = bytearray()
    try:
        async with session.get(url, headers=headers, allow_redirects=False) as response:
            if response.status != 200:
                hint = " (see --token-file)" if response.status == 401 else ""
                raise FetchError(f"{url}: answered {response.status}{hint}")
            async for piece in response.content.iter_any():
                text += piece
                if len(text) > MAX_BYTES:
                    raise FetchError(f"{url}: longer than {MAX_BYTES} bytes")
    except TimeoutError:
        raise FetchError(f"{url}: no answer within {FETCH_S:g} s") from None
    except (aiohttp.ClientError, ValueError) as error:
        raise FetchError(f"{url}: cannot be read: {error or type(error).__name__}") from None
    return bytes(text)
