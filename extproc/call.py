"""A gRPC call of Envoy's: its reads, its writes and its end, so that grpc.aio loses no memory over them.

What a read, a write or a status needs, grpc never frees where it is cancelled, or comes after Envoy's reset
(grpc/grpc#43360, open in 1.85): a hundred bytes each, and Envoy resets most streams.  At a hundred requests a second
that is a gigabyte a day.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import grpc
from grpc import aio
from grpc.aio import EOF  # type: ignore[attr-defined]

GOODBYE_S = 1.0
"""Envoy ends a stream at once that we answered; who does not may take so long, and then it is we who end it."""
RESET_S = 0.01
"""Envoy's reset comes with its half-close, or right behind it; nobody waits for our status."""

Context = Any  # aio.ServicerContext[bytes, bytes]; its stubs know no read() and write()


class PeerGone(Exception):
    """Envoy no longer listens."""


class Call:
    """Messages as bytes."""

    def __init__(self, context: Context) -> None:
        self.writing = False
        """Not to be cancelled now: grpc would go on with the write, and take no other beside it."""
        self.reset = False
        """By Envoy: nothing more is to be asked of grpc."""
        self.context = context
        self._reading: asyncio.Task[Any] | None = None

    async def read(self) -> Any:
        """The next message, or EOF."""
        reading, self._reading = self._reading, None
        return await (reading or self._receive())

    def reading(self) -> asyncio.Task[Any]:
        """What `read` will answer, on its way."""
        if self._reading is None:
            self._reading = asyncio.create_task(self._receive(), name="read ahead")
        return self._reading

    async def write(self, data: bytes) -> None:
        """Raises PeerGone."""
        if self.reset:
            raise PeerGone
        self.writing = True
        try:
            await self.context.write(data)
        except aio.BaseError as error:  # what grpc raises where Envoy, or our own server, is gone
            raise PeerGone from error
        finally:
            self.writing = False

    async def until_it_ends(self) -> None:
        """Where nothing more is said: who ends a stream first is not reset."""
        loop = asyncio.get_running_loop()
        until = loop.time() + GOODBYE_S
        while (left_s := until - loop.time()) > 0:
            done, _ = await asyncio.wait((self.reading(),), timeout=left_s)
            if done and await self.read() is EOF:
                return

    async def fail(self, code: grpc.StatusCode, why: str) -> None:
        """End it with an error."""
        if not self.reset:
            await self.context.abort(code, why)

    async def _receive(self) -> Any:
        if self.reset:
            return EOF
        try:
            return await self.context.read()
        except aio.BaseError:  # what grpc raises where Envoy is gone
            return EOF


async def left_alone(call: Call, serving: Coroutine[Any, Any, None]) -> None:
    """Await what serves *call* in a task of its own: grpc cancels ours at a reset.  Left alone, it ends by itself."""
    task = asyncio.create_task(serving, name="stream")
    try:
        await asyncio.shield(task)
        await asyncio.sleep(RESET_S)  # a reset cancels us here, and no status is sent
    except asyncio.CancelledError:
        call.reset = True
        await asyncio.wait((task,))  # grpc takes the call apart when we end
        raise
