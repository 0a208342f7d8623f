"""Requests wait with us while every pod has a waiting queue, as clients of a real Envoy see it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from conftest import StartStack
from stack import (
    BUFFERED,
    DUPLEX,
    SHARED,
    Stack,
    client_of,
    eventually,
    ext_proc_of,
    one_pool,
    running,
    running_service,
    stack_fixture,
)
from upstream import IDLE_METRICS

from extproc.demo.bootstrap import POOL
from extproc.demo.envoy import Envoy
from extproc.demo.service import Sim

pytestmark = SHARED

CHAT = "/v1/chat/completions"
BUSY_METRICS = IDLE_METRICS.replace(
    'waiting{engine="0",model_name="m"} 0.0', 'waiting{engine="0",model_name="m"} 1.0'
)
MODELS = [
    {"name": "m", "pool": POOL},
    {"name": "critical", "pool": POOL, "criticality": "Critical"},
    {"name": "sheddable", "pool": POOL, "criticality": "Sheddable"},
]


def holding(addresses: list[str], **queue: Any) -> Mapping[str, Any]:
    queue = {"timeout_s": 5.0, "max_requests": 5, "tenant": {"header": "x-tenant"}} | queue
    pool = {"name": POOL, "endpoints": addresses, "metrics": {"interval_s": 0.05}, "queue": queue}
    return {"pools": [pool], "models": MODELS}


shared_stack = stack_fixture(holding, [BUFFERED, DUPLEX])


async def told(stack: Stack, page: str, waiting: int) -> None:
    """Every pod shows *page* from now on, and the service knows."""
    for upstream in stack.upstreams:
        upstream.metrics = page

    async def waits() -> set[int]:
        return {e["metrics"]["waiting"] for e in (await stack.endpoints()).values()}

    await eventually(waits, lambda counts: counts == {waiting})


async def busy(stack: Stack) -> None:
    await told(stack, BUSY_METRICS, 1)


async def idle(stack: Stack) -> None:
    await told(stack, IDLE_METRICS, 0)


async def held(stack: Stack) -> int:
    (queue,) = (await stack.state())["queues"]
    return int(queue["critical"] + queue["standard"])


async def post(client: aiohttp.ClientSession, model: str = "m", **arguments: Any) -> tuple[int, str, Any]:
    """(status, x-extproc-reason, JSON of the answer)."""
    async with client.post(CHAT, json={"model": model}, **arguments) as response:
        return response.status, response.headers.get("x-extproc-reason", ""), await response.json()


async def test_a_request_waits_while_every_pod_has_a_queue_and_goes_on_when_one_has_not(stack: Stack) -> None:
    await busy(stack)
    waiting = asyncio.create_task(stack.chat())
    await eventually(lambda: held(stack), lambda count: count == 1)
    assert stack.received() == []

    stack.upstreams[1].metrics = IDLE_METRICS

    answer = await waiting
    assert answer["served_by"] == stack.upstreams[1].address
    line = await stack.log_of(answer)
    assert (line["outcome"], line["queued_ms"] > 0) == ("completed", True)
    await idle(stack)
    assert await held(stack) == 0


async def test_of_a_crowd_that_waits_everybody_is_served_once(stack: Stack) -> None:
    await busy(stack)
    who = [("m", "greedy"), ("m", "greedy"), ("m", "greedy"), ("m", "modest"), ("critical", "greedy")]
    crowd = []
    for number, (model, tenant) in enumerate(who, 1):
        crowd.append(asyncio.create_task(stack.chat(model, headers={"x-tenant": tenant})))
        await eventually(lambda: held(stack), lambda count, number=number: count == number)  # type: ignore[misc]
    stack.received()

    await idle(stack)

    await asyncio.gather(*crowd)
    received = [(json.loads(r.body)["model"], *r.values("x-tenant")) for r in stack.received()]
    assert sorted(received) == sorted(who)
    assert await stack.metric("queue_dispatches_total", pool=POOL, result="dispatched") >= 5


async def test_a_full_queue_refuses_standard_work_lets_critical_work_through_and_sheds_the_rest(
    stack: Stack,
) -> None:
    await busy(stack)
    crowd = []
    for number in range(1, 6):
        crowd.append(asyncio.create_task(stack.chat()))
        await eventually(lambda: held(stack), lambda count, number=number: count == number)  # type: ignore[misc]

    assert (await post(stack.client))[:2] == (429, "saturated")
    assert (await post(stack.client, "sheddable"))[:2] == (429, "saturated")
    assert (await stack.chat("critical"))["served_by"]

    await idle(stack)
    assert len(await asyncio.gather(*crowd)) == 5


async def test_a_client_that_leaves_while_it_waits_is_dropped_at_once(stack: Stack) -> None:
    await busy(stack)
    stack.received()
    waiting = asyncio.create_task(stack.client.post(CHAT, json={"model": "m"}))
    await eventually(lambda: held(stack), lambda count: count == 1)

    waiting.cancel()

    await eventually(lambda: held(stack), lambda count: count == 0, within_s=4.0)
    await stack.idle()
    assert (await stack.metric("queue_dispatches_total", result="gone"), stack.received()) == (1, [])
    await idle(stack)


@pytest.mark.asyncio(loop_scope="function")
async def test_a_metrics_page_that_fails_holds_nobody_for_longer_than_its_figures_are_fresh(
    start_stack: StartStack,
) -> None:
    def config(addresses: list[str]) -> Mapping[str, Any]:
        settings = holding(addresses, timeout_s=60.0)
        settings["pools"][0]["metrics"]["max_age_s"] = 0.5
        return settings

    stack = await start_stack(BUFFERED, config, upstreams=1)
    await busy(stack)
    waiting = asyncio.create_task(stack.chat())
    await eventually(lambda: held(stack), lambda count: count == 1)

    stack.upstreams[0].metrics = "no figures"

    assert (await waiting)["served_by"] == stack.upstreams[0].address


@pytest.mark.asyncio(loop_scope="function")
async def test_a_reload_that_takes_the_queue_away_sends_on_who_waits(start_stack: StartStack) -> None:
    stack = await start_stack(BUFFERED, holding, upstreams=1)
    await busy(stack)
    waiting = asyncio.create_task(stack.chat())
    await eventually(lambda: held(stack), lambda count: count == 1)

    stack.service.write_config(one_pool([stack.upstreams[0].address]))

    assert (await waiting)["served_by"] == stack.upstreams[0].address
    assert (await stack.state())["queues"] == []


@pytest.mark.asyncio(loop_scope="function")
@pytest.mark.parametrize("way", [BUFFERED, DUPLEX], ids=lambda way: way.bootstrap)
async def test_who_waits_in_vain_is_told_to_come_back(start_stack: StartStack, way: Any) -> None:
    stack = await start_stack(way, lambda addresses: holding(addresses, timeout_s=0.15), upstreams=1)
    await busy(stack)

    async with stack.client.post(CHAT, json={"model": "m"}) as response:
        error = (await response.json())["error"]

    assert (response.status, response.headers["retry-after"]) == (503, "1")
    assert response.headers["x-extproc-reason"] == "queue_timeout"
    assert error == {
        "message": f"No endpoint of pool `{POOL}` had room in time; try again later.",
        "type": "service_unavailable_error",
        "param": None,
        "code": "queue_timeout",
    }
    assert stack.received() == []


@pytest.mark.asyncio(loop_scope="function")
async def test_envoys_message_timeout_must_be_above_ours(start_stack: StartStack, tmp_path: Path) -> None:
    """By default it is 200 ms: our default fits, a longer one needs it raised, as the bootstraps do."""
    stack = await start_stack(BUFFERED, lambda addresses: holding(addresses, timeout_s=5.0), upstreams=1)
    bootstrap = yaml.safe_load(stack.envoy.config_file.read_text())
    del ext_proc_of(bootstrap)[0]["message_timeout"]
    pools = {POOL: [upstream.address for upstream in stack.upstreams]}
    hasty = Envoy(BUFFERED.bootstrap, tmp_path, pools=pools, name="hasty")
    hasty.config_file.write_text(yaml.safe_dump(bootstrap))
    await busy(stack)

    async with running(hasty), client_of(hasty) as client, client.post(CHAT, json={"model": "m"}) as response:
        assert (response.status, "x-extproc-reason" in response.headers) == (504, False)
        await stack.idle()
        assert await held(stack) == 0
        stack.service.write_config(holding([stack.upstreams[0].address], timeout_s=0.1))
        await eventually(stack.state, lambda state: state["queues"][0]["timeout_s"] == 0.1)
        assert (await post(client))[:2] == (503, "queue_timeout")


@pytest.mark.asyncio(loop_scope="function")
async def test_what_a_vllm_with_a_full_batch_has_no_room_for_waits_with_us(tmp_path: Path) -> None:
    """As long as its batch of four goes on, it gets no more than those that were sent before it was seen to queue."""
    sim = Sim(tmp_path, "--model", "m", "--max-num-seqs", "4", "--speed", "2", name="sim")
    async with running(sim):
        config = holding([sim.address], timeout_s=60.0, max_requests=100)
        async with running_service(config, tmp_path) as service:
            envoy = Envoy(BUFFERED.bootstrap, tmp_path, pools={POOL: [sim.address]}, ext_proc=service.grpc)
            async with running(envoy), client_of(envoy) as client:
                stack = Stack(client, envoy, service, [], BUFFERED)

                async def complete(tokens: int) -> int:
                    body = {"model": "m", "prompt": "Tell me", "max_tokens": tokens, "ignore_eos": True}
                    async with client.post("/v1/completions", json=body) as response:
                        await response.read()
                        return response.status

                async def waiting_there() -> int:
                    (endpoint,) = (await stack.endpoints()).values()
                    return int(endpoint["metrics"]["waiting"])

                endless = [asyncio.create_task(complete(30_000)) for _ in range(8)]  # minutes
                await eventually(waiting_there, lambda count: count >= 1)
                crowd = [asyncio.create_task(complete(20)) for _ in range(16)]
                await eventually(lambda: held(stack), lambda count: count >= 16)
                assert await waiting_there() <= 4

                for request in endless:
                    request.cancel()
                await asyncio.gather(*endless, return_exceptions=True)
                assert set(await asyncio.gather(*crowd)) == {200}
                assert await stack.metric("queue_dispatches_total", result="dispatched") >= 16
                await stack.idle()
