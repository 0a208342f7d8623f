"""GET one page, bounded in time and size, over connections that are kept alive."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Literal

import aiohttp
from yarl import URL

Failure = Literal["timeout", "refused", "http_status", "too_large", "invalid", "other"]
"""Why there is no page: the closed set that metrics use as a label."""

KEEPALIVE_S = 30.0
"""Unused connections are closed after this long: more than any sensible interval, and soon enough after an
endpoint has gone."""

MAX_DETAIL = 200
"""Of a server's or library's words, this many characters go into a detail: it ends up in a log line."""


class GetError(Exception):
    """There is no page; `status` is the HTTP status where the server answered with another than 200."""

    def __init__(self, reason: Failure, detail: str, status: int | None = None) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: Failure = reason
        self.detail = detail[:MAX_DETAIL]
        self.status = status


class PageClient:
    """One for all servers; needs a running event loop.  No redirects, no cookies, no proxies."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            headers={"Accept": "text/plain;version=0.0.4", "Accept-Encoding": "identity"},
            auto_decompress=False,  # a compressed page was not asked for, and could be a bomb
        )

    async def get(self, url: URL, *, timeout_s: float, headers: Mapping[str, str], verify: bool) -> bytes:
        """The page at *url*; `timeout_s` bounds connection and answer together.  Raises GetError."""
        try:
            # not aiohttp's own: from 5 s on that rounds up to whole seconds
            async with asyncio.timeout(timeout_s):
                async with self._session.get(
                    url, headers=headers, ssl=verify, allow_redirects=False
                ) as answer:
                    if answer.status != 200:
                        raise GetError("http_status", f"HTTP {answer.status}", answer.status)
                    return await self._body(answer)
        except TimeoutError:
            raise GetError("timeout", f"no whole answer within {timeout_s:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise GetError(_reason(error), str(error) or type(error).__name__) from error

    async def _body(self, answer: aiohttp.ClientResponse) -> bytes:
        length = answer.content_length or 0
        chunks: list[bytes] = []
        if length <= self._max_bytes:
            length = 0
            async for chunk in answer.content.iter_any():
                length += len(chunk)
                if length > self._max_bytes:
                    break
                chunks.append(chunk)
        if length > self._max_bytes:
            answer.close()  # not back to the pool: the rest would still come
            raise GetError("too_large", f"the page is larger than {self._max_bytes} bytes")
        return b"".join(chunks)

    async def close(self) -> None:
        await self._session.close()


def _reason(error: Exception) -> Failure:
    match error:
        case aiohttp.ClientConnectorError(os_error=ConnectionRefusedError()):
            return "refused"
        case aiohttp.ClientResponseError() | aiohttp.ClientPayloadError():
            return "invalid"
        case _:
            return "other"
