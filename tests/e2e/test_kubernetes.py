"""Attached to a cluster: pods, models and their weights come from the Kubernetes API, whatever becomes of that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
import yaml
from attached import (
    CANARY,
    FOLLOWING,
    MODEL,
    NAMESPACE,
    Attached,
    PodSim,
    attached,
    free_port,
    pool_of,
    readiness,
    running_sims,
    served,
)
from kube_api.process import KubeApiProcess
from kube_objects import inference_model
from stack import QUICK_STOP, eventually, running

from extproc.demo.bootstrap import POOL
from extproc.demo.service import Service

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

GUIDE = Path(__file__).parent.parent / "data" / "guide"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sims(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[PodSim]]:
    """Three pods, for all tests."""
    ips = [f"127.0.0.{number}" for number in (2, 3, 4)]
    async with running_sims(tmp_path_factory.mktemp("sims"), free_port(), ips) as started:
        yield started


def cluster(sims: list[PodSim]) -> list[dict[str, Any]]:
    """Ready pods and their pool."""
    return [*(sim.pod() for sim in sims), pool_of(sims)]


def guide(port: int) -> list[dict[str, Any]]:
    """The guide's InferencePool and InferenceModel, but for the port and the namespace."""
    objects = [yaml.safe_load((GUIDE / f"inference-{kind}.yaml").read_text()) for kind in ("pool", "model")]
    objects[0]["spec"]["targetPortNumber"] = port
    for each in objects:
        each["metadata"]["namespace"] = NAMESPACE
    return objects


@pytest.mark.parametrize("source", ["cluster", "file"])
async def test_the_guides_own_objects_route_a_request_by_its_alias(
    tmp_path: Path, sims: list[PodSim], source: str
) -> None:
    pods = [sim.pod(labels={"app": MODEL}) for sim in sims]
    objects = guide(sims[0].port)
    if source == "cluster":
        world = attached(tmp_path, [*pods, *objects])
    else:
        world = attached(tmp_path, pods, yaml.safe_dump_all(objects))
    async with world as stack:
        status, name, _ = await stack.chat("qwq", user=source)
        assert status == 200
        (sim,) = [sim for sim in sims if sim.name == name]
        assert [body["model"] for body in sim.chats() if body.get("user") == source] == [MODEL]


async def test_pods_are_rolled_under_load_and_no_request_fails(tmp_path: Path, sims: list[PodSim]) -> None:
    old_ips = [f"127.0.0.{number}" for number in (5, 6, 7)]
    async with (
        running_sims(tmp_path, sims[0].port, old_ips) as old,
        attached(tmp_path, cluster(old)) as stack,
    ):
        rolled = Rolled(stack)
        rolled.begin(6)
        for before, after in zip(old, sims, strict=True):
            await stack.api.put(after.pod(ready=False))
            await stack.api.put(after.pod())
            await eventually(stack.members, lambda found, new=after.address: new in found)
            long_ones = await rolled.stream_at(before)
            await stack.api.terminate(NAMESPACE, before.name)
            await eventually(stack.members, lambda found, gone=before.address: gone not in found)
            await rolled.more(20)  # those that were on their way have arrived
            before.forget()
            await rolled.more(50)
            assert before.chats() == []
            assert [await each for each in long_ones] == [True] * len(long_ones)
            await asyncio.to_thread(before.stop)
            await stack.api.delete("pods", NAMESPACE, before.name)
        await rolled.more(30)
        assert await rolled.end() == []
        assert sorted(await stack.members()) == sorted(sim.address for sim in sims)


async def test_while_the_api_server_is_away_requests_go_on_and_the_last_known_pods_hold(
    tmp_path: Path, sims: list[PodSim]
) -> None:
    async with attached(tmp_path, cluster(sims[:2])) as stack:
        assert await stack.ready() == (200, "ok\n")
        await stack.api.stop()
        lost = f"\npods in namespace {NAMESPACE}: no contact for "
        status, text = await eventually(stack.ready, lambda answer: lost in answer[1])
        assert status == 200
        assert text.startswith("ok\n")
        assert "s, what was last known holds: cannot watch pods" in text
        assert await stack.metric("kubernetes_synced", resource="pods", namespace=NAMESPACE) == 0
        assert await stack.pods() == {sim.name for sim in sims[:2]}

        await stack.api.start()
        await stack.api.put(sims[2].pod())
        await stack.until_members(*sims)
        assert await eventually(stack.ready, lambda answer: answer[1] == "ok\n")
        assert await stack.metric("kubernetes_synced", resource="pods", namespace=NAMESPACE) == 1


