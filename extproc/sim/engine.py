"""An iteration-level model of one vLLM engine: pure, deterministic, its clock is an argument.

Every iteration serves all decoding sequences with one token each, then spends what is left of
`max_num_batched_tokens` on prefills, first come first served (vllm/v1/core/sched/scheduler.py). It follows
that at most one prompt is partly computed at any time, and that a sequence which decodes gets a token in
every iteration. So nothing is done per sequence and iteration: an iteration costs the same at any batch size.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from msgspec import Struct

from extproc.sim.batch import Adapters, DecodeSet
from extproc.sim.profiles import GpuProfile
from extproc.sim.sequence import Event, FirstToken, Phase, Request, Sequence, Token
from extproc.sim.stats import Gauges, Snapshot, Stats


class EngineConfig(Struct, frozen=True, kw_only=True):
    """Limits of one engine; the names are those of vLLM's options."""

    profile: GpuProfile
    speed: float = 1.0
    """Iterations take 1/speed of their time."""
    max_num_seqs: int = 256
    block_size: int = 16
    num_blocks: int
    max_loras: int = 0
    """Different adapters in one batch; 0: adapters are not counted."""
    max_model_len: int = 32_768

    def __post_init__(self) -> None:
        if (
            self.speed <= 0
            or min(self.max_num_seqs, self.block_size, self.num_blocks) < 1
            or self.max_loras < 0
        ):
            raise ValueError("speed, max_num_seqs, block_size and num_blocks must be positive")
        if self.max_num_seqs > self.profile.max_num_batched_tokens:
            raise ValueError(
                f"max_num_seqs must be at most {self.profile.max_num_batched_tokens}: one token each"
            )

    @property
    def max_tokens(self) -> int:
        """Longest prompt plus output that one request can have."""
        return min(self.max_model_len, self.num_blocks * self.block_size)


