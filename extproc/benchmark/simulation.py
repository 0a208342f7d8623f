"""Virtual time: calls arrive, a policy sends each to a replica, engines work, scrapes bring old news."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from msgspec import Struct

from extproc.benchmark.outcome import Outcome, Run
from extproc.benchmark.workload import Call, Workload
from extproc.engine_metrics import EngineMetrics
from extproc.sim.engine import Engine
from extproc.sim.sequence import Finished, Request

SCRAPE_DELAY_S = 0.005
"""From the moment whose figures a page holds until the router has read it: rendering it, a network, parsing it."""
SAMPLE_S = 1.0
"""How often the KV usage is noted for the plot."""
OVERRUN = 4.0
"""A run is cut at so many times its duration: a fleet that far behind never catches up."""


class Policy(Protocol):
    """Sends calls to replicas.  It learns of the replicas what a router would, and when a router would."""

    scrape_interval_s: float | None
    """None: it reads no metrics."""

    def start(self, world: World) -> None:
        """Before anything else."""

    def arrived(self, call: int, now: float) -> None:
        """Answer with `world.send` or `world.refuse`, now or later."""

    def ended(self, call: int, replica: int, now: float) -> None:
        """The answer's last byte has passed."""

    def scraped(self, replica: int, page: EngineMetrics, now: float) -> None:
        """A metrics page was read; its figures are SCRAPE_DELAY_S old, and as of the end of an iteration."""

    def woke(self, now: float) -> None:
        """The time given to `world.wake_at` has come."""


class _Sent(Struct):
    call: int
    replica: int
    arrived_s: float
    sent_s: float


class World:
    """One run.  Policies use `call`, `send`, `refuse` and `wake_at`; only the oracle looks at `engines`."""

    def __init__(self, workload: Workload, policy: Policy) -> None:
        self.workload = workload
        self.engines = [Engine(replica.engine) for replica in workload.replicas]
        self._policy = policy
        self._heap: list[tuple[float, int, Callable[[float], None]]] = []
        self._pushed = 0
        self._due: list[float | None] = [None] * len(self.engines)
        """When each engine is next looked at."""
        self._sent: dict[str, _Sent] = {}
        self._arrived: dict[int, float] = {}
        self._next_call = 0
        self._open = 0
        """Calls that arrived and have not ended."""
        self._outcomes: list[Outcome] = []
        self._kv_usage: list[tuple[float, tuple[float, ...]]] = []
        self._now = 0.0

    # -- for policies ---------------------------------------------------------------------------------------

    def call(self, index: int) -> Call:
        return self.workload.calls[index]

    def send(self, index: int, replica: int, now: float) -> None:
        """Give call number *index* to *replica*."""
        call = self.workload.calls[index]
        key = str(index)
        self._sent[key] = _Sent(index, replica, self._arrived.pop(index), now)
        self.engines[replica].submit(
            Request(
                id=key,
                prompt_tokens=call.prompt_tokens,
                output_tokens=call.output_tokens,
                lora=call.lora,
                blocks=call.blocks,
            ),
            now,
        )
        self._watch(replica, now)

    def refuse(self, index: int, now: float) -> None:
        """Answer call number *index* with an error."""
        arrived = self._arrived.pop(index)
        self._note(index, -1, arrived, now, now, now, 0, 0)
        self._over(now)

    def wake_at(self, at: float) -> None:
        self._push(at, self._policy.woke)

    # -- the run --------------------------------------------------------------------------------------------

    def run(self) -> Run:
        begun = time.perf_counter()
        self._policy.start(self)
        self._begin_scrapes()
        self._push(SAMPLE_S, self._sample)
        self._begin_calls()
        limit = self.workload.duration_s * OVERRUN if self.workload.concurrency is None else float("inf")
        heap = self._heap
        while heap and self._unfinished and heap[0][0] <= limit:
            at, _, action = heapq.heappop(heap)
            self._now = at
            action(at)
        self._cut()
        return Run(
            outcomes=self._outcomes,
            measured_s=self._measured_s(),
            kv_usage=self._kv_usage,
            simulated_s=self._now,
            wall_s=time.perf_counter() - begun,
        )

    @property
    def _unfinished(self) -> bool:
        return self._open > 0 or self._next_call < len(self.workload.calls)

    def _measured_s(self) -> float:
        if self.workload.concurrency is not None:
            return self._now
        return self.workload.duration_s - self.workload.warmup_s

    def _push(self, at: float, action: Callable[[float], None]) -> None:
        self._pushed += 1
        heapq.heappush(self._heap, (at, self._pushed, action))

    def _begin_calls(self) -> None:
        clients = self.workload.concurrency
        for _ in range(clients or 1):
            self._push_next_call(0.0)

    def _push_next_call(self, now: float) -> None:
        if self._next_call < len(self.workload.calls):
            index = self._next_call
            self._next_call += 1
            self._open += 1
            self._push(max(now, self.workload.calls[index].at_s), lambda at: self._arrive(index, at))

    def _arrive(self, index: int, now: float) -> None:
        if self.workload.concurrency is None:
            self._push_next_call(now)
        self._arrived[index] = now
        self._policy.arrived(index, now)

    def _over(self, now: float) -> None:
        """A call ended; in a closed loop its client sends the next."""
        self._open -= 1
        if self.workload.concurrency is not None:
            self._push_next_call(now)

    def _watch(self, replica: int, now: float) -> None:
        due = self.engines[replica].next_change(now)
        if due is not None and due != self._due[replica]:
            self._due[replica] = due
            self._push(due, lambda at: self._advance(replica, at))

    def _advance(self, replica: int, now: float) -> None:
        if self._due[replica] != now:
            return  # it was looked at earlier
        self._due[replica] = None
        for event in self.engines[replica].advance(now):
            if isinstance(event, Finished):
                self._finished(event)
        self._watch(replica, now)

    def _finished(self, event: Finished) -> None:
        sent = self._sent.pop(event.id)
        self._note(
            sent.call,
            sent.replica,
            sent.arrived_s,
            sent.sent_s,
            event.first_token_s,
            event.at_s,
            event.cached_tokens,
            event.preemptions,
        )
        self._policy.ended(sent.call, sent.replica, event.at_s)
        self._over(event.at_s)

    def _note(
        self,
        index: int,
        replica: int,
        arrived: float,
        sent: float,
        first: float,
        end: float,
        cached: int,
        preempted: int,
    ) -> None:
        workload = self.workload
        call = workload.calls[index]
        if workload.concurrency is None and arrived < workload.warmup_s:
            return
        self._outcomes.append(
            Outcome(
                call=index,
                sent_s=arrived,
                replica=replica,
                first_token_s=first,
                finished_s=end,
                prompt_tokens=call.prompt_tokens,
                output_tokens=call.output_tokens,
                cached_tokens=cached,
                preemptions=preempted,
                queued_s=sent - arrived,
                priority=call.priority,
                tenant=call.tenant,
            )
        )

    def _cut(self) -> None:
        """What is not over where the run is cut counts as refused there: no figure may look good for its absence."""
        for sent in self._sent.values():
            self._note(sent.call, -1, sent.arrived_s, sent.sent_s, self._now, self._now, 0, 0)
        for index, arrived in self._arrived.items():
            self._note(index, -1, arrived, self._now, self._now, self._now, 0, 0)

    # -- metrics pages --------------------------------------------------------------------------------------

    def _begin_scrapes(self) -> None:
        interval = self._policy.scrape_interval_s
        if interval is not None:
            for replica in range(len(self.engines)):
                self._push(interval * replica / len(self.engines), partial(self._scrape, replica))

    def _scrape(self, replica: int, now: float) -> None:
        interval = self._policy.scrape_interval_s
        assert interval is not None
        self.engines[replica].catch_up(now)
        page = metrics_of(self.engines[replica])
        self._push(now + SCRAPE_DELAY_S, lambda at: self._policy.scraped(replica, page, at))
        self._push(now + interval, partial(self._scrape, replica))

    def _sample(self, now: float) -> None:
        for engine in self.engines:
            engine.catch_up(now)
        self._kv_usage.append((now, tuple(engine.gauges.kv_cache_usage for engine in self.engines)))
        self._push(now + SAMPLE_S, self._sample)


