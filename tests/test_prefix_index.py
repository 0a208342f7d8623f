"""Who has a prompt's beginning cached: the index, and what a pool tells it."""

from __future__ import annotations

import gc
import random
import tracemalloc
from itertools import count

import pytest
from fleets import NOW, endpoint, fleet, request
from hypothesis import given
from hypothesis import strategies as st
from prompts import beginnings, chain, prompt

from extproc.config import parse_config
from extproc.endpoint import Endpoint
from extproc.engine_metrics import EngineMetrics
from extproc.fleet import Fleet
from extproc.pool import DEFAULT_CAPACITY_TOKENS, MAX_ADAPTERS, Pool
from extproc.prefix_index import DEFAULT_MAX_BYTES, GENERATION_S, GENERATIONS, PrefixIndex
from extproc.request import CHECKPOINTS

CAPACITY = 1000


def index(*holders: str) -> PrefixIndex[str]:
    made: PrefixIndex[str] = PrefixIndex()
    made.keep(holders)
    return made


def tokens(checkpoints: int) -> int:
    return CHECKPOINTS[checkpoints - 1]


def test_each_holder_has_the_longest_beginning_that_it_got() -> None:
    known = index("a", "b", "c")
    known.insert(beginnings(("system", 16), ("x", 41)), "a", NOW)
    known.insert(beginnings(("system", 16), ("y", 4)), "b", NOW)
    assert known.match(beginnings(("system", 16), ("x", 10), ("else", 9))) == {
        "a": tokens(26),
        "b": tokens(16),
    }
    assert known.match(beginnings(("system", 3))) == {"a": tokens(3), "b": tokens(3)}
    assert known.match(beginnings(("other", 9))) == {}
    assert known.match(()) == {}


def test_a_conversation_grows_where_it_is_and_is_known_elsewhere_as_far_as_it_went_there() -> None:
    known = index("a", "b")
    for turns in (3, 9, 20):
        known.insert(beginnings(("talk", turns)), "a", NOW)
    known.insert(beginnings(("talk", 12)), "b", NOW)
    assert known.match(beginnings(("talk", 30))) == {"a": tokens(20), "b": tokens(12)}


def test_models_are_kept_apart_by_their_salt() -> None:
    known = index("a")
    known.insert(beginnings(("x", 5)), "a", NOW, salt=2**64 - 1)
    assert known.match(beginnings(("x", 5))) == {}
    assert known.match(beginnings(("x", 5)), salt=2**64 - 1) == {"a": tokens(5)}


def test_what_was_used_is_there_until_as_much_as_the_capacity_was_written() -> None:
    known = index("a", "b")
    known.insert(beginnings(("x", 5)), "a", NOW)
    known.insert(beginnings(("y", 5)), "a", NOW)
    known.insert(beginnings(("y", 5)), "b", NOW)
    known.wrote("a", CAPACITY - 1, CAPACITY)
    known.insert(beginnings(("x", 2)), "a", NOW)
    known.wrote("a", 1, CAPACITY)
    assert known.match(beginnings(("y", 5))) == {"a": tokens(5), "b": tokens(5)}
    known.wrote("a", 1, CAPACITY)
    assert known.match(beginnings(("y", 5))) == {"b": tokens(5)}
    assert known.match(beginnings(("x", 5))) == {"a": tokens(2)}


def test_a_smaller_capacity_forgets_and_a_larger_one_does_not_bring_back() -> None:
    known = index("a")
    known.insert(beginnings(("x", 5)), "a", NOW)
    known.wrote("a", 500, CAPACITY)
    known.wrote("a", 0, 499)
    assert known.match(beginnings(("x", 5))) == {}
    known.wrote("a", 0, 10 * CAPACITY)
    assert known.match(beginnings(("x", 5))) == {}


def test_what_was_counted_too_early_is_taken_back() -> None:
    known = index("a")
    known.insert(beginnings(("x", 5)), "a", NOW)
    for written in (600, -600, 600, 400):
        known.wrote("a", written, CAPACITY)
    assert known.match(beginnings(("x", 5))) == {"a": tokens(5)}
    known.wrote("a", 1, CAPACITY)
    assert known.match(beginnings(("x", 5))) == {}


@pytest.mark.parametrize("written", [(), (700,), (700, -650)])
def test_who_takes_the_place_of_another_inherits_nothing(written: tuple[int, ...]) -> None:
    known = index("a", "b")
    for each in ("a", "b"):
        for count_ in written:
            known.wrote(each, max(count_, 0), CAPACITY)
        known.insert(beginnings(("x", 5)), each, NOW)
        for count_ in written:
            known.wrote(each, min(count_, 0), CAPACITY)
    known.keep(("b",))
    assert known.match(beginnings(("x", 5))) == {"b": tokens(5)}
    known.keep(("b", "c", "d"))
    assert known.match(beginnings(("x", 5))) == {"b": tokens(5)}
    known.insert(beginnings(("x", 3)), "c", NOW)
    assert known.match(beginnings(("x", 5))) == {"b": tokens(5), "c": tokens(3)}


