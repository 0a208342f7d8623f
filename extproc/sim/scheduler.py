"""Which sequences the next iteration computes, as vLLM decides it (vllm/v1/core/sched/scheduler.py)."""

from __future__ import annotations

from collections import deque

from extproc.sim.adapters import Adapters
from extproc.sim.batch import DecodeSet
from extproc.sim.engine_config import EngineConfig
from extproc.sim.kv_cache import KvCache
from extproc.sim.sequence import Phase, Sequence
from extproc.sim.stats import Stats

FORECAST_MARGIN = 1e-9
"""A forecast adds up times in another way than step after step does, and must never be late."""


class Scheduler:
    """The queue and the batch of one engine.

    Every iteration serves all decoding sequences with one token each, then spends what is left of the token
    budget on prefills, first come first served. It follows that at most one prompt is partly computed at any
    time, and that a sequence which decodes gets a token in every iteration. So nothing is done per sequence and
    iteration: an iteration costs the same at any batch size. (Without chunked prefill: every iteration that
    decodes.)
    """

    def __init__(self, config: EngineConfig, stats: Stats) -> None:
        self.decoding = DecodeSet(config.block_size)
        self.adapters = Adapters(config.max_loras)
        self.cache = KvCache(config.num_blocks, config.prefix_caching)
        self.waiting: deque[Sequence] = deque()
        self.deferred: deque[Sequence] = deque()
        """Skipped for want of a LoRA slot; looked at again when a slot becomes free."""
        self.running: dict[str, Sequence] = {}
        """In order of admission: the last one is preempted first."""
        self.step_tokens = 0
        """Tokens of the iteration that `schedule` began last."""
        self.decodes = False
        """Whether that iteration decodes: without chunked prefill not all do."""
        self.settled = False
        """Whether that iteration only decodes, as will all further ones until a request comes or leaves, or blocks
        run out: whoever waits could not be admitted."""
        self._config = config
        self._stats = stats
        self._chunks: list[tuple[Sequence, int]] = []
        """Prefills of the iteration under way, with their tokens."""
        self._partial: Sequence | None = None
        self._load_s = 0.0
        """For the adapters that the iteration under way has to load."""
        self._budget = config.token_budget
        # V0's block manager keeps 1 % free when it admits, or what it just admitted would be preempted at once.
        self._spare_blocks = 0 if config.chunked_prefill else config.num_blocks // 100

    @property
    def busy(self) -> bool:
        return bool(self.running or self.waiting or self.deferred)

    @property
    def num_waiting(self) -> int:
        return len(self.waiting) + len(self.deferred)

    def schedule(self, at: float) -> float | None:
        """Begin an iteration at `at`: how many seconds it takes; None: nothing to do."""
        if not self.running and not self.waiting and not self.deferred:
            return None
        if self._config.chunked_prefill:
            self._schedule_all(at)
        else:
            self._schedule_prefills_first(at)
        sequences = tokens = self.decoding.size if self.decodes else 0
        context = self.decoding.context if self.decodes else 0
        for sequence, chunk in self._chunks:
            sequences += 1
            tokens += chunk
            context += sequence.computed + chunk
        self.step_tokens = tokens
        step_s = self._config.profile.step_s(tokens, context, sequences)
        if self._load_s:
            step_s += self._load_s
            self._load_s = 0.0
        return step_s / self._config.speed

    @property
    def coasting(self) -> bool:
        """Whether the step under way and the next only decode, and nobody wants to hear of their tokens."""
        decoding = self.decoding
        return self.settled and not decoding.streaming and decoding.even and decoding.steps_to_end > 1

    def forecast(self, end: float) -> float:
        """A time before which no request gets its first or last token; `end`: of the iteration under way."""
        if not self.coasting:
            return end
        decoding, config = self.decoding, self._config
        steps, size = decoding.steps_to_end - 1, decoding.size
        if (steps // config.block_size + 1) * size > self.cache.free:
            return end  # somebody could be preempted
        # a step is longer than the one before by always the same time, as the context grows by `size`
        mean_context = decoding.context + size * (steps + 1) // 2
        rest_s = steps * config.profile.step_s(size, mean_context, size) / config.speed
        return end + rest_s * (1 - FORECAST_MARGIN)

    def submit(self, sequence: Sequence) -> None:
        self.settled = False
        self.waiting.append(sequence)
        if sequence.request.lora is not None:
            self.adapters.submitted(sequence.request.lora)

    def finish_prefills(self) -> list[Sequence]:
        """The iteration is over: those whose prompts are now computed."""
        chunks = self._chunks
        if not chunks:
            return []
        self._chunks = []
        for sequence, chunk in chunks:
            sequence.computed += chunk
        return [sequence for sequence, _ in chunks if sequence.computed == sequence.target]

    def withdraw(self, sequence: Sequence) -> None:
        """Take one out, wherever it is."""
        self.settled = False
        if sequence.phase is Phase.WAITING:
            queue = self.waiting if sequence in self.waiting else self.deferred
            queue.remove(sequence)
        else:
            self.leave(sequence)

    def leave(self, sequence: Sequence) -> None:
        """Take one out of the batch and free its blocks."""
        request, held, size = sequence.request, sequence.held, self._config.block_size
        assert held is not None
        self.settled = False
        del self.running[request.id]
        if sequence.phase is Phase.DECODE:
            computed = reserved = self.decoding.remove(sequence)
        else:
            computed, reserved = sequence.computed, sequence.target
            # what an iteration has begun to compute will be there
            computed += sum(chunk for other, chunk in self._chunks if other is sequence)
            self._chunks = [entry for entry in self._chunks if entry[0] is not sequence]
            if self._partial is sequence:
                self._partial = None
        self.cache.leave(held, computed // size, -(-reserved // size))
        sequence.held = None
        if request.lora is not None and self.adapters.left(request.lora) and self.deferred:
            self.waiting = deque(sorted((*self.deferred, *self.waiting), key=lambda other: other.order))
            self.deferred.clear()

    # -- one iteration --------------------------------------------------------------------------------------

    def _schedule_all(self, at: float) -> None:
        """One token for each that decodes, prefills with what is left of the budget."""
        preempted = self._begin_decodes()
        budget = self._budget - self.decoding.size
        if self._partial is not None:
            budget = self._prefill(self._partial, budget)
        if not preempted:
            self._admit(at, budget)
        self.settled = not preempted and not self._chunks

    def _schedule_prefills_first(self, at: float) -> None:
        """Whole prompts, or else decodes (V0's `_schedule_default`)."""
        self._admit(at, max(self._budget, self._config.max_model_len))
        self.decodes = self.settled = False
        if not self._chunks:
            self.settled = not self._begin_decodes()

    def _begin_decodes(self) -> bool:
        """Take the blocks that this iteration's decodes begin.

        True: requests had to be preempted for it, and as in vLLM none is admitted in the same iteration.
        """
        preempted = False
        while (blocks := self.decoding.new_blocks()) > self.cache.free:
            self._preempt(next(reversed(self.running.values())))
            preempted = True
        if blocks:
            self.cache.take(blocks)
        self.decoding.begin()
        self.decodes = True
        return preempted

    def _preempt(self, sequence: Sequence) -> None:
        """Back to the head of the queue; its prompt and what it generated will be computed again."""
        self.leave(sequence)
        self._stats.preemptions += 1
        sequence.requeue(order=-self._stats.preemptions)
        self.waiting.appendleft(sequence)

    def _admit(self, at: float, budget: int) -> None:
        """Prefills first come first served, until tokens, sequences or blocks run out.

        A prompt gets all its blocks at once (vLLM takes them chunk by chunk, but with its default
        `scheduler_reserve_full_isl` admits only where all of them are free).
        """
        while self.waiting and budget > 0 and len(self.running) < self._config.max_num_seqs:
            sequence = self.waiting[0]
            lora = sequence.request.lora
            if lora is not None and not self.adapters.has_slot(lora):
                self.deferred.append(self.waiting.popleft())
                continue
            if not self._config.chunked_prefill and self._chunks and sequence.target > budget:
                return
            if not self._take_blocks(sequence, at):
                return
            self.waiting.popleft()
            if lora is not None and self.adapters.admitted(lora):
                self._load_s += self._config.lora_load_s
            self.running[sequence.request.id] = sequence
            budget = self._prefill(sequence, budget)

    def _take_blocks(self, sequence: Sequence, at: float) -> bool:
        """Admit a sequence if there are blocks for it."""
        size, target, request = self._config.block_size, sequence.target, sequence.request
        spare = self._spare_blocks if self.running else 0
        held = self.cache.admit(request.blocks, target // size, -(-target // size), spare, request.lora)
        if held is None:
            return False
        # the last token is always computed, as it gives the next one
        cached_tokens = min(held.hits, (target - 1) // size) * size
        if self._config.prefix_caching and not sequence.preemptions:
            self._stats.prefix_cache_queries += target
            self._stats.prefix_cache_hits += cached_tokens
        sequence.admit(at, held, cached_tokens)
        return True

    def _prefill(self, sequence: Sequence, budget: int) -> int:
        """Schedule a chunk; the budget that is left."""
        chunk = min(sequence.target - sequence.computed, budget)
        if chunk:
            self._chunks.append((sequence, chunk))
        self._partial = sequence if sequence.computed + chunk < sequence.target else None
        return budget - chunk