def metrics_of(engine: Engine) -> EngineMetrics:
    """What a scrape of *engine* would read: gauges as of the end of its last iteration, counters as of now."""
    gauges, stats, config = engine.gauges, engine.stats, engine.config
    adapters = frozenset[str]()
    if engine.lora_requests:
        newest = max(engine.lora_requests.items(), key=lambda item: item[1])[0]
        adapters = frozenset(filter(None, newest.split(",")))
    return EngineMetrics(
        waiting=gauges.waiting,
        running=gauges.running,
        kv_cache_usage=gauges.kv_cache_usage,
        running_loras=adapters,
        waiting_loras=adapters,
        max_loras=config.max_loras,
        block_size=config.block_size,
        num_gpu_blocks=config.num_blocks,
        prompt_tokens_total=stats.prompt_tokens,
        generation_tokens_total=stats.generation_tokens,
        requests_finished_total=sum(stats.success.values()),
        prefix_cache_hits_total=stats.prefix_cache_hits,
        iterations_total=stats.iteration_tokens.count,
    )


def simulate(workload: Workload, policy: Policy) -> Run:
    """Run *workload* under *policy*."""
    return World(workload, policy).run()


def prefix_hashes(call: Call, checkpoints: Sequence[int], block_tokens: int) -> tuple[int, ...]:
    """Of each beginning of the call's prompt: the identity of the last block before each of *checkpoints*."""
    hashes: list[int] = []
    ranges = iter(call.blocks)
    current, passed = next(ranges, range(0)), 0
    for position in checkpoints:
        if position > call.prompt_tokens:
            break
        block = position // block_tokens - 1
        while block - passed >= len(current):
            passed += len(current)
            following = next(ranges, None)
            if following is None:
                return tuple(hashes)
            current = following
        hashes.append(current[block - passed])
    return tuple(hashes)