def test_who_is_gone_is_told_nothing() -> None:
    known = index("a")
    known.keep(())
    known.insert(beginnings(("x", 5)), "a", NOW)
    known.wrote("a", 5, CAPACITY)
    known.forget("a")
    known.keep(("a",))
    assert known.match(beginnings(("x", 5))) == {}


def test_one_that_was_restarted_has_nothing_and_learns_anew() -> None:
    known = index("a", "b")
    for each in ("a", "b"):
        known.insert(beginnings(("x", 5)), each, NOW)
    known.forget("a")
    assert known.match(beginnings(("x", 5))) == {"b": tokens(5)}
    known.insert(beginnings(("x", 2)), "a", NOW)
    assert known.match(beginnings(("x", 5))) == {"a": tokens(2), "b": tokens(5)}


def test_after_a_restart_nothing_is_left_to_be_taken_back() -> None:
    known = index("a")
    known.wrote("a", 600, CAPACITY)
    known.wrote("a", -600, CAPACITY)
    known.forget("a")
    known.insert(beginnings(("x", 5)), "a", NOW)
    known.wrote("a", CAPACITY, CAPACITY)
    assert known.match(beginnings(("x", 5))) == {"a": tokens(5)}
    known.wrote("a", 1, CAPACITY)
    assert known.match(beginnings(("x", 5))) == {}


class Naive:
    """Remembers every beginning of every prompt, by who got it, with what had been written there by then."""

    def __init__(self) -> None:
        self.seen: dict[str, dict[tuple[int, ...], int]] = {}
        self.written: dict[str, int] = {}
        self.floor: dict[str, int] = {}

    def keep(self, holders: frozenset[str]) -> None:
        for name in holders.symmetric_difference(self.seen):
            self.seen.pop(name, None)
            if name in holders:
                self.seen[name], self.written[name], self.floor[name] = {}, 0, 0

    def insert(self, pieces: tuple[int, ...], name: str) -> None:
        if name in self.seen:
            for end in range(1, len(pieces) + 1):
                self.seen[name][pieces[:end]] = self.written[name]

    def wrote(self, name: str, written: int, capacity: int) -> None:
        if name in self.seen:
            self.written[name] += written
            self.floor[name] = max(self.floor[name], self.written[name] - capacity)

    def forget(self, name: str) -> None:
        if name in self.seen:
            self.seen[name] = {}

    def match(self, pieces: tuple[int, ...]) -> dict[str, int]:
        found = {}
        for name, seen in self.seen.items():
            ends = range(1, len(pieces) + 1)
            held = [end for end in ends if seen.get(pieces[:end], -1) >= self.floor[name]]
            if held:
                found[name] = tokens(max(held))
        return found


NAMES = st.sampled_from("abcd")
PIECES = st.lists(st.integers(0, 1), max_size=7).map(tuple)
STEPS = st.one_of(
    st.tuples(st.just("insert"), PIECES, NAMES),
    st.tuples(st.just("insert"), PIECES, NAMES),
    st.tuples(st.just("wrote"), NAMES, st.integers(0, 12), st.integers(5, 20)),
    st.tuples(st.just("forget"), NAMES),
    st.tuples(st.just("keep"), st.frozensets(NAMES)),
)


@given(st.lists(STEPS, max_size=40), st.lists(PIECES, min_size=1, max_size=5))
def test_it_knows_exactly_what_a_naive_memory_of_everything_knows(
    steps: list[tuple], asked: list[tuple[int, ...]]
) -> None:
    known, naive = index(*"abcd"), Naive()
    naive.keep(frozenset("abcd"))
    for kind, *arguments in steps:
        if kind == "insert":
            pieces, name = arguments
            known.insert(chain(pieces), name, NOW)
            asked = [pieces, *asked]
        else:
            getattr(known, kind)(*arguments)
        getattr(naive, kind)(*arguments)
        for pieces in asked:
            assert known.match(chain(pieces)) == naive.match(pieces)


def test_what_nobody_used_for_long_is_forgotten_and_what_is_used_stays() -> None:
    known = index("a", "b")
    known.insert(beginnings(("x", 5)), "a", NOW)
    known.insert(beginnings(("y", 5)), "a", NOW)
    for passed in range(1, GENERATIONS):
        known.insert(beginnings(("x", 7)), "b", NOW + passed * GENERATION_S)
    assert known.match(beginnings(("y", 9))) == {"a": tokens(5)}
    known.insert(beginnings(("x", 7)), "b", NOW + GENERATIONS * GENERATION_S)
    assert known.match(beginnings(("y", 9))) == {}
    assert known.match(beginnings(("x", 9))) == {"a": tokens(5), "b": tokens(7)}


