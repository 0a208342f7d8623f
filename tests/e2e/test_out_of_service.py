"""Cordon, maxima and sessions as an operator and clients of a real Envoy see them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import StartStack
from stack import BUFFERED, DUPLEX, QUICK_STOP, Stack, Way, eventually, one_pool
from upstream import exchange

from extproc.demo.bootstrap import POOL

pytestmark = pytest.mark.envoy

TOKEN = "a-token-of-some-length"
WAYS = pytest.mark.parametrize("way", [BUFFERED, DUPLEX], ids=lambda way: way.bootstrap)


async def extproc(stack: Stack, directory: Path, *words: str) -> tuple[int, str]:
    """(exit code, what it prints) of a command that asks the service."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "extproc", *words, "--router", stack.service.http, "--token-file", str(directory / "token")),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    printed, _ = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode or 0, printed.decode()


async def served_by(stack: Stack, count: int = 12, **arguments: Any) -> set[str]:
    return {(await stack.chat(**arguments))["served_by"] for _ in range(count)}


async def start_with_token(
    start_stack: StartStack, directory: Path, way: Way = BUFFERED, **options: Any
) -> Stack:
    (directory / "token").write_text(TOKEN)
    return await start_stack(
        way, flags=(*QUICK_STOP, "--http-token-file", str(directory / "token")), **options
    )


@WAYS
async def test_a_cordoned_pod_finishes_what_it_has_and_gets_nothing_more_until_it_is_uncordoned(
    start_stack: StartStack, tmp_path: Path, way: Way
) -> None:
    stack = await start_with_token(start_stack, tmp_path, way)
    asked = {"model": "m", "stream": True}
    async with stack.client.post("/v1/chat/completions?gated", json=asked) as response:
        address = response.headers["x-served-by"]
        others = {upstream.address for upstream in stack.upstreams} - {address}

        code, printed = await extproc(stack, tmp_path, "cordon", address)

        assert (code, printed) == (
            0,
            f"{address} gets no new request from {stack.service.http}; 1 in flight may finish.\n"
            f"Pool {POOL}: 2 of 3 endpoints are left.\n"
            "Other replicas of the router have not been told.\n",
        )
        assert await served_by(stack) == others
        stack.open_gates()
        assert (await response.read()).endswith(b"data: [DONE]\n\n")
    await eventually(stack.in_flight, lambda counts: counts == {})
    endpoint = (await stack.endpoints())[address]
    assert (endpoint["cordoned"], endpoint["ready"], endpoint["in_flight"]) == ("command", True, 0)
    assert await stack.metric("endpoint_cordoned", endpoint=address) == 1
    assert await stack.metric("endpoint_cordoned") == 1

    config = one_pool([upstream.address for upstream in stack.upstreams])
    stack.service.write_config({**config, "limits": {"max_body_bytes": 1000}})
    await eventually(stack.state, lambda state: state["config"]["values"]["limits"]["max_body_bytes"] == 1000)
    assert await served_by(stack) == others

    assert (await extproc(stack, tmp_path, "uncordon", address))[0] == 0
    assert await served_by(stack, 30) == {address, *others}


async def test_who_has_not_the_token_cordons_nobody(start_stack: StartStack, tmp_path: Path) -> None:
    stack = await start_with_token(start_stack, tmp_path)
    address = stack.upstreams[0].address
    wrong = {"Authorization": "Bearer guessed-by-somebody"}
    async with stack.client.post(
        f"{stack.service.http}/endpoints/{address}/cordon", headers=wrong
    ) as response:
        assert response.status == 401

    assert await served_by(stack, 30) == {upstream.address for upstream in stack.upstreams}
    assert await stack.metric("http_requests_denied_total") == 1


async def test_where_all_pods_are_cordoned_clients_are_told_so(start_stack: StartStack) -> None:
    def cordoned(addresses: list[str]) -> Mapping[str, Any]:
        endpoints = [{"address": address, "cordoned": True} for address in addresses]
        return {"pools": [{"name": POOL, "endpoints": endpoints}]}

    stack = await start_stack(BUFFERED, cordoned)
    async with stack.client.post("/v1/chat/completions", json={"model": "m"}) as response:
        assert (response.status, response.headers["x-extproc-reason"]) == (503, "no_endpoints")
    assert stack.received() == []


def at_most_one(addresses: list[str], **more: Any) -> Mapping[str, Any]:
    pool = {"name": POOL, "endpoints": addresses, "max_in_flight": 1, **more}
    return {"pools": [pool], "models": [{"name": "critical", "pool": POOL, "criticality": "Critical"}]}


async def chat(stack: Stack, query: str = "", model: str = "m") -> tuple[int, str]:
    """(status, reason)"""
    async with stack.client.post(f"/v1/chat/completions{query}", json={"model": model}) as response:
        await response.read()
        return response.status, response.headers.get("x-extproc-reason", "")


@WAYS
async def test_a_pod_at_its_maximum_gets_no_more_but_critical_work(start_stack: StartStack, way: Way) -> None:
    stack = await start_stack(way, at_most_one, upstreams=2)
    busy = [asyncio.create_task(chat(stack, "?hold_s=3")) for _ in range(2)]
    counts = {upstream.address: 1 for upstream in stack.upstreams}
    await eventually(stack.in_flight, lambda found: found == counts)

    assert await chat(stack) == (429, "saturated")
    assert await chat(stack, model="critical") == (200, "")

    assert await asyncio.gather(*busy) == [(200, ""), (200, "")]
    await stack.idle()
    assert await chat(stack) == (200, "")


async def test_with_a_queue_a_request_waits_for_a_pod_below_its_maximum(start_stack: StartStack) -> None:
    stack = await start_stack(
        BUFFERED, lambda addresses: at_most_one(addresses, queue={"timeout_s": 9.0}), upstreams=2
    )
    crowd = [asyncio.create_task(chat(stack, "?hold_s=0.3")) for _ in range(8)]
    most = 0
    while not all(task.done() for task in crowd):
        most = max([most, *(await stack.in_flight()).values()])
    assert await asyncio.gather(*crowd) == [(200, "")] * 8
    assert most == 1
    assert await stack.metric("queue_dispatches_total", result="dispatched") >= 6


def by_cookie(addresses: list[str]) -> Mapping[str, Any]:
    scorers = [{"type": "session-affinity", "header": "x-session-id", "cookie": "sid", "load_bound": 100.0}]
    return {**one_pool(addresses), "profiles": [{"name": "default", "scorers": scorers}]}


async def test_a_session_stays_with_its_pod_by_header_and_by_cookie_in_however_many_lines(
    start_stack: StartStack,
) -> None:
    stack = await start_stack(BUFFERED, by_cookie, upstreams=3)
    homes = {}
    for session in map(str, range(8)):
        by_header = await served_by(stack, 3, headers={"x-session-id": session})
        assert by_header == await served_by(stack, 3, headers={"cookie": f"a=1; sid={session}; b=2"})
        (homes[session],) = by_header
    assert len(set(homes.values())) > 1
    for session, home in homes.items():
        request = (
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            b"cookie: a=1\r\ncookie: sid=%s\r\ncookie: b=2\r\ncontent-length: 13\r\nconnection: close\r\n\r\n"
            b'{"model":"m"}' % session.encode()
        )
        head, _, _ = await exchange(stack.envoy.listen, request)
        assert f"x-served-by: {home}".encode() in head.lower()
