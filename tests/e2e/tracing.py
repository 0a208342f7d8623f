"""A collector beside the stack, and an Envoy that traces, or does not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from collector import Collector, over_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from stack import QUICK_STOP, Stack, Way, client_of, endpoints_by_pool, one_pool, running, running_service
from upstream import EchoUpstream, Received

from extproc.demo.envoy import Envoy

TRACER = {
    "name": "envoy.tracers.opentelemetry",
    "typed_config": {
        "@type": "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig",
        "grpc_service": {"envoy_grpc": {"cluster_name": "collector"}, "timeout": "5s"},
        "service_name": "envoy",
    },
}
HTTP2 = {
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
}
AT_ONCE = {"tracing.opentelemetry.min_flush_spans": 1, "tracing.opentelemetry.flush_interval_ms": 50}


@dataclass
class Traced:
    stack: Stack
    ours: Collector
    """Gets what we tell."""
    envoys: Collector

    async def spans(self, count: int) -> dict[str, Span]:
        """Ours by name, once *count* of them are there."""
        await self.ours.until(lambda it: len(it.spans) >= count)
        return {span.name: span for span in self.ours.spans}

    async def received(self, **arguments: Any) -> Received:
        """What the model server got of one request."""
        await self.stack.chat(**arguments)
        (received,) = self.stack.received()
        return received


def parts(traceparent: str) -> tuple[str, str]:
    """(trace, span)"""
    _, trace_id, span_id, _ = traceparent.split("-")
    return trace_id, span_id


def kinds(spans: list[Span]) -> dict[str, str]:
    """Names by span id."""
    return {span.span_id.hex(): span.name for span in spans}


def trace_with(bootstrap: dict[str, Any], port: int, sampled_percent: float) -> None:
    """Have Envoy tell a collector of its own spans; changed in place."""
    resources = bootstrap["static_resources"]
    manager = resources["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    manager["tracing"] = {"provider": TRACER, "random_sampling": {"value": sampled_percent}}
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    endpoint = {"lb_endpoints": [{"endpoint": {"address": address}}]}
    resources["clusters"].append(
        {
            "name": "collector",
            "type": "STATIC",
            "load_assignment": {"cluster_name": "collector", "endpoints": [endpoint]},
            "typed_extension_protocol_options": HTTP2,
        }
    )
    layers = bootstrap.setdefault("layered_runtime", {}).setdefault("layers", [])
    layers.insert(0, {"name": "tests", "static_layer": AT_ONCE})


@asynccontextmanager
async def traced_stack(
    directory: Path, way: Way, *, envoy_traces: float | None = None
) -> AsyncIterator[Traced]:
    """Everything, told to collectors; *envoy_traces*: the share in percent that Envoy's own tracer samples."""
    async with AsyncExitStack() as exits:
        ours, envoys = [await exits.enter_async_context(over_grpc()) for _ in range(2)]
        server = await exits.enter_async_context(EchoUpstream())
        settings = one_pool([server.address])
        flags = ("--otlp-endpoint", ours.url, *QUICK_STOP)
        service = await exits.enter_async_context(running_service(settings, directory, *flags))
        envoy = Envoy(way.bootstrap, directory, pools=endpoints_by_pool(settings), ext_proc=service.grpc)
        if envoy_traces is not None:
            bootstrap = yaml.safe_load(envoy.config_file.read_text())
            trace_with(bootstrap, int(envoys.url.rpartition(":")[2]), envoy_traces)
            envoy.config_file.write_text(yaml.safe_dump(bootstrap))
        await exits.enter_async_context(running(envoy))
        client = await exits.enter_async_context(client_of(envoy))
        yield Traced(Stack(client, envoy, service, [server], way), ours, envoys)
