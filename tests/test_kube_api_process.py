"""The API server that plays Kubernetes, in a process of its own."""

from __future__ import annotations

import ssl
from pathlib import Path

import aiohttp
import pytest
import yaml
from kube_api.process import KubeApiProcess
from kube_api.talk import PODS
from kube_objects import inference_pool, pod


async def test_it_serves_the_objects_of_its_files_and_what_is_put_later(tmp_path: Path) -> None:
    file = tmp_path / "objects.yaml"
    file.write_text(yaml.safe_dump_all([pod("from-file"), inference_pool()]))
    async with KubeApiProcess(file) as api, aiohttp.ClientSession() as session:
        stored = await api.put(pod("later", "10.0.0.2"))
        await api.delete("pods", "llm", "from-file")
        async with session.get(api.url + PODS) as response:
            items = (await response.json())["items"]
        assert [item["metadata"]["uid"] for item in items] == [stored["metadata"]["uid"]]
        assert len(await api.objects("inferencepools")) == 1
        assert [(one["method"], one["path"]) for one in await api.requests()] == [("GET", PODS)]


async def test_its_faults_and_watches_are_ordered_and_seen_from_outside() -> None:
    async with KubeApiProcess() as api, aiohttp.ClientSession() as session:
        async with session.get(api.url + PODS, params={"watch": "1"}) as response:
            await api.until_watching(PODS)
            await api.drop_watches()
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()
        await api.black_hole()
        assert await api.watching() == {}
        with pytest.raises(LookupError, match="no pods llm/none"):
            await api.delete("pods", "llm", "none")


async def test_it_speaks_tls_and_writes_credentials(tmp_path: Path) -> None:
    async with KubeApiProcess(tls=True) as api, aiohttp.ClientSession() as session:
        assert await api.tokens(["secret"]) == ["secret"]
        environment = await api.service_account(str(tmp_path), "secret")
        assert api.url.endswith(":" + environment["KUBERNETES_SERVICE_PORT"])
        trusting = ssl.create_default_context(cafile=tmp_path / "ca.crt")
        token = (tmp_path / "token").read_text()
        async with session.get(
            api.url + PODS, ssl=trusting, headers={"Authorization": f"Bearer {token}"}
        ) as response:
            assert response.status == 200
