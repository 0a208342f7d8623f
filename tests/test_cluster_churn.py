"""Pods by the hundred that come and go for long, at an API server that fails: the fleet ends as the server has it."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cluster_talk import Observed, Talk, talking
from kube_api import KubeApi
from kube_objects import inference_pool, pod

from extproc.config import parse_config
from extproc.fleet import KEPT_S, Fleet
from extproc.kube.known import MAX_DELETED
from extproc.kube.pod_members import PodMembers
from extproc.member import Member

POOL = "pools: [{name: p, kubernetes: {inference_pool: vllm}}]"
PODS = 300
STEPS = 6_000
BATCH = 20
CORDONED = {"extproc/cordon": "true"}


class IntoFleet(Observed):
    """Brings what it is told into a fleet, as the service does."""

    def __init__(self) -> None:
        super().__init__()
        self.fleet = Fleet()
        self.fleet.apply(parse_config(POOL.encode()))

    def kube_members(self, pool: str, members: tuple[Member, ...]) -> None:
        super().kube_members(pool, members)
        self.fleet.replace_members(pool, members, time.monotonic())

    @property
    def members(self) -> set[tuple[str, str]]:
        """(address, uid) of each endpoint."""
        return {(endpoint.address, endpoint.uid) for _, endpoint in self.fleet.endpoints()}


class Churn:
    """Pods whose addresses are given to others once they are gone, as a cluster does."""

    def __init__(self, api: KubeApi, rng: random.Random) -> None:
        self._api = api
        self._rng = rng
        self._addresses = (f"10.1.{number // 250}.{1 + number % 250}" for number in itertools.count())
        self._free: list[str] = []
        self._pods: dict[str, str] = {}
        """Addresses by name."""
        self._serial = itertools.count()

    def step(self) -> None:
        ways = [
            self.come,
            self._go,
            self._end,
            self._flap,
            self._flap,
            self._relabel,
            self._cordon,
            self._renew,
        ]
        self._rng.choice(ways if len(self._pods) > PODS // 2 else [self.come])()

    def come(self) -> None:
        self._put(f"vllm-{self._rng.randrange(2 * PODS)}")

    def _go(self, name: str = "") -> None:
        name = name or self._any()
        self._free.insert(0, self._pods.pop(name))
        self._api.delete("pods", "llm", name)

    def _end(self) -> None:
        self._api.terminate("llm", self._any())

    def _flap(self) -> None:
        self._change(ready=self._rng.random() < 0.5)

    def _relabel(self) -> None:
        self._change(
            labels={"app": self._rng.choice(["vllm", "vllm", "hidden"]), "v": str(next(self._serial))}
        )

    def _cordon(self) -> None:
        self._change(annotations=CORDONED)

    def _renew(self) -> None:
        """A StatefulSet's pod: the same name, and another pod."""
        name = self._any()
        self._go(name)
        self._put(name)

    def _put(self, name: str) -> None:
        if name not in self._pods:
            self._pods[name] = self._free.pop() if self._free else next(self._addresses)
            self._api.put(pod(name, self._pods[name], uid=f"uid-{next(self._serial)}"))

    def _change(self, **other: Any) -> None:
        name = self._any()
        uid = self._api.get("pods", "llm", name)["metadata"]["uid"]
        self._api.put(pod(name, self._pods[name], uid=uid, **other))

    def _any(self) -> str:
        return self._rng.choice(list(self._pods))


FAULTS: list[Callable[[KubeApi], object]] = [
    lambda api: api.drop_watches(),
    lambda api: api.drop_watches(mid_line=True),
    lambda api: api.end_watches(),
    lambda api: (api.drop_watches(), api.compact()),
    lambda api: setattr(api, "expired_as", "http"),
    lambda api: setattr(api, "duplicates", 2),
    lambda api: setattr(api, "chunk_bytes", 700),
    lambda api: api.send_line(),
    lambda api: api.bookmark(),
    lambda api: api.fail_next(2, 503),
    lambda api: (api.break_next_list("cut"), api.compact(), api.drop_watches()),
    lambda api: api.hang_watches("/pods"),
]


def serving(api: KubeApi) -> set[tuple[str, str]]:
    """(address, uid) of the pods that are to get requests, as the server has them."""
    found = set()
    for each in api.objects("pods"):
        meta, status = each["metadata"], each["status"]
        ready = any(c["type"] == "Ready" and c["status"] == "True" for c in status["conditions"])
        hidden = meta["labels"]["app"] != "vllm" or CORDONED.items() <= meta.get("annotations", {}).items()
        if ready and not hidden and "deletionTimestamp" not in meta:
            found.add((f"{status['podIP']}:8000", meta["uid"]))
    return found


def selected(api: KubeApi) -> int:
    return sum(each["metadata"]["labels"]["app"] == "vllm" for each in api.objects("pods"))


def tasks() -> Counter[str]:
    """Of ours, by name."""
    names = (task.get_name() for task in asyncio.all_tasks())
    return Counter(name for name in names if name.startswith(("watch ", "election ", "kubernetes")))


def kept(talk: Talk) -> Iterator[int]:
    """How much is remembered of pods, wherever it is."""
    follower = talk.cluster._pools["p"]
    members, ear = follower._membership, follower._ears["pods"]
    assert isinstance(members, PodMembers)
    assert ear.feed is not None
    known = ear.feed._reflector._known
    assert known is not None
    assert len(known._deleted) <= MAX_DELETED
    yield from (len(ear.objects()), len(members._candidates), len(known))


@pytest.mark.parametrize("seed", [1, 2])
async def test_pods_that_churn_for_long_end_as_the_server_has_them_and_leave_nothing_behind(
    seed: int,
) -> None:
    rng = random.Random(seed)
    told = IntoFleet()
    async with KubeApi() as api:
        churn = Churn(api, rng)
        for _ in range(PODS):
            churn.come()
        api.put(inference_pool("vllm", selector={"app": "vllm"}))
        async with talking(api, POOL, told) as talk:
            await api.until(lambda: told.members == serving(api) and talk.cluster.waiting() == [])
            before = tasks()
            for number in range(STEPS // BATCH):
                with api.reordered(number):
                    for _ in range(BATCH):
                        churn.step()
                if rng.random() < 0.3:
                    rng.choice(FAULTS)(api)
                await asyncio.sleep(0.002)
            await api.until(lambda: told.members == serving(api))
            assert told.faults == []
            assert tasks() == before
            there, members = selected(api), len(serving(api))
            await api.until(lambda: list(kept(talk)) == [there] * 3)
            told.fleet.expire(time.monotonic() + KEPT_S)
            fleet = told.fleet
            sizes = len(fleet._endpoints), len(fleet._departed), len(fleet._by_address), fleet.size("p")
            assert sizes == (members, 0, members, members)
        assert tasks() == Counter()
