"""Books of an engine's batch: the sequences that decode."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush
from math import inf

from msgspec import Struct

from extproc.sim.engine_config import EngineConfig
from extproc.sim.kv_cache import KvCache
from extproc.sim.sequence import Sequence
from extproc.sim.stats import Histogram


class Coasted(Struct, frozen=True, gc=False):
    """What `DecodeSet.coast` did."""

    steps: int
    """Steps that ended."""
    last_end: float
    """When the last of them did."""
    end: float | None
    """When the step under way ends; None: there is none."""
    free_blocks: int
    """As of `last_end`."""


class DecodeSet:
    """Sequences that get one token in every step; all sums are kept up, never recomputed."""

    def __init__(self, block_size: int) -> None:
        self.size = 0
        self.context = 0
        """Their tokens in the KV cache, those of the step under way included."""
        self.steps = 0
        """Steps ended; `_begun` is one more while one is under way."""
        self.streaming: dict[str, Sequence] = {}
        self._begun = 0
        self._last_end = 0.0
        self._since: dict[float, int] = {}
        """How many got their last token when."""
        self._block_size = block_size
        self._block_phase = [0] * block_size
        """How many need a new block in steps ≡ i mod block_size."""
        self._by_last_step: dict[int, list[Sequence]] = {}
        self._last_steps: list[int] = []
        """The keys of the above, as a heap."""

    @property
    def even(self) -> bool:
        """Whether all of them got their last token at one time."""
        return len(self._since) == 1

    @property
    def steps_to_end(self) -> int:
        """After how many more steps the first sequence has all its tokens (or would, had it stayed)."""
        return self._last_steps[0] - self.steps

    def add(self, sequence: Sequence, at: float) -> None:
        """One that just got a token."""
        sequence.start_decoding(self.steps, at)
        self.size += 1
        self.context += sequence.target
        self._since[at] = self._since.get(at, 0) + 1
        self._block_phase[self._phase(sequence)] += 1
        together = self._by_last_step.get(sequence.last_step)
        if together is None:
            together = self._by_last_step[sequence.last_step] = []
            heappush(self._last_steps, sequence.last_step)
        together.append(sequence)
        if sequence.request.stream:
            self.streaming[sequence.request.id] = sequence

    def remove(self, sequence: Sequence) -> int:
        """Take one out; its tokens in the KV cache."""
        held = sequence.target + self._begun - sequence.first_step
        last_token_at = max(sequence.last_token_at, self._last_end)
        self.size -= 1
        self.context -= held
        self._since[last_token_at] -= 1
        self._block_phase[self._phase(sequence)] -= 1
        self.streaming.pop(sequence.request.id, None)
        sequence.stop_decoding(self.steps, last_token_at)
        return held

    def new_blocks(self) -> int:
        """Blocks that its contexts grow into in the next step."""
        return self._block_phase[self._begun % self._block_size]

    def begin(self) -> None:
        self._begun += 1
        self.context += self.size

    def end(self, at: float) -> list[tuple[float, int]]:
        """End a step: how long they waited for their token, with how many did."""
        waits = [(at - since, count) for since, count in self._since.items() if count]
        self.steps += 1
        self._last_end = at
        self._since = {at: self.size}
        return waits

    def coast(
        self, config: EngineConfig, cache: KvCache, waits: Histogram, end: float, now: float
    ) -> Coasted:
        """`end` and `begin` by turns up to `now`, as long as nobody gets a last token and there are blocks.

        The step under way ends at `end`, not after `now`; everybody got the last token at one time. This is what
        most steps of a simulation are, so nothing is looked at twice.
        """
        size, context, begun, phases = self.size, self.context, self._begun, self._block_phase
        block_size, speed, step_s = config.block_size, config.speed, config.profile.step_s
        (since,) = self._since
        steps, most, free, taken = 0, self.steps_to_end - 1, cache.free, 0
        waited: list[float] = []
        while end <= now and steps < most:
            steps += 1
            waited.append(end - since)
            since, end, free = end, inf, cache.free - taken
            blocks = phases[begun % block_size]
            if since >= now or blocks > free:
                break
            taken += blocks
            begun += 1
            context += size
            end = since + step_s(size, context, size) / speed
        waits.observe_all(waited, size)
        cache.take(taken)
        self.steps += steps
        self.context, self._begun, self._last_end, self._since = context, begun, since, {since: size}
        return Coasted(steps, since, None if end == inf else end, free)

    def finished(self) -> Iterator[Sequence]:
        """Those that got their last token in the step that just ended."""
        if self._last_steps and self._last_steps[0] == self.steps:
            heappop(self._last_steps)
            for sequence in self._by_last_step.pop(self.steps):
                if sequence.last_step == self.steps:
                    yield sequence

    def _phase(self, sequence: Sequence) -> int:
        return (sequence.first_step - sequence.target) % self._block_size
