"""The API server that plays Kubernetes, judged by a real kubectl, which takes it for a cluster."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from kube_api import BOUND_S, KubeApi
from kube_objects import accepted, inference_model, inference_pool, lease, node, pod, service

KUBECTL = shutil.which("kubectl")
pytestmark = pytest.mark.skipif(KUBECTL is None, reason="no kubectl on the PATH")


@dataclass(frozen=True)
class Kubectl:
    """Runs kubectl with a kubeconfig; its home is empty, so that no cache of another cluster is used."""

    api: KubeApi
    config: Path

    async def start(self, *args: str) -> asyncio.subprocess.Process:
        environment = {**os.environ, "HOME": str(self.config.parent)}
        argv = [str(KUBECTL), "--kubeconfig", str(self.config), *args]
        return await asyncio.create_subprocess_exec(
            *argv, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=environment
        )

    async def run(self, *args: str, stdin: bytes = b"") -> tuple[str, str]:
        """What it printed, and what it complained of."""
        process = await self.start(*args)
        try:
            out, err = await asyncio.wait_for(process.communicate(stdin), BOUND_S)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return out.decode(), err.decode()

    async def ok(self, *args: str, stdin: bytes = b"") -> str:
        out, err = await self.run(*args, stdin=stdin)
        assert err == ""
        return out


@pytest.fixture
async def kubectl(tmp_path: Path) -> AsyncIterator[Kubectl]:
    async with KubeApi(tls=True) as api:
        api.tokens = {"secret"}
        yield Kubectl(api, api.kubeconfig(tmp_path / "config", token="secret"))


async def test_it_finds_every_kind_and_names_it(kubectl: Kubectl) -> None:
    listed = await kubectl.ok("api-resources", "--no-headers", "-o", "name")
    assert sorted(listed.split()) == [
        "configmaps",
        "endpointslices.discovery.k8s.io",
        "inferencemodelrewrites.inference.networking.x-k8s.io",
        "inferencemodelrewrites.llm-d.ai",
        "inferencemodels.inference.networking.x-k8s.io",
        "inferenceobjectives.inference.networking.x-k8s.io",
        "inferenceobjectives.llm-d.ai",
        "inferencepools.inference.networking.k8s.io",
        "inferencepools.inference.networking.x-k8s.io",
        "leases.coordination.k8s.io",
        "namespaces",
        "nodes",
        "pods",
        "services",
    ]


async def test_it_lists_in_chunks_and_by_selectors(kubectl: Kubectl) -> None:
    kubectl.api.put(*(pod(f"vllm-{number}") for number in range(5)), pod("other", labels={"app": "other"}))
    listed = await kubectl.ok("get", "pods", "-l", "app=vllm", "--chunk-size=2", "-o", "name")
    assert listed.split() == [f"pod/vllm-{number}" for number in range(5)]
    assert len(kubectl.api.asked("GET", "/pods", limit="2")) == 3


async def test_it_reads_what_the_builders_build(kubectl: Kubectl) -> None:
    objects = [pod(), service(), node(), lease(), inference_pool(), inference_model()]
    kubectl.api.put(*objects)
    kinds = "pods,services,nodes,leases,inferencepools,inferencemodels"
    items = json.loads(await kubectl.ok("get", kinds, "-o", "json"))["items"]
    assert [item["kind"] for item in items] == [obj["kind"] for obj in objects]
    assert items[0] == json.loads(await kubectl.ok("get", "pod", "vllm-0", "-o", "json"))
    described = await kubectl.ok("describe", "pod", "vllm-0")
    assert "Status:           Running\nIP:               10.0.0.1\n" in described


async def test_it_understands_our_refusals(kubectl: Kubectl) -> None:
    _out, err = await kubectl.run("get", "pod", "none")
    assert err == 'Error from server (NotFound): pods "none" not found\n'
    kubectl.api.forbid("list", "pods")
    _out, err = await kubectl.run("get", "pods")
    assert err == (
        'Error from server (Forbidden): pods is forbidden: User "system:serviceaccount:llm:extproc" cannot list '
        'resource "pods" in API group "" in the namespace "llm"\n'
    )
    kubectl.api.tokens = set()
    _out, err = await kubectl.run("get", "services")
    assert err == "error: You must be logged in to the server (Unauthorized)\n"


async def test_it_watches(kubectl: Kubectl) -> None:
    kubectl.api.put(pod("vllm-0"))
    form = 'jsonpath={.type} {.object.metadata.name}{"\\n"}'
    process = await kubectl.start("get", "pods", "--watch", "--output-watch-events", "-o", form)
    try:
        await kubectl.api.until(lambda: kubectl.api.watching)
        kubectl.api.put(pod("vllm-1", "10.0.0.2"))
        kubectl.api.terminate("llm", "vllm-0")
        kubectl.api.delete("pods", "llm", "vllm-0")
        kubectl.api.end_watches()
        out, _err = await asyncio.wait_for(process.communicate(), BOUND_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert out.decode().splitlines() == ["ADDED vllm-0", "ADDED vllm-1", "MODIFIED vllm-0", "DELETED vllm-0"]


async def test_it_waits_for_a_condition(kubectl: Kubectl) -> None:
    kubectl.api.put(pod("vllm-0", ready=False))
    waiting = asyncio.create_task(kubectl.ok("wait", "--for=condition=Ready", "pod/vllm-0", "--timeout=20s"))
    await kubectl.api.until(lambda: kubectl.api.watching)
    kubectl.api.put(pod("vllm-0", ready=True))
    assert await waiting == "pod/vllm-0 condition met\n"


async def test_it_annotates_patches_and_deletes(kubectl: Kubectl) -> None:
    kubectl.api.put(pod("vllm-0"), inference_model("qwq"))
    assert await kubectl.ok("annotate", "pod", "vllm-0", "extproc/cordon=true") == "pod/vllm-0 annotated\n"
    assert kubectl.api.get("pods", "llm", "vllm-0")["metadata"]["annotations"] == {"extproc/cordon": "true"}
    status = json.dumps({"status": {"conditions": [accepted()]}})
    await kubectl.ok("patch", "inferencemodel", "qwq", "--type=merge", "--subresource=status", "-p", status)
    assert kubectl.api.get("inferencemodels", "llm", "qwq")["status"] == {"conditions": [accepted()]}
    await kubectl.ok("delete", "pod", "vllm-0", "--wait=false")
    assert "deletionTimestamp" in kubectl.api.get("pods", "llm", "vllm-0")["metadata"]


async def test_it_applies_and_is_told_of_a_conflict(kubectl: Kubectl) -> None:
    document = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"a": "1"}}
    apply = ("apply", "--validate=false", "-f", "-")
    assert await kubectl.ok(*apply, stdin=json.dumps(document).encode()) == "configmap/x created\n"
    stale = document | {"metadata": {"name": "x", "resourceVersion": "7"}}
    _out, err = await kubectl.run("replace", "--validate=false", "-f", "-", stdin=json.dumps(stale).encode())
    assert err == (
        'Error from server (Conflict): error when replacing "STDIN": Operation cannot be fulfilled on configmaps '
        '"x": the object has been modified; please apply your changes to the latest version and try again\n'
    )
