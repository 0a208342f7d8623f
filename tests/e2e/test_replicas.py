"""Several routers at once behind one Envoy, as Envoy Gateway programs it: a rolling restart costs no request, a router
that is killed or hangs costs those that it had at that moment."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from replicas import Answers, Load, Replicas, Router, running_replicas
from stack import eventually

from extproc.demo.bootstrap import POOL

pytestmark = pytest.mark.envoy

CLIENTS = 24
STREAMS = 8


async def test_a_rolling_restart_of_all_under_load_fails_no_request_and_cuts_no_answer(
    tmp_path: Path,
) -> None:
    async with running_replicas(tmp_path, health_timeout="10s") as replicas:
        load = Load(replicas.client)
        load.begin(CLIENTS, "hold_s=0.2")
        load.begin(STREAMS, "sse_s=2")
        await load.more(2 * CLIENTS)
        for old in list(replicas.routers):
            await replicas.start()
            replicas.discover(*(router for router in replicas.routers if router.running))
            await replicas.healthy(3)
            await replicas.busy(old)
            refused = await replicas.refused()
            old.terminate()
            await replicas.healthy(2)
            assert await replicas.refused() == refused  # it was the router's own word
            assert await asyncio.to_thread(old.wait, 30) == 0
            replicas.discover(*(router for router in replicas.routers if router.running))
        await load.end()

    assert load.failures == []
    assert load.answered > 10 * CLIENTS


@pytest.mark.parametrize("fail_open", [False, True], ids=["fail closed", "fail open"])
async def test_a_router_that_is_killed_costs_what_it_had_and_nothing_once_that_is_noticed(
    tmp_path: Path, fail_open: bool
) -> None:
    async with running_replicas(tmp_path, failure_mode_allow=fail_open) as replicas:
        killed, _ = replicas.routers
        answers = Answers(replicas)
        await answers.begin(STREAMS)
        on_it = await replicas.open_streams(killed)
        load = Load(replicas.client)
        load.begin(CLIENTS, "hold_s=0")
        await load.more(200)

        killed.kill()
        await replicas.healthy(1)
        await load.end()

        # Envoy cuts an answer whose stream to us breaks off, unless it may go on without us: each was decided.
        assert await answers.whole() == (STREAMS if fail_open else STREAMS - on_it)
        assert len(load.failures) <= CLIENTS  # each client had one request open, and most of them elsewhere
        assert await failures_of_more(replicas) == []
        if fail_open:
            await nothing_passes_unrouted(replicas)


async def nothing_passes_unrouted(replicas: Replicas) -> None:
    """Without any router the entry rule answers, which leads to no model server."""
    await asyncio.to_thread(replicas.routers[1].stop)
    for upstream in replicas.upstreams:
        upstream.requests.clear()
    forged = {"x-extproc-pool": POOL, "x-gateway-destination-endpoint": replicas.upstreams[0].address}
    for method, body in (("POST", b'{"model": "m"}'), ("GET", None)):
        async with replicas.client.request(method, "/v1/x", data=body, headers=forged) as response:
            assert (response.status, json.loads(await response.text())["error"]["code"]) == (404, "no_route")
    assert [upstream.requests for upstream in replicas.upstreams] == [[], [], []]


async def test_a_router_that_hangs_costs_what_it_took_until_that_is_noticed(tmp_path: Path) -> None:
    async with running_replicas(tmp_path, message_timeout="2s") as replicas:
        answers = Answers(replicas)
        await answers.begin(STREAMS)
        load = Load(replicas.client)
        load.begin(CLIENTS, "hold_s=0")
        await load.more(200)

        replicas.routers[0].hang()
        await replicas.healthy(1)
        await load.end()

        assert len(load.failures) <= CLIENTS  # a client waits longer for one than Envoy needs to notice
        assert await failures_of_more(replicas) == []
        assert await answers.whole() == STREAMS


async def failures_of_more(replicas: Replicas) -> list[str]:
    load = Load(replicas.client)
    load.begin(CLIENTS, "hold_s=0")
    await load.more(300)
    await load.end()
    return load.failures


async def test_where_all_of_them_drain_at_once_they_still_serve(tmp_path: Path) -> None:
    async with running_replicas(tmp_path, 1) as replicas:
        (only,) = replicas.routers
        only.terminate()
        await replicas.healthy(0)
        assert only.running
        async with replicas.client.post("/v1/completions", json={"model": "m"}) as response:
            assert response.status == 200


def with_canary(addresses: list[str]) -> dict[str, Any]:
    targets = [{"model": "old", "weight": 60}, {"model": "new", "weight": 40}]
    sticky = {"header": "x-user-id"}
    return {
        "pools": [{"name": POOL, "endpoints": addresses}],
        "models": [{"name": "m", "pool": POOL, "targets": targets, "sticky": sticky}],
    }


async def test_each_knows_what_it_sent_itself_and_all_give_a_sticky_key_the_same_target(
    tmp_path: Path,
) -> None:
    async with running_replicas(tmp_path, config=with_canary) as replicas:
        users = [f"user-{number}" for number in range(20)]

        async def chat(user: str) -> None:
            headers = {"x-user-id": user}
            async with replicas.client.post(
                "/v1/completions", json={"model": "m"}, headers=headers
            ) as response:
                await response.read()

        for _ in range(8):
            await asyncio.gather(*(chat(user) for user in users))
        requests = [request for upstream in replicas.upstreams for request in upstream.requests]
        shares = await eventually(
            lambda: [told(router) for router in replicas.routers], lambda n: sum(n) == 160
        )

    targets = {(request.values("x-user-id")[0], request.body) for request in requests}
    assert len(requests) == 160
    assert len(targets) == len(users)
    assert {body for _, body in targets} == {b'{"model": "old"}', b'{"model": "new"}'}
    assert min(shares) > 0


def told(router: Router) -> int:
    """How many requests a router has logged."""
    return sum(line["event"] == "request" for line in router.log())
