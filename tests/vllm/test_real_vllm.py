"""Three real vLLM servers behind a real Envoy, in both body modes: what users run, without a GPU."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import real_vllm

from extproc.demo.bootstrap import POOL
from extproc.demo.envoy import LOOPBACK, Envoy
from extproc.demo.process import ChildProcess
from extproc.demo.service import Service

DIRECTORY = Path(os.environ.get("EXTPROC_VLLM", ".vllm")).resolve()
HEALTHY_S = 240.0
"""A server takes 30 s; three at once on two cores, and a busy machine, take longer."""
BENCH_S = 240.0

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not (DIRECTORY / "model" / "config.json").exists(), reason=f"no vLLM in {DIRECTORY}"),
]


class VllmServer(ChildProcess):
    """One `vllm serve`."""

    def __init__(self, name: str, directory: Path, models: list[str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        super().__init__(name, real_vllm.serve_command(DIRECTORY, self.port, models), directory)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def wait_healthy(self) -> None:
        self.wait_for("its health", self._is_healthy, HEALTHY_S)

    def _is_healthy(self) -> bool | None:
        try:
            with LOOPBACK.open(f"http://{self.address}/health", timeout=2) as answer:
                return answer.status == 200 or None
        except OSError:
            return None


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[VllmServer]]:
    """Two of version v1, with a LoRA adapter; one of v2."""
    directory = tmp_path_factory.mktemp("vllm")
    os.environ.update(real_vllm.environment())
    with ExitStack() as running:
        plan = [("v1-a", ["qwq-32b=lora:lora-a"]), ("v1-b", ["qwq-32b=lora:lora-a"]), ("v2", ["qwq-32b-v2"])]
        started = [running.enter_context(VllmServer(name, directory, models)) for name, models in plan]
        for server in started:
            server.wait_healthy()
        yield started


def config(servers: list[VllmServer], **more: Any) -> dict[str, Any]:
    versions = ["v1", "v1", "v2"]
    endpoints = [
        {"address": server.address, "labels": {"version": version}}
        for server, version in zip(servers, versions, strict=True)
    ]
    v1, v2 = {"version": "v1"}, {"version": "v2"}
    return {
        "pools": [{"name": POOL, "endpoints": endpoints, "fallback_endpoints": 0}],
        "models": [
            {
                "name": "qwq",
                "pool": POOL,
                "targets": [
                    {"model": "qwq-32b", "weight": 50, "labels": v1},
                    {"model": "qwq-32b-v2", "weight": 50, "labels": v2},
                ],
            },
            {"name": "qwq-stable", "pool": POOL, "targets": [{"model": "qwq-32b", "labels": v1}]},
            {"name": "qwq-math", "pool": POOL, "targets": [{"model": "lora-a", "labels": v1}]},
        ],
        **more,
    }


class Gateway:
    """Envoy and the service before the servers, in one body mode."""

    def __init__(self, envoy: Envoy, service: Service, client: aiohttp.ClientSession) -> None:
        self.envoy = envoy
        self.service = service
        self.client = client

    async def chat(self, model: str, **options: Any) -> dict[str, Any]:
        body = {"model": model, "messages": [{"role": "user", "content": "Who are you?"}], "max_tokens": 8}
        async with self.client.post("/v1/chat/completions", json={**body, **options}) as response:
            assert response.status == 200, await response.text()
            answer: dict[str, Any] = await response.json()
        return answer

    async def endpoints(self) -> dict[str, dict[str, Any]]:
        state = await asyncio.to_thread(self.service.state)
        return {endpoint["address"]: endpoint for endpoint in state["pools"][0]["endpoints"]}

    def requests(self) -> list[dict[str, Any]]:
        return [line for line in self.service.log() if line["event"] == "request"]


@asynccontextmanager
async def attached(
    servers: list[VllmServer], directory: Path, bootstrap: str, **more: Any
) -> AsyncIterator[Gateway]:
    with ExitStack() as running:
        service = running.enter_context(Service(config(servers, **more), directory, "--drain-delay", "0"))
        service.wait_ready()
        pinned = [] if bootstrap.endswith("original-dst") else [server.address for server in servers]
        envoy = running.enter_context(
            Envoy(bootstrap, directory, pools={POOL: pinned}, ext_proc=service.grpc)
        )
        async with aiohttp.ClientSession(envoy.listen) as client:
            yield Gateway(envoy, service, client)


@pytest.fixture(params=["buffered-override-host", "duplex-original-dst"])
async def gateway(
    request: pytest.FixtureRequest, servers: list[VllmServer], tmp_path: Path
) -> AsyncIterator[Gateway]:
    async with attached(servers, tmp_path, request.param) as gateway:
        yield gateway


async def test_a_chat_is_answered_by_a_real_vllm_under_the_targets_name(gateway: Gateway) -> None:
    answer = await gateway.chat("qwq-stable")
    assert answer["model"] == "qwq-32b"
    assert answer["usage"]["completion_tokens"] >= 1


async def test_a_streamed_chat_ends_with_usage_and_done(gateway: Gateway) -> None:
    body = {
        "model": "qwq-stable",
        "messages": [{"role": "user", "content": "Count."}],
        "max_tokens": 16,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    async with gateway.client.post("/v1/chat/completions", json=body) as response:
        assert response.status == 200
        events = [line.decode().strip() async for line in response.content if line.startswith(b"data: ")]
    assert events[-1] == "data: [DONE]"
    usage = json.loads(events[-2].removeprefix("data: "))["usage"]
    assert usage["completion_tokens"] == 16


async def test_a_canary_splits_between_the_versions(gateway: Gateway) -> None:
    answers = [await gateway.chat("qwq", max_tokens=1) for _ in range(24)]
    models = {answer["model"] for answer in answers}
    assert models == {"qwq-32b", "qwq-32b-v2"}  # neither is missing in 24 draws but once in 8 million


async def test_a_lora_adapter_is_reached_by_its_alias_and_seen_in_the_metrics(gateway: Gateway) -> None:
    body = {"max_tokens": 400, "ignore_eos": True}
    running = asyncio.create_task(gateway.chat("qwq-math", **body))
    loras: set[str] = set()
    while not running.done():
        loras |= {
            name for e in (await gateway.endpoints()).values() for name in e["metrics"]["running_loras"]
        }
        await asyncio.sleep(0.05)
    assert (await running)["model"] == "lora-a"
    assert loras == {"lora-a"}


async def test_the_metrics_of_every_server_are_read_and_follow_its_load(gateway: Gateway) -> None:
    long = {"max_tokens": 600, "ignore_eos": True}
    busy = [asyncio.create_task(gateway.chat("qwq-stable", **long)) for _ in range(6)]
    most: dict[str, float] = {}
    while not all(task.done() for task in busy):
        for address, endpoint in (await gateway.endpoints()).items():
            assert endpoint["fresh"], endpoint
            most[address] = max(most.get(address, 0), endpoint["metrics"]["running"])
        await asyncio.sleep(0.05)
    await asyncio.gather(*busy)
    assert sorted(most.values()) == [0, 3, 3]  # spread evenly over v1, none to v2


async def test_the_model_list_has_the_aliases_and_what_the_servers_list(gateway: Gateway) -> None:
    async with gateway.client.get("/v1/models") as response:
        listed = [model["id"] for model in (await response.json())["data"]]
    assert set(listed) == {"qwq", "qwq-stable", "qwq-math", "qwq-32b", "qwq-32b-v2", "lora-a"}


ANSWERS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"max_tokens": 6, "stream": True, "stream_options": {"include_usage": True}}),
    ("/v1/chat/completions", {"max_tokens": 6}),
    ("/v1/messages", {"max_tokens": 6, "stream": True}),
    ("/v1/responses", {"input": "Who are you?", "max_output_tokens": 6, "stream": True}),
]


async def test_answers_are_read_and_say_the_clients_name(servers: list[VllmServer], tmp_path: Path) -> None:
    """Asked for by mode override: this Envoy is told to send no answers."""
    messages = [{"role": "user", "content": "Who are you?"}]
    async with attached(
        servers, tmp_path, "buffered-override-host", responses={"restore_model": True}
    ) as gateway:
        for path, options in ANSWERS:
            body = {
                "model": "qwq-stable",
                **({"messages": messages} if "input" not in options else {}),
                **options,
            }
            async with gateway.client.post(path, json=body) as response:
                text = await response.text()
                assert response.status == 200, text
            assert '"model":"qwq-stable"' in text, path
            assert '"qwq-32b"' not in text, path
        # written when the streams have ended
        while len(told := [line for line in gateway.requests() if "answer" in line]) < len(ANSWERS):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    for line in told:
        assert line["answer"] == "ok", line
        assert 1 <= line["completion_tokens"] <= 6, line
        assert line["prompt_tokens"] >= 10, line
        assert line["finish_reason"] in ("length", "stop"), line
    assert [0 < line["ttft_ms"] < line["duration_ms"] for line in told if "ttft_ms" in line] == [True] * 3


async def test_vllms_own_load_generator_gets_every_answer(gateway: Gateway) -> None:
    arguments = (
        f"serve --backend openai-chat --endpoint /v1/chat/completions --base-url {gateway.envoy.listen}"
        f" --model qwq-stable --tokenizer {DIRECTORY / 'model'} --dataset-name random --num-prompts 80"
        " --random-input-len 128 --random-output-len 48 --max-concurrency 16 --ignore-eos --num-warmups 0"
    )
    command = [sys.executable, real_vllm.__file__, "bench", str(DIRECTORY), *arguments.split()]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=BENCH_S, check=False
    )
    print(done.stdout[done.stdout.find("====") :])
    assert done.returncode == 0, done.stdout + done.stderr
    assert _figure(done.stdout, "Successful requests") == 80
    assert _figure(done.stdout, "Failed requests") == 0
    lines = gateway.requests()
    assert {line["outcome"] for line in lines} == {"completed"}
    chats = [line for line in lines if line["method"] == "POST"]
    assert len(chats) >= 80
    # 16 at a time on two servers: whatever their speeds, neither holds more than three quarters of them.
    peaks = _most_in_flight(chats)
    assert len(peaks) == 2  # v2 does not serve qwq-stable
    assert max(peaks.values()) <= 12


def _most_in_flight(lines: list[dict[str, Any]]) -> dict[str, int]:
    """The most requests at once by endpoint, as the log tells."""
    steps = []
    for line in lines:
        ended = datetime.fromisoformat(line["timestamp"]).timestamp()
        steps += [(ended, -1, line["endpoint"]), (ended - line["duration_ms"] / 1e3, 1, line["endpoint"])]
    now, most = Counter[str](), Counter[str]()
    for _, step, endpoint in sorted(steps):
        now[endpoint] += step
        most[endpoint] = max(most[endpoint], now[endpoint])
    return most


def _figure(text: str, name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+)", text)
    assert found is not None, text
    return int(found[1])
