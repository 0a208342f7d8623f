"""The metrics of CONTRACT section 6.  Endpoint figures are read from the fleet when somebody asks for them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .answer_metrics import AnswerMetrics
from .config.schema import Saturation
from .endpoint import Endpoint
from .fleet import Fleet
from .holding import Lobby

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
        self._fleet = fleet
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
        self.buffered_limit: Gauge = gauge(
            "buffered_limit_bytes", "What limits.max_buffered_bytes lets us hold at once."
        )
        self.ready: Gauge = gauge("ready", "1 while new requests may come here, as /readyz says.")
        self.scrapes: Counter = counter("scrapes", "Scrapes of endpoints.", ["pool", "result"])
        self.scrape_duration: Histogram = histogram(
            "scrape_duration_seconds", "Successful scrapes.", buckets=LONG_S[:10]
        )
        self.pin_misses: Counter = counter(
            "pin_misses", "Requests that Envoy sent to an endpoint that is not ours.", ["pool"]
        )
        self.load_reports: Counter = counter(
            "load_reports", "Load reports in the headers of answers (ORCA).", ["pool", "result"]
        )
        self.target_fallbacks: Counter = counter(
            "target_fallbacks", "Requests moved from a target without endpoints.", ["model", "pool"]
        )
        self.mirrored: Counter = counter(
            "mirrored_requests", "Requests of which Envoy was told to send a copy.", ["model", "mirror"]
        )
        self.tier_requests: Counter = counter(
            "tier_requests", "Requests by the tier of their endpoint.", ["pool", "tier"]
        )
        self.unknown_profiles: Counter = counter(
            "unknown_profiles", "Requests whose header asked for a profile that is not there.", ["pool"]
        )
        self.queue_wait: Histogram = histogram(
            "queue_wait_seconds", "How long held requests waited.", ["pool"], buckets=LONG_S[:14]
        )
        self.queue_dispatches: Counter = counter(
            "queue_dispatches", "Held requests by what came of it.", ["pool", "result"]
        )
        self.set_aside: Counter = counter(
            "endpoints_set_aside", "Times an endpoint was set aside for failing.", ["pool", "cause"]
        )
        self.answers = AnswerMetrics(counter, histogram)
        self._of_pools: tuple[Counter, ...] = (
            *(self.scrapes, self.pin_misses, self.load_reports, self.tier_requests, self.unknown_profiles),
            *(self.queue_dispatches, self.set_aside, self.answers.read),
        )
        """That are told apart by pools, and by no model."""
        self.internal_errors: Counter = counter("internal_errors", "Faults of ours, each with a traceback.")
        self.http_denied: Counter = counter(
            "http_requests_denied", "Requests to the HTTP port that showed no valid token."
        )
        self.log_lines_dropped: Counter = counter("log_lines_dropped", "Log lines nobody took in time.")
        self.otlp_exports: Counter = counter("otlp_exports", "Batches sent over OTLP.", ["signal", "result"])
        self.otlp_dropped: Counter = counter(
            "otlp_dropped", "Spans, and readings of the metrics, that no collector took.", ["signal"]
        )
        self.reload_successful: Gauge = gauge(
            "config_last_reload_successful", "1 if the config file in place is in force."
        )
        self.reload_time: Gauge = gauge(
            "config_last_reload_success_timestamp_seconds", "When the config in force was loaded."
        )
        self.loop_lag: Histogram = histogram(
            "event_loop_lag_seconds", "How late a timer of the event loop fires.", buckets=LAG_S
        )
        self.tasks: Gauge = gauge("event_loop_tasks", "Tasks of the event loop that have not ended.")
        gauge("build_info", "Always 1.", ["version"]).labels(version).set(1)
        self.registry.register(_EndpointCollector(fleet, clock))
        self.registry.register(_PoolCollector(fleet, clock))
        self.registry.register(_TierCollector(fleet, clock))
        prometheus_client.ProcessCollector(registry=self.registry)
        prometheus_client.GCCollector(registry=self.registry)

    def pools(self) -> set[str]:
        """Of which something was counted."""
        return {
            sample.labels["pool"]
            for metric in self._of_pools
            for family in metric.collect()
            for sample in family.samples
        }

    def forget_pool(self, pool: str) -> None:
        """Drop its series from the page, but for those of its models."""
        for metric in (*self._of_pools, self.queue_wait):
            metric.remove_by_labels({"pool": pool})

    def show_queues(self, lobby: Lobby[Any]) -> None:
        """Add the gauges of who waits there."""
        self.registry.register(_QueueCollector(self._fleet, lobby))


Figure = Callable[[Endpoint, float], float | None]


def _scraped(read: Callable[[Endpoint], float]) -> Figure:
    return lambda endpoint, now: read(endpoint) if endpoint.metrics else None


class _FleetCollector(Collector):
    """Gauges that are read from the fleet when somebody asks."""

    def __init__(self, fleet: Fleet, clock: Callable[[], float]) -> None:
        self._fleet = fleet
        self._clock = clock

    def describe(self) -> Iterable[Metric]:
        return ()


class _EndpointCollector(_FleetCollector):
    """Gauges that need no upkeep: an endpoint that is gone has no series at the next scrape."""

    FIGURES: tuple[tuple[str, str, Figure], ...] = (
        ("in_flight", "Requests we sent there that have not ended.", lambda e, now: e.in_flight),
        ("waiting_requests", "Its queue, as last scraped.", _scraped(lambda e: e.waiting)),
        ("running_requests", "Its running requests, as last scraped.", _scraped(lambda e: e.running)),
        (
            "kv_cache_usage_ratio",
            "Share of its KV cache in use, 0..1.",
            lambda e, now: e.metrics.kv_cache_usage if e.metrics else None,
        ),
        (
            "metrics_age_seconds",
            "Since its last successful scrape; without one, since the first that failed.",
            lambda e, now: e.figures_age(now),
        ),
        (
            "cordoned",
            "1 while the operator lets it have no new request.",
            lambda e, now: float(bool(e.cordoned)),
        ),
        (
            "ready",
            "1 unless it fails: set aside, or kept as its pool's last chance.",
            lambda e, now: float(not (e.health.is_set_aside(now) or e.health.is_failing(now))),
        ),
    )

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


class _PoolCollector(_FleetCollector):
    """Gauges of pools, of those without endpoints, too."""

    STATES = ("available", "saturated", "failing", "set_aside", "cordoned")

    def collect(self) -> Iterator[Metric]:
        now, router = self._clock(), self._fleet.router
        endpoints = GaugeMetricFamily(
            "extproc_pool_endpoints",
            "Endpoints by what is to be had of them; each counts once.",
            labels=["pool", "state"],
        )
        runs = GaugeMetricFamily(
            "extproc_prefix_index_runs",
            "Beginnings of prompts that are remembered; each takes about half a kilobyte.",
            labels=["pool"],
        )
        if router is not None:
            for pool in router.config.pools:
                runs.add_metric([pool.name], len(router.pools[pool.name].index))
                counts = dict.fromkeys(self.STATES, 0)
                for endpoint in router.pools[pool.name].by_address.values():
                    counts[_state(endpoint, pool.saturation, now)] += 1
                for state, count in counts.items():
                    endpoints.add_metric([pool.name, state], count)
        yield endpoints
        yield runs


def _state(endpoint: Endpoint, limits: Saturation, now: float) -> str:
    """Of `_PoolCollector.STATES`, the worst that is true."""
    if endpoint.cordoned:
        return "cordoned"
    if endpoint.health.is_set_aside(now):
        return "set_aside"
    if endpoint.health.is_failing(now):
        return "failing"
    full = endpoint.in_flight >= endpoint.max_in_flight
    return "saturated" if full or endpoint.is_saturated(now, limits.waiting, limits.kv_usage) else "available"


class _QueueCollector(Collector):
    """Gauges of the pools whose requests may wait with us."""

    def __init__(self, fleet: Fleet, lobby: Lobby[Any]) -> None:
        self._fleet = fleet
        self._lobby = lobby

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        router = self._fleet.router
        requests = GaugeMetricFamily(
            "extproc_queue_requests", "Requests that wait with us.", labels=["pool", "priority"]
        )
        size = GaugeMetricFamily("extproc_queue_bytes", "Their bodies.", labels=["pool"])
        for pool in router.config.pools if router else ():
            if pool.queue is not None:
                waiting = self._lobby.waiting(pool.name, 0.0)
                requests.add_metric([pool.name, "critical"], waiting.critical)
                requests.add_metric([pool.name, "standard"], waiting.standard)
                size.add_metric([pool.name], waiting.size_bytes)
        yield requests
        yield size


class _TierCollector(_FleetCollector):
    """Gauges of the pools that have tiers: what an autoscaler of the last tier goes by."""

    def collect(self) -> Iterator[Metric]:
        now, router = self._clock(), self._fleet.router
        opened = GaugeMetricFamily(
            "extproc_tier_open",
            "1 while requests go there: no tier before has room.",
            labels=["pool", "tier"],
        )
        drainable = GaugeMetricFamily(
            "extproc_endpoint_drainable",
            "1 while it is idle and tiers before its own have room: it may be taken away.",
            labels=["pool", "endpoint"],
        )
        for pool, tiers in router.tiers.items() if router else ():
            for tier, is_open in zip(tiers.tiers, tiers.open(now), strict=True):
                opened.add_metric([pool, tier.name], float(is_open))
            for endpoint, may_go in tiers.drainable(now).items():
                drainable.add_metric([pool, endpoint.address], float(may_go))
        yield opened
        yield drainable
