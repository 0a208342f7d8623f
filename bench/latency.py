"""What we add to a request's latency: through Envoy with us, against Envoy alone, turn by turn."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from extproc.demo.bootstrap import POOL
from extproc.demo.envoy import Envoy

from . import peer
from .figure import Figure
from .http_client import Connection
from .programs import PortProgram, service

REQUESTS = 300
ROUNDS = 5
SIZES = (1_200, 220_000)


def measure(directory: Path) -> Iterator[Figure]:
    with PortProgram("bench.sink_server", directory) as upstream:
        address = f"127.0.0.1:{upstream.port}"
        with (
            service(directory, [address], {"engine": "none"}, "latency") as ours,
            Envoy("round-robin", directory, pools={POOL: [address]}, name="alone") as alone,
            Envoy(
                "buffered-original-dst", directory, pools={POOL: []}, ext_proc=ours.grpc, name="routed"
            ) as routed,
        ):
            for size in SIZES:
                base, through = asyncio.run(_compare(alone.listen, routed.listen, peer.chat(size)))
                yield Figure(
                    f"added latency, {size / 1000:g} KB body",
                    (through - base) * 1e3,
                    "ms (median)",
                    None,
                    f"{through * 1e3:.2f} ms against {base * 1e3:.2f} ms with Envoy alone",
                )


async def _compare(alone: str, routed: str, body: bytes) -> tuple[float, float]:
    """Median seconds of a request (alone, routed)."""
    samples: dict[str, list[float]] = {alone: [], routed: []}
    connections = {url: await Connection.open(url) for url in samples}
    for round_ in range(ROUNDS + 1):
        for url, connection in connections.items():
            times = [await connection.post(body) for _ in range(REQUESTS)]
            if round_:  # the first warms up
                samples[url].append(median(times))
    for connection in connections.values():
        await connection.close()
    return median(samples[alone]), median(samples[routed])
