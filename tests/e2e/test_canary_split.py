"""Aliases over weighted targets, as clients and upstreams see them."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

from stack import BUFFERED, DUPLEX, SHARED, Stack, eventually, stack_fixture

from extproc.demo.bootstrap import POOL

pytestmark = SHARED

STABLE, CANARY = "real-v1", "real-v2"


def targets(stable: int, canary: int) -> list[dict[str, Any]]:
    return [
        {"model": STABLE, "weight": stable, "labels": {"version": "v1"}},
        {"model": CANARY, "weight": canary, "labels": {"version": "v2"}},
    ]


def config(addresses: list[str]) -> dict[str, Any]:
    versions = ("v1", "v1", "v2")
    return {
        "pools": [
            {
                "name": POOL,
                "endpoints": [
                    {"address": address, "labels": {"version": version}}
                    for address, version in zip(addresses, versions, strict=True)
                ],
            }
        ],
        "models": [
            {"name": "split", "pool": POOL, "targets": targets(90, 10)},
            {"name": "sticky", "pool": POOL, "targets": targets(50, 50), "sticky": {"header": "X-User-Id"}},
            {"name": "switched-off", "pool": POOL, "targets": targets(1, 0)},
        ],
    }


shared_stack = stack_fixture(config, [BUFFERED, DUPLEX])


async def served(stack: Stack, model: str, users: list[str]) -> list[str]:
    """The target that served each of the users' requests, in order; each by an endpoint of its version."""
    slots = asyncio.Semaphore(20)

    async def ask(user: str) -> str:
        async with slots:
            return str((await stack.chat(model, headers={"x-user-id": user} if user else {}))["served_by"])

    addresses = await asyncio.gather(*map(ask, users))
    stable = [upstream.address for upstream in stack.upstreams[:2]]
    for upstream in stack.upstreams:
        expected = STABLE if upstream.address in stable else CANARY
        assert {json.loads(request.body)["model"] for request in upstream.requests} <= {expected}
    return [STABLE if address in stable else CANARY for address in addresses]


async def test_each_target_gets_its_share(stack: Stack) -> None:
    before = {
        t: await stack.metric("requests_total", model="split", target_model=t) for t in (STABLE, CANARY)
    }

    split = Counter(await served(stack, "split", [""] * 400))

    # 40 of 400 expected, standard deviation 6: five of them to each side are left by one run in a million.
    assert 10 <= split[CANARY] <= 70
    assert split[STABLE] + split[CANARY] == 400
    for target in (STABLE, CANARY):
        counted = before[target] + split[target]
        await eventually(
            lambda target=target: stack.metric("requests_total", model="split", target_model=target),
            lambda value, counted=counted: value == counted,
        )


async def test_a_user_stays_with_a_target_and_users_are_split(stack: Stack) -> None:
    users = [f"user-{number}" for number in range(80)]

    rounds = [await served(stack, "sticky", users) for _ in range(3)]

    assert rounds[1:] == [rounds[0]] * 2
    # 40 of 80 expected, standard deviation 4.5; the users are always the same, so is the split
    assert 20 <= Counter(rounds[0])[CANARY] <= 60


async def test_without_the_key_each_request_is_drawn(stack: Stack) -> None:
    assert set(await served(stack, "sticky", [""] * 60)) == {STABLE, CANARY}


async def test_a_target_of_weight_0_serves_nobody(stack: Stack) -> None:
    assert Counter(await served(stack, "switched-off", [""] * 30)) == {STABLE: 30}


async def test_a_target_whose_endpoints_are_gone_gives_its_share_away_and_gets_it_back(stack: Stack) -> None:
    canary = stack.upstreams[2]
    fallbacks = await stack.metric("target_fallbacks_total")
    users = [f"user-{number}" for number in range(20)]
    at_home = await served(stack, "sticky", users)

    await canary.stop()
    await eventually(stack.endpoints, lambda endpoints: not endpoints[canary.address]["ready"])
    meanwhile = await served(stack, "sticky", users)
    await canary.start()
    await eventually(stack.endpoints, lambda endpoints: endpoints[canary.address]["ready"])
    afterwards = await served(stack, "sticky", users)

    assert Counter(meanwhile) == {STABLE: 20}
    assert at_home.count(CANARY) == await stack.metric("target_fallbacks_total", model="sticky") - fallbacks
    assert afterwards == at_home
