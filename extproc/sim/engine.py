"""An iteration-level model of one vLLM engine: pure, deterministic, its clock is an argument."""

from __future__ import annotations

from collections.abc import Mapping

from extproc.sim.engine_config import EngineConfig as EngineConfig
from extproc.sim.kv_cache import Contents
from extproc.sim.scheduler import Scheduler
from extproc.sim.sequence import Event, FirstToken, Phase, Request, Sequence, Token
from extproc.sim.stats import Gauges, Snapshot, Stats


class Engine:
    """Submit and abort requests, ask for the next event's time, advance to it.

    Times are seconds on any clock that does not run backwards. Calls may come at any time: what happened up
    to `now` is worked off first, and its events are kept for the next `advance`.
    """

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.stats = Stats(config.max_model_len)
        self.scheduler = Scheduler(config, self.stats)
        self._sequences: dict[str, Sequence] = {}
        self._events: list[Event] = []
        self._submitted = 0
        self._step_end: float | None = None
        """When the iteration under way ends."""
        self._free_at = 0.0
        """When the last iteration ended, or work came to an idle engine."""
        self.gauges = Gauges(0, 0, 0, 0.0)
        """As of the end of the last iteration: a page of vLLM is never newer."""

    # -- from outside ---------------------------------------------------------------------------------------

    @property
    def num_running(self) -> int:
        """As of now, where `gauges` lag by an iteration."""
        return len(self.scheduler.running)

    @property
    def num_waiting(self) -> int:
        return self.scheduler.num_waiting

    @property
    def free_blocks(self) -> int:
        """KV blocks that no request uses; cached ones count as free, as they are taken when needed."""
        return self.scheduler.cache.free

    @property
    def lora_requests(self) -> Mapping[str, float]:
        """vllm:lora_requests_info: combinations of active adapters, comma-separated, with the time when
        each was last the state.

        vLLM 0.32 lists an adapter as running *and* waiting as long as any request for it is in either state
        (vllm/v1/metrics/stats.py: LoRARequestStates.update_scheduler_stats), so one list serves for both.
        """
        return self.scheduler.adapters.combinations

    def submit(self, request: Request, now: float) -> None:
        """Queue a request. ValueError: its id is in use, or it can never fit."""
        if request.id in self._sequences:
            raise ValueError(f"request id {request.id!r} is in use")
        if (
            request.prompt_tokens < 1
            or request.prompt_tokens + request.output_tokens > self.config.max_tokens
        ):
            raise ValueError(f"prompt and output must be 1 to {self.config.max_tokens} tokens")
        self.catch_up(now)
        if self._step_end is None and not self.scheduler.waiting and not self.scheduler.running:
            self._free_at = now
        self._submitted += 1
        sequence = Sequence(request, self._submitted, now)
        self._sequences[request.id] = sequence
        self.scheduler.submit(sequence)

    def abort(self, request_id: str, now: float) -> None:
        """Drop a request; one that is unknown or over is not an error. No event follows."""
        self.catch_up(now)
        sequence = self._sequences.get(request_id)
        if sequence is None:
            return
        self.scheduler.withdraw(sequence)
        self._forget(sequence)
        self.stats.aborted += 1
        if self._step_end is None:
            self._record(now, self.free_blocks)

    def next_event(self, now: float) -> float | None:
        """When `advance` will next have something to do; None: not before another request is submitted."""
        if self._events:
            return now
        if self._step_end is not None:
            return self._step_end
        return max(now, self._free_at) if self.scheduler.busy else None

    def next_change(self, now: float) -> float | None:
        """Like `next_event` without the iterations that only decode: a time before which no request gets its
        first or last token (none that has `stream` a token), though it may pass without one.

        Ask again after `submit`, `abort` and `advance`; `catch_up` before looking at the gauges and the stats.
        """
        if self._events or self._step_end is None:
            return self.next_event(now)
        return self.scheduler.forecast(self._step_end)

    def advance(self, now: float) -> list[Event]:
        """Work up to and including `now`: its events in their order."""
        self.catch_up(now)
        if self._step_end is None and self._free_at <= now:
            self._begin_step(self._free_at)
        events, self._events = self._events, []
        return events

    def cached_tokens(self, prompt_tokens: int, blocks: Contents, lora: str | None) -> int:
        """Of a prompt, the tokens that it would find in the cache now."""
        size = self.config.block_size
        return self.scheduler.cache.cached(blocks, (prompt_tokens - 1) // size, lora) * size

    def snapshot(self) -> Snapshot:
        """What a scrape would read now."""
        return self.stats.snapshot(self.gauges, tuple(self.lora_requests.items()))

    def catch_up(self, now: float) -> None:
        """End what ends up to `now`; begin what begins before it, so that requests that come at one instant
        are scheduled together. The events are kept for `advance`."""
        while True:
            if self._step_end is None and (self._free_at >= now or not self._begin_step(self._free_at)):
                return
            end = self._step_end
            if end is None or end > now:
                return
            if self.scheduler.coasting:
                self._coast(end, now)
            else:
                self._finish_step(end)

    # -- iterations -----------------------------------------------------------------------------------------

    def _begin_step(self, at: float) -> bool:
        """Begin an iteration at `at`; False: nothing to do."""
        step_s = self.scheduler.schedule(at)
        if step_s is None:
            return False
        self._step_end = at + step_s
        return True

    def _finish_step(self, end: float) -> None:
        self._step_end = None
        self._free_at = end
        if self.scheduler.decodes:
            self._finish_decodes(end)
        for sequence in self.scheduler.finish_prefills():
            self._first_token(sequence, end)
        self.stats.iteration_tokens.observe(self.scheduler.step_tokens)
        self._record(end, self.free_blocks)

    def _coast(self, end: float, now: float) -> None:
        """`_finish_step` and `_begin_step` by turns, of steps that only decode."""
        scheduler, stats = self.scheduler, self.stats
        done = scheduler.decoding.coast(self.config, scheduler.cache, stats.inter_token, end, now)
        self._free_at, self._step_end = done.last_end, done.end
        stats.generation_tokens += done.steps * scheduler.decoding.size
        stats.iteration_tokens.observe(scheduler.decoding.size, done.steps)
        self._record(done.last_end, done.free_blocks)

    def _finish_decodes(self, end: float) -> None:
        decoding, stats = self.scheduler.decoding, self.stats
        stats.generation_tokens += decoding.size
        for wait_s, count in decoding.end(end):
            stats.inter_token.observe(wait_s, count)
        if decoding.streaming:
            self._events += [Token(request_id, end) for request_id in decoding.streaming]
        for sequence in decoding.finished():
            self._finish(sequence, end)

    def _first_token(self, sequence: Sequence, at: float) -> None:
        """The prompt is computed, which gives a token; after a preemption it is not the request's first."""
        request, stats = sequence.request, self.stats
        if sequence.first_token_at is None:
            stats.prompt_tokens += request.prompt_tokens
            stats.cached_prompt_tokens += sequence.cached_tokens
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
            self.scheduler.decoding.add(sequence, at)

    def _finish(self, sequence: Sequence, at: float) -> None:
        self.scheduler.leave(sequence)
        self._forget(sequence)
        finished = sequence.finish(at)
        self.stats.observe(finished)
        self._events.append(finished)

    def _forget(self, sequence: Sequence) -> None:
        request = sequence.request
        sequence.phase = Phase.OVER
        del self._sequences[request.id]
        if request.lora is not None:
            self.scheduler.adapters.over(request.lora)

    def _record(self, at: float, free_blocks: int) -> None:
        """Set the gauges, as vLLM does at the end of each iteration."""
        scheduler = self.scheduler
        used = 1 - free_blocks / self.config.num_blocks
        deferred = len(scheduler.deferred)
        self.gauges = Gauges(len(scheduler.running), len(scheduler.waiting) + deferred, deferred, used)
        scheduler.adapters.record(at)