def test_its_runs_are_counted_and_those_that_were_forgotten_as_long_as_they_take_memory() -> None:
    known = index("a", "b")
    known.insert(beginnings(("x", 5)), "a", NOW)
    known.insert(beginnings(("x", 5)), "b", NOW)
    assert len(known) == 1
    known.insert(beginnings(("x", 2), ("y", 5)), "a", NOW)  # the beginning, and two ends
    assert len(known) == 3
    for passed in range(1, GENERATIONS + 1):
        known.insert(beginnings(("z", 1)), "a", NOW + passed * GENERATION_S)
    assert len(known) == 4
    known.insert(beginnings(("z", 1)), "a", NOW + GENERATIONS * GENERATION_S)
    assert len(known) == 1


def test_the_default_bound_is_within_200_megabytes() -> None:
    assert DEFAULT_MAX_BYTES <= 200e6


@pytest.mark.parametrize("holders", [5, 100, 1000])
@pytest.mark.parametrize(
    ("shared", "own", "copies"),
    [(0, 1, 1), (16, 2, 1), (16, 41, 1), (0, 2, 3), (0, 40, 50)],
    ids=["tiny", "short", "long", "on a few", "on many"],
)
def test_it_stays_within_its_bytes_and_forgets_the_oldest(
    holders: int, shared: int, own: int, copies: int
) -> None:
    most, rng, numbers = 2**20, random.Random(1), count()
    system = [rng.getrandbits(64) for _ in range(shared)]
    known: PrefixIndex[int] = PrefixIndex(most)
    known.keep(range(holders))

    def send_next() -> list[int]:
        prefix = system + [rng.getrandbits(64) for _ in range(own)]
        for _ in range(copies):
            number = next(numbers) % holders
            known.wrote(number, 1, 10**9)
            known.insert(prefix, number, NOW)
        return prefix

    tracemalloc.start()
    try:
        first = send_next()
        while tokens(shared + own) in known.match(first).values():
            last = send_next()
        for _ in range(500):
            last = send_next()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most / 4 < peak <= most
    assert list(known.match(last).values()).count(tokens(shared + own)) == min(copies, holders)


