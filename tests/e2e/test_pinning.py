"""The pin: fallbacks that Envoy's retries walk, what serves instead, and subset hints that bound the choice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import StartStack
from stack import BUFFERED, DUPLEX, WAYS, Stack, Way, client_of, eventually, ext_proc_of, running

from extproc.demo.bootstrap import POOL
from extproc.demo.envoy import Envoy

pytestmark = pytest.mark.envoy

BOTH = pytest.mark.parametrize("way", [BUFFERED, DUPLEX], ids=lambda way: way.bootstrap)


def with_fallbacks(addresses: list[str]) -> dict[str, Any]:
    return {"pools": [{"name": POOL, "endpoints": addresses, "fallback_endpoints": 2}]}


@asynccontextmanager
async def other_envoy(
    stack: Stack,
    directory: Path,
    addresses: list[str] | None = None,
    change: Callable[[dict[str, Any]], None] = lambda bootstrap: None,
) -> AsyncIterator[Stack]:
    """The stack behind another Envoy, which knows *addresses* (default: the upstreams)."""
    pools = {POOL: addresses or [upstream.address for upstream in stack.upstreams]}
    name = stack.way.bootstrap
    envoy = Envoy(name, directory, pools=pools, ext_proc=stack.service.grpc, name="other")
    bootstrap = yaml.safe_load(envoy.config_file.read_text())
    change(bootstrap)
    envoy.config_file.write_text(yaml.safe_dump(bootstrap))
    async with running(envoy), client_of(envoy) as client:
        yield Stack(client, envoy, stack.service, stack.upstreams, stack.way)


@BOTH
async def test_fallbacks_follow_the_chosen_one_and_retries_walk_them(
    start_stack: StartStack, way: Way
) -> None:
    stack = await start_stack(way, with_fallbacks)
    everyone = {upstream.address for upstream in stack.upstreams}
    failing = stack.upstreams[0]
    failing.status = 503

    streams = [asyncio.create_task(read_stream(stack)) for _ in range(3)]  # one chosen each
    counts = await eventually(
        stack.in_flight, lambda counts: sum(counts.values()) == 3 and failing.address not in counts
    )
    stack.open_gates()
    served = await asyncio.gather(*streams)
    await stack.idle()

    pins = [request.values("x-gateway-destination-endpoint")[0].split(",") for request in stack.received()]
    assert len(pins) == 4  # three, and a retry of the one
    assert all(len(pin) == 3 and set(pin) == everyone for pin in pins)
    assert counts == {address: served.count(address) for address in served}
    lines = await eventually(
        lambda: [line for line in stack.service.log() if line["event"] == "request"],
        lambda lines: len(lines) == 3,
    )
    (moved,) = [line for line in lines if line["endpoint"] == failing.address]
    assert moved["served"] == moved["fallbacks"][0]
    assert (moved["status"], moved["outcome"]) == (200, "completed")
    health = {address: e["health"]["failures"] for address, e in (await stack.endpoints()).items()}
    assert health == {address: int(address == failing.address) for address in everyone}
    assert await stack.metric("pin_misses_total") == 0


async def read_stream(stack: Stack) -> str:
    async with stack.client.post("/v1/completions?gated", json={"model": "m"}) as response:
        await response.read()
        assert response.status == 200
        return response.headers["x-served-by"]


@BOTH
async def test_an_endpoint_that_is_gone_costs_no_request_where_fallbacks_follow(
    start_stack: StartStack, way: Way
) -> None:
    stack = await start_stack(way, with_fallbacks)
    gone, *left = stack.upstreams
    await gone.stop()

    served = [(await stack.chat())["served_by"] for _ in range(30)]

    assert set(served) == {upstream.address for upstream in left}
    endpoints = await eventually(stack.endpoints, lambda endpoints: not endpoints[gone.address]["ready"])
    assert [address for address, e in endpoints.items() if not e["ready"]] == [gone.address]


@BOTH
async def test_where_envoy_goes_elsewhere_it_is_counted_and_logged_and_nobody_is_charged(
    start_stack: StartStack, tmp_path: Path, way: Way
) -> None:
    def all_but_the_last(addresses: list[str]) -> dict[str, Any]:
        return {"pools": [{"name": POOL, "endpoints": addresses[:-1]}]}

    stack = await start_stack(way, all_but_the_last)
    stranger = stack.upstreams[-1].address

    async with (
        other_envoy(stack, tmp_path, [stranger]) as other,
        other.client.post("/v1/completions?gated", json={"model": "m"}) as response,
    ):
        meanwhile = await stack.in_flight()
        stack.open_gates()
        await response.read()
    await stack.idle()

    assert response.headers["x-served-by"] == stranger
    assert meanwhile == {}
    assert await stack.metric("pin_misses_total", pool=POOL) == 1
    (line,) = await eventually(
        lambda: [line for line in stack.service.log() if line["event"] == "pin_miss"], bool
    )
    assert (line["pool"], line["served"], line["level"]) == (POOL, stranger, "warning")


HINT = "envoy.lb.subset_hint"
KEY = "x-gateway-destination-endpoint-subset"


def with_hint(value: str | list[str]) -> Callable[[dict[str, Any]], None]:
    """A filter before ext_proc that sets the hint, as a gateway does that knows of a subset."""

    def change(bootstrap: dict[str, Any]) -> None:
        ext_proc, filters = ext_proc_of(bootstrap)
        ext_proc["metadata_options"]["forwarding_namespaces"]["untyped"].append(HINT)
        kind = "type.googleapis.com/envoy.extensions.filters.http.set_metadata.v3.Config"
        metadata = [{"metadata_namespace": HINT, "value": {KEY: value}}]
        config = {"@type": kind, "metadata": metadata}
        filters.insert(0, {"name": "envoy.filters.http.set_metadata", "typed_config": config})

    return change


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.bootstrap)
async def test_a_subset_hint_is_obeyed(start_stack: StartStack, tmp_path: Path, way: Way) -> None:
    stack = await start_stack(way)
    first, second, third = [upstream.address for upstream in stack.upstreams]
    served: dict[str, set[str]] = {}
    hints: list[tuple[str, str | list[str]]] = [
        ("a list", [second]),
        ("a string", f"10.0.0.1:8000, {first},{third}"),
        ("an ip", ["127.0.0.1"]),
        ("nobody", "10.0.0.1:8000"),
    ]
    for name, hint in hints:
        async with other_envoy(stack, tmp_path, change=with_hint(hint)) as hinted:
            served[name] = set()
            for _ in range(20):
                async with hinted.client.post("/v1/completions", json={"model": "m"}) as response:
                    header = "x-served-by" if response.status == 200 else "x-extproc-reason"
                    served[name].add(response.headers[header])
                async with hinted.client.get("/version") as response:
                    served[name].add(response.headers[header])

    assert served == {
        "a list": {second},
        "a string": {first, third},
        "an ip": {first, second, third},
        "nobody": {"no_endpoints"},
    }
