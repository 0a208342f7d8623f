"""What others do: the load balancing of a Kubernetes Service, of Envoy and of the Go endpoint picker."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Hashable
from itertools import chain, count

from extproc.benchmark.simulation import World
from extproc.benchmark.workload import BLOCK_TOKENS, Call
from extproc.engine_metrics import EngineMetrics


class Blind:
    """What policies without metrics have in common."""

    scrape_interval_s: float | None = None

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(f"policy/{seed}")

    def start(self, world: World) -> None:
        self.world = world
        self.size = len(world.engines)

    def arrived(self, call: int, now: float) -> None:
        self.world.send(call, self.choose(call, now), now)

    def choose(self, call: int, now: float) -> int:
        """The replica of call number *call*."""
        raise NotImplementedError

    def ended(self, call: int, replica: int, now: float) -> None:
        """Not looked at."""

    def scraped(self, replica: int, page: EngineMetrics, now: float) -> None:
        """Not looked at."""

    def woke(self, now: float) -> None:
        """Never asked for."""


class Random(Blind):
    """Any replica: what a Kubernetes Service does with short connections."""

    def choose(self, call: int, now: float) -> int:
        return self.rng.randrange(self.size)


class RoundRobin(Blind):
    """Each replica in its turn."""

    def start(self, world: World) -> None:
        super().start(world)
        self._next = self.rng.randrange(self.size)

    def choose(self, call: int, now: float) -> int:
        self._next = (self._next + 1) % self.size
        return self._next


class LeastRequest(Blind):
    """The replica with the fewest requests in flight, all of them looked at; ties drawn."""

    def start(self, world: World) -> None:
        super().start(world)
        self.in_flight = [0] * self.size

    def choose(self, call: int, now: float) -> int:
        replica = self.pick()
        self.in_flight[replica] += 1
        return replica

    def pick(self) -> int:
        least = min(self.in_flight)
        return self.rng.choice([i for i, count in enumerate(self.in_flight) if count == least])

    def ended(self, call: int, replica: int, now: float) -> None:
        self.in_flight[replica] -= 1


class PowerOfTwo(LeastRequest):
    """Envoy's LEAST_REQUEST: the less loaded of two drawn at random.

    Envoy counts a host's active requests for the whole process, in an atomic that its workers share.
    """

    def pick(self) -> int:
        one, other = self.rng.randrange(self.size), self.rng.randrange(self.size)
        return one if self.in_flight[one] <= self.in_flight[other] else other


class GoPicker(Blind):
    """The Go endpoint picker (llm-d-router) with its default configuration, re-created from its source.

    queue-scorer 2, kv-cache-utilization-scorer 2, prefix-cache-scorer 3; max-score picker, ties drawn; metrics read
    every 50 ms; nothing counted by itself.  Prefix cache: approximate, hashes of blocks of 64 tokens and of what is
    left at the end, an LRU of them for each pod, filled when a request is sent.
    """

    scrape_interval_s: float | None = 0.05
    BLOCK_TOKENS = 64
    """minBlockSizeTokens, as the engines' own 16 are fewer."""
    MAX_BLOCKS = 2048
    """maxPrefixTokensToMatch, 131,072, in blocks."""

    def start(self, world: World) -> None:
        super().start(world)
        self._waiting = [0] * self.size
        self._kv_usage = [0.0] * self.size
        self._caches: list[OrderedDict[Hashable, None]] = [OrderedDict() for _ in range(self.size)]
        # autoTune: as many hashes as the pod has KV blocks, though a hash stands for four of them
        self._capacities = [replica.engine.num_blocks for replica in world.workload.replicas]
        self._unlike = count()

    def scraped(self, replica: int, page: EngineMetrics, now: float) -> None:
        self._waiting[replica] = page.waiting
        self._kv_usage[replica] = page.kv_cache_usage or 0.0

    def choose(self, call: int, now: float) -> int:
        hashes = self.hashes(self.world.call(call))
        scores = self.scores(hashes)
        best = max(scores)
        replica = self.rng.choice([i for i, score in enumerate(scores) if score == best])
        self._insert(hashes, replica)
        return replica

    def scores(self, hashes: list[Hashable]) -> list[float]:
        """Of each replica, for a prompt of *hashes*."""
        least, most = min(self._waiting), max(self._waiting)
        span = most - least
        return [
            2 * ((most - waiting) / span if span else 1.0) + 2 * (1 - kv) + 3 * matched / len(hashes)
            for waiting, kv, matched in zip(self._waiting, self._kv_usage, self._matched(hashes), strict=True)
        ]

    def hashes(self, call: Call) -> list[Hashable]:
        """One for each 64 tokens of the prompt and one for the rest; a block that is like nothing else has a new one.

        A content's integer stands for all before it too, so the last of each 64 tokens will do.
        """
        step = self.BLOCK_TOKENS // BLOCK_TOKENS
        contents = list(chain.from_iterable(call.blocks))[: call.prompt_tokens // BLOCK_TOKENS]
        known = contents[step - 1 :: step]
        if len(contents) % step and len(contents) * BLOCK_TOKENS == call.prompt_tokens:
            known.append(contents[-1])
        blocks = min(-(-call.prompt_tokens // self.BLOCK_TOKENS), self.MAX_BLOCKS)
        hashes: list[Hashable] = [(call.lora, content) for content in known[:blocks]]
        return hashes + [next(self._unlike) for _ in range(blocks - len(hashes))]

    def _matched(self, hashes: list[Hashable]) -> list[int]:
        """Blocks that each replica got before; counted up to the first that nobody got."""
        counts = [0] * self.size
        for block in hashes:
            holders = [replica for replica, cache in enumerate(self._caches) if block in cache]
            if not holders:
                break
            for replica in holders:
                counts[replica] += 1
        return counts

    def _insert(self, hashes: list[Hashable], replica: int) -> None:
        cache = self._caches[replica]
        for block in hashes:
            cache[block] = None
            cache.move_to_end(block)
        while len(cache) > self._capacities[replica]:
            cache.popitem(last=False)
