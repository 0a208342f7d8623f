"""GET one page, bounded in time and size, over a connection that is kept alive.

Ours, not aiohttp's client, as reading pages is what the service costs while idle: a scrape takes a third less CPU.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from functools import lru_cache

from msgspec import Struct

from .http_response import Failure, GetError, Response

MAX_DETAIL = 200
"""Of the operating system's words, this many characters go into a detail: it ends up in a log line."""


class PageConnection:
    """A connection to one server, made when needed; one request at a time.  `close` it."""

    def __init__(self, host: str, port: int, tls: Tls | None, max_bytes: int) -> None:
        self._host = host
        self._port = port
        self._tls = tls
        self._max_bytes = max_bytes
        self._wire: _Wire | None = None

    async def get(self, request: bytes, timeout_s: float) -> bytes:
        """The page that *request*, a whole GET, brings; `timeout_s` bounds everything.  Raises GetError."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._get(request)
        except TimeoutError:
            raise GetError("timeout", f"no whole answer within {timeout_s:g} s") from None
        except OSError as error:
            reason: Failure = "refused" if isinstance(error, ConnectionRefusedError) else "other"
            raise GetError(reason, (str(error) or type(error).__name__)[:MAX_DETAIL]) from error

    async def _get(self, request: bytes) -> bytes:
        if self._wire and self._wire.usable:
            response = Response(self._max_bytes)
            try:
                return await self._exchange(self._wire, request, response)
            except (GetError, OSError):
                if response.started:
                    raise
                # closed by the server while unused: only a new connection tells how it is
        return await self._exchange(await self._connect(), request, Response(self._max_bytes))

    async def _connect(self) -> _Wire:
        loop = asyncio.get_running_loop()
        context, name = (self._tls.context(), self._tls.server_name) if self._tls else (None, None)
        _, self._wire = await loop.create_connection(
            _Wire, self._host, self._port, ssl=context, server_hostname=name
        )
        return self._wire

    async def _exchange(self, wire: _Wire, request: bytes, response: Response) -> bytes:
        try:
            await wire.exchange(request, response)
        except BaseException:  # cancelled too: the rest of the answer must not meet the next request
            self.close()
            raise
        if not response.keep_alive:
            self.close()
        return response.body

    def close(self) -> None:
        """Idempotent; a later `get` connects again."""
        if self._wire:
            self._wire.abort()
            self._wire = None


class _Wire(asyncio.Protocol):
    """The transport's side: hands what comes to the response that waits for it."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._response: Response | None = None
        self._whole: asyncio.Future[None] | None = None

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    async def exchange(self, request: bytes, response: Response) -> None:
        """Returns once *response* is complete; raises GetError or OSError."""
        if not self._transport or self._transport.is_closing():
            raise GetError("other", "the server closed the connection")
        self._response, self._whole = response, asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            await self._whole
        finally:
            self._response = self._whole = None

    def abort(self) -> None:
        if self._transport:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        response, whole = self._response, self._whole
        if not response or not whole or whole.done():
            self.abort()  # nobody asked for that
            return
        try:
            if response.feed(data):
                whole.set_result(None)
        except GetError as error:
            whole.set_exception(error)

    def connection_lost(self, error: Exception | None) -> None:
        response, whole = self._response, self._whole
        if not response or not whole or whole.done():
            return
        try:
            if error:
                raise error
            response.end()
            whole.set_result(None)
        except Exception as failure:
            whole.set_exception(failure)


class Tls(Struct, frozen=True):
    """How to speak TLS to a server."""

    verify: bool
    """Whether to look at its certificate at all."""
    ca_file: str | None
    """Whose certificates to trust; None: the system's."""
    server_name: str
    """What the certificate must be for."""

    def context(self) -> ssl.SSLContext:
        """For a new connection.  Raises OSError where `ca_file` cannot be read, or holds no certificate."""
        if self.ca_file is None:
            return _context(verify=self.verify)
        try:
            changed = os.stat(self.ca_file)
            return _trusting(self.ca_file, changed.st_mtime_ns, changed.st_ino)
        except OSError as error:
            raise OSError(f"ca_file: {error.strerror or error}") from error


@lru_cache(maxsize=2)
def _context(*, verify: bool) -> ssl.SSLContext:
    """Shared by all connections: making one reads all the system's certificates."""
    context = ssl.create_default_context()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


@lru_cache(maxsize=8)
def _trusting(ca_file: str, _mtime_ns: int, _inode: int) -> ssl.SSLContext:
    """As long as the file is the same, whatever pools name it."""
    context = ssl.create_default_context(cafile=ca_file)
    # On by default from Python 3.13; many a private authority lacks the key identifier that it asks for.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
