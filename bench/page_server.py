"""Serves a vLLM metrics page of the real size on all loopback addresses, as cheaply as can be: a hundred servers."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path


class _Page(asyncio.Protocol):
    answer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(self.answer)  # type: ignore[attr-defined]


async def main() -> None:
    page = Path(sys.argv[1]).read_bytes()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {len(page)}\r\n\r\n"
    _Page.answer = head.encode() + page
    server = await asyncio.get_running_loop().create_server(_Page, "0.0.0.0", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
