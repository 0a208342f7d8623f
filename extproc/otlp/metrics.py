"""The Prometheus registry as OTLP: the same names, labels and figures; each count since its series began."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from msgspec import Struct
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    NumberDataPoint,
    Sum,
)
from prometheus_client.core import Metric as Family
from prometheus_client.core import Sample

CUMULATIVE = AggregationTemporality.CUMULATIVE

Labels = tuple[tuple[str, str], ...]
Series = tuple[str, Labels]
"""A family's name, and the labels of one of its counts."""


class Interval(Struct, frozen=True):
    """The time that counts are of, in nanoseconds since the epoch."""

    start_ns: int
    now_ns: int
    starts: Mapping[Series, int] = {}
    """Where a count began later."""

    def start_of(self, name: str, labels: Labels) -> int:
        return self.starts.get((name, labels), self.start_ns)


def convert(family: Family, interval: Interval) -> Iterator[Metric]:
    """*family* as the metrics of OTLP: several only for types that it does not have."""
    if family.type == "histogram":
        points = list(histogram_points(family, interval))
        yield Metric(family.name, family.documentation, "", Histogram(points, CUMULATIVE))
        return
    for name, samples in _by_name(family.samples).items():
        numbers = [_number(family.name, sample, interval) for sample in samples]
        data = Sum(numbers, CUMULATIVE, True) if family.type == "counter" else Gauge(numbers)
        yield Metric(name, family.documentation, "", data)


def pieces(metric: Metric, points: int) -> Iterator[Metric]:
    """*metric* with so many points at most, more than once if need be."""
    data: Any = metric.data
    for begin in range(0, len(data.data_points), points):
        some = replace(data, data_points=data.data_points[begin : begin + points])
        yield replace(metric, data=some)


def _number(name: str, sample: Sample, interval: Interval) -> NumberDataPoint:
    start_ns = interval.start_of(name, tuple(sample.labels.items()))
    return NumberDataPoint(dict(sample.labels), start_ns, interval.now_ns, float(sample.value))


def _by_name(samples: Iterable[Sample]) -> Mapping[str, list[Sample]]:
    named: dict[str, list[Sample]] = {}
    for sample in samples:
        if not sample.name.endswith("_created"):  # when a series began, which is no figure
            named.setdefault(sample.name, []).append(sample)
    return named


def histogram_points(
    family: Family,
    interval: Interval,
    attributes: Mapping[Labels, Mapping[str, Any]] | None = None,
) -> Iterator[HistogramDataPoint]:
    """One point for each set of labels, in their order.

    Buckets of Prometheus count all that is at most their bound; those of OTLP count what no bucket before them has.
    *attributes*, where given, are those of each point in place of its labels; points without any are left out.
    """
    buckets: dict[Labels, list[tuple[float, int]]] = {}
    sums: dict[Labels, float] = {}
    for sample in family.samples:
        labels = dict(sample.labels)
        bound = labels.pop("le", None)
        key = tuple(labels.items())
        if bound is not None:
            buckets.setdefault(key, []).append((float(bound), int(sample.value)))
        elif sample.name.endswith("_sum"):
            sums[key] = sample.value
    for key, at_most in buckets.items():
        if attributes is not None and key not in attributes:
            continue
        counts = [n - before for (_, n), (_, before) in zip(at_most, [(0.0, 0), *at_most], strict=False)]
        yield HistogramDataPoint(
            attributes=dict(key) if attributes is None else attributes[key],
            start_time_unix_nano=interval.start_of(family.name, key),
            time_unix_nano=interval.now_ns,
            count=at_most[-1][1],
            sum=sums[key],
            bucket_counts=counts,
            explicit_bounds=[bound for bound, _ in at_most[:-1]],
            min=None,  # type: ignore[arg-type]  # not known; the encoder leaves it out
            max=None,  # type: ignore[arg-type]
        )
