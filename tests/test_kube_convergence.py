"""Whatever happens on the way: in the end the listener knows what the server has."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kube_api import KubeApi
from kube_followers import PODS, QUICK, Following, following, stored
from kube_objects import pod
from msgspec import structs

NAMES = "abcd"
FAST = structs.replace(QUICK, healthy_s=0.05, grace_s=0.1)


def put(name: str) -> Callable[[KubeApi], None]:
    def do(api: KubeApi) -> None:
        api.put(pod(name, ip=f"10.0.{len(api.requests) % 250}.{api.store.version % 250}"))

    return do


def delete(name: str) -> Callable[[KubeApi], None]:
    def do(api: KubeApi) -> None:
        if name in stored(api):
            api.delete("pods", "llm", name)

    return do


def hide(name: str) -> Callable[[KubeApi], None]:
    """It leaves the selector."""
    return lambda api: void(api.put(pod(name, labels={"app": "hidden"})))


def void(_result: object) -> None:
    return None


def compacted(api: KubeApi) -> None:
    api.drop_watches()
    api.compact()


def twice(api: KubeApi) -> None:
    api.duplicates = 2


def split(api: KubeApi) -> None:
    api.chunk_bytes = 100


FAULTS: dict[str, Callable[[KubeApi], None]] = {
    "drop": lambda api: api.drop_watches(),
    "drop mid line": lambda api: api.drop_watches(mid_line=True),
    "end": lambda api: api.end_watches(),
    "hang": lambda api: api.hang_watches(),
    "compact": compacted,
    "bookmark": lambda api: api.bookmark(),
    "garbage": lambda api: api.send_line(),
    "503": lambda api: api.fail_next(2, 503),
    "410 as http": lambda api: setattr(api, "expired_as", "http"),
    "cut list": lambda api: api.break_next_list("cut"),
    "duplicates": twice,
    "split": split,
    "wait": lambda api: None,
}
steps = st.one_of(
    st.tuples(st.sampled_from(["put", "delete", "hide"]), st.sampled_from(NAMES)),
    st.tuples(st.just("fault"), st.sampled_from(sorted(FAULTS))),
)


def visible(api: KubeApi) -> dict[str, tuple[str, str]]:
    metas = [obj["metadata"] for obj in api.objects("pods")]
    shown = {meta["name"] for meta in metas if meta["labels"]["app"] == "vllm"}
    return {name: versions for name, versions in stored(api).items() if name in shown}


async def live(api: KubeApi, history: list[tuple[str, str]], follows: Following) -> None:
    for what, of in history:
        if what == "fault":
            FAULTS[of](api)
            await asyncio.sleep(0.01)
        else:
            {"put": put, "delete": delete, "hide": hide}[what](of)(api)
    await api.until(lambda: follows.heard.uids == visible(api), timeout_s=10.0)
    assert follows.heard.faults == []
    assert follows.status.objects == len(visible(api))


@given(st.lists(steps, max_size=25))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_random_histories_with_random_faults_converge(history: list[tuple[str, str]]) -> None:
    resource = structs.replace(PODS, label_selector="app=vllm")

    async def run() -> None:
        async with KubeApi() as api, following(api, resource, FAST) as follows:
            await live(api, history, follows)

    asyncio.run(run())


@pytest.mark.parametrize("seed", range(5))
async def test_pods_that_churn_by_the_hundred_leave_nothing_behind(seed: int) -> None:
    rng = random.Random(seed)
    async with KubeApi() as api:
        api.put(*[pod(f"p{number}") for number in range(150)])
        async with following(api) as follows:
            for turn in range(400):
                name = f"p{rng.randrange(200)}"
                if rng.random() < 0.5:
                    put(name)(api)
                else:
                    delete(name)(api)
                if turn % 20 == 0:
                    await asyncio.sleep(0)
            await api.until(lambda: follows.heard.uids == stored(api))
            assert follows.status.objects == len(stored(api))
