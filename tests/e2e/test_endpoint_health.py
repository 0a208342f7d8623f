"""Endpoints that refuse, reset or answer 503 are set aside, and tried again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from stack import SHARED, Stack, Way, eventually, stack_fixture

pytestmark = SHARED

ONE_TRY = [Way("buffered", "original-dst"), Way("duplex", "original-dst")]
"""Without retries a client sees what became of its request at the endpoint that was chosen."""

shared_stack = stack_fixture(ways=ONE_TRY)


async def statuses(stack: Stack, count: int) -> list[int]:
    async def ask() -> int:
        async with stack.client.post("/v1/completions", json={"model": "m"}) as response:
            return response.status

    return [await ask() for _ in range(count)]


async def until_set_aside(stack: Stack, address: str) -> dict[str, Any]:
    async def ask() -> dict[str, Any]:
        await statuses(stack, 1)
        return (await stack.endpoints())[address]

    return await eventually(ask, lambda endpoint: not endpoint["ready"])


async def until_served(stack: Stack, address: str) -> None:
    async def ask() -> bool:
        return bool((await stack.chat())["served_by"] == address)

    await eventually(ask, bool, within_s=30)


async def test_an_endpoint_that_refuses_is_set_aside_until_it_is_back(stack: Stack) -> None:
    upstream = stack.upstreams[0]

    await upstream.stop()
    endpoints = await eventually(stack.endpoints, lambda e: not e[upstream.address]["ready"])
    assert endpoints[upstream.address]["health"]["cause"] == "scrape_refused"
    assert await statuses(stack, 20) == [200] * 20
    assert await stack.metric("endpoint_ready", endpoint=upstream.address) == 0

    await upstream.start()
    await until_served(stack, upstream.address)
    assert await stack.metric("endpoint_ready", endpoint=upstream.address) == 1


@pytest.mark.parametrize(
    ("status", "cause"), [(503, "answered"), (0, "unreachable")], ids=["answers 503", "resets"]
)
async def test_an_endpoint_that_fails_requests_is_set_aside_for_a_while_and_tried_again(
    stack: Stack, status: int, cause: str
) -> None:
    upstream = stack.upstreams[1]
    set_aside = await stack.metric("endpoints_set_aside_total", cause=cause)

    upstream.status = status
    endpoint = await until_set_aside(stack, upstream.address)
    upstream.status = 200
    meanwhile = await statuses(stack, 20)

    assert (endpoint["health"]["cause"], meanwhile) == (cause, [200] * 20)
    assert await stack.metric("endpoints_set_aside_total", cause=cause) == set_aside + 1
    await until_served(stack, upstream.address)
    assert (await stack.endpoints())[upstream.address]["health"] == {
        "failures": 0,
        "failing": False,
        "set_aside_for_s": 0.0,
        "cause": None,
    }


async def test_a_client_whose_requests_crash_sets_nobody_aside(stack: Stack) -> None:
    for _ in range(12):
        async with stack.client.post("/v1/completions?status=500", json={"model": "m"}) as response:
            assert response.status == 500

    assert {endpoint["ready"] for endpoint in (await stack.endpoints()).values()} == {True}


async def test_a_pool_of_which_all_fail_is_not_set_aside_as_a_whole(stack: Stack) -> None:
    for upstream in stack.upstreams:
        upstream.status = 503
    await asyncio.gather(*(statuses(stack, 10) for _ in range(4)))
    for upstream in stack.upstreams:
        upstream.status = 200

    endpoints = (await stack.endpoints()).values()
    assert 1 <= sum(not endpoint["ready"] for endpoint in endpoints) < len(stack.upstreams)
    assert await statuses(stack, 10) == [200] * 10
    await eventually(stack.endpoints, lambda e: all(x["ready"] for x in e.values()), within_s=30)