class Engine:
    """Submit and abort requests, ask for the next event's time, advance to it.

    Times are seconds on any clock that does not run backwards. Calls may come at any time: what happened up
    to `now` is worked off first, and its events are kept for the next `advance`.
    """

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.stats = Stats(config.max_model_len)
        self._sequences: dict[str, Sequence] = {}
        self._waiting: deque[Sequence] = deque()
        self._deferred: deque[Sequence] = deque()
        """Skipped for want of a LoRA slot; looked at again when a slot becomes free."""
        self._running: dict[str, Sequence] = {}
        """In order of admission: the last one is preempted first."""
        self._events: list[Event] = []
        self._submitted = 0
        self._steps = 0
        """Iterations ended; `_scheduled` is one more while one is under way."""
        self._scheduled = 0
        self._step_end: float | None = None
        self._free_at = 0.0
        """When the last iteration ended, or work came to an idle engine."""
        self._last_end = 0.0
        self._step_s = 0.0
        self._step_tokens = 0
        self._chunks: list[tuple[Sequence, int]] = []
        """Prefills of the iteration under way, with their tokens."""
        self._partial: Sequence | None = None
        self._decoding = DecodeSet(config.block_size)
        self._adapters = Adapters(config.max_loras)
        self._free_blocks = config.num_blocks
        self.gauges = Gauges(0, 0, 0, 0.0)
        """As of the end of the last iteration: a page of vLLM is never newer."""

    # -- from outside ---------------------------------------------------------------------------------------

    @property
    def num_running(self) -> int:
        """As of now, where `gauges` lag by an iteration."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting) + len(self._deferred)

    @property
    def free_blocks(self) -> int:
        return self._free_blocks

    @property
    def lora_requests(self) -> Mapping[str, float]:
        """vllm:lora_requests_info: combinations of active adapters, comma-separated, with the time when
        each was last the state.

        vLLM 0.32 lists an adapter as running *and* waiting as long as any request for it is in either state
        (vllm/v1/metrics/stats.py: LoRARequestStates.update_scheduler_stats), so one list serves for both.
        """
        return self._adapters.combinations

    def submit(self, request: Request, now: float) -> None:
        """Queue a request. ValueError: its id is in use, or it can never fit."""
        if request.id in self._sequences:
            raise ValueError(f"request id {request.id!r} is in use")
        if (
            request.prompt_tokens < 1
            or request.prompt_tokens + request.output_tokens > self.config.max_tokens
        ):
            raise ValueError(f"prompt and output must be 1 to {self.config.max_tokens} tokens")
        self._catch_up(now)
        if self._step_end is None and not self._waiting and not self._running:
            self._free_at = now
        self._submitted += 1
        sequence = Sequence(request, self._submitted, now)
        self._sequences[request.id] = sequence
        self._waiting.append(sequence)
        if request.lora is not None:
            self._adapters.submitted(request.lora)

    def abort(self, request_id: str, now: float) -> None:
        """Drop a request; one that is unknown or over is not an error. No event follows."""
        self._catch_up(now)
        sequence = self._sequences.get(request_id)
        if sequence is None:
            return
        match sequence.phase:
            case Phase.WAITING:
                queue = self._waiting if sequence in self._waiting else self._deferred
                queue.remove(sequence)
            case Phase.PREFILL | Phase.DECODE:
                self._leave(sequence)
        self._forget(sequence)
        self.stats.aborted += 1
        if self._step_end is None:
            self._record(now)

    def next_event(self, now: float) -> float | None:
        """When `advance` will next have something to do; None: not before another request is submitted."""
        if self._events:
            return now
        if self._step_end is not None:
            return self._step_end
        return max(now, self._free_at) if self._running or self._waiting or self._deferred else None

    def advance(self, now: float) -> list[Event]:
        """Work up to and including `now`: its events in their order."""
        self._catch_up(now)
        if self._step_end is None and self._free_at <= now:
            self._schedule(self._free_at)
        events, self._events = self._events, []
        return events

    def snapshot(self) -> Snapshot:
        """What a scrape would read now."""
        stats = self.stats
        sums = {name: (histogram.sum, histogram.count) for name, histogram in stats.histograms.items()}
        return Snapshot(
            gauges=self.gauges,
            lora_requests=tuple(self.lora_requests.items()),
            prompt_tokens=stats.prompt_tokens,
            generation_tokens=stats.generation_tokens,
            preemptions=stats.preemptions,
            success=dict(stats.success),
            ttft=sums["time_to_first_token_seconds"],
            inter_token_latency=sums["inter_token_latency_seconds"],
            e2e_latency=sums["e2e_request_latency_seconds"],
            queue_time=sums["request_queue_time_seconds"],
        )

    # -- iterations -----------------------------------------------------------------------------------------

    def _catch_up(self, now: float) -> None:
        """End what ends up to `now`; begin what begins before it, so that requests that come at one instant
        are scheduled together."""
        while True:
            if self._step_end is None and (self._free_at >= now or not self._schedule(self._free_at)):
                return
            end = self._step_end
            if end is None or end > now:
                return
            self._finish_step(end)

    def _schedule(self, at: float) -> bool:
        """Begin an iteration at `at`; False: nothing to do."""
        if not self._running and not self._waiting and not self._deferred:
            return False
        preempted = self._reserve_decode_blocks()
        self._decoding.schedule()
        self._scheduled += 1
        sequences = tokens = self._decoding.size
        context = self._decoding.context
        budget = self.config.profile.max_num_batched_tokens - tokens
        if self._partial is not None:
            budget = self._prefill(self._partial, budget)
        if not preempted:
            self._admit(at, budget)
        for sequence, chunk in self._chunks:
            sequences += 1
            tokens += chunk
            context += sequence.computed + chunk
        self._step_tokens = tokens
        self._step_s = self.config.profile.step_s(tokens, context, sequences) / self.config.speed
        self._step_end = at + self._step_s
        return True

    def _reserve_decode_blocks(self) -> bool:
        """Take the blocks that this iteration's decodes begin.

        True: requests had to be preempted for it, and as in vLLM none is admitted in the same iteration.
        """
        preempted = False
        while (blocks := self._decoding.new_blocks(self._scheduled)) > self._free_blocks:
            self._preempt(next(reversed(self._running.values())))
            preempted = True
        self._free_blocks -= blocks
        return preempted

    def _preempt(self, sequence: Sequence) -> None:
        """Back to the head of the queue; its prompt and what it generated will be computed again."""
        if sequence.phase is Phase.DECODE:
            sequence.last_token_at = self._last_end
        self._leave(sequence)
        self.stats.preemptions += 1
        sequence.requeue(order=-self.stats.preemptions)
        self._waiting.appendleft(sequence)

    def _admit(self, at: float, budget: int) -> None:
        """Prefills first come first served, until tokens, sequences or blocks run out.

        A prompt gets all its blocks at once (vLLM takes them chunk by chunk, but with its default
        `scheduler_reserve_full_isl` admits only where all of them are free).
        """
        while self._waiting and budget > 0 and len(self._running) < self.config.max_num_seqs:
            sequence = self._waiting[0]
            lora = sequence.request.lora
            if lora is not None and not self._adapters.has_slot(lora):
                self._deferred.append(self._waiting.popleft())
                continue
            blocks = self._blocks(sequence.target)
            if blocks > self._free_blocks:
                return
            self._waiting.popleft()
            self._free_blocks -= blocks
            if lora is not None:
                self._adapters.admitted(lora)
            self._running[sequence.request.id] = sequence
            sequence.admit(at)
            budget = self._prefill(sequence, budget)

    def _prefill(self, sequence: Sequence, budget: int) -> int:
        """Schedule a chunk; the budget that is left."""
        chunk = min(sequence.target - sequence.computed, budget)
        if chunk:
            self._chunks.append((sequence, chunk))
        self._partial = sequence if sequence.computed + chunk < sequence.target else None
        return budget - chunk

    def _finish_step(self, end: float) -> None:
        stats = self.stats
        self._steps += 1
        self._step_end = None
        self._free_at = self._last_end = end
        decoding = self._decoding
        if decoding.size:
            stats.generation_tokens += decoding.size
            stats.inter_token.observe(self._step_s, decoding.size)
        self._events += [Token(request_id, end) for request_id in decoding.streaming]
        for sequence in decoding.finished(self._steps):
            self._finish(sequence, end)
        chunks, self._chunks = self._chunks, []
        for sequence, chunk in chunks:
            sequence.computed += chunk
            if sequence.computed == sequence.target:
                self._first_token(sequence, end)
        stats.iteration_tokens.observe(self._step_tokens)
        self._record(end)

    def _first_token(self, sequence: Sequence, at: float) -> None:
        """The prompt is computed, which gives a token; after a preemption it is not the request's first."""
        request, stats = sequence.request, self.stats
        if sequence.first_token_at is None:
            stats.prompt_tokens += request.prompt_tokens
            sequence.first_token_at = at
            if request.output_tokens:
                stats.ttft.observe(at - sequence.arrival)
                self._events.append(FirstToken(request.id, at))
        else:
            stats.inter_token.observe(at - sequence.last_token_at)
            if request.stream:
                self._events.append(Token(request.id, at))
        if request.output_tokens:
            sequence.generated += 1
            stats.generation_tokens += 1
        if sequence.generated >= request.output_tokens:
            self._finish(sequence, at)
        else:
            self._decoding.add(sequence, self._steps)

    def _leave(self, sequence: Sequence) -> None:
        """Take a sequence out of the batch and free its blocks."""
        request = sequence.request
        del self._running[request.id]
        if sequence.phase is Phase.DECODE:
            held = self._decoding.remove(sequence, self._steps, self._scheduled)
        else:
            held = sequence.target
            self._chunks = [entry for entry in self._chunks if entry[0] is not sequence]
            if self._partial is sequence:
                self._partial = None
        self._free_blocks += self._blocks(held)
        if request.lora is not None and self._adapters.left(request.lora) and self._deferred:
            self._waiting = deque(sorted((*self._deferred, *self._waiting), key=lambda other: other.order))
            self._deferred.clear()

    def _finish(self, sequence: Sequence, at: float) -> None:
        self._leave(sequence)
        self._forget(sequence)
        finished = sequence.finish(at)
        self.stats.observe(finished)
        self._events.append(finished)

    def _forget(self, sequence: Sequence) -> None:
        request = sequence.request
        sequence.phase = Phase.OVER
        del self._sequences[request.id]
        if request.lora is not None:
            self._adapters.over(request.lora)

    def _blocks(self, tokens: int) -> int:
        return -(-tokens // self.config.block_size)

    def _record(self, at: float) -> None:
        """Set the gauges, as vLLM does at the end of each iteration."""
        used = 1 - self._free_blocks / self.config.num_blocks
        self.gauges = Gauges(len(self._running), self.num_waiting, len(self._deferred), used)
        self._adapters.record(at)
