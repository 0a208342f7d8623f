"""When counts began, as a collector is told: a count that falls without a new start is an error of who sends it."""

from __future__ import annotations

import asyncio
from typing import Any

from collector import Collector, attributes, over_grpc
from envoy_peer import EnvoyPeer
from ext_proc_service import Service, serving
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from otlp_talk import answered, begun, routed
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from extproc.config import parse_config
from extproc.otlp.metrics import Series
from extproc.otlp.starts import Starts
from extproc.telemetry import LOOK_S, SERIES_KEPT_S

BEGAN = 1_000
OFTEN = {"OTEL_METRIC_EXPORT_INTERVAL": "50"}


def series(name: str, **labels: str) -> Series:
    return name, tuple(labels.items())


def test_what_the_first_reading_shows_began_with_the_process() -> None:
    registry = CollectorRegistry()
    Counter("requests", "Text.", ["model"], registry=registry).labels("m").inc()
    Histogram("wait_seconds", "Text.", registry=registry)
    Gauge("load", "Text.", registry=registry)
    starts = Starts(BEGAN).read(registry.collect(), 2_000)
    assert starts == {series("requests", model="m"): BEGAN, series("wait_seconds"): BEGAN}


def test_a_series_that_comes_later_began_after_the_reading_before() -> None:
    registry = CollectorRegistry()
    counter = Counter("requests", "Text.", ["model"], registry=registry)
    histogram = Histogram("wait_seconds", "Text.", ["pool"], registry=registry)
    starts = Starts(BEGAN)
    counter.labels("old").inc()
    starts.read(registry.collect(), 2_000)
    counter.labels("new").inc()
    histogram.labels("p").observe(1)
    later = {series("requests", model="new"): 2_000, series("wait_seconds", pool="p"): 2_000}
    assert starts.read(registry.collect(), 3_000) == {series("requests", model="old"): BEGAN, **later}
    assert starts.read(registry.collect(), 4_000) == {series("requests", model="old"): BEGAN, **later}


@given(st.lists(st.sampled_from(["inc", "drop", "read"]), max_size=30))
def test_from_one_start_a_count_never_falls_and_a_new_start_is_not_before_the_last_reading(
    events: list[str],
) -> None:
    counter = Counter("requests", "Text.", ["model"], registry=None)
    starts, now = Starts(BEGAN), BEGAN
    last: tuple[int, float] | None = None
    for event in [*events, "read"]:
        if event == "inc":
            counter.labels("m").inc()
        elif event == "drop":
            counter.clear()
        else:
            read_at, now = now, now + 1
            found = starts.read(counter.collect(), now)
            values = [
                s.value for family in counter.collect() for s in family.samples if s.name.endswith("_total")
            ]
            if not values:
                last = None
                assert found == {}
                continue
            start, value = found[series("requests", model="m")], values[0]
            if last is not None and start == last[0]:
                assert value >= last[1]
            else:
                assert start == read_at
            last = start, value


NAMES = ("extproc_requests_total", "extproc_request_duration_seconds", "gen_ai.server.request.duration")
POOL = "pools: [{name: pool, endpoints: ['127.0.0.1:8001']}]\n"
WITHOUT = POOL + "models: [{name: steady, pool: pool}]"
ROLLED = POOL + "models: [{name: steady, pool: pool}, {name: rolled, pool: pool}]"


def points(collector: Collector) -> list[tuple[float, int]]:
    """(count, start) under each of `NAMES` of the model that is rolled, as they arrived last."""
    found = []
    for name in NAMES:
        metric = collector.metrics.get(name, Metric())
        data: Any = getattr(metric, metric.WhichOneof("data") or "sum")
        for point in data.data_points:
            if "rolled" in attributes(point.attributes).values():
                count = point.count if metric.HasField("histogram") else point.as_double
                found.append((count, point.start_time_unix_nano))
    return found


def counts(collector: Collector) -> list[float]:
    return [count for count, _ in points(collector)]


def put_in_force(service: Service, config: str) -> None:
    service.fleet.apply(parse_config(config.encode()))


def forget(service: Service) -> None:
    """What the config in force does not name, as it has not for long."""
    assert service.fleet.router is not None
    for now in (1000.0, 1000.0 + SERIES_KEPT_S + LOOK_S):
        service.telemetry.forget(service.fleet.router, now)


async def asked(service: Service, envoy: EnvoyPeer) -> None:
    for model in ("steady", "rolled"):
        stream, _, _ = await routed(envoy, model=model)
        await answered(stream)
    await service.idle()


async def test_a_model_that_left_and_comes_back_is_counted_from_a_new_start() -> None:
    async with over_grpc() as collector, serving(ROLLED) as (service, envoy):
        otlp = begun(service, collector.url, OFTEN)
        exporting = asyncio.create_task(otlp.run())
        await asked(service, envoy)
        await asked(service, envoy)
        await collector.until(lambda c: counts(c) == [2, 2, 2])
        starts = {start for _, start in points(collector)}
        put_in_force(service, WITHOUT)
        forget(service)
        await collector.until(lambda c: counts(c) == [])
        put_in_force(service, ROLLED)
        await asked(service, envoy)
        await collector.until(lambda c: counts(c) == [1, 1, 1])
        assert min(start for _, start in points(collector)) > max(starts)
        exporting.cancel()
        await asyncio.wait([exporting])
        await otlp.close()
