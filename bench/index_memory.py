"""Memory of the prefix index of a pool of 1,000 endpoints, filled to its bound; run as a program of its own."""

from __future__ import annotations

import gc
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from extproc.prefix_index import PrefixIndex

from .figure import Figure
from .programs import rss_bytes

ENDPOINTS = 1_000
CAPACITY_TOKENS = 400_000
SYSTEM_PROMPTS = 20
SYSTEM_CHECKPOINTS = 16
TURN_CHECKPOINTS = (4, 60)
"""Hashes that a turn of a conversation adds, at least and at most."""
TURN_TOKENS = 2_000
MAX_CHECKPOINTS = 250
GO_ON_RATIO = 0.6
"""Requests that go on with a conversation."""
MOVE_RATIO = 0.1
"""Of those, how many at another endpoint."""
OPEN = 20_000
"""Conversations that may go on."""
REQUESTS = 250_000
"""The index has dropped its oldest generation six times then."""
TIMEOUT_S = 120.0

_ODD = 0x9E37_79B9_7F4A_7C15
_MASK = 0xFFFF_FFFF_FFFF_FFFF


def measure(directory: Path) -> Iterator[Figure]:
    """In a new process: in ours, memory that others gave back would be taken again."""
    program = [sys.executable, "-m", "bench.index_memory"]
    ran = subprocess.run(program, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
    note = f"resident, the most during {REQUESTS:,} requests"
    yield Figure(f"prefix index of {ENDPOINTS:,} endpoints", int(ran.stdout) / 1e6, "MB", 200, note)


class _Conversation:
    """Its hashes are computed when they are needed, so that they take no memory of ours."""

    __slots__ = ("endpoint", "length", "seed", "system")

    def __init__(self, rng: random.Random) -> None:
        self.system = rng.randrange(SYSTEM_PROMPTS)
        self.seed = rng.getrandbits(64)
        self.length = 0
        self.endpoint = rng.randrange(ENDPOINTS)

    def prefix(self) -> list[int]:
        system = [
            (self.system + 1) * _ODD * position & _MASK for position in range(1, SYSTEM_CHECKPOINTS + 1)
        ]
        return system + [self.seed + _ODD * position & _MASK for position in range(self.length)]


def _grown_bytes() -> int:
    """By how much this process grows at most."""
    rng = random.Random(1)
    index: PrefixIndex[int] = PrefixIndex()
    index.keep(range(ENDPOINTS))
    talks = [_Conversation(rng) for _ in range(OPEN)]
    gc.collect()
    before, most = rss_bytes(os.getpid()), 0
    for number in range(REQUESTS):
        at = rng.randrange(OPEN)
        if rng.random() >= GO_ON_RATIO or talks[at].length > MAX_CHECKPOINTS:
            talks[at] = _Conversation(rng)
        talk = talks[at]
        if rng.random() < MOVE_RATIO:
            talk.endpoint = rng.randrange(ENDPOINTS)
        talk.length += rng.randint(*TURN_CHECKPOINTS)
        index.insert(talk.prefix(), talk.endpoint, number / 1000)
        index.wrote(talk.endpoint, TURN_TOKENS, CAPACITY_TOKENS)
        if number % 5_000 == 0:
            most = max(most, rss_bytes(os.getpid()) - before)
    return most


if __name__ == "__main__":
    print(_grown_bytes())
