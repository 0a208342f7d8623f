"""Brings a conversation with the service to where its request is held."""

from __future__ import annotations

import time
from typing import Any

from envoy_peer import EnvoyPeer, EnvoyStream
from ext_proc_service import CHAT, REQUEST_HEADERS_GO, A, Service, refused
from stream_stages import BUFFERED

from extproc.engine_metrics import EngineMetrics
from extproc.protocol.messages import BodyMode

MODELS = """
models:
- {name: m, pool: pool}
- {name: critical, pool: pool, criticality: Critical}
- {name: sheddable, pool: pool, criticality: Sheddable}
default_pool: pool
"""
TIMEOUT = refused(
    "queue_timeout",
    503,
    "service_unavailable_error",
    "No endpoint of pool `pool` had room in time; try again later.",
    retry_after=1,
)


def config(endpoints: list[str] | None = None, **queue: Any) -> str:
    queue = {"timeout_s": 60, **queue}
    metrics = {"max_age_s": 3600}
    return f"pools: [{{name: pool, endpoints: {endpoints or [A]}, metrics: {metrics}, queue: {queue}}}]\n{MODELS}"


def scrape(service: Service, waiting: int, address: str = A) -> None:
    service.endpoint(address).observe(EngineMetrics(waiting=waiting, running=8), time.monotonic())
    service.processor.dispatcher.poke()


def held(service: Service, priority: str = "standard") -> float | None:
    return service.sample("extproc_queue_requests", pool="pool", priority=priority)


def results(service: Service) -> dict[str, float]:
    """extproc_queue_dispatches_total by result."""
    (family,) = service.metrics.queue_dispatches.collect()
    return {s.labels["result"]: s.value for s in family.samples if s.name.endswith("_total")}


async def ask(envoy: EnvoyPeer, model: str = "m", mode: BodyMode = BUFFERED) -> EnvoyStream:
    """A whole request, not answered yet."""
    stream = envoy.stream(mode)
    await stream.request_headers(CHAT)
    if mode is BUFFERED:
        assert await stream.reply() == REQUEST_HEADERS_GO
    await stream.request_body(b'{"model":"%s"}' % model.encode())
    return stream


async def hold(
    service: Service, envoy: EnvoyPeer, model: str = "m", mode: BodyMode = BUFFERED
) -> EnvoyStream:
    """A request that is held."""
    priority = "critical" if model == "critical" else "standard"
    before = held(service, priority)
    assert before is not None
    stream = await ask(envoy, model, mode)
    await service.until(lambda: held(service, priority) == before + 1)
    return stream
