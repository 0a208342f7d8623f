"""The commands, their environment, and the gRPC port's own services, each as a process of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from stack import QUICK_STOP, eventually, running, running_service
from upstream import EchoUpstream

from extproc.demo.process import ChildProcess
from extproc.demo.service import Service

pytestmark = pytest.mark.envoy

EXT_PROC = "envoy.service.ext_proc.v3.ExternalProcessor"
GOOD = {"pools": [{"name": "p", "endpoints": ["127.0.0.1:1"], "metrics": {"engine": "none"}}]}


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "extproc", *arguments]
    return subprocess.run(
        argv, capture_output=True, text=True, timeout=30, check=False, env=os.environ | environment
    )


def written(directory: Path, config: dict[str, Any]) -> str:
    file = directory / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    return str(file)


def test_check_is_content_with_a_good_file(tmp_path: Path) -> None:
    file = written(tmp_path, GOOD)

    checked = run("check", file)

    assert (checked.returncode, checked.stderr) == (0, "")
    assert checked.stdout == f"{file}: valid; 1 pool, 1 endpoint, 0 models\n"


def test_check_tells_every_fault_on_a_line_of_its_own(tmp_path: Path) -> None:
    models = [{"name": "m", "pool": "q", "targets": [{"model": "x", "weight": -1}]}]
    file = written(tmp_path, {"pools": [{"name": "p", "endpoint": []}], "models": models, "defaults": 1})

    checked = run("check", file)

    lines = checked.stderr.splitlines()
    assert (checked.returncode, checked.stdout) == (1, "")
    paths = sorted(line.removeprefix(f"{file}: ").partition(": ")[0] for line in lines)
    assert set(paths) >= {"$.defaults", "$.models[0].targets[0].weight", "$.pools[0].endpoint"}
    assert all(line.startswith(f"{file}: $") for line in lines)


def test_a_faulty_or_missing_file_at_start_is_exit_1_with_the_fault(tmp_path: Path) -> None:
    faulty = written(tmp_path, {"pools": []})
    missing = str(tmp_path / "missing.yaml")

    started = run("serve", "--config", faulty)
    without = run("serve", "--config", missing)

    assert started.returncode == 1
    assert started.stderr.startswith(f"{faulty}: $.pools: ")
    assert (without.returncode, without.stderr) == (
        1,
        f"{missing}: $: cannot be read: No such file or directory\n",
    )


def test_contradicting_tls_flags_are_refused(tmp_path: Path) -> None:
    started = run("serve", "--config", written(tmp_path, GOOD), "--tls-cert", "x.pem")

    assert started.returncode == 2
    assert "--tls-cert and --tls-key go together" in started.stderr


async def test_an_address_that_is_taken_is_exit_1_with_a_reason(tmp_path: Path) -> None:
    async with running_service(GOOD, tmp_path) as service:
        flags = ("--grpc-address", service.grpc, "--http-address", "127.0.0.1:0")
        second = run("serve", "--config", str(service.config_file), *flags)

    assert second.returncode == 1
    reason = "in use, or no address of this machine"
    assert f"extproc: cannot serve: --grpc-address {service.grpc}: {reason}\n" in second.stderr


async def test_an_http_address_that_is_taken_is_exit_1_with_a_reason(tmp_path: Path) -> None:
    async with running_service(GOOD, tmp_path) as service:
        taken = service.http.removeprefix("http://")
        flags = ("--grpc-address", "127.0.0.1:0", "--http-address", taken)
        second = run("serve", "--config", str(service.config_file), *flags)

    assert second.returncode == 1
    assert f"extproc: cannot serve: --http-address {taken}: " in second.stderr
    assert "address already in use" in second.stderr


async def test_it_tells_ipv6_addresses_as_they_are_written_in_urls(tmp_path: Path) -> None:
    flags = ("--grpc-address", "[::1]:0", "--http-address", "[::1]:0", *QUICK_STOP)
    async with running_service(GOOD, tmp_path, *flags) as service:  # ready: it answers at what it told
        assert [re.sub(r"\d+$", "…", at) for at in (service.grpc, service.http)] == [
            "[::1]:…",
            "http://[::1]:…",
        ]


async def test_every_flag_comes_from_the_environment_too(tmp_path: Path) -> None:
    environment = {
        "EXTPROC_CONFIG": written(tmp_path, GOOD),
        "EXTPROC_GRPC_ADDRESS": "127.0.0.1:0",
        "EXTPROC_HTTP_ADDRESS": "127.0.0.1:0",
        "EXTPROC_LOG_LEVEL": "info",
        "EXTPROC_LOG_FORMAT": "json",
        "EXTPROC_TLS_SELF_SIGNED": "true",
        "EXTPROC_DRAIN_DELAY": "0.25",
        "EXTPROC_DRAIN_TIMEOUT": "1.5",
    }
    variables = [f"{name}={value}" for name, value in environment.items()]
    process = ChildProcess("extproc", ["env", *variables, sys.executable, "-m", "extproc", "serve"], tmp_path)
    async with running(process):
        (listening,) = await eventually(
            lambda: [line for line in process.log() if line["event"] == "listening"], bool
        )
        process.terminate()
        await eventually(lambda: process.running, lambda running: not running)

    assert listening["grpc"].startswith("127.0.0.1:")
    (draining,) = [line for line in process.log() if line["event"] == "draining"]
    assert (draining["delay_s"], draining["timeout_s"]) == (0.25, 1.5)


async def test_log_lines_for_people_and_only_the_important_ones(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "extproc", "serve", "--config", written(tmp_path, GOOD)]
    argv += ["--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0", "--drain-delay", "0"]
    async with running(ChildProcess("extproc", [*argv, "--log-format", "console"], tmp_path)) as process:
        await eventually(process.err.read_text, lambda text: "listening" in text)
        text = process.err.read_text()

    assert "\x1b" not in text
    with pytest.raises(ValueError):
        json.loads(text.splitlines()[0])


# -- the gRPC port ------------------------------------------------------------------------------------------


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with EchoUpstream() as upstream:
        config = {"pools": [{"name": "p", "endpoints": [upstream.address]}]}
        async with running_service(config, tmp_path) as service:
            yield service


async def test_health_is_told_for_the_services_of_the_contract_and_no_others(service: Service) -> None:
    names = ("", "liveness", "readiness", EXT_PROC)
    async with grpc.aio.insecure_channel(service.grpc) as channel:
        stub = health_pb2_grpc.HealthStub(channel)

        async def ask() -> dict[str, int]:
            requests = {name: health_pb2.HealthCheckRequest(service=name) for name in names}
            return {name: (await stub.Check(ask, timeout=10)).status for name, ask in requests.items()}

        serving = dict.fromkeys(names, health_pb2.HealthCheckResponse.SERVING)
        await eventually(ask, lambda answers: answers == serving)  # a moment after /readyz
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stub.Check(health_pb2.HealthCheckRequest(service="unknown"), timeout=10)

    assert error.value.code() is grpc.StatusCode.NOT_FOUND


async def test_reflection_lists_the_services_and_describes_ext_proc(service: Service) -> None:
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=EXT_PROC),
    ]
    async with grpc.aio.insecure_channel(service.grpc) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        answers = [answer async for answer in stub.ServerReflectionInfo(iter(requests), timeout=10)]

    names = sorted(entry.name for entry in answers[0].list_services_response.service)
    assert names == [EXT_PROC, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"]
    described = answers[1].file_descriptor_response.file_descriptor_proto
    assert any(b"ExternalProcessor" in file for file in described)


async def test_it_is_not_ready_before_its_endpoints_were_tried_and_ready_after(tmp_path: Path) -> None:
    """A dead endpoint counts as tried: it never keeps the service from being ready."""
    async with EchoUpstream() as upstream:
        dead = "127.0.0.1:9"
        config = {"pools": [{"name": "p", "endpoints": [upstream.address, dead]}]}
        async with running_service(config, tmp_path) as service:
            state = service.state()
            told = await eventually(
                lambda: [line["event"] for line in service.log()], lambda told: "ready" in told
            )

    assert state["not_ready"] == []
    assert told == ["config_loaded", "listening", "scrape_failed", "ready"]
