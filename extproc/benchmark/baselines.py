"""What others do: the load balancing of Envoy and of the Go endpoint picker, and a bound that nobody reaches."""

from __future__ import annotations

import random
from collections import OrderedDict
from itertools import chain

from extproc.benchmark.simulation import World
from extproc.benchmark.workload import BLOCK_TOKENS, Call
from extproc.vllm import EngineMetrics


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
    """The Go endpoint picker with its default configuration, re-created from its source.

    queue-scorer 2, kv-cache-utilization-scorer 2, prefix-cache-scorer 3; max-score picker, ties drawn; metrics read
    every 50 ms; nothing counted by itself.  Prefix cache: approximate, blocks of 64 tokens, an LRU of hashes for each
    pod, sized after the first pod's KV cache (autoTune), filled when a request is sent.
    """

    scrape_interval_s: float | None = 0.05
    BLOCK_TOKENS = 64
    MAX_BLOCKS = 2048

    def start(self, world: World) -> None:
        super().start(world)
        first = world.workload.replicas[0].engine
        self._capacity = first.num_blocks * first.block_size // self.BLOCK_TOKENS
        self._waiting = [0] * self.size
        self._kv_usage = [0.0] * self.size
        self._caches: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(self.size)]

    def scraped(self, replica: int, page: EngineMetrics, now: float) -> None:
        self._waiting[replica] = page.waiting
        self._kv_usage[replica] = page.kv_cache_usage

    def choose(self, call: int, now: float) -> int:
        hashes = self._hashes(self.world.call(call))
        least, most = min(self._waiting), max(self._waiting)
        span = most - least
        scores = [
            2 * ((most - waiting) / span if span else 1.0) + 2 * (1 - kv)
            for waiting, kv in zip(self._waiting, self._kv_usage, strict=True)
        ]
        if hashes:
            for replica, cache in enumerate(self._caches):
                scores[replica] += 3 * self._matched(hashes, cache) / len(hashes)
        best = max(scores)
        replica = self.rng.choice([i for i, score in enumerate(scores) if score == best])
        self._insert(hashes, self._caches[replica])
        return replica

    def _hashes(self, call: Call) -> list[int]:
        """One for each 64 tokens of the prompt; what is like nothing else needs none, as it never matches."""
        step = self.BLOCK_TOKENS // BLOCK_TOKENS
        blocks = min(call.prompt_tokens // self.BLOCK_TOKENS, self.MAX_BLOCKS)
        known = list(chain.from_iterable(call.blocks))[step - 1 : blocks * step : step]
        # the denominator is the whole prompt's blocks
        return known + [-1 - i for i in range(blocks - len(known))]

    def _matched(self, hashes: list[int], cache: OrderedDict[int, None]) -> int:
        count = 0
        for block in hashes:
            if block not in cache:
                break
            count += 1
        return count

    def _insert(self, hashes: list[int], cache: OrderedDict[int, None]) -> None:
        for block in hashes:
            if block >= 0:
                cache[block] = None
                cache.move_to_end(block)
            else:
                cache[self.rng.getrandbits(62) | 1 << 62] = None
        while len(cache) > self._capacity:
            cache.popitem(last=False)
