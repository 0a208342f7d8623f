"""Plays an OpenTelemetry collector: the OTLP services over gRPC and over HTTP, which keep what they get."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from aiohttp import web
from google.protobuf.message import Message
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_pb
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span

BOUND_S = 20.0
EXPORTS: dict[str, tuple[type[Any], type[Any]]] = {
    "traces": (trace_pb.ExportTraceServiceRequest, trace_pb.ExportTraceServiceResponse),
    "metrics": (metrics_pb.ExportMetricsServiceRequest, metrics_pb.ExportMetricsServiceResponse),
}
SERVICES = {
    "opentelemetry.proto.collector.trace.v1.TraceService": "traces",
    "opentelemetry.proto.collector.metrics.v1.MetricsService": "metrics",
}


@dataclass
class Collector:
    """What arrived, and how the next is answered."""

    url: str = ""
    requests: list[tuple[str, Message, dict[str, str]]] = field(default_factory=list)
    """(traces or metrics, message, metadata or headers), as they came."""
    refuses: grpc.StatusCode | None = None
    hangs: bool = False
    """Whoever calls waits until it gives up."""
    calls: int = 0
    """Those that were refused or left waiting, too."""

    @property
    def spans(self) -> list[Span]:
        return [
            span
            for _, message, _ in self.requests
            if isinstance(message, trace_pb.ExportTraceServiceRequest)
            for resource in message.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    @property
    def metrics(self) -> dict[str, Metric]:
        """By name, the last of each."""
        return {metric.name: metric for each in self._resource_metrics() for metric in each}

    def _resource_metrics(self) -> Iterable[Iterable[Metric]]:
        for _, message, _ in self.requests:
            if isinstance(message, metrics_pb.ExportMetricsServiceRequest):
                for resource in message.resource_metrics:
                    for scope in resource.scope_metrics:
                        yield scope.metrics

    def resources(self) -> list[dict[str, Any]]:
        """Attributes of who sent it, one a request."""
        found = []
        for _, message, _ in self.requests:
            parts: Any = getattr(message, "resource_spans", None) or getattr(message, "resource_metrics", [])
            found += [attributes(part.resource.attributes) for part in parts]
        return found

    async def until(self, condition: Callable[[Collector], object]) -> None:
        """Wait for what must arrive."""
        async with asyncio.timeout(BOUND_S):
            while not condition(self):  # noqa: ASYNC110 - what changes knows of no event
                await asyncio.sleep(0.005)

    async def take(self, signal: str, data: bytes, headers: Mapping[str, str]) -> bytes:
        self.calls += 1
        if self.hangs:
            await asyncio.Event().wait()
        request, response = EXPORTS[signal]
        self.requests.append((signal, request.FromString(data), dict(headers)))
        answer: bytes = response().SerializeToString()
        return answer


def attributes(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    """As plain values."""
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return (
        [_value(each) for each in value.array_value.values] if kind == "array_value" else getattr(value, kind)
    )


@asynccontextmanager
async def over_grpc(
    credentials: grpc.ServerCredentials | None = None, port: int = 0
) -> AsyncIterator[Collector]:
    """A collector that speaks gRPC, over TLS with *credentials*."""
    collector = Collector()
    server = grpc.aio.server()
    for service, signal in SERVICES.items():
        handler = grpc.unary_unary_rpc_method_handler(_export(collector, signal))
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": handler}),))
    address = f"127.0.0.1:{port}"
    listen = server.add_insecure_port if credentials is None else server.add_secure_port
    port = listen(*([address] if credentials is None else [address, credentials]))
    collector.url = f"http{'' if credentials is None else 's'}://127.0.0.1:{port}"
    await server.start()
    try:
        yield collector
    finally:
        await server.stop(0)


def _export(collector: Collector, signal: str) -> Callable[[bytes, Any], Any]:
    async def export(data: bytes, context: Any) -> bytes:
        headers = dict(context.invocation_metadata())
        if collector.refuses is not None:
            collector.calls += 1
            await context.abort(collector.refuses, "not today")
        return await collector.take(signal, data, headers)

    return export


@asynccontextmanager
async def over_http(tls: ssl.SSLContext | None = None) -> AsyncIterator[Collector]:
    """A collector that speaks HTTP with protobuf, over TLS with *tls*; `refuses` is answered with 400."""
    collector = Collector()
    app = web.Application()
    for signal in EXPORTS:
        app.router.add_post(f"/v1/{signal}", _post(collector, signal))
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    scheme = "http" if tls is None else "https"
    collector.url = f"{scheme}://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield collector
    finally:
        await runner.cleanup()


def _post(collector: Collector, signal: str) -> Callable[[web.Request], Any]:
    async def post(request: web.Request) -> web.Response:
        data = await request.read()
        if collector.refuses is not None:
            collector.calls += 1
            return web.Response(status=400, text="not today")
        headers = {name.lower(): value for name, value in request.headers.items()}
        return web.Response(
            body=await collector.take(signal, data, headers), content_type="application/x-protobuf"
        )

    return post
