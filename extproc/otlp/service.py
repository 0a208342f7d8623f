"""OTLP as the service runs it: what is sent, from when on, and until when."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from urllib.parse import urlsplit

from opentelemetry.sdk.metrics.export import Metric as OtlpMetric
from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData, ResourceMetrics, ScopeMetrics
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from .. import __version__
from ..logs import Logger
from ..metrics import Metrics
from ..router import Router
from . import exporters, genai, sdk_log, spans
from .exporting import Exporter
from .metrics import Interval, convert, pieces
from .settings import Settings, Signal
from .starts import Starts

FLUSH_S = 2.0
"""After the drain: for what is left to leave."""
POINTS = 200
"""In one message: encoding them holds the interpreter's lock for some 3 ms, in which the event loop waits for it."""

Families = tuple[Sequence[Metric], dict[str, str], int]
"""What was collected, the engines by pool, and when (nanoseconds since the epoch)."""


class Otlp:
    """Traces and metrics on their way to a collector.  `run` it, then `close` it."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        log: Logger,
        router: Callable[[], Router],
        clock: Callable[[], float],
    ) -> None:
        sdk_log.keep()
        self._registry = metrics.registry
        self._router = router
        self._interval_s = settings.interval_s
        self._start_ns = time.time_ns()
        self._starts = Starts(self._start_ns)
        self._resource = resource()
        self._scope = InstrumentationScope("extproc", __version__)
        self._spans: Exporter[ReadableSpan] | None = None
        self._metrics: Exporter[Families] | None = None
        self.tracing: spans.RequestSpans | None = None
        if settings.traces is not None:
            self._spans = self._exporter_of_spans(settings.traces, settings, metrics, log)
            sampler = spans.sampler(settings.sampler, settings.ratio)
            put, rng = self._spans.put, random.Random()
            self.tracing = spans.RequestSpans(sampler, self._resource, self._scope, put, clock, rng)
        if settings.metrics is not None:
            self._metrics = self._exporter_of_metrics(settings.metrics, metrics, log)
        log.info("otlp", traces=_host(settings.traces), metrics=_host(settings.metrics))

    def _exporter_of_spans(
        self, signal: Signal, settings: Settings, metrics: Metrics, log: Logger
    ) -> Exporter[ReadableSpan]:
        sender = exporters.spans(signal)
        return Exporter(
            "traces",
            lambda batch: sender.export(batch) is SpanExportResult.SUCCESS,
            sender.shutdown,
            metrics,
            log,
            queue=settings.queue,
            batch=settings.batch,
            delay_s=settings.delay_s,
        )

    def _exporter_of_metrics(self, signal: Signal, metrics: Metrics, log: Logger) -> Exporter[Families]:
        sender = exporters.metrics(signal)

        def export(batch: Sequence[Families]) -> bool:
            return all(
                sender.export(message) is MetricExportResult.SUCCESS
                for families in batch
                for message in self._messages(*families)
            )

        # One waits while another is under way: counts are of all time, so that the next one says it all again.
        delay_s = self._interval_s
        return Exporter("metrics", export, sender.shutdown, metrics, log, queue=1, batch=1, delay_s=delay_s)

    async def run(self) -> None:
        """Export metrics now and then."""
        while True:
            await asyncio.sleep(self._interval_s)
            await self._collect()

    async def _collect(self) -> None:
        if self._metrics is not None:
            self._metrics.put(
                (await collect(self._registry), genai.providers(self._router().config), time.time_ns())
            )

    async def close(self) -> None:
        """Send what is left; within FLUSH_S, whatever the collector does."""
        await self._collect()
        deadline = time.monotonic() + FLUSH_S
        closing = [asyncio.to_thread(each.close, deadline) for each in (self._spans, self._metrics) if each]
        await asyncio.gather(*closing)

    def _messages(
        self, families: Sequence[Metric], providers: dict[str, str], now_ns: int
    ) -> Iterator[MetricsData]:
        interval = Interval(self._start_ns, now_ns, self._starts.read(_paced(families), now_ns))
        found: list[OtlpMetric] = []
        points = 0
        for family in _paced(families):
            for metric in (*convert(family, interval), *genai.convert(family, interval, providers)):
                for piece in pieces(metric, POINTS):
                    found.append(piece)
                    points += len(piece.data.data_points)
                    if points >= POINTS:
                        yield self._message(found)
                        found, points = [], 0
        if found:
            yield self._message(found)

    def _message(self, found: list[OtlpMetric]) -> MetricsData:
        scope = ScopeMetrics(self._scope, found, "")
        return MetricsData([ResourceMetrics(self._resource, [scope], "")])


async def collect(registry: CollectorRegistry) -> list[Metric]:
    """The families of *registry*, read on the event loop, whose state they show; others run between them."""
    families = []
    for family in registry.collect():
        families.append(family)
        await asyncio.sleep(0)
    return families


def _paced(families: Iterable[Metric]) -> Iterator[Metric]:
    """*families*, with the event loop let in between them."""
    for family in families:
        time.sleep(0)
        yield family


def _host(signal: Signal | None) -> str | None:
    """Whom it is sent to; a path may be a secret."""
    return f"{signal.protocol} {urlsplit(signal.endpoint).netloc}" if signal else None


def resource() -> Resource:
    """Who we are: what OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME say wins."""
    ours = {
        "service.name": "extproc",
        "service.version": __version__,
        "service.instance.id": str(uuid.uuid4()),
    }
    return Resource.create(ours).merge(OTELResourceDetector().detect())