async def test_a_service_is_not_ready_before_it_has_the_first_list(
    tmp_path: Path, sims: list[PodSim]
) -> None:
    async with KubeApiProcess() as api:
        await api.put(*cluster(sims))
        await api.fail_next(10_000, 503, path="/pods")
        kubeconfig = await api.kubeconfig(str(tmp_path / "kubeconfig"))
        async with running(Service(FOLLOWING, tmp_path, "--kubeconfig", kubeconfig, *QUICK_STOP)) as service:
            status, text = await eventually(lambda: readiness(service), lambda answer: "503" in answer[1])
            assert status == 503
            waits = (
                f"pool {POOL}: its endpoints were not listed yet: cannot list pods in namespace {NAMESPACE}"
            )
            assert text.startswith(waits)


async def test_a_right_that_is_refused_is_named_by_its_verb_and_resource(
    tmp_path: Path, sims: list[PodSim]
) -> None:
    async with KubeApiProcess() as api:
        await api.put(*cluster(sims))
        await api.forbid("list", "pods", NAMESPACE)
        kubeconfig = await api.kubeconfig(str(tmp_path / "kubeconfig"))
        async with running(Service(FOLLOWING, tmp_path, "--kubeconfig", kubeconfig, *QUICK_STOP)) as service:
            status, text = await eventually(
                lambda: readiness(service), lambda answer: "forbidden" in answer[1]
            )
            assert status == 503
            assert f"cannot list pods in namespace {NAMESPACE}" in text
            assert 'resources: ["pods"], verbs: ["list"]' in text


async def test_a_token_that_is_rotated_is_taken_up(tmp_path: Path, sims: list[PodSim]) -> None:
    account = tmp_path / "serviceaccount"
    async with KubeApiProcess(tls=True) as api:
        await api.put(*cluster(sims[:2]))
        await api.service_account(str(account), "first")
        await api.tokens(["first"])
        kubeconfig = await api.kubeconfig(str(tmp_path / "kubeconfig"), token_file=str(account / "token"))
        async with served(tmp_path, api, FOLLOWING, "--kubeconfig", kubeconfig) as stack:
            await stack.until_members(*sims[:2])
            await api.service_account(str(account), "second")
            await api.tokens(["second"])
            await api.drop_watches()
            await api.put(sims[2].pod())
            await stack.until_members(*sims)
            assert await eventually(stack.ready, lambda answer: answer == (200, "ok\n"))


async def test_weights_of_an_inference_model_that_change_move_the_canary(
    tmp_path: Path, sims: list[PodSim]
) -> None:
    model = inference_model("qwq", model="qwq", targets={MODEL: 100}, pool=POOL, namespace=NAMESPACE)
    async with attached(tmp_path, [*cluster(sims), model]) as stack:
        assert set(await stack.models("qwq")) == {MODEL}
        (accepted,) = await eventually(lambda: conditions(stack), bool)
        assert (accepted["type"], accepted["status"], accepted["reason"]) == ("Accepted", "True", "Accepted")
        assert accepted["observedGeneration"] == 1

        await put_targets(stack, [{"name": MODEL, "weight": 50}, {"name": CANARY, "weight": 50}])
        await eventually(lambda: stack.models("qwq", 40), lambda found: set(found) == {MODEL, CANARY})
        await put_targets(stack, [{"name": CANARY, "weight": 100}])
        await eventually(lambda: stack.models("qwq"), lambda found: set(found) == {CANARY})
        assert len([line for line in stack.service.log() if line["event"] == "config_loaded"]) == 1


async def conditions(stack: Attached) -> list[dict[str, Any]]:
    """In the status of the InferenceModel."""
    told = await stack.api.get("inferencemodels", NAMESPACE, "qwq")
    found: list[dict[str, Any]] = told.get("status", {}).get("conditions", [])
    return found


