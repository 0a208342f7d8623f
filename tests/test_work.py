"""What an endpoint still has to compute of the prompts that it was sent, as far as scrapes and its speed tell."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from fleets import NOW
from hypothesis import given
from hypothesis import strategies as st

from extproc.work import UNSEEN_S, Backlog, Work

LATER = NOW + 1.0


def backlog(*new_tokens: int, rate: float = 0.0) -> tuple[Backlog, list[Work]]:
    """Works sent at NOW, one after the other."""
    made, works = Backlog(), [Work(new_tokens=tokens, sent_at=NOW) for tokens in new_tokens]
    made.rate = rate
    for work in works:
        made.add(work, NOW)
    return made, works


def test_nothing_is_left_where_nothing_was_sent() -> None:
    made = Backlog()
    assert made.left(NOW) == 0.0
    made.scraped(waiting=9, running=9, now=NOW)
    assert made.left(LATER) == 0.0


def test_prompts_that_were_sent_are_left_until_they_are_computed() -> None:
    made, _ = backlog(1000, 500, rate=1000.0)
    assert [made.left(NOW + s) for s in (0.0, 0.5, 1.5, 9.0)] == [1500.0, 1000.0, 0.0, 0.0]


def test_one_sent_later_comes_after_what_is_left_by_then() -> None:
    made, _ = backlog(1000, rate=1000.0)
    made.add(Work(new_tokens=100), NOW + 0.75)
    assert made.left(NOW + 0.75) == 350.0
    made.add(Work(new_tokens=100), NOW + 9.0)
    assert made.left(NOW + 9.0) == 100.0  # an idle time is not saved up


def test_of_an_endpoint_of_unknown_speed_they_are_left_until_they_end() -> None:
    """Engine `none`: nobody ever scrapes it, so that its requests' ends must free everything."""
    made, works = backlog(1000, 500, 20)
    assert made.left(NOW + 1e6) == 1520.0
    for work, left in zip(works, (520.0, 20.0, 0.0), strict=True):
        made.remove(work)
        assert made.left(NOW + 1e6) == left


def test_one_that_ended_leaves_no_more_than_the_others_are() -> None:
    made, works = backlog(1000, 300, rate=100.0)
    made.remove(works[1])
    assert made.left(NOW) == 1000.0
    made.remove(works[1])  # Flight pairs them; twice does no harm
    assert made.left(NOW) == 1000.0


def test_work_of_an_unknown_prompt_is_no_work() -> None:
    made, works = backlog(0, 0)
    assert made.left(NOW) == 0.0
    made.remove(works[0])
    assert made.left(NOW) == 0.0


@pytest.mark.parametrize(
    ("waiting", "running", "left"),
    [
        (0, 0, 0),
        (0, 3, 4),  # of those that run the last may be partly computed, nobody knows how far
        (1, 2, 4 + 30),
        (2, 1, 4 + 30 + 200),
        (3, 0, 4 + 30 + 200),
        (99, 0, 4 + 30 + 200),  # others' requests, too
    ],
)
def test_a_scrape_tells_how_many_have_not_begun(waiting: int, running: int, left: float) -> None:
    made, _ = backlog(200, 30, 4)
    made.scraped(waiting, running, LATER)
    assert made.left(LATER) == left


def test_those_that_wait_are_left_however_fast_it_was_thought_to_be() -> None:
    made, _ = backlog(1000, 1000, 1000, rate=1e6)
    assert made.left(LATER) == 0.0
    made.scraped(waiting=2, running=1, now=LATER)
    assert made.left(LATER) == 2000.0


def test_those_that_began_are_not_however_slow_it_was_thought_to_be() -> None:
    made, _ = backlog(1000, 1000, 1000, rate=1.0)
    made.scraped(waiting=1, running=2, now=LATER)
    assert made.left(LATER) == 2000.0  # the second may be partly computed
    made.scraped(waiting=0, running=2, now=LATER)
    assert made.left(LATER) == 1000.0
    made.scraped(waiting=0, running=0, now=LATER)
    assert made.left(LATER) == 0.0


def test_a_request_just_sent_may_be_in_no_figure_yet() -> None:
    made, _ = backlog(1000)
    made.scraped(waiting=0, running=0, now=NOW + UNSEEN_S / 2)
    assert made.left(NOW + UNSEEN_S / 2) == 1000.0
    made.scraped(waiting=0, running=0, now=NOW + UNSEEN_S)
    assert made.left(NOW + UNSEEN_S) == 0.0


def test_one_that_began_and_ends_takes_nothing_more_away() -> None:
    made, works = backlog(1000, 300)
    made.scraped(waiting=1, running=0, now=LATER)
    made.remove(works[0])
    assert made.left(LATER) == 300.0


def test_one_whose_end_nobody_will_tell_is_let_go_of_in_time() -> None:
    made, works = backlog(1000, 300)
    made.linger(works[0], NOW + 10)
    made.expire(NOW + 9.9)
    assert made.left(NOW + 9.9) == 1300.0
    made.expire(NOW + 10)
    assert made.left(NOW + 10) == 300.0
    made.expire(NOW + 99)
    assert made.left(NOW + 99) == 300.0


def test_or_when_a_scrape_tells_that_it_began() -> None:
    made, works = backlog(1000)
    made.linger(works[0], NOW + 10)
    made.scraped(waiting=0, running=0, now=LATER)
    assert made.left(LATER) == 0.0
    made.expire(NOW + 10)
    assert made.left(NOW + 10) == 0.0


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["add", "remove", "linger", "expire", "scraped"]),
        st.integers(0, 50_000),
        st.integers(0, 6),
        st.floats(0, 3),
    ),
    max_size=60,
)


@given(EVENTS, st.floats(0, 1e5))
def test_whatever_happens_what_is_left_is_between_0_and_all_that_was_sent(
    events: Sequence[tuple[str, int, int, float]], rate: float
) -> None:
    made, now = Backlog(), NOW
    there: list[Work] = []
    for what, tokens, number, pause_s in events:
        now += pause_s
        made.rate = rate
        if what == "add":
            there.append(Work(new_tokens=tokens, sent_at=now))
            made.add(there[-1], now)
        elif what == "scraped":
            made.scraped(number, tokens % 9, now)
        elif what == "expire":
            made.expire(now)
        elif there:
            work = there.pop(number % len(there))
            if what == "remove":
                made.remove(work)
            else:
                made.linger(work, now + 10)
        assert 0.0 <= made.left(now) <= sum(work.new_tokens for work in there) + _lingering(made)
    for work in there:
        made.remove(work)
    made.expire(now + 10)
    assert made.left(now) == 0.0
    assert sizes(made) == [0, 0]


def _lingering(made: Backlog) -> int:
    return sum(work.new_tokens for _, work in made._lingering)


def sizes(made: Backlog) -> list[int]:
    """Of all collections in it: nothing is kept of what is over."""
    found = [getattr(made, name) for name in Backlog.__slots__]
    return [len(each) for each in found if isinstance(each, (dict, list))]