def test_what_is_used_again_counts_again() -> None:
    most, rng = 2**20, random.Random(1)
    known: PrefixIndex[int] = PrefixIndex(most)
    known.keep((0,))
    long = [
        [rng.getrandbits(64) for _ in CHECKPOINTS] for _ in range(most * 4 // 10 // 8 // len(CHECKPOINTS))
    ]
    tracemalloc.start()
    try:
        for number in range(5000):
            known.insert([rng.getrandbits(64) for _ in range(20)], 0, NOW)
            known.insert(long[number % len(long)], 0, NOW)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= most


def test_the_garbage_collector_has_none_of_it_to_look_at() -> None:
    known = index(*"abcd")
    gc.collect()
    before = len(gc.get_objects())
    for number in range(1000):
        known.insert(beginnings(("system", 3), (str(number), 4)), "abcd"[number % 4], NOW)
        known.insert(beginnings(("system", 3), (str(number), 6)), "abcd"[number % 3], NOW)
    gc.collect()
    assert len(gc.get_objects()) - before < 100


# What a pool tells it

TEXT = """
pools: [{name: p, endpoints: ["10.0.0.1:80", "10.0.0.2:80"]}]
models: [{name: m, pool: p}]
"""
PROMPT = prompt(("system", 4), ("x", 6))


def counters(
    prompt: float | None = 0.0,
    generation: float | None = 0.0,
    finished: float = 0.0,
    hits: float | None = None,
) -> EngineMetrics:
    """A server whose KV cache holds 160 blocks of 16 tokens."""
    return EngineMetrics(
        waiting=0,
        running=0,
        block_size=16,
        num_gpu_blocks=160,
        prompt_tokens_total=prompt,
        generation_tokens_total=generation,
        requests_finished_total=finished,
        prefix_cache_hits_total=hits,
    )


def two(text: str = TEXT) -> tuple[Fleet, Pool, Endpoint, Endpoint]:
    made = fleet(text)
    (pool, one), (_, other) = made.endpoints()
    return made, pool, one, other


def send(pool: Pool, to: Endpoint, target_model: str = "m") -> None:
    asked = request(prompt=PROMPT, target_model=target_model)
    pool.match(asked)
    pool.sent(pool.work(asked, to), to, NOW)


def cached(pool: Pool, target_model: str = "m") -> dict[Endpoint, int]:
    asked = request(prompt=PROMPT, target_model=target_model)
    pool.match(asked)
    return dict(asked.cached)


def test_a_pool_knows_where_it_sent_a_prompt_by_target() -> None:
    _, pool, one, _ = two()
    send(pool, one)
    assert cached(pool) == {one: tokens(10)}
    assert cached(pool, "adapter") == {}


def test_a_request_whose_prompt_is_unknown_matches_nothing() -> None:
    _, pool, one, _ = two()
    send(pool, one)
    asked = request(target_model="m")
    pool.match(asked)
    assert asked.cached == {}


def test_a_reload_keeps_what_is_known_of_those_that_stay() -> None:
    made, pool, one, other = two()
    for each in (one, other):
        send(pool, each)
    router = fleet_with(made, TEXT.replace("10.0.0.1:80", "10.0.0.3:80"))
    assert cached(router) == {other: tokens(10)}
    router = fleet_with(made, TEXT)
    assert cached(router) == {other: tokens(10)}
    router = fleet_with(made, TEXT.replace("name: p", "name: q").replace("pool: p", "pool: q"))
    assert cached(router) == {}


def fleet_with(made: Fleet, text: str) -> Pool:
    return next(iter(made.apply(parse_config(text.encode())).pools.values()))


def test_where_counters_tell_what_was_written_they_decide() -> None:
    made, pool, one, _ = two()
    made.scraped(one.address, counters(prompt=5000.0, hits=1000.0), NOW)
    send(pool, one)
    for number in range(9):
        send(pool, one, f"other {number}")
    made.scraped(one.address, counters(prompt=8000.0, hits=2000.0, generation=560.0), NOW)
    assert cached(pool) == {one: tokens(10)}
    made.scraped(one.address, counters(prompt=8000.0, hits=2000.0, generation=561.0), NOW)
    assert cached(pool) == {}


def test_hits_that_are_counted_before_their_prompt_are_no_restart() -> None:
    made, pool, one, _ = two()
    made.scraped(one.address, counters(), NOW)
    send(pool, one)
    made.scraped(one.address, counters(hits=5000.0), NOW)
    made.scraped(one.address, counters(prompt=5000.0, hits=5000.0), NOW)
    assert cached(pool) == {one: tokens(10)}


def test_without_counters_our_own_requests_count_each_by_what_is_new() -> None:
    made, pool, one, _ = two()
    made.scraped(one.address, counters(prompt=None), NOW)
    send(pool, one)
    for _ in range(20):  # all of it is cached by now
        send(pool, one)
    assert cached(pool) == {one: tokens(10)}
    for number in range(4):  # 640 new tokens each
        send(pool, one, f"other {number}")
        assert cached(pool) == {one: tokens(10)}
    send(pool, one, "one more")
    assert cached(pool) == {}


def test_of_one_that_was_never_scraped_a_usual_capacity_is_taken() -> None:
    _, pool, one, _ = two()
    send(pool, one)
    for number in range(DEFAULT_CAPACITY_TOKENS // tokens(10)):
        send(pool, one, f"other {number}")
    assert cached(pool) == {one: tokens(10)}
    for number in range(2):
        send(pool, one, f"another {number}")
    assert cached(pool) == {}


@pytest.mark.parametrize(
    "after",
    [
        counters(prompt=10.0, finished=7.0),
        counters(prompt=100.0, finished=6.0),
        counters(prompt=None, finished=0),
    ],
)
def test_a_counter_that_fell_tells_of_a_restart(after: EngineMetrics) -> None:
    made, pool, one, other = two()
    for each in (one, other):
        made.scraped(each.address, counters(prompt=100.0, finished=7.0), NOW)
        send(pool, each)
    made.scraped(one.address, after, NOW)
    assert cached(pool) == {other: tokens(10)}


def test_a_pool_learns_adapters_from_scrapes_and_keeps_them_over_reloads() -> None:
    made, pool, one, _ = two()
    made.scraped(one.address, EngineMetrics(waiting=0, running=0, running_loras=frozenset({"x"})), NOW)
    made.scraped(one.address, EngineMetrics(waiting=0, running=0, waiting_loras=frozenset({"y"})), NOW)
    made.scraped(one.address, EngineMetrics(waiting=0, running=0), NOW)
    for model, known in (("x", True), ("y", True), ("m", False)):
        for each in (pool, fleet_with(made, TEXT)):
            asked = request(target_model=model)
            each.match(asked)
            assert asked.is_adapter is known


def test_a_server_that_makes_up_adapters_does_not_fill_the_memory() -> None:
    pool, liar = Pool("p"), endpoint()
    for number in range(MAX_ADAPTERS * 2):
        liar.running_loras = frozenset({str(number)})
        pool.observed(liar, None)
    assert len(pool.adapters) <= MAX_ADAPTERS + 1
