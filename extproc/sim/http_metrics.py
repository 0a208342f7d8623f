"""The http_* families that vLLM gets from prometheus-fastapi-instrumentator, for one server."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram, Summary, generate_latest

HIGHR_S = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 1.5),
    *(2, 2.5, 3, 3.5, 4, 4.5, 5, 7.5, 10, 30, 60),
)
UNCOUNTED = frozenset({"/metrics", "/metrics/", "/health", "/version"})


class HttpMetrics:
    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "http_requests",
            "Total number of requests by method, status and handler.",
            ("method", "status", "handler"),
            registry=self._registry,
        )
        self._request_size = Summary(
            "http_request_size_bytes",
            "Content length of incoming requests by handler. Only value of header is respected. "
            "Otherwise ignored. No percentile calculated. ",
            ("handler",),
            registry=self._registry,
        )
        self._response_size = Summary(
            "http_response_size_bytes",
            "Content length of outgoing responses by handler. Only value of header is respected. "
            "Otherwise ignored. No percentile calculated. ",
            ("handler",),
            registry=self._registry,
        )
        self._highr = Histogram(
            "http_request_duration_highr_seconds",
            "Latency with many buckets but no API specific labels. "
            "Made for more accurate percentile calculations. ",
            buckets=HIGHR_S,
            registry=self._registry,
        )
        self._duration = Histogram(
            "http_request_duration_seconds",
            "Latency with only few buckets by handler. "
            "Made to be only used if aggregation by handler is important. ",
            ("method", "handler"),
            buckets=(0.1, 0.5, 1),
            registry=self._registry,
        )

    def observe(
        self,
        method: str,
        handler: str,
        status: int,
        duration_s: float,
        request_bytes: int,
        response_bytes: int,
    ) -> None:
        """`handler`: the route's path; sizes 0 where no content-length tells them."""
        if handler in UNCOUNTED:
            return
        self._requests.labels(method, f"{status // 100}xx", handler).inc()
        self._request_size.labels(handler).observe(request_bytes)
        self._response_size.labels(handler).observe(response_bytes)
        self._highr.observe(duration_s)
        self._duration.labels(method, handler).observe(duration_s)

    def render(self) -> str:
        return generate_latest(self._registry).decode()
