"""The metrics as a collector gets them: the samples of /metrics, each of them, and the conventional names beside."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any

from collector import attributes
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_CUMULATIVE, Metric
from opentelemetry.sdk.metrics.export import Metric as SdkMetric
from opentelemetry.sdk.metrics.export import MetricsData, ResourceMetrics, ScopeMetrics
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from otlp_talk import answered, routed, traced
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families

from extproc.config import parse_config
from extproc.otlp import genai
from extproc.otlp.metrics import Interval, convert, pieces
from extproc.otlp.service import collect

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]

INTERVAL = Interval(1_000, 2_000)
PROVIDERS = {"pool": "vllm"}


def sent(metrics: Iterable[SdkMetric]) -> list[Metric]:
    """As they are on the wire."""
    scope = ScopeMetrics(InstrumentationScope("test"), list(metrics), "")
    message = encode_metrics(MetricsData([ResourceMetrics(Resource({}), [scope], "")]))
    return list(message.resource_metrics[0].scope_metrics[0].metrics)


def converted(registry: CollectorRegistry, points: int = 1000) -> list[Metric]:
    families = registry.collect()
    return sent(
        piece
        for family in families
        for metric in convert(family, INTERVAL)
        for piece in pieces(metric, points)
    )


def samples_of(metrics: Iterable[Metric]) -> Samples:
    """As Prometheus would have them."""
    found: Samples = {}
    for metric in metrics:
        for name, labels, value in _samples(metric):
            key = (name, frozenset(labels.items()))
            assert key not in found
            found[key] = value
    return found


def _samples(metric: Metric) -> Iterator[tuple[str, dict[str, str], float]]:
    data: Any = getattr(metric, str(metric.WhichOneof("data")))
    for point in data.data_points:
        labels = attributes(point.attributes)
        if metric.WhichOneof("data") != "histogram":
            yield metric.name, labels, point.as_double
            continue
        bounds = [*point.explicit_bounds, math.inf]
        for bound, count in zip(bounds, itertools.accumulate(point.bucket_counts), strict=True):
            le = "+Inf" if bound == math.inf else str(float(bound))
            yield f"{metric.name}_bucket", {**labels, "le": le}, count
        yield f"{metric.name}_count", labels, point.count
        yield f"{metric.name}_sum", labels, point.sum


def exposed(registry: CollectorRegistry) -> Samples:
    """What /metrics says."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }


# -- exactly what is exposed --------------------------------------------------------------------------------------

VALUES = st.floats(0, 1e6)


@settings(max_examples=60, deadline=None)
@given(
    counts=st.dictionaries(st.text('ab"\\\n', max_size=3), VALUES, max_size=4),
    gauge=st.floats(allow_nan=False),
    observed=st.lists(st.tuples(st.sampled_from(["x", "y"]), VALUES), max_size=30),
    points=st.integers(1, 5),
)
def test_every_sample_of_the_page_arrives_as_it_is(
    counts: dict[str, float], gauge: float, observed: list[tuple[str, float]], points: int
) -> None:
    registry = CollectorRegistry()
    counter = Counter("requests", "Text.", ["model"], registry=registry)
    for model, value in counts.items():
        counter.labels(model).inc(value)
    Gauge("load", "Text.", registry=registry).set(gauge)
    histogram = Histogram("wait_seconds", "Text.", ["pool"], buckets=(0.1, 2.5, 1000), registry=registry)
    for pool, value in observed:
        histogram.labels(pool).observe(value)
    assert samples_of(converted(registry, points)) == without_created(exposed(registry))


def without_created(samples: Samples) -> Samples:
    """The service has these switched off, for all of its registry."""
    return {key: value for key, value in samples.items() if not key[0].endswith("_created")}


async def test_what_a_real_service_exposes_arrives_as_it_is() -> None:
    async with traced() as (service, envoy, collector):
        for model in ("qwq", "same", "unknown"):
            stream, _, _ = await routed(envoy, model=model)
            await answered(stream)
        await service.idle()
        page = exposed(service.metrics.registry)
    ours = [metric for metric in collector.metrics.values() if metric.name.startswith("extproc_")]
    timely = {key for key in page if key[0].startswith(("process_", "python_")) or "lag" in key[0]}
    found = {key: value for key, value in samples_of(ours).items() if key not in timely}
    otlp = {key for key in page if key[0].startswith("extproc_otlp_")}
    assert {k: v for k, v in found.items() if k not in otlp} == {
        key: value for key, value in page.items() if key not in timely | otlp
    }
    assert {name for name, _ in timely if not name.startswith("extproc_")} <= set(collector.metrics)


