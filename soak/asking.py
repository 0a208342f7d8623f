"""Ways to ask a gateway: as an HTTP client does, and byte by byte."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterable
from typing import Any

from .town import Town

CHAT = "/v1/chat/completions"
LEFT = "left"
"""What a client answers that did not wait for anything."""


async def ask(
    town: Town,
    rng: random.Random,
    path: str,
    data: Any,
    headers: dict[str, str] | None = None,
    method: str = "POST",
) -> str:
    """One request, read to its end."""
    host, port = town.gate(rng)
    sent = {"content-type": "application/json", **(headers or {})}
    url = f"http://{host}:{port}{path}"
    async with town.client.request(method, url, data=data, headers=sent) as answer:
        async for _ in answer.content.iter_any():
            pass
        return answer.headers.get("x-extproc-reason") or str(answer.status)


async def post(town: Town, rng: random.Random, document: Any, path: str = CHAT, **headers: str) -> str:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await ask(town, rng, path, json.dumps(document).encode(), named)


def head(length: int, **headers: str) -> bytes:
    lines = [
        f"POST {CHAT} HTTP/1.1",
        "host: soak",
        "content-type: application/json",
        f"content-length: {length}",
    ]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def talk(
    town: Town, rng: random.Random, script: Iterable[bytes | float], *, reads: bool = False
) -> str:
    """Bytes are sent, numbers are seconds; then the connection is reset, once an answer began where one *reads*."""
    reader, writer = await asyncio.open_connection(*town.gate(rng))
    try:
        for step in script:
            if isinstance(step, bytes):
                writer.write(step)
                await writer.drain()
            else:
                await asyncio.sleep(step)
        if reads:
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
            await asyncio.wait_for(reader.read(100), 20)
    finally:
        writer.transport.abort()
    return LEFT
