"""What is not decided never reaches an upstream: not without the service, not when it ends, not half-way."""

from __future__ import annotations

import asyncio

import pytest
from conftest import StartStack
from stack import BUFFERED, WAYS, SlowBody, Way, eventually

from extproc.demo.bootstrap import POOL

pytestmark = pytest.mark.envoy

CHAT = "/v1/chat/completions"


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.bootstrap)
async def test_without_the_service_no_request_gets_through(start_stack: StartStack, way: Way) -> None:
    stack = await start_stack(way)
    assert (await stack.chat())["served_by"]
    stack.received()
    half = SlowBody(b'{"model": "m", ', b'"x": 1}')
    under_way = asyncio.create_task(half.post(stack))
    await eventually(stack.state, lambda state: state["open_streams"] == 1)

    stack.service.kill()

    await asyncio.to_thread(stack.service.wait, 10)
    half.go_on.set()
    assert (await under_way)[0] >= 500
    forged = {"x-gateway-destination-endpoint": stack.upstreams[0].address, "x-extproc-pool": POOL}
    for method, path, body in (("POST", CHAT, b'{"model": "m"}'), ("GET", "/version", None)):
        async with stack.client.request(method, path, data=body, headers=forged) as response:
            assert response.status == 503
    assert stack.received() == []


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.bootstrap)
async def test_what_is_undecided_when_the_drain_ends_is_refused_and_not_let_through(
    start_stack: StartStack, way: Way
) -> None:
    stack = await start_stack(way, flags=("--drain-delay", "0", "--drain-timeout", "0.3"))
    half = SlowBody(b'{"model": "m", ', b'"x": 1}')
    under_way = asyncio.create_task(half.post(stack))
    await eventually(stack.state, lambda state: state["open_streams"] == 1)

    stack.service.terminate()

    assert await under_way == (503, "shutting_down")
    half.go_on.set()
    assert await asyncio.to_thread(stack.service.wait, 10) == 0
    assert stack.received() == []
    refused = [line for line in stack.service.log() if line["event"] == "request"]
    assert [(line["outcome"], line["status"]) for line in refused] == [("shutting_down", 503)]


async def test_a_second_signal_ends_the_service_at_once_and_nothing_gets_through(
    start_stack: StartStack,
) -> None:
    stack = await start_stack(BUFFERED, flags=("--drain-delay", "60", "--drain-timeout", "60"))
    half = SlowBody(b'{"model": "m", ', b'"x": 1}')
    under_way = asyncio.create_task(half.post(stack))
    await eventually(stack.state, lambda state: state["open_streams"] == 1)

    stack.service.terminate()
    await eventually(stack.state, lambda state: state["not_ready"] == ["shutting down"])
    stack.service.terminate()

    assert await asyncio.to_thread(stack.service.wait, 10) == 1
    half.go_on.set()
    assert (await under_way)[0] == 503
    assert stack.received() == []
