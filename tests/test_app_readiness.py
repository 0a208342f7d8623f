"""What the whole service says while it waits for what only a cluster can tell."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from kube_api import KubeApi
from kube_objects import inference_pool
from msgspec.json import decode

from extproc import config_file, logs
from extproc.app import App
from extproc.options import Options

POOL = "pools: [{name: p, kubernetes: {inference_pool: vllm}}]"
BOUND_S = 20.0


class Service:
    """The service, and the lines that it logged."""

    def __init__(self, app: App, log: Path) -> None:
        self.app = app
        self._log = log

    def lines(self, event: str) -> list[dict[str, object]]:
        text = self._log.read_text().rpartition("\n")[0]
        return [line for line in map(decode, text.splitlines()) if line["event"] == event]

    async def line(self, event: str) -> dict[str, object]:
        deadline = time.monotonic() + BOUND_S
        while not (found := self.lines(event)):
            assert time.monotonic() < deadline, f"never logged: {event}"
            await asyncio.sleep(0.02)
        return found[0]


@asynccontextmanager
async def serving(api: KubeApi, text: str, folder: Path) -> AsyncIterator[Service]:
    file, log = folder / "router.yaml", folder / "log"
    file.write_text(text)
    options = Options(
        file,
        grpc_address="127.0.0.1:0",
        http_address="127.0.0.1:0",
        kubeconfig=api.kubeconfig(folder / "kubeconfig"),
    )
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT)
    writer = logs.LineWriter(descriptor)
    app = App(options, config_file.load(file)[0], "", writer)
    running = asyncio.create_task(app.run())
    try:
        yield Service(app, log)
    finally:
        running.cancel()
        await asyncio.wait([running])
        gc.unfreeze()  # what the service froze
        writer.close()
        os.close(descriptor)


async def test_who_waits_for_a_cluster_that_does_not_answer_says_so_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extproc.app.REMIND_S", 0.3)
    async with KubeApi() as api:
        api.fail_next(1_000_000, 401, path="/")
        async with serving(api, POOL, tmp_path) as service:
            line = await service.line("not_ready")
            assert line["level"] == "warning"
            reasons = line["reasons"]
            assert isinstance(reasons, list)
            assert reasons[0].startswith(
                "pool p: its endpoints were not listed yet: "
                "cannot list inferencepools.inference.networking.k8s.io in namespace llm: 401"
            )


async def test_a_pool_that_a_reload_brings_is_told_of_until_its_endpoints_are_known(tmp_path: Path) -> None:
    async with KubeApi() as api:
        api.put(inference_pool("vllm"))
        api.forbid("list", "endpointslices")
        async with serving(api, POOL, tmp_path) as service:
            await service.line("ready")
            file = tmp_path / "router.yaml"
            file.write_text(POOL.replace("]", ", {name: q, kubernetes: {service: other}}]"))
            await api.until(lambda: any(note.startswith("pool q: ") for note in service.app.notes()))
            await api.until(lambda: any('verbs: ["list"]' in note for note in service.app.notes()))
            assert service.app.not_ready() == []


async def test_the_metrics_say_whether_it_is_ready_and_what_it_may_hold(tmp_path: Path) -> None:
    async with KubeApi() as api:
        api.fail_next(1_000_000, 401, path="/")
        text = POOL + "\nlimits: {max_body_bytes: 1000, max_buffered_bytes: 3000}"
        async with serving(api, text, tmp_path) as service:
            shown = service.app.metrics.registry.get_sample_value
            await service.line("listening")
            assert shown("extproc_ready") == 0
            assert shown("extproc_buffered_limit_bytes") == 3000
    async with KubeApi() as api:
        api.put(inference_pool("vllm"))
        async with serving(api, POOL, tmp_path) as service:
            await service.line("ready")
            assert service.app.metrics.registry.get_sample_value("extproc_ready") == 1
