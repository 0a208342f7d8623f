"""The metrics of CONTRACT section 6.  Endpoint figures are read from the fleet when somebody asks for them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .endpoint import Endpoint
from .fleet import Fleet

# An answer takes from a cache hit of some milliseconds to an hour of reasoning.
LONG_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 3600)
# A decision takes some ten microseconds; more than a few milliseconds is a fault.
SHORT_S = (0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.1)
# A lag of the event loop delays every stream; Envoy's default message timeout is 200 ms.
LAG_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 5)


class Metrics:
    """The registry and what is counted as it happens."""

    def __init__(self, fleet: Fleet, clock: Callable[[], float], version: str) -> None:
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        common: Any = {"registry": self.registry, "namespace": "extproc"}
        counter: Any = functools.partial(Counter, **common)
        gauge: Any = functools.partial(Gauge, **common)
        histogram: Any = functools.partial(Histogram, **common)
        served = ["model", "target_model", "pool"]
        self.requests: Counter = counter("requests", "Requests by how they ended.", [*served, "outcome"])
        self.duration: Histogram = histogram(
            "request_duration_seconds", "From request headers to the end.", served, buckets=LONG_S
        )
        self.response_headers: Histogram = histogram(
            "time_to_response_headers_seconds",
            "From request headers to response headers.",
            served,
            buckets=LONG_S,
        )
        self.decision: Histogram = histogram(
            "decision_duration_seconds", "Choosing target and endpoint.", buckets=SHORT_S
        )
        self.streams: Gauge = gauge("streams_in_flight", "Open ext_proc streams.")
        self.buffered: Gauge = gauge("buffered_bytes", "Request bodies held now.")
        self.scrapes: Counter = counter("scrapes", "Scrapes of endpoints.", ["pool", "result"])
        self.scrape_duration: Histogram = histogram(
            "scrape_duration_seconds", "Successful scrapes.", buckets=LONG_S[:10]
        )
        self.pin_misses: Counter = counter(
            "pin_misses", "Requests that Envoy sent to an endpoint that is not ours.", ["pool"]
        )
        self.target_fallbacks: Counter = counter(
            "target_fallbacks", "Requests moved from a target without endpoints.", ["model", "pool"]
        )
        self.set_aside: Counter = counter(
            "endpoints_set_aside", "Times an endpoint was set aside for failing.", ["pool", "cause"]
        )
        self.internal_errors: Counter = counter("internal_errors", "Faults of ours, each with a traceback.")
        self.log_lines_dropped: Counter = counter("log_lines_dropped", "Log lines nobody took in time.")
        self.reload_successful: Gauge = gauge(
            "config_last_reload_successful", "1 if the config file in place is in force."
        )
        self.reload_time: Gauge = gauge(
            "config_last_reload_success_timestamp_seconds", "When the config in force was loaded."
        )
        self.loop_lag: Histogram = histogram(
            "event_loop_lag_seconds", "How late a timer of the event loop fires.", buckets=LAG_S
        )
        gauge("build_info", "Always 1.", ["version"]).labels(version).set(1)
        self.registry.register(_EndpointCollector(fleet, clock))
        prometheus_client.ProcessCollector(registry=self.registry)
        prometheus_client.GCCollector(registry=self.registry)


Figure = Callable[[Endpoint, float], float | None]


def _scraped(read: Callable[[Endpoint], float]) -> Figure:
    return lambda endpoint, now: read(endpoint) if endpoint.metrics else None


class _EndpointCollector(Collector):
    """Gauges that need no upkeep: an endpoint that is gone has no series at the next scrape."""

    FIGURES: tuple[tuple[str, str, Figure], ...] = (
        ("in_flight", "Requests we sent there that have not ended.", lambda e, now: e.in_flight),
        ("waiting_requests", "Its queue, as last scraped.", _scraped(lambda e: e.waiting)),
        ("running_requests", "Its running requests, as last scraped.", _scraped(lambda e: e.running)),
        ("kv_cache_usage_ratio", "Share of its KV cache in use, 0..1.", _scraped(lambda e: e.kv_usage)),
        (
            "metrics_age_seconds",
            "Since its last successful scrape.",
            lambda e, now: now - e.scraped_at if e.metrics else None,
        ),
        ("ready", "1 unless set aside.", lambda e, now: float(not e.health.is_set_aside(now))),
    )

    def __init__(self, fleet: Fleet, clock: Callable[[], float]) -> None:
        self._fleet = fleet
        self._clock = clock

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        now = self._clock()
        members = list(self._fleet.endpoints())
        for name, text, read in self.FIGURES:
            family = GaugeMetricFamily(f"extproc_endpoint_{name}", text, labels=["pool", "endpoint"])
            for pool, endpoint in members:
                value = read(endpoint, now)
                if value is not None:
                    family.add_metric([pool.name, endpoint.address], value)
            yield family
