"""`extproc serve` with OTLP: from its start, with right settings and wrong ones, to its end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import yaml
from collector import over_grpc, over_http
from envoy_peer import EnvoyPeer
from ext_proc_service import CONFIG
from otlp_talk import ENDPOINT, answered, routed

from extproc.demo.service import Service
from extproc.otlp.service import FLUSH_S

QUICK_STOP = ("--drain-delay", "0", "--drain-timeout", "1")
IMPORTED = """
import asyncio, pathlib, sys
from extproc import app, config_file, logs
from extproc.options import Options

async def build():
    file = pathlib.Path(sys.argv[1])
    service = app.App(Options(file), config_file.load(file)[0], "", logs.LineWriter(2))
    assert service.otlp is None and service.telemetry.tracing is None

asyncio.run(build())
print(sorted(name for name in sys.modules if name.split(".")[0] in ("opentelemetry", "requests")))
"""
WITHOUT_THE_EXTRA = """
import sys
sys.modules["opentelemetry.sdk"] = None
from extproc.__main__ import main
main()
"""
OLD_PROTOS = """
import sys, types
sys.modules["opentelemetry.proto.common.v1.common_pb2"] = types.ModuleType("common_pb2")
"""
SERVING = """
from extproc.__main__ import main
main()
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "router.yaml"
    file.write_text(CONFIG)
    return file


def run(*argv: str) -> tuple[int, str, str]:
    done = subprocess.run([sys.executable, *argv], capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


@asynccontextmanager
async def running(directory: Path, *flags: str) -> AsyncIterator[Service]:
    service = Service(yaml.safe_load(CONFIG), directory, *QUICK_STOP, *flags)
    try:
        await asyncio.to_thread(service.start)
        yield service
    finally:
        await asyncio.to_thread(service.stop)


async def one_request(service: Service) -> None:
    async with EnvoyPeer(int(service.grpc.rpartition(":")[2])) as envoy:
        await answered((await routed(envoy))[0])


def test_nothing_of_it_is_imported_where_it_is_not_configured(config: Path) -> None:
    code, out, _ = run("-c", IMPORTED, str(config))
    assert (code, out) == (0, "[]\n")


def test_wrong_settings_end_the_start_with_what_is_wrong(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "jaeger_remote")
    code, out, err = run(
        "-m", "extproc", "serve", "--config", str(config), "--otlp-endpoint", "http://c:4317"
    )
    allowed = "always_on, always_off, traceidratio, parentbased_always_on, parentbased_always_off"
    fault = f"OTEL_TRACES_SAMPLER: 'jaeger_remote' is none of {allowed}, parentbased_traceidratio"
    assert (code, out, err) == (1, "", f"extproc: cannot serve: {fault}\n")


@pytest.mark.parametrize("installed", ["", OLD_PROTOS], ids=["nothing", "what xds-protos brings"])
def test_without_the_extra_it_says_what_to_install(
    config: Path, installed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENDPOINT, "http://c:4317")
    code, out, err = run("-c", installed + WITHOUT_THE_EXTRA, "serve", "--config", str(config))
    told = "opentelemetry.sdk is not installed: pip install '.[otlp]' in a checkout of extproc"
    assert (code, out, err) == (1, "", f"extproc: cannot serve: OTLP is configured, but {told}\n")


def test_where_old_protos_are_in_the_way_it_says_what_to_install(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENDPOINT, "http://c:4317")
    code, out, err = run("-c", OLD_PROTOS + SERVING, "serve", "--config", str(config))
    told = "pip install --force-reinstall --no-deps opentelemetry-proto\n"
    assert (code, out, err.endswith(told)) == (1, "", True), err


@pytest.mark.parametrize("missing", ["exporter", "exporter.otlp.proto.http"])
def test_a_part_of_the_extra_is_not_all_of_it(
    config: Path, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENDPOINT, "http://c:4317")
    hidden = f'import sys; sys.modules["opentelemetry.{missing}"] = None'
    code, _, err = run("-c", hidden + SERVING, "serve", "--config", str(config))
    assert (code, err.splitlines()[1:]) == (1, [])
    assert err.startswith("extproc: cannot serve: OTLP is configured, but opentelemetry.exporter.otlp.proto.")


async def test_metrics_come_again_and_again_and_traces_when_requests_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "100")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20s3cret")
    async with over_grpc() as collector, running(tmp_path, "--otlp-endpoint", collector.url) as service:
        await one_request(service)
        await collector.until(lambda it: it.spans)
        for _ in range(2):
            seen = len(collector.requests)
            await collector.until(lambda it, seen=seen: len(it.requests) >= seen + 2)  # type: ignore[misc]
        await collector.until(lambda it: "gen_ai.server.request.duration" in it.metrics)
        log = service.err.read_text()
    told = [line for line in service.log() if line["event"] == "otlp"]
    where = f"grpc {collector.url.removeprefix('http://')}"
    assert [(line["traces"], line["metrics"]) for line in told] == [(where, where)]
    assert "s3cret" not in log


async def test_what_is_left_at_the_end_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long before its time."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000")
    async with over_http() as collector:
        monkeypatch.setenv(ENDPOINT, collector.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        async with running(tmp_path) as service:
            await one_request(service)
            assert collector.requests == []
            service.terminate()
            assert await asyncio.to_thread(service.wait, 20) == 0
    assert {span.name for span in collector.spans} == {"extproc.request", "extproc.decide"}
    (point,) = collector.metrics["extproc_requests_total"].sum.data_points
    assert point.as_double == 1.0


async def test_a_collector_that_does_not_answer_does_not_keep_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    async with over_grpc() as collector:
        collector.hangs = True
        async with running(tmp_path, "--otlp-endpoint", collector.url) as service:
            await one_request(service)
            await collector.until(lambda it: it.calls)
            began = time.monotonic()
            service.terminate()
            assert await asyncio.to_thread(service.wait, 20) == 0
            assert time.monotonic() - began < FLUSH_S + 8.0
    assert [line["outcome"] for line in service.log() if line["event"] == "request"] == ["completed"]
