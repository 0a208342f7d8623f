"""The engine's short cuts equal a plain scheduler: per sequence and step, lists and sums made anew."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from sim_workloads import PROFILE, request, run, times

from extproc.sim.engine import Engine, EngineConfig
from extproc.sim.sequence import Event, Request


@dataclass(eq=False)
class Entry:
    request: Request
    computed: int = 0
    generated: int = 0
    blocks: int = 0

    @property
    def total(self) -> int:
        return self.request.prompt_tokens + self.generated


class Plain:
    """vLLM's schedule() in its own words; `arrivals` in order of time."""

    def __init__(self, config: EngineConfig, arrivals: list[tuple[float, Request]]) -> None:
        self.config, self.arrivals = config, list(arrivals)
        self.waiting: list[Entry] = []
        self.running: list[Entry] = []
        self.events: list[tuple[str, str, float]] = []
        self.preemptions = 0

    def blocks(self, tokens: int) -> int:
        return -(-tokens // self.config.block_size)

    def free(self) -> int:
        return self.config.num_blocks - sum(entry.blocks for entry in self.running)

    def run(self) -> None:
        now = 0.0
        while self.arrivals or self.waiting or self.running:
            if not self.waiting and not self.running:
                now = max(now, self.arrivals[0][0])
            while self.arrivals and self.arrivals[0][0] <= now:
                _, new = self.arrivals.pop(0)
                self.waiting.append(Entry(new))
            now = self.step(now)

    def step(self, now: float) -> float:
        budget = self.config.profile.max_num_batched_tokens
        scheduled: list[tuple[Entry, int]] = []
        preempted = False
        for entry in list(self.running):
            if entry not in self.running:
                continue
            tokens = min(entry.total - entry.computed, budget)
            while self.blocks(entry.total) - entry.blocks > self.free():
                last = self.running.pop()
                last.computed = last.blocks = 0
                self.waiting.insert(0, last)
                self.preemptions += 1
                preempted = True
                if last is entry:
                    break
            if entry in self.running:
                entry.blocks = max(entry.blocks, self.blocks(entry.total))
                budget -= tokens
                if tokens:
                    scheduled.append((entry, tokens))
        if not preempted:
            budget = self.admit(budget, scheduled)
        tokens = sum(count for _, count in scheduled)
        context = sum(entry.computed + count for entry, count in scheduled)
        now += self.config.profile.step_s(tokens, context, len(scheduled)) / self.config.speed
        self.output(scheduled, now)
        return now

    def admit(self, budget: int, scheduled: list[tuple[Entry, int]]) -> int:
        skipped = []
        while self.waiting and budget and len(self.running) < self.config.max_num_seqs:
            entry = self.waiting.pop(0)
            lora = entry.request.lora
            loras = {other.request.lora for other in self.running} - {None}
            if lora is not None and lora not in loras and len(loras) >= self.config.max_loras > 0:
                skipped.append(entry)
                continue
            if self.blocks(entry.total) > self.free():
                self.waiting.insert(0, entry)
                break
            entry.blocks = self.blocks(entry.total)
            self.running.append(entry)
            scheduled.append((entry, min(entry.total, budget)))
            budget -= min(entry.total, budget)
        self.waiting[:0] = skipped
        return budget

    def output(self, scheduled: list[tuple[Entry, int]], now: float) -> None:
        for entry, count in scheduled:
            entry.computed += count
            new = entry.request
            if entry.computed < entry.total:
                continue
            if new.output_tokens:
                entry.generated += 1
                self.events.append(("FirstToken" if entry.generated == 1 else "Token", new.id, now))
            if entry.generated >= new.output_tokens:
                self.running.remove(entry)
                self.events.append(("Finished", new.id, now))


@st.composite
def workloads(draw: st.DrawFn) -> tuple[EngineConfig, list[tuple[float, Request]]]:
    budget = draw(st.integers(4, 24))
    config = EngineConfig(
        profile=msgspec.structs.replace(PROFILE, max_num_batched_tokens=budget),
        max_num_seqs=draw(st.integers(1, min(5, budget))),
        block_size=draw(st.sampled_from([1, 3, 4])),
        num_blocks=draw(st.integers(12, 24)),
        max_loras=draw(st.integers(0, 2)),
    )
    now, arrivals = 0.0, []
    for number in range(draw(st.integers(1, 12))):
        now += draw(st.sampled_from([0.0, 0.0, 0.5, 1.5, 20.0]))
        prompt = draw(st.integers(1, config.max_tokens - 1))
        output = draw(st.integers(0, min(14, config.max_tokens - prompt)))
        lora = draw(st.sampled_from([None, "a", "b", "c"]))
        arrivals.append((now, request(str(number), prompt, output, lora=lora, stream=True)))
    return config, arrivals


@settings(max_examples=300, deadline=None)
@given(workloads())
def test_any_workload_runs_as_under_a_plain_scheduler(
    workload: tuple[EngineConfig, list[tuple[float, Request]]],
) -> None:
    config, arrivals = workload
    plain = Plain(config, arrivals)
    plain.run()
    subject = Engine(config)
    for at, new in arrivals:
        subject.submit(new, at)
    assert sorted(times(run(subject, arrivals[-1][0]))) == sorted(plain.events)
    assert subject.stats.preemptions == plain.preemptions
    assert (subject.free_blocks, subject.num_running, subject.num_waiting) == (config.num_blocks, 0, 0)


@settings(max_examples=150, deadline=None)
@given(workloads(), st.lists(st.tuples(st.floats(0, 60), st.integers(0, 11)), max_size=8))
def test_it_does_not_matter_how_often_the_engine_is_advanced(
    workload: tuple[EngineConfig, list[tuple[float, Request]]], aborts: list[tuple[float, int]]
) -> None:
    config, arrivals = workload
    steps: list[tuple[float, Request | str]] = [*arrivals, *((at, str(number)) for at, number in aborts)]
    steps.sort(key=lambda step: (step[0], isinstance(step[1], str)))
    seldom, often = Engine(config), Engine(config)
    seen: list[Event] = []
    for at, action in steps:
        while (due := often.next_event(at)) is not None and due < at:
            seen += often.advance(due)
        for subject in (seldom, often):
            if isinstance(action, Request):
                subject.submit(action, at)
            else:
                subject.abort(action, at)
    end = steps[-1][0]
    assert seen + run(often, end) == seldom.advance(1e6)
    assert often.stats.iteration_tokens.counts == seldom.stats.iteration_tokens.counts
    assert seldom.free_blocks == often.free_blocks == config.num_blocks
