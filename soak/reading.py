"""What the service holds at one moment, as seen from outside and by its probe."""

from __future__ import annotations

import asyncio
from typing import Any

from msgspec import Struct
from prometheus_client.parser import text_string_to_metric_families

from .town import Town


class Reading(Struct, frozen=True, kw_only=True):
    """Sizes in bytes."""

    rss: float
    """Of the process, once what is free went back to the system."""
    heap: float
    """What is allocated of the C heap: gRPC's memory, and Python's objects of more than 512 bytes."""
    blocks: float
    """Python's smaller objects."""
    objects: float
    """Those that the garbage collector looks after."""
    tasks: float
    fds: float
    threads: float
    streams: float
    in_flight: float
    """The sum over all endpoints; those that linger are counted."""
    buffered: float
    held: float
    """Requests that wait."""
    index: float
    """Runs of prompts in the prefix indices."""
    series: float
    """Lines of the metrics page."""
    internal_errors: float
    requests: float
    """All that ended so far."""


class Sample(Struct, frozen=True):
    """A reading at a time in seconds since the churn began."""

    at_s: float
    reading: Reading


async def take(town: Town) -> tuple[Reading, dict[str, int]]:
    """The reading, and the objects by type."""
    memory, page, state, process = await asyncio.to_thread(_ask, town)
    samples = [s for family in text_string_to_metric_families(page) for s in family.samples]

    def total(name: str) -> float:
        return sum(sample.value for sample in samples if sample.name == f"extproc_{name}")

    endpoints = [endpoint for pool in state["pools"] for endpoint in pool["endpoints"]]
    reading = Reading(
        rss=process["rss"],
        heap=memory["heap_bytes"],
        blocks=memory["blocks"],
        objects=memory["objects"],
        tasks=total("event_loop_tasks"),
        fds=process["fds"],
        threads=process["threads"],
        streams=state["open_streams"],
        in_flight=sum(endpoint["in_flight"] for endpoint in endpoints),
        buffered=total("buffered_bytes"),
        held=total("queue_requests"),
        index=total("prefix_index_runs"),
        series=len(samples),
        internal_errors=total("internal_errors_total"),
        requests=total("requests_total"),
    )
    return reading, memory["kinds"]


def _ask(town: Town) -> tuple[dict[str, Any], str, dict[str, Any], dict[str, int]]:
    service = town.service
    page, state = service.metrics(), service.state()
    process = service.process()
    with process.oneshot():
        counts = {"fds": process.num_fds(), "threads": process.num_threads()}
    memory = service.memory()
    return memory, page, state, {**counts, "rss": process.memory_info().rss}


def lowest(readings: list[Reading]) -> Reading:
    """Field by field: what comes and goes with a scrape is not what stays."""
    return Reading(**{name: min(getattr(r, name) for r in readings) for name in Reading.__struct_fields__})
