"""CPU per request of our process against a server that answers constants."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from . import peer
from .figure import Figure, paired_ratio
from .programs import PortProgram, cpu_s, service

ROUNDS = 7
SIZES = ((1_200, 1_500, 2.5), (220_000, 300, None))
"""(body in bytes, requests a round, reach of the ratio)."""


def measure(directory: Path) -> Iterator[Figure]:
    with (
        PortProgram("bench.minimal_server", directory) as minimal,
        service(directory, peer.ENDPOINTS, {"engine": "none"}, "cost") as ours,
    ):
        ports = {minimal.pid: minimal.port, ours.pid: int(ours.grpc.rpartition(":")[2])}
        for size, count, reach in SIZES:
            costs = _costs(ports, peer.conversation(peer.chat(size)), count)
            constant, own = costs[minimal.pid], costs[ours.pid]
            yield Figure(
                f"CPU per request, {size / 1000:g} KB body",
                paired_ratio(own, constant),
                "× constant server",
                reach,
                f"{median(own) * 1e6:.0f} µs against {median(constant) * 1e6:.0f} µs",
            )


def _costs(ports: dict[int, int], conversation: peer.Conversation, count: int) -> dict[int, list[float]]:
    """CPU seconds a request for each process, a figure a round; the two take turns."""
    costs: dict[int, list[float]] = {pid: [] for pid in ports}
    for round_ in range(ROUNDS + 1):
        for pid, port in ports.items():
            before = cpu_s(pid)
            asyncio.run(peer.drive(port, conversation, count))
            if round_:  # the first warms up
                costs[pid].append((cpu_s(pid) - before) / count)
    return costs
