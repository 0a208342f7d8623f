"""The way to a collector: both protocols, TLS, headers; and collectors that are away, refuse, or do not answer."""

from __future__ import annotations

import asyncio
import logging
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from collector import BOUND_S, Collector, over_grpc, over_http
from cryptography.x509.oid import ExtendedKeyUsageOID
from ext_proc_service import A, Service, serving
from kube_api.credentials import Authority, Pair
from opentelemetry.sdk.metrics.export import MetricsData
from otlp_talk import answered, begun, routed
from prometheus_client import CollectorRegistry, Gauge

from extproc.metrics import Metrics
from extproc.otlp import exporters, sdk_log
from extproc.otlp import service as otlp_service
from extproc.otlp.exporting import MAX_REASON, Exporter
from extproc.otlp.settings import Signal

ALWAYS = {"OTEL_TRACES_SAMPLER": "always_on"}
HEADERS = {"OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20s3cret,x-tenant=a"}
PROTOCOLS = {"grpc": over_grpc, "http/protobuf": over_http}
MANY = 3000


@pytest.fixture(params=PROTOCOLS)
def protocol(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def environment(protocol: str, **more: str) -> dict[str, str]:
    return {**ALWAYS, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol, **more}


async def one_request(url: str, env: dict[str, str]) -> tuple[float, list[dict[str, Any]]]:
    """(seconds that closing took, log) of a service that serves one request."""
    async with serving() as (service, envoy):
        otlp = begun(service, url, env)
        stream, _, _ = await routed(envoy)
        await answered(stream)
        await service.idle()
        began = time.monotonic()
        await otlp.close()
        took_s = time.monotonic() - began
        return took_s, await service.log_lines()


# -- that it arrives ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["none", "gzip"])
async def test_traces_and_metrics_arrive_with_the_headers_and_who_sent_them(
    protocol: str, compression: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=prod,service.version=7")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "router")
    async with PROTOCOLS[protocol]() as collector:
        env = environment(protocol, OTEL_EXPORTER_OTLP_COMPRESSION=compression, **HEADERS)
        _, log = await one_request(collector.url, env)
    assert {span.name for span in collector.spans} == {"extproc.request", "extproc.decide"}
    assert "extproc_requests_total" in collector.metrics
    for _, _, headers in collector.requests:
        assert (headers["authorization"], headers["x-tenant"]) == ("Bearer s3cret", "a")
    (resource,) = {frozenset(resource.items()) for resource in collector.resources()}
    found = dict(resource)
    assert found.pop("service.instance.id")
    assert found.pop("telemetry.sdk.version")
    assert found == {
        "deployment.environment.name": "prod",
        "service.name": "router",
        "service.version": "7",
        "telemetry.sdk.language": "python",
        "telemetry.sdk.name": "opentelemetry",
    }
    assert "s3cret" not in str(log)


def by_grpc(authority: Authority, pair: Pair, directory: Path) -> Any:
    return over_grpc(
        grpc.ssl_server_credentials([(pair.key, pair.certificate)], authority.pem, require_client_auth=True)
    )


def by_http(authority: Authority, pair: Pair, directory: Path) -> Any:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    (directory / "server.pem").write_bytes(pair.certificate + pair.key)
    context.load_cert_chain(directory / "server.pem")
    context.load_verify_locations(cadata=authority.pem.decode())
    context.verify_mode = ssl.CERT_REQUIRED
    return over_http(context)


@asynccontextmanager
async def over_tls(
    protocol: str, directory: Path, authority: Authority
) -> AsyncIterator[tuple[Collector, dict[str, str]]]:
    """A collector that wants a certificate of *authority*, and the environment of who has one."""
    server = authority.issue("collector", ExtendedKeyUsageOID.SERVER_AUTH, ("localhost",))
    client = authority.client()
    env = {"CERTIFICATE": authority.pem, "CLIENT_CERTIFICATE": client.certificate, "CLIENT_KEY": client.key}
    for name, data in env.items():
        (directory / name).write_bytes(data)
    collecting = {"grpc": by_grpc, "http/protobuf": by_http}[protocol](authority, server, directory)
    async with collecting as collector:
        yield collector, {f"OTEL_EXPORTER_OTLP_{name}": str(directory / name) for name in env}


async def test_over_tls_both_sides_show_certificates(
    protocol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "others.pem").write_bytes(Authority("others").pem)
    monkeypatch.setenv(
        "REQUESTS_CA_BUNDLE", str(tmp_path / "others.pem")
    )  # which requests would rather trust
    async with over_tls(protocol, tmp_path, Authority("collectors")) as (collector, files):
        assert collector.url.startswith("https://")
        await one_request(collector.url, environment(protocol, **files))
    assert collector.spans
    assert collector.metrics


async def test_a_collector_of_another_authority_gets_nothing(protocol: str, tmp_path: Path) -> None:
    async with over_tls(protocol, tmp_path, Authority("collectors")) as (collector, files):
        (tmp_path / "CERTIFICATE").write_bytes(Authority("others").pem)
        _, log = await one_request(collector.url, environment(protocol, **files))
    assert collector.requests == []
    assert {line["signal"] for line in log if line["event"] == "otlp_export_failed"} <= {"traces", "metrics"}


# -- that it hurts nobody -----------------------------------------------------------------------------------------


async def test_where_nobody_listens_one_line_says_so_and_closing_is_bounded(protocol: str) -> None:
    async with PROTOCOLS[protocol]() as collector:
        url = collector.url
    took_s, log = await one_request(url, environment(protocol))
    assert took_s < otlp_service.FLUSH_S + 3.0
    lines = [line for line in log if line["event"].startswith("otlp_export")]
    assert [line["signal"] for line in lines] == list(dict.fromkeys(line["signal"] for line in lines))
    assert all("refused" in line["reason"] for line in lines)
    assert [line for line in log if line["event"] == "request"] != []


async def test_a_collector_that_does_not_answer_keeps_nobody_waiting(protocol: str) -> None:
    async with PROTOCOLS[protocol]() as collector:
        collector.hangs = True
        took_s, _ = await one_request(collector.url, environment(protocol))
        assert collector.calls > 0
    assert otlp_service.FLUSH_S - 0.5 < took_s < otlp_service.FLUSH_S + 3.0


async def test_a_collector_that_refuses_is_told_of_once_and_so_is_that_it_takes_them_again(
    protocol: str,
) -> None:
    env = environment(
        protocol,
        OTEL_BSP_SCHEDULE_DELAY="1",
        OTEL_METRICS_EXPORTER="none",
        OTEL_BSP_MAX_EXPORT_BATCH_SIZE="1",
    )
    async with PROTOCOLS[protocol]() as collector, serving() as (service, envoy):
        collector.refuses = grpc.StatusCode.PERMISSION_DENIED
        otlp = begun(service, collector.url, env)
        for _ in range(3):
            await answered((await routed(envoy))[0])
        await service.until(lambda: dropped(service) == 6)
        collector.refuses = None
        await answered((await routed(envoy))[0])
        await collector.until(lambda it: it.spans)
        await service.idle()
        await otlp.close()
        log = await service.log_lines()
    told = [{**line, "timestamp": ""} for line in log if line["event"].startswith("otlp_export")]
    failed, recovered = told
    assert ("not today" in failed["reason"] or "400" in failed["reason"], failed["level"]) == (
        True,
        "warning",
    )
    assert (recovered["event"], recovered["signal"]) == ("otlp_export_recovered", "traces")
    results = {result: exports(service, result) for result in ("ok", "failed")}
    assert results == {"ok": 2, "failed": 6}


def dropped(service: Service, signal: str = "traces") -> float | None:
    return service.sample("extproc_otlp_dropped_total", signal=signal)


def exports(service: Service, result: str) -> float | None:
    return service.sample("extproc_otlp_exports_total", signal="traces", result=result)


async def test_what_the_queue_has_no_room_for_is_dropped_and_counted() -> None:
    env = {**ALWAYS, "OTEL_BSP_MAX_QUEUE_SIZE": "4", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "2"}
    async with over_grpc() as collector, serving() as (service, envoy):
        collector.hangs = True
        otlp = begun(service, collector.url, {**env, "OTEL_METRICS_EXPORTER": "none"})
        await answered((await routed(envoy))[0])
        await collector.until(lambda it: it.calls)
        for _ in range(5):
            await answered((await routed(envoy))[0])
        await service.idle()
        # Two spans are under way and four wait; the others are gone.
        assert dropped(service) == 6.0
        assert service.requests["qwq qwq-32b pool completed"] == 6.0
        await otlp.close()


async def test_whom_it_is_sent_to_is_logged_without_the_path_which_may_be_a_secret() -> None:
    env = {"OTEL_METRICS_EXPORTER": "none", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}
    async with serving() as (service, _):
        otlp = begun(service, "http://127.0.0.1:9/s3cret", env)
        await otlp.close()
        (line,) = await service.log_lines()
    assert (line["event"], line["traces"], line["metrics"]) == ("otlp", "http/protobuf 127.0.0.1:9", None)


@pytest.mark.parametrize(("compression", "grpcs"), [("gzip", "Gzip"), ("none", "NoCompression")])
def test_over_grpc_it_is_sent_as_configured(
    compression: str, grpcs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporters, "GrpcSpans", dict)
    given: Any = exporters.spans(
        Signal("http://c:4317", "grpc", {"a": "b"}, 2.5, compression, None, None, None)
    )
    assert given == {
        "endpoint": "http://c:4317",
        "insecure": True,
        "credentials": None,
        "headers": (("a", "b"),),
        "timeout": 2.5,
        "compression": getattr(grpc.Compression, grpcs),
    }


def test_two_routers_are_told_apart() -> None:
    name = "service.instance.id"
    assert otlp_service.resource().attributes[name] != otlp_service.resource().attributes[name]


async def test_a_message_holds_so_many_points_that_the_event_loop_waits_little_for_it() -> None:
    registry = CollectorRegistry()
    gauge = Gauge("load", "Text.", ["pod"], registry=registry)
    for number in range(5 * otlp_service.POINTS // 2):
        gauge.labels(str(number)).set(number)
    async with serving() as (service, _):
        otlp = begun(service, "http://127.0.0.1:9", {"OTEL_METRICS_EXPORTER": "none"})
        messages = otlp._messages(list(registry.collect()), {}, 0)
        sizes = [_points(message) for message in messages]
        await otlp.close()
    assert sizes == [otlp_service.POINTS, otlp_service.POINTS, otlp_service.POINTS // 2]


def _points(message: MetricsData) -> int:
    (of_resource,) = message.resource_metrics
    (of_scope,) = of_resource.scope_metrics
    return sum(len(metric.data.data_points) for metric in of_scope.metrics)


# -- the queue ----------------------------------------------------------------------------------------------------


class Log:
    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def info(self, event: str, **facts: Any) -> None:
        self.lines.append((event, facts))

    warning = info


class Counts(Metrics):
    """Those of the queue alone."""

    def __init__(self) -> None:
        from prometheus_client import Counter

        self.registry = CollectorRegistry()
        self.otlp_exports = Counter("exports", "", ["signal", "result"], registry=self.registry)
        self.otlp_dropped = Counter("dropped", "", ["signal"], registry=self.registry)


@pytest.fixture
def make() -> Iterator[Callable[..., tuple[Exporter[int], Log, Counts]]]:
    made: list[Exporter[int]] = []

    def make(
        export: Callable[[Sequence[int]], bool], abort: Callable[[], None] = lambda: None, **options: Any
    ) -> tuple[Exporter[int], Log, Counts]:
        log, counts = Log(), Counts()
        options = {"queue": 10_000, "batch": 100, "delay_s": 60.0, **options}
        exporter = Exporter("traces", export, abort, counts, log, **options)  # type: ignore[arg-type]
        made.append(exporter)
        return exporter, log, counts

    yield make
    for exporter in made:
        exporter.close(time.monotonic() + BOUND_S)
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("otlp")] == []


def test_everything_is_sent_once_in_order_in_batches_that_are_bounded(make: Any) -> None:
    batches: list[list[int]] = []

    def export(batch: Sequence[int]) -> bool:
        batches.append(list(batch))
        return True

    exporter, _, counts = make(export)
    for number in range(MANY):
        exporter.put(number)
    exporter.close(time.monotonic() + BOUND_S)
    assert [number for batch in batches for number in batch] == list(range(MANY))
    sent = counts.registry.get_sample_value("exports_total", {"signal": "traces", "result": "ok"})
    assert sent == len(batches)
    assert max(map(len, batches)) <= 100


def test_a_batch_that_is_full_does_not_wait_for_its_time(make: Any) -> None:
    sent = threading.Event()
    exporter, _, _ = make(lambda batch: sent.set() is None, batch=3)
    for number in range(3):
        exporter.put(number)
    assert sent.wait(BOUND_S)


def test_what_cannot_be_sent_costs_its_batch_and_no_more(make: Any) -> None:
    def export(batch: Sequence[int]) -> bool:
        if 0 in batch:
            raise ValueError("cannot be encoded")
        return True

    exporter, log, counts = make(export, batch=1)
    exporter.put(0)
    exporter.put(1)
    exporter.close(time.monotonic() + BOUND_S)
    value = counts.registry.get_sample_value
    assert value("exports_total", {"signal": "traces", "result": "ok"}) == 1
    assert value("dropped_total", {"signal": "traces"}) == 1
    failed = ("otlp_export_failed", {"signal": "traces", "reason": "ValueError('cannot be encoded')"})
    assert log.lines == [failed, ("otlp_export_recovered", {"signal": "traces"})]


def test_each_failure_has_its_own_reason_and_no_long_one(make: Any) -> None:
    said = iter(["x" * 5000, None, "y"])

    def export(batch: Sequence[int]) -> bool:
        text = next(said)
        if text is not None:
            logging.getLogger("opentelemetry.exporter").warning(text)
        return text is None

    sdk_log.keep()
    exporter, log, _ = make(export, batch=1)
    for number in range(3):
        exporter.put(number)
    exporter.close(time.monotonic() + BOUND_S)
    assert [facts.get("reason") for _, facts in log.lines] == ["x" * MAX_REASON, None, "y"]


def test_an_export_that_hangs_is_aborted_when_time_is_up(make: Any) -> None:
    aborted, begun = threading.Event(), threading.Event()

    def export(batch: Sequence[int]) -> bool:
        begun.set()
        return not aborted.wait(BOUND_S)

    exporter, _, _ = make(export, aborted.set, batch=1)
    exporter.put(1)
    assert begun.wait(BOUND_S)
    exporter.close(time.monotonic() + 0.05)
    assert aborted.is_set()


async def test_nothing_of_it_runs_where_nothing_is_sent() -> None:
    before = {thread.name for thread in threading.enumerate()}
    async with serving() as (service, envoy):
        stream, headers, _ = await routed(envoy)
        await answered(stream)
        assert "traceparent" not in headers
        await asyncio.sleep(0)
        after = {thread.name for thread in threading.enumerate()} - before
        assert [name for name in after if name.startswith("otlp")] == []
        assert service.in_flight in ({A: 1}, {})