def test_types_times_and_texts() -> None:
    registry = CollectorRegistry()
    Counter("requests", "How many.", registry=registry).inc()
    Gauge("load", "How much.", registry=registry).set(2)
    Histogram("wait_seconds", "How long.", buckets=(1.0,), registry=registry).observe(0.5)
    counter, gauge, histogram = converted(registry)[0], converted(registry)[-2], converted(registry)[-1]
    assert (counter.name, counter.description, counter.unit) == ("requests_total", "How many.", "")
    assert (counter.sum.is_monotonic, counter.sum.aggregation_temporality) == (
        True,
        AGGREGATION_TEMPORALITY_CUMULATIVE,
    )
    assert (gauge.name, gauge.WhichOneof("data")) == ("load", "gauge")
    assert histogram.histogram.aggregation_temporality == AGGREGATION_TEMPORALITY_CUMULATIVE
    for point in (counter.sum.data_points[0], histogram.histogram.data_points[0]):
        assert (point.start_time_unix_nano, point.time_unix_nano) == (1_000, 2_000)
    (point,) = histogram.histogram.data_points
    assert (list(point.explicit_bounds), list(point.bucket_counts), point.count) == ([1.0], [1, 0], 1)
    assert not point.HasField("min")
    assert not point.HasField("max")


async def test_what_is_read_on_the_event_loop_is_read_in_pieces() -> None:
    """A family at a time: those of 1,000 endpoints take a millisecond or two each."""
    registry = CollectorRegistry()
    seen: list[str] = []

    class Watched:
        def collect(self) -> Iterator[GaugeMetricFamily]:
            for name in ("a", "b"):
                seen.append(name)
                yield GaugeMetricFamily(name, "Text.", 1.0)

    registry.register(Watched())  # type: ignore[arg-type]
    seen.clear()
    collecting = collect(registry)
    collecting.send(None)
    assert seen == ["a"]
    collecting.close()
    assert [family.name for family in await collect(registry)] == ["a", "b"]


# -- the conventional names ---------------------------------------------------------------------------------------


def conventional(histogram: Histogram) -> list[Metric]:
    (family,) = histogram.collect()
    return sent(genai.convert(family, INTERVAL, PROVIDERS))


def points_of(metric: Metric) -> list[tuple[dict[str, Any], float, int]]:
    points = metric.histogram.data_points
    return [(attributes(point.attributes), point.sum, point.count) for point in points]


def test_durations_have_the_names_of_the_conventions() -> None:
    served = ["model", "target_model", "pool"]
    histogram = Histogram("extproc_request_duration_seconds", "Text.", served, registry=None)
    histogram.labels("qwq", "qwq-32b", "pool").observe(2)
    histogram.labels("none", "none", "pool").observe(3)
    histogram.labels("other", "none", "none").observe(4)  # refused: no model server had it
    (metric,) = conventional(histogram)
    assert (metric.name, metric.unit) == ("gen_ai.server.request.duration", "s")
    assert points_of(metric) == [
        (
            {
                "gen_ai.request.model": "qwq",
                "gen_ai.response.model": "qwq-32b",
                "extproc.pool": "pool",
                "gen_ai.provider.name": "vllm",
            },
            2,
            1,
        ),
        ({"extproc.pool": "pool", "gen_ai.provider.name": "vllm"}, 3, 1),
    ]


def test_tokens_are_of_the_input_or_the_output_and_cached_ones_count_once() -> None:
    labels = ["model", "target_model", "pool", "type"]
    histogram = Histogram("extproc_answer_tokens", "Text.", labels, buckets=(10, 100), registry=None)
    for type_, tokens in (("prompt", 70), ("cached", 64), ("completion", 8)):
        histogram.labels("m", "m", "elsewhere", type_).observe(tokens)
    (metric,) = conventional(histogram)
    assert (metric.name, metric.unit) == ("gen_ai.client.token.usage", "{token}")
    names = {"gen_ai.request.model": "m", "gen_ai.response.model": "m", "extproc.pool": "elsewhere"}
    assert points_of(metric) == [
        ({**names, "gen_ai.token.type": "input"}, 70, 1),
        ({**names, "gen_ai.token.type": "output"}, 8, 1),
    ]


def test_what_has_no_conventional_name_is_sent_under_its_own_alone() -> None:
    histogram = Histogram("extproc_queue_wait_seconds", "Text.", ["pool"], registry=None)
    histogram.labels("pool").observe(1)
    assert conventional(histogram) == []


def test_a_pool_of_which_no_engine_is_known_has_no_provider() -> None:
    text = b"pools: [{name: p, endpoints: []}, {name: q, endpoints: [], metrics: {engine: none}}]"
    assert genai.providers(parse_config(text)) == {"p": "vllm"}


def test_seconds_are_told_as_seconds() -> None:
    units = {unit for name, (_, unit) in genai.METRICS.items() if name.endswith("_seconds")}
    assert units == {"s"}


async def test_the_metrics_that_are_renamed_are_there() -> None:
    async with traced() as (service, _, _):
        names = {family.name for family in service.metrics.registry.collect()}
    assert set(genai.METRICS) <= names
