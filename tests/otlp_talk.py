"""The service with OTLP configured, as it is in the process, and a collector that listens."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from collector import Collector, attributes, over_grpc
from envoy_peer import EnvoyPeer, EnvoyStream
from ext_proc_service import CHAT, CONFIG, A, Service, serving
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from extproc.otlp.service import Otlp
from extproc.otlp.start import start
from extproc.protocol.messages import BodyMode

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = f"00-{TRACE_ID}-{SPAN_ID}-01"
UNSAMPLED = f"00-{TRACE_ID}-{SPAN_ID}-00"


def begun(service: Service, url: str, env: Mapping[str, str] | None = None) -> Otlp:
    """OTLP of *service*, to *url*; to be closed."""
    assert service.fleet.router is not None
    router = service.fleet.router
    otlp = start(url, env or {}, service.metrics, service.telemetry.log, lambda: router, time.monotonic)
    assert otlp is not None
    service.telemetry.tracing = otlp.tracing
    return otlp


@asynccontextmanager
async def traced(
    config: str = CONFIG, env: Mapping[str, str] | None = None
) -> AsyncIterator[tuple[Service, EnvoyPeer, Collector]]:
    """The service, an Envoy and a collector; all that there is to tell has arrived when the block ends."""
    async with over_grpc() as collector, serving(config) as (service, envoy):
        otlp = begun(service, collector.url, env)
        yield service, envoy, collector
        await service.idle()
        await otlp.close()


async def routed(
    envoy: EnvoyPeer, headers: Mapping[str, str] | None = None, model: str = "qwq"
) -> tuple[EnvoyStream, dict[str, str], list[str]]:
    """(stream, headers set, headers removed) of a request that was sent on."""
    stream = envoy.stream(BodyMode.BUFFERED)
    await stream.request_headers({**CHAT, **(headers or {})})
    await stream.reply()
    await stream.request_body(b'{"model":"%s"}' % model.encode())
    mutation = (await stream.reply()).request_body.response.header_mutation
    told = {option.header.key: option.header.raw_value.decode() for option in mutation.set_headers}
    return stream, told, list(mutation.remove_headers)


async def answered(stream: EnvoyStream, status: int = 200) -> None:
    """The request was answered, by A, and is over."""
    await stream.response_headers(status, attributes={"upstream.address": A})
    await stream.reply()
    await stream.end()


def named(spans: list[Span], name: str) -> Span:
    """The one span of that name."""
    (found,) = [span for span in spans if span.name == name]
    return found


def ids(span: Span) -> tuple[str, str]:
    """(trace, parent) as a `traceparent` has them."""
    return span.trace_id.hex(), span.parent_span_id.hex()


def told(span: Span) -> dict[str, Any]:
    return attributes(span.attributes)
