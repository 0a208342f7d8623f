"""The engine's short cuts equal a plain scheduler: per sequence and step, lists and sums made anew."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st
from plain_pool import Pool, Taken, Texts, ranges
from sim_workloads import PROFILE, request, run, times

from extproc.sim.engine import Engine, EngineConfig
from extproc.sim.sequence import Event, Finished, Request


@dataclass(eq=False)
class Entry:
    request: Request
    contents: list[int]
    computed: int = 0
    generated: int = 0
    taken: Taken | None = None
    preemptions: int = 0
    cached: int | None = None

    @property
    def total(self) -> int:
        return self.request.prompt_tokens + self.generated


class Plain:
    """vLLM's schedule() in its own words; `arrivals` in order of time."""

    def __init__(self, config: EngineConfig, arrivals: list[tuple[float, Request]]) -> None:
        self.config, self.arrivals = config, list(arrivals)
        self.pool = Pool(config.num_blocks)
        self.waiting: list[Entry] = []
        self.running: list[Entry] = []
        self.slots: list[str] = []
        """Adapters on the GPU, the one used last the longest time ago first."""
        self.loading_s = 0.0
        self.events: list[tuple[str, str, float]] = []
        self.cached: dict[str, int | None] = {}
        self.preemptions = 0

    def blocks(self, tokens: int) -> int:
        return -(-tokens // self.config.block_size)

    def run(self) -> None:
        now = 0.0
        while self.arrivals or self.waiting or self.running:
            if not self.waiting and not self.running:
                now = max(now, self.arrivals[0][0])
            while self.arrivals and self.arrivals[0][0] <= now:
                _, new = self.arrivals.pop(0)
                named = [content for part in new.blocks for content in part]
                self.waiting.append(Entry(new, named if self.config.prefix_caching else []))
            now = self.step(now)

    def step(self, now: float) -> float:
        scheduled: list[tuple[Entry, int]] = []
        if self.config.chunked_prefill:
            budget, preempted = self.serve_running(self.config.token_budget, scheduled)
            if not preempted:
                self.admit(budget, scheduled)
        else:
            self.admit(max(self.config.token_budget, self.config.max_model_len), scheduled)
            if not scheduled:
                self.serve_running(self.config.token_budget, scheduled)
        tokens = sum(count for _, count in scheduled)
        context = sum(entry.computed + count for entry, count in scheduled)
        step_s = self.config.profile.step_s(tokens, context, len(scheduled)) + self.loading_s
        self.loading_s = 0.0
        now += step_s / self.config.speed
        self.output(scheduled, now)
        return now

    def serve_running(self, budget: int, scheduled: list[tuple[Entry, int]]) -> tuple[int, bool]:
        preempted = False
        for entry in list(self.running):
            while entry in self.running and self.lacking(entry) > len(self.pool.queue):
                self.preempt(self.running[-1])
                preempted = True
            if entry in self.running:
                assert entry.taken is not None
                entry.taken.blocks += self.pool.new(self.lacking(entry))
                tokens = min(entry.total - entry.computed, budget)
                budget -= tokens
                if tokens:
                    scheduled.append((entry, tokens))
        return budget, preempted

    def lacking(self, entry: Entry) -> int:
        assert entry.taken is not None
        return max(0, self.blocks(entry.total) - len(entry.taken.blocks))

    def preempt(self, entry: Entry) -> None:
        self.leave(entry)
        entry.computed = 0
        entry.preemptions += 1
        self.waiting.insert(0, entry)
        self.preemptions += 1

    def leave(self, entry: Entry) -> None:
        assert entry.taken is not None
        self.running.remove(entry)
        self.pool.leave(
            entry.taken, entry.computed // self.config.block_size if self.config.prefix_caching else 0
        )
        entry.taken = None
        lora = entry.request.lora
        if lora in self.slots and lora not in [other.request.lora for other in self.running]:
            self.slots.remove(lora)
            self.slots.append(lora)

    def admit(self, budget: int, scheduled: list[tuple[Entry, int]]) -> None:
        skipped = []
        size = self.config.block_size
        while self.waiting and budget and len(self.running) < self.config.max_num_seqs:
            entry = self.waiting.pop(0)
            lora = entry.request.lora
            loras = {other.request.lora for other in self.running} - {None}
            if lora is not None and lora not in loras and len(loras) >= self.config.max_loras > 0:
                skipped.append(entry)
                continue
            whole = not self.config.chunked_prefill
            spare = self.config.num_blocks // 100 if whole and self.running else 0
            if not (whole and scheduled and entry.total > budget):
                entry.taken = self.pool.admit(
                    entry.contents, entry.total // size, self.blocks(entry.total), spare
                )
            if entry.taken is None:
                self.waiting.insert(0, entry)
                break
            self.load(lora)
            self.running.append(entry)
            entry.computed = min(entry.taken.hits, (entry.total - 1) // size) * size
            entry.cached = entry.computed if entry.cached is None else entry.cached
            tokens = min(entry.total - entry.computed, budget)
            scheduled.append((entry, tokens))
            budget -= tokens
        self.waiting[:0] = skipped

    def load(self, lora: str | None) -> None:
        if lora is None or not self.config.max_loras or lora in self.slots:
            return
        self.loading_s += self.config.lora_load_s
        if len(self.slots) == self.config.max_loras:
            running = [other.request.lora for other in self.running]
            self.slots.remove(next(slot for slot in self.slots if slot not in running))
        self.slots.append(lora)

    def output(self, scheduled: list[tuple[Entry, int]], now: float) -> None:
        ended = []
        for entry, count in scheduled:
            entry.computed += count
            new = entry.request
            if entry.computed < entry.total:
                continue
            if new.output_tokens:
                entry.generated += 1
                self.events.append(("FirstToken" if entry.generated == 1 else "Token", new.id, now))
            if entry.generated >= new.output_tokens:
                ended.append(entry)
        for entry in ended:
            self.leave(entry)
            self.cached[entry.request.id] = entry.cached
            self.events.append(("Finished", entry.request.id, now))


@st.composite
def workloads(draw: st.DrawFn, stream: bool = True) -> tuple[EngineConfig, list[tuple[float, Request]]]:
    budget = draw(st.integers(4, 24))
    config = EngineConfig(
        profile=PROFILE,
        max_num_batched_tokens=budget,
        max_num_seqs=draw(st.integers(1, min(5, budget))),
        block_size=draw(st.sampled_from([1, 3, 4])),
        num_blocks=draw(st.sampled_from([*range(12, 25), 110])),
        prefix_caching=draw(st.booleans()),
        chunked_prefill=draw(st.booleans()),
        max_loras=draw(st.integers(0, 2)),
        lora_load_s=draw(st.sampled_from([0.0, 8.0])),
        max_model_len=draw(st.sampled_from([30, 1000])),
    )
    now, arrivals, texts = 0.0, [], Texts()
    for number in range(draw(st.integers(1, 12))):
        now += draw(st.sampled_from([0.0, 0.0, 0.5, 1.5, 20.0]))
        prompt = draw(st.integers(1, config.max_tokens - 1))
        output = draw(st.integers(0, min(14, config.max_tokens - prompt)))
        lora = draw(st.sampled_from([None, None, "a", "b", "c"]))
        most = (prompt + output) // config.block_size
        text = draw(st.sampled_from(["", "", "a", "b"])) + "a" * draw(st.integers(0, most))
        # each adapter has its own cache, which the plain pool knows by its contents alone
        blocks = ranges(texts.contents(f"{lora}{text}"[: most + 4])[4 if lora is None else 1 :][:most], 5)
        arrivals.append((now, request(str(number), prompt, output, lora=lora, stream=stream, blocks=blocks)))
    return config, arrivals


@settings(max_examples=200, deadline=None)
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
    events = run(subject, arrivals[-1][0])
    assert sorted(times(events)) == sorted(plain.events)
    assert {event.id: event.cached_tokens for event in events if isinstance(event, Finished)} == plain.cached
    assert subject.stats.preemptions == plain.preemptions
    assert subject.stats.prefix_cache_hits == sum(plain.cached.values()) == subject.stats.cached_prompt_tokens
    assert (subject.free_blocks, subject.num_running, subject.num_waiting) == (config.num_blocks, 0, 0)


@settings(max_examples=200, deadline=None)
@given(
    st.booleans().flatmap(lambda stream: workloads(stream=stream)),
    st.lists(st.tuples(st.floats(0, 60), st.integers(0, 11)), max_size=8),
)
def test_it_does_not_matter_how_often_the_engine_is_advanced(
    workload: tuple[EngineConfig, list[tuple[float, Request]]], aborts: list[tuple[float, int]]
) -> None:
    config, arrivals = workload
    steps: list[tuple[float, Request | str]] = [*arrivals, *((at, str(number)) for at, number in aborts)]
    steps.sort(key=lambda step: (step[0], isinstance(step[1], str)))
    seldom, often, coasting = Engine(config), Engine(config), Engine(config)
    seen: list[Event] = []
    heard: list[Event] = []
    for at, action in steps:
        while (due := often.next_event(at)) is not None and due < at:
            seen += often.advance(due)
        while (due := coasting.next_change(at)) is not None and due < at:
            heard += coasting.advance(due)
        for subject in (seldom, often, coasting):
            if isinstance(action, Request):
                subject.submit(action, at)
            else:
                subject.abort(action, at)
            subject.catch_up(at)
        assert seldom.gauges == often.gauges == coasting.gauges
        assert seldom.free_blocks == often.free_blocks == coasting.free_blocks
    end = steps[-1][0]
    now: float | None = end
    while now is not None:
        heard += coasting.advance(now)
        now = coasting.next_change(now)
    assert seen + run(often, end) == seldom.advance(1e6) == heard
    for name, histogram in often.stats.histograms.items():
        for other in (seldom, coasting):
            same = other.stats.histograms[name]
            assert (same.counts, same.count, same.sum) == (histogram.counts, histogram.count, histogram.sum)
    assert often.snapshot() == seldom.snapshot() == coasting.snapshot()
    assert seldom.free_blocks == often.free_blocks == coasting.free_blocks == config.num_blocks


@settings(max_examples=200, deadline=None)
@given(workloads(stream=False))
def test_no_event_is_told_later_than_was_forecast(
    workload: tuple[EngineConfig, list[tuple[float, Request]]],
) -> None:
    config, arrivals = workload
    subject = Engine(config)
    for at, new in arrivals:
        subject.submit(new, at)
    now: float | None = arrivals[-1][0]
    assert now is not None
    subject.advance(now)
    while (now := subject.next_change(now)) is not None:
        assert {event.at_s for event in subject.advance(now)} <= {now}
