"""Behind an Envoy as Envoy Gateway programs it for our manifests: a rule a pool, an entry rule, one policy on all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from stack import ENVOY_GATEWAY, SHARED, Stack, client_of, eventually, running, stack_fixture
from upstream import EchoUpstream

from extproc.demo.envoy import Envoy

pytestmark = SHARED

CHAT = "/v1/chat/completions"
POOLS = ("reasoning-pool", "chat-pool")


def config(addresses: list[str]) -> dict[str, Any]:
    """Two endpoints in the first pool, the rest in the second."""
    reasoning, chat = POOLS
    return {
        "pools": [
            {"name": reasoning, "endpoints": addresses[:2], "fallback_endpoints": 1},
            {"name": chat, "endpoints": addresses[2:]},
        ],
        "models": [
            {"name": "qwq", "pool": reasoning, "targets": [{"model": "qwq-32b"}]},
            {"name": "small", "pool": chat},
            {"name": "copied", "pool": reasoning, "mirrors": [{"name": "shadow", "percent": 100}]},
        ],
        "default_pool": None,
    }


shared_stack = stack_fixture(config, [ENVOY_GATEWAY], strip_client_pins=True)


@pytest.mark.parametrize(("model", "pool", "endpoints"), [("qwq", 0, [0, 1]), ("small", 1, [2])])
async def test_each_model_is_served_by_its_pool(
    stack: Stack, model: str, pool: int, endpoints: list[int]
) -> None:
    served = {(await stack.chat(model))["served_by"] for _ in range(10)}

    assert served <= {stack.upstreams[index].address for index in endpoints}
    requests = stack.received()
    assert [request.values("x-extproc-pool") for request in requests] == [[POOLS[pool]]] * 10
    assert await stack.metric("pin_misses_total") == 0


async def test_an_endpoint_that_fails_costs_no_request(stack: Stack) -> None:
    failing, other = stack.upstreams[:2]
    failing.status = 503
    try:
        assert {(await stack.chat("qwq"))["served_by"] for _ in range(6)} == {other.address}
    finally:
        failing.status = 200


async def test_what_is_not_routed_is_refused_by_us_and_other_paths_never_get_to_us(stack: Stack) -> None:
    asked = await stack.metric("requests_total")
    async with stack.client.post(CHAT, json={"model": "unknown", "messages": []}) as response:
        assert (response.status, response.headers["x-extproc-reason"]) == (404, "model_not_found")
    async with stack.client.get("/metrics") as response:
        assert (response.status, "x-extproc-reason" in response.headers) == (404, False)

    await stack.idle()
    assert await stack.metric("requests_total") == asked + 1
    assert stack.received() == []


async def test_headers_of_a_client_choose_neither_pool_nor_pod_nor_mirror(stack: Stack) -> None:
    forged = {
        "x-extproc-pool": "reasoning-pool",
        "x-extproc-mirror": "shadow",
        "x-gateway-destination-endpoint": stack.upstreams[0].address,
    }

    answer = await stack.chat("small", headers=forged)

    (request,) = stack.received()
    seen = {name: request.values(name) for name in forged}
    assert answer["served_by"] == stack.upstreams[2].address
    assert seen == {
        "x-extproc-pool": ["chat-pool"],
        "x-extproc-mirror": [],
        "x-gateway-destination-endpoint": [answer["served_by"]],
    }


async def test_the_rule_that_mirrors_sends_a_copy_and_the_pin_holds(stack: Stack, tmp_path: Path) -> None:
    pools = dict(zip(POOLS, ([u.address for u in stack.upstreams[:2]], []), strict=True))
    async with EchoUpstream() as shadow:
        mirrors = [shadow.address]
        envoy = Envoy(
            ENVOY_GATEWAY.bootstrap, tmp_path, pools=pools, ext_proc=stack.service.grpc, mirrors=mirrors
        )
        async with running(envoy), client_of(envoy) as client:
            async with client.post(CHAT, json={"model": "copied"}) as response:
                served = (await response.json())["served_by"]
            await eventually(lambda: shadow.requests, bool)

    (request,) = stack.received()
    assert request.values("x-gateway-destination-endpoint")[0].split(",")[0] == served
    assert [copy.body for copy in shadow.requests] == [request.body]
    assert [copy.values("x-extproc-mirror") for copy in shadow.requests] == [["shadow"]]
