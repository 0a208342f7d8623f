"""The listening side of a server: an address that can be taken away and given back."""

from __future__ import annotations

import asyncio
import socket
import struct

from aiohttp import web

BACKLOG = 1024
"""A burst of a benchmark's connections; Linux caps it at net.core.somaxconn."""


class Listener:
    """Keeps its port for its whole life, also while it refuses connections."""

    def __init__(self, runner: web.AppRunner, host: str, port: int) -> None:
        """OSError: the address cannot be had."""
        self._runner = runner
        self._socket = bound_socket(host, port)
        self._site: web.SockSite | None = None
        self.host, self.port = self._socket.getsockname()[:2]

    async def open(self) -> None:
        if self._site is None:
            self._site = web.SockSite(self._runner, self._socket, backlog=BACKLOG)
            await self._site.start()

    async def refuse(self) -> None:
        """Close the socket and reset all connections; a bound socket that does not listen keeps the port."""
        if self._site is None:
            return
        await self.close()
        self._socket = bound_socket(self.host, self.port)
        server = self._runner.server
        for connection in list(server.connections) if server is not None else ():
            reset(connection.transport)

    async def close(self) -> None:
        """Close the socket; connections live on."""
        site, self._site = self._site, None
        if site is not None:
            # Closed at once, Python 3.11 leaks the sockets that it has accepted but not yet given a transport
            # (asyncio.base_events.Server._attach asserts that the server is open). That takes a few turns.
            asyncio.get_running_loop().remove_reader(self._socket)
            for _ in range(3):
                await asyncio.sleep(0)
            await site.stop()
        self._socket.close()


def bound_socket(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setblocking(False)
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound


def reset(transport: object) -> None:
    """End a connection with a TCP reset: closing with a linger of 0 seconds sends RST, not FIN."""
    if isinstance(transport, asyncio.Transport):
        connection = transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
