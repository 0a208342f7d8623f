"""Clients that leave, at every stage, and those who are slow."""

from __future__ import annotations

import asyncio
import json
import random

from . import bodies
from .asking import LEFT, head, talk
from .settings import MAX_BODY_BYTES
from .town import Town


async def leaves_before_the_body(town: Town, rng: random.Random) -> str:
    return await talk(town, rng, [head(1000), rng.random()])


async def leaves_within_the_body(town: Town, rng: random.Random) -> str:
    size = rng.choice([1000, MAX_BODY_BYTES])
    body = bodies.padded(size)
    return await talk(town, rng, [head(size), body[: size // 2], rng.random()])


async def leaves_at_once(town: Town, rng: random.Random) -> str:
    """When all was sent, and nothing was answered."""
    body = json.dumps(bodies.chat(rng, "qwq")).encode()
    return await talk(town, rng, [head(len(body)) + body])


async def leaves_while_it_waits(town: Town, rng: random.Random) -> str:
    body = json.dumps({**bodies.chat(rng, "qwq"), "max_tokens": 2000}).encode()
    return await talk(town, rng, [head(len(body)), body, rng.uniform(0.02, 0.5)])


async def leaves_within_the_stream(town: Town, rng: random.Random) -> str:
    body = json.dumps({**bodies.chat(rng, "qwq", stream=True), "max_tokens": 2000}).encode()
    return await talk(town, rng, [head(len(body)), body], reads=True)


async def leaves_while_it_is_held(town: Town, rng: random.Random) -> str:
    document = {**bodies.chat(rng, "queued"), "max_tokens": 60, "pad": "x" * rng.choice([1, 500_000])}
    body = json.dumps(document).encode()
    told = [
        talk(town, rng, [head(len(body), **{"x-tenant": f"tenant-{n}"}), body, rng.uniform(0.02, 0.4)])
        for n in range(4)
    ]
    await asyncio.gather(*told, return_exceptions=True)
    return LEFT


async def uploads_slowly(town: Town, rng: random.Random) -> str:
    body = json.dumps(bodies.chat(rng, "qwq")).encode()
    steps: list[bytes | float] = [head(len(body))]
    for start in range(0, len(body), 300):
        steps += [body[start : start + 300], rng.uniform(0.05, 0.3)]
    return await talk(town, rng, steps[: rng.randrange(2, len(steps))])
