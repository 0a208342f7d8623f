"""Clients that ask and read what they are answered: as they should, and as they should not."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

from . import bodies
from .asking import CHAT, ask, post
from .town import Town

CHUNK_BYTES = 64 * 1024

# -- as they should -----------------------------------------------------------------------------------------


async def chats(town: Town, rng: random.Random) -> str:
    user = f"user-{rng.randrange(bodies.USERS)}"
    return await post(town, rng, bodies.chat(rng, "qwq"), x_user_id=user)


async def streams(town: Town, rng: random.Random) -> str:
    options = {"include_usage": rng.random() < 0.5}
    return await post(town, rng, bodies.chat(rng, "qwq", stream=True, stream_options=options))


async def completes(town: Town, rng: random.Random) -> str:
    document = {"model": "qwq", "prompt": bodies.prompt(rng), "max_tokens": 3}
    return await post(town, rng, document, "/v1/completions")


async def embeds(town: Town, rng: random.Random) -> str:
    return await post(town, rng, {"model": "qwq", "input": bodies.prompt(rng)}, "/v1/embeddings")


async def sends_messages(town: Town, rng: random.Random) -> str:
    return await post(town, rng, bodies.chat(rng, "qwq", stream=rng.random() < 0.5), "/v1/messages")


async def sends_a_form(town: Town, rng: random.Random) -> str:
    content_type, body = bodies.form("qwq")
    return await ask(town, rng, "/v1/audio/transcriptions", body, {"content-type": content_type})


async def is_mirrored(town: Town, rng: random.Random) -> str:
    return await post(town, rng, bodies.chat(rng, "mirrored"))


async def is_sheddable(town: Town, rng: random.Random) -> str:
    return await post(town, rng, bodies.chat(rng, "cheap"))


async def names_what_is_not_listed(town: Town, rng: random.Random) -> str:
    return await post(town, rng, bodies.chat(rng, "unlisted"))


async def names_anything(town: Town, rng: random.Random) -> str:
    """No two name the same; the prompt is too short to be remembered, or there would be ever more of them."""
    return await post(
        town, rng, {"model": f"nobody-{rng.randrange(10**9)}", "prompt": "Hi"}, "/v1/completions"
    )


async def names_the_newest(town: Town, rng: random.Random) -> str:
    return await post(town, rng, bodies.chat(rng, town.settings.rolled or "qwq"))


async def asks_the_cluster(town: Town, rng: random.Random) -> str:
    return await post(town, rng, bodies.chat(rng, "clustered"))


async def lists_models(town: Town, rng: random.Random) -> str:
    return await ask(town, rng, rng.choice(["/v1/models", "/v1/models/qwq", "/version"]), None, method="GET")


async def compresses(town: Town, rng: random.Random) -> str:
    name = rng.choice(list(bodies.ENCODERS))
    body = bodies.ENCODERS[name](json.dumps(bodies.chat(rng, "qwq")).encode())
    return await ask(town, rng, CHAT, body, {"content-encoding": name})


async def upgrades(town: Town, rng: random.Random) -> str:
    host, port = town.gate(rng)
    async with town.client.ws_connect(f"http://{host}:{port}/v1/realtime") as socket:
        await socket.send_str("hello")
        told = await socket.receive_str(timeout=5)
        await asyncio.sleep(rng.random())
    return told


async def waits(town: Town, rng: random.Random) -> str:
    """For a pool that takes two at a time, slowly: some are held, and some of those for too long."""
    tenant = f"tenant-{rng.randrange(bodies.TENANTS)}"
    document = {**bodies.chat(rng, "queued"), "max_tokens": 40}
    return await post(town, rng, document, x_tenant=tenant)


async def wait_together(town: Town, rng: random.Random) -> str:
    told = await asyncio.gather(*(waits(town, rng) for _ in range(12)), return_exceptions=True)
    return next((str(each) for each in told if each == "saturated"), str(told[0]))


# -- as they should not -------------------------------------------------------------------------------------


async def fills_the_limit(town: Town, rng: random.Random) -> str:
    return await ask(town, rng, CHAT, bodies.AT_LIMIT)


async def is_one_over(town: Town, rng: random.Random) -> str:
    return await ask(town, rng, CHAT, bodies.OVER_LIMIT)


async def is_one_over_in_chunks(town: Town, rng: random.Random) -> str:
    async def pieces() -> Any:
        for start in range(0, len(bodies.OVER_LIMIT), CHUNK_BYTES):
            yield bodies.OVER_LIMIT[start : start + CHUNK_BYTES]

    return await ask(town, rng, CHAT, pieces())


async def flood(town: Town, rng: random.Random) -> str:
    """More than what may be held at once."""
    told = await asyncio.gather(*(fills_the_limit(town, rng) for _ in range(10)), return_exceptions=True)
    return next((str(each) for each in told if each == "overloaded"), str(told[0]))


async def bombs(town: Town, rng: random.Random) -> str:
    return await ask(town, rng, CHAT, bodies.BOMB, {"content-encoding": "gzip"})


async def encodes_oddly(town: Town, rng: random.Random) -> str:
    return await ask(town, rng, CHAT, b"{}", {"content-encoding": rng.choice(["rot13", "gzip, gzip, gzip"])})


async def sends_next_to_nothing(town: Town, rng: random.Random) -> str:
    return await ask(town, rng, CHAT, rng.choice([b"{}", b"0", b'{"model":"qwq"}', b"[]", b""]))


async def sends_no_json(town: Town, rng: random.Random) -> str:
    body = rng.choice(
        [b"{", b'{"model": "qwq", }', b"\xff" * 1000, b"[" * 10_000, b'{"model": "q' + b"w" * 9999]
    )
    return await ask(town, rng, CHAT, body)


async def controls(town: Town, rng: random.Random) -> str:
    """With what only we may say."""
    pin = {"x-gateway-destination-endpoint": "127.0.0.1:1", "x-extproc-pool": "none"}
    return await post(town, rng, bodies.chat(rng, "qwq"), **{k.replace("-", "_"): v for k, v in pin.items()})
