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
    in_flight: int | None = None
    """Requests that the service has sent there and that have not ended, by its own count; None: not through it."""


class Watch:
    """Looks at the pods during one phase; what they served before its first look is not counted."""

    def __init__(self, session: aiohttp.ClientSession, pods: Sequence[Pod], service_http: str | None) -> None:
        """`service_http`: URL of the service, None where the traffic does not pass it."""
        self._session = session
        self._pods = pods
        self._service_http = service_http
        self._served_before: dict[str, int] = {}

    async def look(self) -> dict[str, PodState]:
        """By pod name. Raises aiohttp.ClientError when one of them does not answer."""
        pages = await asyncio.gather(*(self._figures(pod.address) for pod in self._pods))
        in_flight = await self._in_flight()
        states = {}
        for pod, page in zip(self._pods, pages, strict=True):
            served = int(page["served"])
            states[pod.name] = PodState(
                running=int(page["running"]),
                waiting=int(page["waiting"]),
                kv_usage=page["kv_usage"],
                served=served - self._served_before.setdefault(pod.name, served),
                in_flight=in_flight.get(pod.address),
            )
        return states

    async def _figures(self, address: str) -> dict[str, float]:
        wanted = [("name[]", name) for name in WANTED]
        async with self._session.get(f"http://{address}/metrics", params=wanted) as page:
            page.raise_for_status()
            text = await page.text()
        figures = dict.fromkeys(WANTED.values(), 0.0)
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name in WANTED:
                    figures[WANTED[sample.name]] += sample.value
        return figures

    async def _in_flight(self) -> dict[str, int]:
        """By endpoint address."""
        if self._service_http is None:
            return {}
        async with self._session.get(f"{self._service_http}/debug/state") as answer:
            answer.raise_for_status()
            state = await answer.json()
        return {
            endpoint["address"]: endpoint["in_flight"]
            for pool in state["pools"]
            for endpoint in pool["endpoints"]
        }