async def put_targets(stack: Attached, targets: list[dict[str, Any]]) -> None:
    """As `kubectl edit` does; once more where the status was written meanwhile."""
    group = "apis/inference.networking.x-k8s.io/v1alpha2"
    url = f"{stack.api.url}/{group}/namespaces/{NAMESPACE}/inferencemodels/qwq"
    status = 409
    async with aiohttp.ClientSession() as kubectl:
        while status == 409:
            async with kubectl.get(url) as answer:
                model = await answer.json()
            model["spec"]["targetModels"] = targets
            async with kubectl.put(url, json=model) as answer:
                status = answer.status
    assert status == 200


async def test_a_pod_that_is_cordoned_gets_no_request_until_it_is_uncordoned(
    tmp_path: Path, sims: list[PodSim]
) -> None:
    async with attached(tmp_path, cluster(sims)) as stack:
        everyone = {sim.name for sim in sims}
        assert await eventually(stack.pods, lambda names: names == everyone)
        await stack.api.put(sims[0].pod(annotations={"extproc/cordon": "true"}))
        await stack.until_members(*sims[1:])
        assert await stack.pods() == everyone - {sims[0].name}
        await stack.api.put(sims[0].pod())
        assert await eventually(stack.pods, lambda names: names == everyone)


def static(sims: list[PodSim]) -> dict[str, Any]:
    return {"pools": [{"name": POOL, "endpoints": [sims[0].address]}]}


async def test_a_file_that_turns_to_the_cluster_is_followed_without_a_restart(
    tmp_path: Path, sims: list[PodSim]
) -> None:
    async with attached(tmp_path, cluster(sims), static(sims)) as stack:
        assert await stack.pods() == {sims[0].name}
        assert await stack.api.requests() == []
        stack.service.write_config(FOLLOWING)
        await stack.until_members(*sims)
        assert await eventually(stack.pods, lambda names: names == {sim.name for sim in sims})


async def test_without_credentials_a_file_that_turns_to_the_cluster_changes_nothing_and_says_why(
    tmp_path: Path, sims: list[PodSim], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("KUBECONFIG", "EXTPROC_KUBECONFIG", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    async with KubeApiProcess() as api, served(tmp_path, api, static(sims)) as stack:
        stack.service.write_config(FOLLOWING)
        failed = await asyncio.to_thread(stack.service.wait_for_event, "config_reload_failed", 10)
        (fault,) = failed["faults"]
        assert "no credentials: not in a pod" in fault
        assert await stack.metric("config_last_reload_successful") == 0
        assert await stack.pods() == {sims[0].name}


class Rolled:
    """Clients that ask one after another, and long answers, while pods are replaced."""

    def __init__(self, stack: Attached) -> None:
        self._stack = stack
        self._answered = 0
        self._failures: list[object] = []
        self._ending = False
        self._clients: list[asyncio.Task[None]] = []

    def begin(self, clients: int) -> None:
        self._clients = [asyncio.create_task(self._ask()) for _ in range(clients)]

    async def more(self, count: int) -> None:
        """Until so many more were answered."""
        enough = self._answered + count
        await eventually(lambda: self._answered, lambda answered: answered >= enough)

    async def end(self) -> list[object]:
        """What went wrong."""
        self._ending = True
        await asyncio.gather(*self._clients)
        return self._failures

    async def stream_at(self, sim: PodSim) -> list[asyncio.Task[bool]]:
        """Long answers that have begun, one of them at least at this pod; each is whether it comes to its end."""
        streams: list[asyncio.Task[bool]] = []
        served_by = ""
        while served_by != sim.name:
            begun: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            streams.append(asyncio.create_task(self._stream(begun)))
            served_by = await begun
        return streams

    async def _ask(self) -> None:
        while not self._ending:
            status, name, _ = await self._stack.chat()
            self._answered += 1
            if status != 200:
                self._failures.append((status, name))

    async def _stream(self, begun: asyncio.Future[str]) -> bool:
        body = {"model": MODEL, "stream": True, "max_tokens": 1500, "ignore_eos": True}
        body |= {"messages": [{"role": "user", "content": "Tell me a long story"}]}
        async with self._stack.client.post("/v1/chat/completions", json=body) as response:
            begun.set_result(response.headers.get("x-sim-server", ""))
            text = await response.text()
        return response.status == 200 and text.endswith("data: [DONE]\n\n")
