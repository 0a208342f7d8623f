"""What happens to those that the service lives among: each is over when it returns, and nothing is left of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from extproc.sim.faults import Faults

from .askers import chats
from .asking import CHAT
from .town import Town

Event = Callable[[Town, random.Random, float], Awaitable[object]]
"""Of the time in seconds that it is to last."""

ENDLESS_S = 1.5
"""A page without end is sent as fast as it is read; longer, and it is all that anybody does."""
BURST = 60
"""Chats at once: more than what is served at the same time otherwise."""


async def endpoint_comes_and_goes(town: Town, rng: random.Random, lasts_s: float) -> None:
    address = town.settings.another_address(rng.randrange(len(town.pods)))
    town.settings.added.append(address)
    await town.reload()
    await asyncio.sleep(lasts_s)
    if address in town.settings.added:
        town.settings.added.remove(address)
    await town.reload()


async def endpoint_leaves_and_returns(town: Town, rng: random.Random, lasts_s: float) -> None:
    pod = rng.randrange(len(town.pods))
    address = town.settings.own.pop(pod, None)
    await town.reload()
    await asyncio.sleep(lasts_s)
    if address is not None:
        town.settings.own[pod] = address
    await town.reload()


async def endpoint_is_replaced(town: Town, rng: random.Random, lasts_s: float) -> None:
    pod = rng.choice(list(town.settings.own))
    town.settings.own[pod] = town.settings.another_address(pod)
    await town.reload()
    await asyncio.sleep(lasts_s)


async def config_is_faulty(town: Town, rng: random.Random, lasts_s: float) -> None:
    """In one of the ways that a file can be; then it is put right."""
    file = town.service.config_file
    text = rng.choice(
        ["pools: [", "pools: []", "poools: 1", "\0", "pools: [{name: a, endpoints: [nowhere]}]"]
    )
    if rng.random() < 0.2:
        file.unlink(missing_ok=True)
    else:
        file.write_text(text)
    await asyncio.sleep(max(1.2, lasts_s))  # it is looked at each second
    await town.reload()


async def model_is_rolled(town: Town, rng: random.Random, lasts_s: float) -> None:
    """A new name each time, which the one before never gets again."""
    loop = asyncio.get_running_loop()
    if loop.time() < town.rolls_until:
        town.settings.rolled = f"rolled-{rng.randrange(10**9)}"
        await town.reload()
        await asyncio.sleep(lasts_s)


async def pages_are_bad(town: Town, rng: random.Random, lasts_s: float) -> None:
    kind = rng.choice(["slow:0.3", "slow:2", "garbage", "error", "huge", "endless", "stall"])
    short = kind in ("huge", "endless")
    await _misbehaving(town, rng, Faults(metrics=kind), min(lasts_s, ENDLESS_S) if short else lasts_s)


async def pod_dies(town: Town, rng: random.Random, lasts_s: float) -> None:
    await _misbehaving(town, rng, Faults(requests="refuse"), lasts_s)


async def pod_fails(town: Town, rng: random.Random, lasts_s: float) -> None:
    kind = rng.choice(["500", "502", "503", "504", "reset", "reset-mid-stream:2", "stall"])
    await _misbehaving(town, rng, Faults(requests=kind), lasts_s)


async def pod_is_slow(town: Town, rng: random.Random, lasts_s: float) -> None:
    await _misbehaving(town, rng, Faults(latency_s=1.0), lasts_s)


async def _misbehaving(town: Town, rng: random.Random, faults: Faults, lasts_s: float) -> None:
    pod = rng.choice(town.pods)
    await pod.set_faults(faults)
    await asyncio.sleep(lasts_s)
    await pod.set_faults(Faults())


async def endpoint_is_cordoned(town: Town, rng: random.Random, lasts_s: float) -> None:
    address = rng.choice(list(town.settings.own.values()))
    async with town.asked("POST", f"/endpoints/{address}/cordon") as answer:
        await answer.read()
    await asyncio.sleep(lasts_s)
    async with town.asked("POST", f"/endpoints/{address}/uncordon") as answer:
        await answer.read()


async def pods_of_the_cluster_change(town: Town, rng: random.Random, lasts_s: float) -> None:
    events = 20
    url = f"http://127.0.0.1:{town.cluster.port}/churn?events={events}&rate={events / lasts_s:g}"
    async with town.client.get(url) as answer:
        await answer.read()


async def watches_are_dropped(town: Town, rng: random.Random, lasts_s: float) -> None:
    async with town.client.get(f"http://127.0.0.1:{town.cluster.port}/drop") as answer:
        await answer.read()


async def nobody_reads_the_log(town: Town, rng: random.Random, lasts_s: float) -> None:
    town.service.reading.clear()
    await asyncio.sleep(lasts_s)
    town.service.reading.set()


async def collector_is_ill(town: Town, rng: random.Random, lasts_s: float) -> None:
    if rng.random() < 0.5:
        town.collector.refuses = True
    else:
        town.collector.answers.clear()
    await asyncio.sleep(lasts_s)
    town.collector.recover()


async def all_come_at_once(town: Town, rng: random.Random, lasts_s: float) -> None:
    await asyncio.gather(*(chats(town, rng) for _ in range(BURST)), return_exceptions=True)


async def hangs_in_the_upload(town: Town, rng: random.Random, lasts_s: float) -> None:
    """A dozen clients that send the beginning of a body, and nothing for as long as they are let."""
    lines = [f"POST {CHAT} HTTP/1.1", "host: soak", "content-length: 1000"]
    writers = []
    try:
        for _ in range(12):
            _, writer = await asyncio.open_connection(*town.gate(rng))
            writers.append(writer)
            writer.write(("\r\n".join(lines) + "\r\n\r\n").encode() + b'{"model": "qwq"')
        await asyncio.sleep(lasts_s)
    finally:
        for writer in writers:
            writer.transport.abort()


EVENTS: list[Event] = [
    endpoint_comes_and_goes,
    endpoint_comes_and_goes,
    endpoint_leaves_and_returns,
    endpoint_is_replaced,
    endpoint_is_replaced,
    config_is_faulty,
    model_is_rolled,
    pages_are_bad,
    pages_are_bad,
    pod_dies,
    pod_fails,
    pod_fails,
    pod_is_slow,
    endpoint_is_cordoned,
    pods_of_the_cluster_change,
    pods_of_the_cluster_change,
    watches_are_dropped,
    nobody_reads_the_log,
    collector_is_ill,
    all_come_at_once,
    hangs_in_the_upload,
]
"""One cycle, in an order that is drawn."""


async def settle(town: Town) -> None:
    """Everything is again as it was in the beginning.

    The Envoys, too: gRPC keeps some MB for each connection, more or less by what came last, until it is closed.
    """
    town.service.reading.set()
    town.collector.recover()
    for pod in town.pods:
        await pod.set_faults(Faults())
    for address in list(town.settings.own.values()):
        async with town.asked("POST", f"/endpoints/{address}/uncordon") as answer:
            await answer.read()
    town.settings.restore()
    await town.reload()
    await asyncio.gather(*(town.restart_envoy(number) for number in range(len(town.envoys))))
