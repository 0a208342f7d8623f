"""Passive health: an endpoint that fails repeatedly is set aside with growing pauses, and tried again."""

from __future__ import annotations

import pytest

from extproc.health import FAILURES, MAX_PAUSE_S, RECENT_S, Failure, Health
from extproc.scraper import MAX_PAUSE_S as SCRAPE_PAUSE_S

ANSWERED, UNREACHABLE, REFUSED = Failure.ANSWERED, Failure.UNREACHABLE, Failure.SCRAPE_REFUSED


def fail(health: Health, now: float, cause: Failure = UNREACHABLE) -> float | None:
    """One failure; the pause where that was one too many."""
    return health.set_aside(now, cause) if health.failed(now, cause) else None


def test_an_endpoint_begins_in_good_health() -> None:
    assert not Health().is_set_aside(0.0)


@pytest.mark.parametrize("cause", list(Failure))
def test_the_third_failure_in_a_row_is_one_too_many(cause: Failure) -> None:
    health = Health()
    assert [fail(health, 0.0, cause) for _ in range(FAILURES)] == [None, None, 5.0]
    assert FAILURES == 3
    assert health.cause is cause
    assert health.is_set_aside(4.999)
    assert not health.is_set_aside(5.0)


def test_a_success_between_them_begins_the_count_again() -> None:
    health = Health()
    for _ in range(10):
        assert [fail(health, 0.0), fail(health, 0.0)] == [None, None]
        health.succeeded()


def test_pauses_double_up_to_five_minutes_and_after_each_one_failure_is_enough() -> None:
    health, now, pauses = Health(), 0.0, []
    fail(health, now)
    fail(health, now)
    for _ in range(60):
        pause_s = fail(health, now)
        assert pause_s is not None
        pauses.append(pause_s)
        now += pause_s
    assert pauses == [5.0, 10.0, 20.0, 40.0, 80.0, 160.0] + [MAX_PAUSE_S] * 54
    assert MAX_PAUSE_S == 300.0


def test_failures_while_set_aside_make_no_pause_longer() -> None:
    """A dozen requests that were under way when it died are one death."""
    health = Health()
    for _ in range(FAILURES):
        fail(health, 0.0)
    assert [fail(health, 1.0) for _ in range(12)] == [None] * 12
    assert health.set_aside_until == 5.0
    assert fail(health, 5.0) == 10.0


def test_a_served_request_ends_the_pause_and_all_memory_of_it() -> None:
    health = Health()
    for _ in range(FAILURES):
        fail(health, 0.0)
    health.succeeded()
    assert not health.is_set_aside(0.0)
    assert health.cause is None
    assert [fail(health, 1.0) for _ in range(FAILURES)] == [None, None, 5.0]


def test_an_answered_scrape_ends_a_pause_that_refused_scrapes_began() -> None:
    health = Health()
    for _ in range(FAILURES):
        fail(health, 0.0, REFUSED)
    assert health.is_set_aside(1.0)
    health.reachable()
    assert not health.is_set_aside(1.0)
    assert [fail(health, 1.0, REFUSED) for _ in range(FAILURES)] == [None, None, 5.0]


@pytest.mark.parametrize("cause", [ANSWERED, UNREACHABLE])
def test_an_answered_scrape_does_not_end_a_pause_that_failing_requests_began(cause: Failure) -> None:
    health = Health()
    for _ in range(FAILURES):
        fail(health, 0.0, cause)
    health.reachable()
    assert health.is_set_aside(1.0)


def test_refused_scrapes_that_are_not_in_a_row_never_add_up() -> None:
    health = Health()
    for now in range(10):
        assert fail(health, float(now), REFUSED) is None
        health.reachable()
    assert fail(health, 10.0, UNREACHABLE) is None


def test_answered_scrapes_do_not_hide_that_requests_fail() -> None:
    health = Health()
    pauses = []
    for _ in range(FAILURES):
        health.reachable()
        pauses.append(fail(health, 0.0, ANSWERED))
    assert pauses == [None, None, 5.0]


def test_one_that_failed_often_and_is_not_set_aside_is_failing_until_a_success() -> None:
    health = Health()
    told = []
    for _ in range(FAILURES):
        health.failed(0.0, UNREACHABLE)
        told.append(health.is_failing(0.0))
    assert told == [False, False, True]
    health.succeeded()
    assert not health.is_failing(0.0)


def test_one_that_is_set_aside_is_failing_when_its_pause_is_over() -> None:
    health = Health()
    for _ in range(FAILURES):
        fail(health, 0.0)
    assert [health.is_failing(now) for now in (0.0, 4.999, 5.0)] == [False, False, True]


def test_it_is_not_failing_for_ever_when_nobody_asks_it() -> None:
    health = Health()
    for _ in range(FAILURES):
        fail(health, 0.0)
    over = 5.0 + RECENT_S
    assert [health.is_failing(over - 0.001), health.is_failing(over)] == [True, False]
    health.failed(over, ANSWERED)
    assert health.is_failing(over)


def test_the_last_chance_is_failing_without_a_gap_while_its_port_stays_closed() -> None:
    health = Health()
    for now in range(0, 600, int(SCRAPE_PAUSE_S)):
        health.failed(float(now), REFUSED)
        just_before_the_next = now + 2 * SCRAPE_PAUSE_S - 0.001  # the next may be slow to fail
        assert health.is_failing(just_before_the_next) is (now >= 2 * SCRAPE_PAUSE_S), now
    health.reachable()
    assert not health.is_failing(600.0)
