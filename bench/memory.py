"""Memory for each open stream: answers take minutes, and each keeps its stream."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

from . import peer
from .figure import Figure
from .programs import rss_bytes, service

STREAMS = 2_000
WARM_UP = 200


def measure(directory: Path) -> Iterator[Figure]:
    with service(directory, peer.ENDPOINTS, {"engine": "none"}, "memory") as ours:
        port = int(ours.grpc.rpartition(":")[2])
        per_stream = asyncio.run(_per_stream_bytes(ours.pid, port))
    yield Figure("memory per open stream", per_stream / 1000, "KB", 40, f"{STREAMS} streams, answers running")


async def _per_stream_bytes(pid: int, port: int) -> float:
    conversation = peer.conversation(peer.chat(1_200))
    await peer.drive(port, conversation, WARM_UP)
    async with peer.channel(port) as envoy:
        before = rss_bytes(pid)
        streams = [peer.open_stream(envoy) for _ in range(STREAMS)]
        for stream in streams:
            await peer.begin(stream, conversation)
        grown = rss_bytes(pid) - before
        for stream in streams:
            await stream.done_writing()
    return grown / STREAMS
