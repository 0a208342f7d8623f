"""Leadership by a Lease: one at a time, whatever happens to the one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from kube_api import KubeApi
from kube_followers import Plain
from kube_objects import lease

from extproc.kube.client import KubeClient
from extproc.kube.lease import Election, LeaseTimings
from extproc.kube.resource import Resource

QUICK = LeaseTimings(renew_s=0.02, request_s=1.0, forbidden_s=0.02, release_s=1.0)


class Clock:
    """Monotonic seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Replica:
    """One that stands for leadership while `standing`."""

    def __init__(self, api: KubeApi, identity: str, clock: Clock, timings: LeaseTimings = QUICK) -> None:
        self.errors: list[tuple[str, str]] = []
        self.api = api
        self.identity = identity
        self.client = KubeClient(Plain(api.url))
        self.election = Election(
            self.client, "llm", "extproc", identity, clock, random.Random(1), self._on_error, timings
        )

    def _on_error(self, _resource: Resource, reason: str, detail: str) -> None:
        self.errors.append((reason, detail))

    @property
    def leading(self) -> bool:
        return self.election.leading

    @asynccontextmanager
    async def standing(self) -> AsyncIterator[Replica]:
        task = asyncio.create_task(self.election.run())
        try:
            yield self
        finally:
            assert not task.done()
            task.cancel()
            await asyncio.wait([task])
            await self.client.close()

    async def attempts(self, count: int = 3) -> None:
        """Waits for so many further looks at the lease (of anybody)."""
        before = len(self.api.asked("GET", "/leases/extproc"))
        await self.api.until(lambda: len(self.api.asked("GET", "/leases/extproc")) >= before + count)


def spec(api: KubeApi) -> dict[str, Any]:
    found: dict[str, Any] = api.get("leases", "llm", "extproc")["spec"]
    return found


async def test_the_first_makes_the_lease_leads_and_renews() -> None:
    async with KubeApi() as api, Replica(api, "a", Clock()).standing() as replica:
        await api.until(lambda: replica.leading)
        made = spec(api)
        assert made == {
            "holderIdentity": "a",
            "leaseDurationSeconds": 15,
            "acquireTime": made["renewTime"],
            "renewTime": made["renewTime"],
            "leaseTransitions": 0,
        }
        await api.until(lambda: spec(api)["renewTime"] > made["renewTime"])
        assert spec(api) | {"renewTime": made["renewTime"]} == made


async def test_the_second_waits_as_long_as_the_first_renews_and_takes_over_when_it_stops() -> None:
    async with KubeApi() as api:
        clock = Clock()
        async with Replica(api, "b", clock).standing() as second:
            await api.until(lambda: second.leading)
            async with Replica(api, "a", clock).standing() as first:
                for _ in range(4):
                    clock.now += 5
                    await first.attempts(6)
                    assert not first.leading
        assert "holderIdentity" not in spec(api)


async def test_one_that_stops_gives_the_lease_up_and_nobody_waits() -> None:
    async with KubeApi() as api:
        clock = Clock()
        async with Replica(api, "a", clock).standing() as first:
            await api.until(lambda: first.leading)
        assert not first.leading
        assert ("holderIdentity" in spec(api), spec(api)["leaseDurationSeconds"]) == (False, 1)
        async with Replica(api, "b", clock).standing() as second:
            await api.until(lambda: second.leading)
            assert (spec(api)["holderIdentity"], spec(api)["leaseTransitions"]) == ("b", 1)


async def test_one_that_vanished_is_replaced_once_we_saw_no_renewal_for_the_leases_duration() -> None:
    async with KubeApi() as api:
        clock = Clock()
        api.put(lease(holder="gone", lasts_s=40, transitions=3))
        async with Replica(api, "b", clock).standing() as replica:
            await replica.attempts()
            clock.now += 39
            await replica.attempts()
            assert not replica.leading
            clock.now += 1
            await api.until(lambda: replica.leading)
            assert (spec(api)["holderIdentity"], spec(api)["leaseTransitions"]) == ("b", 4)


@pytest.mark.parametrize("renewed", ["1999-01-01T00:00:00.000000Z", "2999-01-01T00:00:00.000000Z"])
async def test_the_clocks_of_machines_are_not_compared(renewed: str) -> None:
    async with KubeApi() as api:
        clock = Clock()
        api.put(lease(renewed=renewed))
        async with Replica(api, "b", clock).standing() as replica:
            await replica.attempts()
            assert not replica.leading
            clock.now += 15
            await api.until(lambda: replica.leading)


async def test_leadership_ends_by_itself_while_the_server_hangs_before_another_may_lead() -> None:
    async with KubeApi() as api:
        clock = Clock()
        async with Replica(api, "a", clock).standing() as replica:
            await api.until(lambda: replica.leading)
            api.black_hole()
            clock.now += 9.9
            assert replica.leading
            clock.now += 0.1
            assert not replica.leading
            api.black_hole(False)
            await api.until(lambda: replica.leading)


async def test_who_loses_the_race_does_not_lead() -> None:
    async with KubeApi() as api:
        api.fail_next(5, 409, method="POST")
        async with Replica(api, "a", Clock()).standing() as replica:
            await replica.attempts(4)
            assert not replica.leading
            await api.until(lambda: replica.leading)
            assert replica.errors == []


async def test_of_many_at_once_one_leads() -> None:
    async with KubeApi() as api:
        clock = Clock()
        replicas = [Replica(api, f"r{number}", clock) for number in range(4)]
        async with (
            replicas[0].standing(),
            replicas[1].standing(),
            replicas[2].standing(),
            replicas[3].standing(),
        ):
            for _ in range(5):
                await replicas[0].attempts(8)
                leaders = [replica.identity for replica in replicas if replica.leading]
                assert leaders == [spec(api)["holderIdentity"]]


async def test_what_is_forbidden_is_said_once_and_tried_again() -> None:
    async with KubeApi() as api:
        api.forbid("create", "leases")
        async with Replica(api, "a", Clock()).standing() as replica:
            await replica.attempts()
            assert not replica.leading
            [(reason, detail)] = replica.errors
            assert reason == "forbidden"
            assert detail.endswith(
                '(the Role needs apiGroups: ["coordination.k8s.io"], resources: ["leases"], verbs: ["create"])'
            )
            api.allow("create", "leases")
            await api.until(lambda: replica.leading)


async def test_labels_of_the_lease_are_kept() -> None:
    async with KubeApi() as api:
        wanted = lease(holder=None)
        wanted["metadata"]["labels"] = {"team": "llm"}
        api.put(wanted)
        async with Replica(api, "a", Clock()).standing() as replica:
            await api.until(lambda: replica.leading)
            assert api.get("leases", "llm", "extproc")["metadata"]["labels"] == {"team": "llm"}
