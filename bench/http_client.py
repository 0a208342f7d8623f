"""One HTTP/1.1 request after the other on one connection, with nothing in the way."""

from __future__ import annotations

import asyncio
import re
import time

ANSWER_S = 60.0
_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


class Connection:
    """Sends POSTs and waits for each answer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
        self._reader = reader
        self._writer = writer
        self._host = host

    @classmethod
    async def open(cls, url: str) -> Connection:
        host = url.removeprefix("http://").rstrip("/")
        name, _, port = host.rpartition(":")
        return cls(*await asyncio.open_connection(name, int(port)), host)

    async def post(self, body: bytes) -> float:
        """Seconds until the whole answer is here.  Raises RuntimeError where it is no 200."""
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: {self._host}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        begun = time.perf_counter()
        self._writer.write(head.encode())
        self._writer.write(body)
        async with asyncio.timeout(ANSWER_S):
            await self._writer.drain()
            answer = await self._reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(answer)
            if length:
                await self._reader.readexactly(int(length[1]))
            else:  # chunked
                await self._reader.readuntil(b"\r\n0\r\n\r\n")
        if not answer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(answer.partition(b"\r\n")[0].decode())
        return time.perf_counter() - begun

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()
