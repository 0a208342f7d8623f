"""Client → Envoy → service → simulated vLLM servers that are pods of a played Kubernetes API server."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from kube_api.process import KubeApiProcess
from kube_objects import inference_pool, pod
from stack import QUICK_STOP, Way, client_of, eventually, metric_of, running

from extproc.demo.bootstrap import POOL
from extproc.demo.envoy import LOOPBACK, Envoy
from extproc.demo.service import Service, Sim

ONE_TRY = Way("buffered", "original-dst")
"""Envoy knows no endpoint but those that we name, and does not try another one: a client sees what went wrong."""
NAMESPACE = "llm"
MODEL, CANARY = "qwq-32b", "qwq-canary"
FOLLOWING = {"pools": [{"name": POOL, "kubernetes": {"inference_pool": POOL, "namespace": NAMESPACE}}]}


class PodSim(Sim):
    """A model server with an IP address of its own, as a pod has."""

    def __init__(self, directory: Path, name: str, ip: str, port: int) -> None:
        place = ("--host", ip, "--port", str(port))
        models = ("--model", MODEL, "--lora", CANARY, "--record-bodies", "--speed", "20")
        super().__init__(directory, *place, *models, name=name)
        self.ip, self.port = ip, port

    def pod(self, **other: Any) -> dict[str, Any]:
        """As the API tells of it."""
        return pod(self.name, self.ip, namespace=NAMESPACE, uid=f"uid-{self.name}", **other)

    def chats(self) -> list[dict[str, Any]]:
        """The bodies of the chat completions that reached it, the oldest first."""
        requests = json.loads(self._requests("GET"))
        return [json.loads(base64.b64decode(each["body"])) for each in requests if "/chat/" in each["path"]]

    def forget(self) -> None:
        """`chats` begins anew."""
        self._requests("DELETE")

    def _requests(self, method: str) -> bytes:
        request = urllib.request.Request(f"http://{self.address}/sim/requests", method=method)
        with LOOPBACK.open(request, timeout=5) as answer:
            body: bytes = answer.read()
        return body


def free_port() -> int:
    """Of every loopback address, as nobody else here listens on others than the first."""
    with socket.socket() as probe:
        probe.bind(("0.0.0.0", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def running_sims(directory: Path, port: int, ips: Sequence[str]) -> AsyncIterator[list[PodSim]]:
    async with AsyncExitStack() as exits:
        sims = [PodSim(directory, f"vllm-{ip.rpartition('.')[2]}", ip, port) for ip in ips]
        await asyncio.gather(*(exits.enter_async_context(running(sim)) for sim in sims))
        yield sims


@dataclass
class Attached:
    """All of them, running."""

    api: KubeApiProcess
    service: Service
    envoy: Envoy
    client: aiohttp.ClientSession

    async def chat(self, model: str = MODEL, **fields: Any) -> tuple[int, str, str]:
        """(status, the pod that answered, the model that it says it is)."""
        body = {"model": model, "max_tokens": 3, "messages": [{"role": "user", "content": "Hi"}], **fields}
        async with self.client.post("/v1/chat/completions", json=body) as response:
            answer = await response.json(content_type=None) if response.status == 200 else {}
            return response.status, response.headers.get("x-sim-server", ""), answer.get("model", "")

    async def pods(self, count: int = 20) -> set[str]:
        """The pods that answer so many requests; each does well."""
        answers = [await self.chat() for _ in range(count)]
        assert {status for status, _, _ in answers} == {200}
        return {name for _, name, _ in answers}

    async def models(self, model: str, count: int = 20) -> Counter[str]:
        """What so many requests for *model* are answered by."""
        return Counter([(await self.chat(model))[2] for _ in range(count)])

    async def members(self) -> list[str]:
        """Addresses of the pool, as the service has them."""
        state = await asyncio.to_thread(self.service.state)
        return [each["address"] for pool in state["pools"] for each in pool["endpoints"]]

    async def until_members(self, *sims: PodSim) -> None:
        await eventually(self.members, lambda found: sorted(found) == sorted(sim.address for sim in sims))

    async def ready(self) -> tuple[int, str]:
        """`/readyz`."""
        return await readiness(self.service)

    async def metric(self, name: str, **labels: str) -> float:
        return metric_of(await asyncio.to_thread(self.service.metrics), name, **labels)


async def readiness(service: Service) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(f"{service.http}/readyz") as answer:
        return answer.status, await answer.text()


def pool_of(sims: Sequence[PodSim]) -> dict[str, Any]:
    return inference_pool(POOL, ports=[sims[0].port], namespace=NAMESPACE)


@asynccontextmanager
async def attached(
    directory: Path,
    objects: Sequence[Mapping[str, Any]],
    config: Mapping[str, Any] | str = FOLLOWING,
    *,
    ready: bool = True,
) -> AsyncIterator[Attached]:
    """A cluster that consists of *objects*, and the service with *config* (a text as it stands) in it."""
    async with AsyncExitStack() as exits:
        api = await exits.enter_async_context(KubeApiProcess())
        await api.put(*objects)
        kubeconfig = await api.kubeconfig(str(directory / "kubeconfig"))
        yield await exits.enter_async_context(
            served(directory, api, config, "--kubeconfig", kubeconfig, ready=ready)
        )


@asynccontextmanager
async def served(
    directory: Path,
    api: KubeApiProcess,
    config: Mapping[str, Any] | str,
    *flags: str,
    ready: bool = True,
) -> AsyncIterator[Attached]:
    """The service with these flags, and Envoy before it."""
    async with AsyncExitStack() as exits:
        service = Service({} if isinstance(config, str) else config, directory, *flags, *QUICK_STOP)
        if isinstance(config, str):
            service.config_file.write_text(config)
        await exits.enter_async_context(running(service))
        if ready:
            await asyncio.to_thread(service.wait_ready)
        envoy = Envoy(ONE_TRY.bootstrap, directory, pools={POOL: []}, ext_proc=service.grpc)
        await exits.enter_async_context(running(envoy))
        client = await exits.enter_async_context(client_of(envoy))
        yield Attached(api, service, envoy, client)
        assert [line for line in service.log() if line["event"].endswith("_fault")] == []
