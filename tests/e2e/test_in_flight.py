"""In-flight counts rest on the life of the ext_proc stream: exact while an answer runs, 0 however it ends."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from conftest import StartStack
from stack import BUFFERED, DUPLEX, SHARED, Stack, Way, eventually, stack_fixture

pytestmark = SHARED

CHAT = "/v1/chat/completions"
BODY = {"model": "m", "stream": True}

shared_stack = stack_fixture()


async def last_outcome(stack: Stack, path: str) -> list[str]:
    """How requests to *path*, which one test alone uses, ended."""
    await stack.idle()
    lines = await eventually(
        lambda: [line for line in stack.service.log() if line.get("path") == path], lambda lines: lines
    )
    return [line["outcome"] for line in lines]


async def test_streamed_answers_count_until_their_last_byte(stack: Stack) -> None:
    stack.close_gates()
    begun = asyncio.Semaphore(0)

    async def stream() -> None:
        async with stack.client.post(CHAT + "?gated", json=BODY) as response:
            await response.content.readuntil(b"\n\n")
            begun.release()
            assert await response.content.read() == b"data: [DONE]\n\n"

    streams = [asyncio.create_task(stream()) for _ in range(3)]
    for _ in streams:
        await begun.acquire()
    running = {upstream.address: 1 for upstream in stack.upstreams}
    for upstream in stack.upstreams:
        assert await stack.in_flight() == running
        upstream.gate.set()
        del running[upstream.address]
        await eventually(stack.in_flight, lambda counts: counts == running)

    await asyncio.gather(*streams)
    await stack.idle()
    assert (await stack.state())["in_flight_counts"] == "exact"
    assert {e["lingering"] for e in (await stack.endpoints()).values()} == {0}


async def test_a_client_that_leaves_in_the_middle_of_an_answer_is_counted_down(stack: Stack) -> None:
    aborted = sum(upstream.aborted for upstream in stack.upstreams)
    path = "/left/v1/completions"

    async with stack.client.post(path + "?sse_s=20", json=BODY) as response:
        for _ in range(3):
            await response.content.readuntil(b"\n\n")
        served_by = response.headers["x-served-by"]
        assert await stack.in_flight() == {served_by: 1}
        response.close()

    # Envoy reports a departure after the response headers like an end.
    assert await last_outcome(stack, path) == ["completed"]
    await eventually(
        lambda: sum(upstream.aborted for upstream in stack.upstreams), lambda n: n == aborted + 1
    )


async def test_a_client_that_leaves_before_the_answer_is_counted_down_as_aborted(stack: Stack) -> None:
    path = "/impatient/v1/completions"

    with pytest.raises(TimeoutError):
        await stack.client.post(path + "?hold_s=20", json=BODY, timeout=aiohttp.ClientTimeout(0.5))

    assert await last_outcome(stack, path) == ["aborted"]


async def test_a_client_that_leaves_in_the_middle_of_its_upload_leaves_nothing_behind(stack: Stack) -> None:
    path = "/half/v1/completions"

    async def half() -> AsyncIterator[bytes]:
        yield b'{"model": "m", "x": "' + b"y" * 100_000
        await asyncio.sleep(20)
        yield b"never sent"

    upload = asyncio.create_task(stack.client.post(path, data=half()))
    await eventually(stack.state, lambda state: state["open_streams"] == 1)
    upload.cancel()

    assert await last_outcome(stack, path) == ["aborted"]
    assert "\nextproc_buffered_bytes 0.0\n" in await asyncio.to_thread(stack.service.metrics)
    assert stack.received() == []


@pytest.mark.parametrize(
    ("path", "events", "status", "outcome"),
    [
        ("/reset-late/v1/completions", 3, 200, "completed"),
        ("/reset/v1/completions", 0, 503, "upstream_error"),
    ],
    ids=["after some events", "instead of an answer"],
)
async def test_an_upstream_that_resets_the_connection_is_counted_down(
    stack: Stack, path: str, events: int, status: int, outcome: str
) -> None:
    received = b""
    async with stack.client.post(f"{path}?sse_s=20&reset={events}", json=BODY) as response:
        try:
            async for line in response.content:
                received += line
        except aiohttp.ClientPayloadError:
            pass

    assert (response.status, received.count(b"data: {")) == (status, events)
    assert await last_outcome(stack, path) == [outcome]


async def test_after_a_crowd_that_comes_goes_and_leaves_early_nothing_is_left_over(stack: Stack) -> None:
    rng = random.Random(7)
    path = "/crowd/v1/completions"

    async def visit() -> None:
        query = rng.choice(["", "?sse_s=0.3", "?hold_s=0.2", "?status=404", "?status=500"])
        patience = aiohttp.ClientTimeout(rng.choice([0.05, 0.2, 30, 30]))
        await asyncio.sleep(rng.random())
        try:
            async with stack.client.post(path + query, json=BODY, timeout=patience) as response:
                await response.read()
        except TimeoutError:
            pass

    await asyncio.gather(*(visit() for _ in range(120)))

    outcomes = await last_outcome(stack, path)
    assert set(outcomes) <= {"completed", "aborted", "upstream_error"}
    assert len(outcomes) <= 120


@pytest.mark.asyncio(loop_scope="function")
@pytest.mark.parametrize("way", [BUFFERED, DUPLEX], ids=lambda way: way.bootstrap)
async def test_the_streams_of_an_envoy_that_is_killed_are_counted_down(
    start_stack: StartStack, way: Way
) -> None:
    stack = await start_stack(way)

    async def stream() -> Any:
        async with stack.client.post(CHAT + "?sse_s=30", json=BODY) as response:
            await response.read()

    async def upload() -> AsyncIterator[bytes]:
        yield b'{"model": "m", '
        await asyncio.sleep(30)

    clients = [asyncio.create_task(stream()) for _ in range(9)]
    clients.append(asyncio.create_task(stack.client.post(CHAT, data=upload())))
    await eventually(stack.in_flight, lambda counts: list(counts.values()) == [3, 3, 3])
    await eventually(stack.state, lambda state: state["open_streams"] == 10)

    stack.envoy.kill()

    await stack.idle()
    ended = await asyncio.gather(*clients, return_exceptions=True)
    assert all(isinstance(end, aiohttp.ClientError) for end in ended)
