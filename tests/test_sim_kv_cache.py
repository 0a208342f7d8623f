"""The KV cache: its arithmetic by example, and that it equals a plain pool of single blocks."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from plain_pool import Pool, Taken, Texts, ranges

from extproc.sim.kv_cache import Contents, Held, KvCache, cut


def admitted(cache: KvCache, contents: Contents, total: int, lora: str | None = None) -> Held:
    held = cache.admit(contents, total, total, lora=lora)
    assert held is not None
    return held


def hits(cache: KvCache, contents: Contents, total: int, lora: str | None = None) -> int:
    """How many blocks a prompt of so many full ones finds; it is gone again at once."""
    held = admitted(cache, contents, total, lora)
    cache.leave(held, total, total)
    return held.hits


@pytest.mark.parametrize(
    ("first", "last", "parts"),
    [
        (0, 9, [range(9), range(20, 20)]),
        (0, 3, [range(3)]),
        (2, 11, [range(2, 10), range(20, 21)]),
        (10, 13, [range(20, 22), range(30, 31)]),
        (12, 99, [range(30, 35)]),
        (5, 5, []),
        (50, 60, []),
    ],
)
def test_contents_are_cut_by_block_numbers(first: int, last: int, parts: list[range]) -> None:
    contents = (range(4), range(4, 10), range(20, 22), range(30, 35))
    assert cut(contents, first, last) == [part for part in parts if part]


def test_a_prompts_blocks_are_shared_from_its_admission_on() -> None:
    cache = KvCache(100)
    one = admitted(cache, (range(30),), 40)
    assert cache.free == 60
    two = admitted(cache, (range(20), range(500, 510)), 30)
    assert (one.hits, two.hits, cache.free) == (0, 20, 50)
    cache.leave(one, 40, 40)
    assert cache.free == 70
    cache.leave(two, 30, 30)
    assert cache.free == 100


def test_what_a_sequence_generated_is_cached_when_it_leaves() -> None:
    cache = KvCache(100)
    held = admitted(cache, (range(30),), 10)
    cache.take(7)
    cache.leave(held, 16, 17)
    assert hits(cache, (range(30),), 30) == 16


def test_prompts_that_part_share_what_comes_before() -> None:
    cache = KvCache(100)
    cache.leave(admitted(cache, (range(30),), 30), 30, 30)
    cache.leave(admitted(cache, (range(10), range(40, 50)), 20), 20, 20)
    assert hits(cache, (range(30),), 30) == 30
    assert hits(cache, (range(10), range(40, 60)), 30) == 20
    assert hits(cache, (range(10), range(70, 80)), 20) == 10


def test_the_end_of_what_is_unused_the_longest_goes_first() -> None:
    cache = KvCache(20)
    for start in (0, 100):
        cache.leave(admitted(cache, (range(start, start + 10),), 10), 10, 10)
    assert hits(cache, (range(10),), 10) == 10
    other = admitted(cache, (), 5)
    cache.leave(other, 0, 5)
    assert hits(cache, (range(100, 110),), 5) == 5
    assert hits(cache, (range(10),), 10) == 10


def test_blocks_without_a_whole_content_are_the_first_to_be_taken_again() -> None:
    cache = KvCache(10)
    cache.leave(admitted(cache, (range(9),), 9), 9, 9)
    for _ in range(5):
        held = cache.admit((), 0, 1)
        assert held is not None
        cache.leave(held, 0, 1)
    assert hits(cache, (range(9),), 9) == 9


def test_full_blocks_like_no_others_drive_out_what_is_older() -> None:
    cache = KvCache(10)
    cache.leave(admitted(cache, (range(9),), 9), 9, 9)
    cache.leave(admitted(cache, (), 4), 4, 4)
    assert hits(cache, (range(9),), 9) == 6


def test_a_prompt_that_fits_only_with_what_is_cached_is_admitted_without_driving_that_out() -> None:
    cache = KvCache(10)
    running = admitted(cache, (range(4),), 4)
    cache.leave(admitted(cache, (range(4), range(10, 14)), 8), 8, 8)
    assert cache.free == 6
    assert cache.admit((range(4), range(10, 17)), 11, 11) is None
    held = admitted(cache, (range(4), range(10, 16)), 10)
    assert (held.hits, cache.free) == (8, 0)
    cache.leave(held, 10, 10)
    cache.leave(running, 4, 4)
    assert cache.free == 10


def test_blocks_can_be_kept_back() -> None:
    cache = KvCache(10)
    assert cache.admit((), 8, 8, spare=3) is None
    assert cache.admit((), 8, 8, spare=2) is not None


def test_what_was_not_computed_is_not_there_for_others() -> None:
    cache = KvCache(100)
    cache.leave(admitted(cache, (range(10),), 10), 10, 10)
    cache.leave(admitted(cache, (range(30),), 30), 17, 30)
    assert cache.free == 100
    assert hits(cache, (range(30),), 30) == 17


def test_what_was_there_before_stays_there_when_a_prompt_is_given_up() -> None:
    cache = KvCache(100)
    cache.leave(admitted(cache, (range(10),), 10), 10, 10)
    cache.leave(admitted(cache, (range(10),), 10), 9, 10)
    assert hits(cache, (range(10),), 10) == 10


def test_adapters_share_nothing() -> None:
    cache = KvCache(100)
    cache.leave(admitted(cache, (range(10),), 10, lora="a"), 10, 10)
    assert hits(cache, (range(10),), 10) == 0
    assert hits(cache, (range(10),), 10, lora="b") == 0
    assert hits(cache, (range(10),), 10, lora="a") == 10


def test_without_prefix_caching_nothing_is_found() -> None:
    cache = KvCache(20, prefix_caching=False)
    held = admitted(cache, (range(10),), 10)
    assert cache.admit((range(10),), 10, 11) is None
    assert admitted(cache, (range(10),), 10).hits == 0
    cache.leave(held, 10, 10)
    assert (hits(cache, (range(10),), 10), cache.free) == (0, 10)


# -- beside a pool of single blocks -------------------------------------------------------------------------


class Beside(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.pool, self.cache, self.texts = Pool(24), KvCache(24), Texts()
        self.held: list[tuple[Taken, Held]] = []

    @rule(
        text=st.text("ab", max_size=14),
        full=st.integers(0, 12),
        more=st.integers(0, 2),
        pieces=st.sampled_from([1, 3, 99]),
    )
    def admit(self, text: str, full: int, more: int, pieces: int) -> None:
        numbers = self.texts.contents(text)
        taken = self.pool.admit(numbers, full, full + more)
        held = self.cache.admit(ranges(numbers, pieces), full, full + more)
        assert (taken is None) == (held is None)
        if taken is not None and held is not None:
            assert held.hits == taken.hits
            self.held.append((taken, held))

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 99), count=st.integers(1, 4))
    def generate(self, which: int, count: int) -> None:
        taken, _ = self.held[which % len(self.held)]
        if count <= self.cache.free:
            self.cache.take(count)
            taken.blocks += self.pool.new(count)

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 99), rest=st.integers(0, 1))
    def leave(self, which: int, rest: int) -> None:
        taken, held = self.held.pop(which % len(self.held))
        total = len(taken.blocks)
        full = max(total - rest, held.named)
        self.pool.leave(taken, full)
        self.cache.leave(held, full, total)

    @precondition(lambda self: self.held)
    @rule(share=st.floats(0, 1))
    def give_up(self, share: float) -> None:
        """The last to come, which nobody can share yet, leaves before it is computed."""
        taken, held = self.held.pop()
        full = max(0, int(share * (len(taken.blocks))))
        self.pool.leave(taken, full)
        self.cache.leave(held, full, len(taken.blocks))

    @invariant()
    def the_same_blocks_are_free_in_the_same_order(self) -> None:
        assert self.cache.free == len(self.pool.queue)
        assert self.queue() == [block.content for block in self.pool.queue]

    @invariant()
    def the_same_contents_are_cached(self) -> None:
        indexes = self.cache._indexes.values()
        runs = [run for index in indexes for run in index.values()]
        cached = [content for run in runs for content in range(run.start, run.stop)]
        assert sorted(cached) == sorted(self.pool.cached)
        assert all(run.index[run.start] is run for run in runs)

    def queue(self) -> list[int | None]:
        contents: list[int | None] = [None] * self.cache._blank
        for run in self.cache._unused:
            named = run.index is not self.cache._nameless
            contents += [n if named else None for n in reversed(range(run.start, run.stop))]
        return contents


Beside.TestCase.settings = settings(max_examples=300, stateful_step_count=30, deadline=None)
TestBesideAPoolOfSingleBlocks = Beside.TestCase
