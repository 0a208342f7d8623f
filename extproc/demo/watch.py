"""Looks at the pods while traffic runs: their own metrics pages, and the service's debug state."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

WANTED = {
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "vllm:kv_cache_usage_perc": "kv_usage",
    "vllm:request_success_total": "served",
}


@dataclass(frozen=True)
class Pod:
    """A model server as the demo knows it."""

    name: str
    address: str
    version: str


@dataclass(frozen=True)
class PodState:
    """What a pod says of itself."""

    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0
    """Ratio of its KV cache in use."""
    served: int = 0
    """Answers finished since it started."""
    in_flight: int = 0
    """Requests that the service has sent there and that have not ended, by its own count."""


async def pod_states(
    session: aiohttp.ClientSession, pods: Sequence[Pod], service_http: str
) -> dict[str, PodState]:
    """By pod name. Raises aiohttp.ClientError when one of them does not answer."""
    pages = await asyncio.gather(*(_figures(session, pod.address) for pod in pods))
    in_flight = await _in_flight(session, service_http)
    return {
        pod.name: PodState(
            running=int(page["running"]),
            waiting=int(page["waiting"]),
            kv_usage=page["kv_usage"],
            served=int(page["served"]),
            in_flight=in_flight.get(pod.address, 0),
        )
        for pod, page in zip(pods, pages, strict=True)
    }


async def _figures(session: aiohttp.ClientSession, address: str) -> dict[str, float]:
    async with session.get(f"http://{address}/metrics", params=[("name[]", name) for name in WANTED]) as page:
        page.raise_for_status()
        text = await page.text()
    figures = dict.fromkeys(WANTED.values(), 0.0)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in WANTED:
                figures[WANTED[sample.name]] += sample.value
    return figures


async def _in_flight(session: aiohttp.ClientSession, service_http: str) -> dict[str, int]:
    """By endpoint address."""
    async with session.get(f"{service_http}/debug/state") as answer:
        answer.raise_for_status()
        state = await answer.json()
    return {
        endpoint["address"]: endpoint["in_flight"]
        for pool in state["pools"]
        for endpoint in pool["endpoints"]
    }
