"""A config that changes under load: no request is lost, and what began goes on by the config it began with."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from conftest import StartStack
from stack import BUFFERED, DUPLEX, Stack, Way, eventually

from extproc.demo.bootstrap import POOL

pytestmark = pytest.mark.envoy

BOTH = pytest.mark.parametrize("way", [BUFFERED, DUPLEX], ids=lambda way: way.bootstrap)


def config(addresses: list[str], target: str = "first") -> dict[str, Any]:
    models = [{"name": "alias", "pool": POOL, "targets": [{"model": target}]}]
    return {"pools": [{"name": POOL, "endpoints": addresses}], "models": models}


def addresses_of(stack: Stack) -> list[str]:
    return [upstream.address for upstream in stack.upstreams]


def targets_of(stack: Stack) -> Counter[str]:
    return Counter(json.loads(request.body)["model"] for request in stack.received())


async def until_logged(stack: Stack, event: str, count: int) -> dict[str, Any]:
    """The *count*-th line of *event*; that many there are."""
    lines = await eventually(
        lambda: [line for line in stack.service.log() if line["event"] == event],
        lambda lines: len(lines) >= count,
    )
    assert len(lines) == count
    return lines[-1]


@BOTH
async def test_reloads_under_load_lose_no_request(start_stack: StartStack, way: Way) -> None:
    stack = await start_stack(way, config)
    addresses = addresses_of(stack)
    done = asyncio.Event()
    answered: Counter[int] = Counter()

    async def keep_asking() -> None:
        while not done.is_set():
            async with stack.client.post("/v1/completions", json={"model": "alias"}) as response:
                answered[response.status] += 1

    clients = [asyncio.create_task(keep_asking()) for _ in range(8)]
    # Another target; an endpoint goes; it comes back and another goes: in-flight requests of each go on.
    versions = [(addresses, "second"), (addresses[1:], "third"), (addresses[:2], "fourth")]
    for number, (members, target) in enumerate(versions):
        stack.service.write_config(config(members, target))
        await until_logged(stack, "config_loaded", number + 2)
        at_least = answered.total() + 20
        await eventually(answered.total, lambda total, least=at_least: total >= least)
    done.set()
    await asyncio.gather(*clients)

    assert set(answered) == {200}
    targets = targets_of(stack)
    assert set(targets) == {"first", "second", "third", "fourth"}
    await stack.idle()
    assert await stack.metric("config_last_reload_successful") == 1
    assert [e["address"] for e in (await stack.state())["pools"][0]["endpoints"]] == addresses[:2]


async def test_a_faulty_file_leaves_the_old_config_in_force_and_says_why(start_stack: StartStack) -> None:
    stack = await start_stack(BUFFERED, config)
    before = await stack.state()
    loaded_at = await stack.metric("config_last_reload_success_timestamp_seconds")

    stack.service.write_config(config(addresses_of(stack), "second") | {"pool": []})
    line = await until_logged(stack, "config_reload_failed", 1)
    await stack.chat("alias")

    assert targets_of(stack) == {"first": 1}
    assert line["level"] == "error"
    assert line["file"] == str(stack.service.config_file)
    (fault,) = line["faults"]
    assert fault.startswith("$.pool: ")
    assert await stack.metric("config_last_reload_successful") == 0
    assert await stack.metric("config_last_reload_success_timestamp_seconds") == loaded_at
    assert (await stack.state())["config"] == before["config"]

    stack.service.write_config(config(addresses_of(stack), "third"))
    await until_logged(stack, "config_loaded", 2)
    await stack.chat("alias")

    assert targets_of(stack) == {"third": 1}
    assert await stack.metric("config_last_reload_successful") == 1
    assert await stack.metric("config_last_reload_success_timestamp_seconds") > loaded_at
    assert (await stack.state())["config"]["sha256"] != before["config"]["sha256"]


async def test_a_file_that_is_written_again_as_it_was_is_no_reload(start_stack: StartStack) -> None:
    stack = await start_stack(BUFFERED, config)

    stack.service.write_config(config(addresses_of(stack)))
    stack.service.write_config(config(addresses_of(stack)))
    await asyncio.sleep(2.5)  # two looks at the file

    await until_logged(stack, "config_loaded", 1)


@BOTH
async def test_an_upload_that_began_before_a_reload_is_routed_by_the_config_it_began_with(
    start_stack: StartStack, way: Way
) -> None:
    stack = await start_stack(way, config)
    reloaded = asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield b'{"model": '
        await reloaded.wait()
        yield b'"alias"}'

    upload = asyncio.create_task(stack.client.post("/v1/completions", data=slowly()))
    await eventually(stack.state, lambda state: state["open_streams"] == 1)
    stack.service.write_config(config(addresses_of(stack), "second"))
    await until_logged(stack, "config_loaded", 2)
    await stack.chat("alias")
    assert targets_of(stack) == {"second": 1}
    reloaded.set()

    async with await upload as response:
        assert response.status == 200
    assert targets_of(stack) == {"first": 1}


@BOTH
async def test_an_answer_that_runs_is_counted_on_through_a_reload(start_stack: StartStack, way: Way) -> None:
    stack = await start_stack(way, config)

    async with stack.client.post("/v1/completions?gated", json={"model": "alias"}) as response:
        served_by = response.headers["x-served-by"]
        stack.service.write_config(config(addresses_of(stack), "second"))
        await until_logged(stack, "config_loaded", 2)
        assert await stack.in_flight() == {served_by: 1}
        stack.open_gates()
        events = await response.read()

    assert events.endswith(b"data: [DONE]\n\n")
    await stack.idle()
