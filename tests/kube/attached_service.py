"""`extproc serve` attached to a real API server, in a namespace of its own and with the rights that we print."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from kube_objects import inference_pool, pod
from manifest_runs import objects
from real_cluster import BOUND_S, Object, RealCluster

from extproc.demo.service import Service

PORT = 8000
RIGHTS = ("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")
QUICK_STOP = ("--drain-delay", "0", "--drain-timeout", "1")


@dataclass
class World:
    """A namespace, its pool and the service that follows it."""

    cluster: RealCluster
    namespace: str
    service: Service
    token_file: Path

    def pod(self, number: int, **other: Any) -> Object:
        """A pod as the kubelet shows it; its address is on loopback, where nothing answers."""
        return vllm_pod(self.namespace, number, **other)

    async def members(self) -> dict[str, Mapping[str, str]]:
        """Addresses of the pool and their labels, as the service has them."""
        state = await asyncio.to_thread(self.service.state)
        return {each["address"]: each["labels"] for pool in state["pools"] for each in pool["endpoints"]}

    async def until_members(self, *numbers: int, within_s: float = BOUND_S) -> None:
        wanted = {f"127.0.1.{number}:{PORT}" for number in numbers}

        async def so() -> bool:
            return (await self.members()).keys() == wanted

        await self.cluster.until(so, within_s)

    async def until(self, condition: Callable[[], Awaitable[Any]]) -> Any:
        return await self.cluster.until(condition)

    async def told(self) -> dict[str, Any]:
        """What `/debug/state` says of Kubernetes."""
        state: dict[str, Any] = (await asyncio.to_thread(self.service.state))["kubernetes"]
        return state

    async def state_is(self, plural: str, state: str) -> bool:
        """Whether all that is followed of these is in this state."""
        sources = [each for each in (await self.told())["sources"] if each["resource"].startswith(plural)]
        return bool(sources) and all(each["state"] == state for each in sources)

    async def says(self, detail: str) -> bool:
        """Whether that is said of something that it follows."""
        return any(each["detail"] == detail for each in (await self.told())["sources"])

    async def verdict(self, obj: Object) -> tuple[str, str, int] | None:
        """(status, reason, generation) of the only condition in the object's status; None: there is none."""
        found = (await self.cluster.get(obj)).get("status", {}).get("conditions", [])
        assert [each["type"] for each in found] in ([], ["Accepted"])
        return next(((each["status"], each["reason"], each["observedGeneration"]) for each in found), None)

    async def leases(self) -> list[Object]:
        path = f"/apis/coordination.k8s.io/v1/namespaces/{self.namespace}/leases"
        found: list[Object] = (await self.cluster.request("GET", path))["items"]
        return found

    def log(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.service.log() if line["event"] == event]


def vllm_pod(namespace: str, number: int, **other: Any) -> Object:
    made = pod(f"vllm-{number}", f"127.0.1.{number}", namespace=namespace, **other)
    del made["metadata"]["ownerReferences"]
    return made


def config_of(namespace: str, **kubernetes: Any) -> dict[str, Any]:
    source = {"inference_pool": "vllm", "namespace": namespace, **kubernetes}
    return {"pools": [{"name": "vllm", "kubernetes": source}]}


def rights(directory: Path, namespace: str, config: Mapping[str, Any], pool: Object) -> list[Object]:
    """What `extproc manifests` prints for this config: our account and what it may do."""
    files = [directory / "pool.yaml", directory / "config.yaml"]
    for file, content in zip(files, (pool, config), strict=True):
        file.write_text(yaml.safe_dump(dict(content)))
    given = [argument for file in files for argument in ("-f", str(file))]
    made = objects(*given, "--gateway", "gw", "--namespace", namespace, "--part", "router")
    return [each for each in made if each["kind"] in RIGHTS]


@asynccontextmanager
async def world(
    cluster: RealCluster,
    directory: Path,
    namespace: str,
    *objects: Object,
    config: Mapping[str, Any] | None = None,
    pool: Object | None = None,
    token: str | None = None,
    ready: bool = True,
    keep: Callable[[Object], bool] = lambda _right: True,
) -> AsyncIterator[World]:
    """A namespace with *objects* and a pool, and the service. *keep*: of the printed rights, those that it gets."""
    config = config or config_of(namespace)
    pool = pool or inference_pool(namespace=namespace, ports=[PORT])
    await cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    await cluster.create(*filter(keep, rights(directory, namespace, config, pool)), pool, *objects)
    token_file = directory / "token"
    token_file.write_text(token or await cluster.token(namespace, "extproc"))
    kubeconfig = cluster.kubeconfig(directory / "kubeconfig", token_file, namespace)
    service = Service(config, directory, "--kubeconfig", str(kubeconfig), *QUICK_STOP)
    try:
        await asyncio.to_thread(service.start)
        if ready:
            await asyncio.to_thread(service.wait_ready)
        yield World(cluster, namespace, service, token_file)
        faults = [line for line in service.log() if line["event"].endswith("_fault")]
        assert faults == [], json.dumps(faults)
    finally:
        await asyncio.to_thread(service.stop)
