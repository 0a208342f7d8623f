"""Those who come to the service itself: to its HTTP port, and to its gRPC port with what is no ext_proc."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from grpc import aio

from .asking import LEFT
from .town import TOKEN, Town


async def scrapes(town: Town, rng: random.Random) -> str:
    path = rng.choice(["/metrics", "/debug/state", "/debug/explain?limit=64", "/readyz", "/livez", "/none"])
    async with town.asked("GET", path) as answer:
        await answer.read()
        return str(answer.status)


async def commands(town: Town, rng: random.Random) -> str:
    """What may not be commanded: there is no such endpoint, no such address, the token is wrong."""
    path, token = rng.choice([("127.0.0.9:9", TOKEN), ("nothing", TOKEN), ("127.0.0.9:9", "wrong")])
    async with town.asked("POST", f"/endpoints/{path}/cordon", token) as answer:
        return str(answer.status)


async def scrapes_and_does_not_read(town: Town, rng: random.Random) -> str:
    host, port = town.service.http.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    try:
        for _ in range(rng.randrange(1, 4)):
            writer.write(b"GET /metrics HTTP/1.1\r\nhost: soak\r\n\r\n")
        await asyncio.sleep(rng.random())
    finally:
        writer.transport.abort()
    return LEFT


async def talks_nonsense_in_grpc(town: Town, rng: random.Random) -> str:
    """Bytes that are no message, a stream without one, a stream that is cancelled."""
    async with aio.insecure_channel(town.service.grpc) as channel:
        process: Any = channel.stream_stream  # its stubs want serializers; without any, messages are bytes
        call = process("/envoy.service.ext_proc.v3.ExternalProcessor/Process")(timeout=5)
        match rng.randrange(3):
            case 0:
                await call.write(b"\xff\xff\xff")
                try:
                    await call.read()
                except aio.AioRpcError as error:
                    return error.code().name
            case 1:
                await call.done_writing()
                return "EOF" if await call.read() is aio.EOF else "an answer"  # type: ignore[attr-defined]
            case _:
                await call.wait_for_connection()
                await asyncio.sleep(rng.random() / 2)
                call.cancel()
        return LEFT


async def talks_nonsense_to_the_port(town: Town, rng: random.Random) -> str:
    host, port = town.service.grpc.rsplit(":", 1)
    _, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(
            rng.choice([b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x00" * 100])
        )
        await asyncio.sleep(rng.random() / 4)
    finally:
        writer.transport.abort()
    return LEFT
