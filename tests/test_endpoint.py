"""What an endpoint's counts and figures say together."""

from __future__ import annotations

import random

import pytest
from fleets import NOW, endpoint, metrics
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from extproc.endpoint import MAX_ALLOWANCE, Endpoint
from extproc.load_report import LoadReport
from extproc.work import Work


def test_an_endpoint_of_which_nothing_is_known() -> None:
    made = Endpoint("[2001:db8::1]:80")
    assert (made.ip, made.in_flight, made.load, made.queue, made.tried) == ("2001:db8::1", 0, 0, 0, False)
    assert not made.is_fresh(NOW)
    assert not made.is_saturated(NOW, 0.0, 0.0)


def test_requests_are_counted_up_and_down_and_for_ever() -> None:
    made = Endpoint("10.0.0.1:80")
    for _ in range(3):
        made.acquire()
    made.release()
    assert (made.in_flight, made.requests, made.load) == (2, 3, 2)


@pytest.mark.parametrize(
    ("in_flight", "running", "waiting", "external"),
    [
        (0, 0, 0, 0),
        (0, 3, 2, 5),
        (4, 3, 2, 1),
        (5, 3, 2, 0),
        (9, 3, 2, 0),  # four are on their way, or it has not counted them yet
    ],
)
def test_what_a_scrape_shows_beyond_our_own_requests_is_others(
    in_flight: int, running: int, waiting: int, external: int
) -> None:
    made = endpoint(None, in_flight=in_flight)
    made.observe(metrics(running, waiting), NOW)
    assert (made.external, made.load) == (external, in_flight + external)


def test_between_two_scrapes_our_own_requests_move_the_load_and_others_stay() -> None:
    made = endpoint(metrics(running=5), in_flight=2)
    assert made.load == 7
    made.release()
    made.release()
    assert made.load == 5
    made.observe(metrics(running=1), NOW + 1)
    assert made.load == 1


@pytest.mark.parametrize(
    ("waiting", "sent", "ended", "queue"),
    [(0, 4, 0, 0), (2, 0, 0, 2), (2, 4, 0, 6), (2, 4, 3, 3), (2, 0, 1, 2)],
)
def test_where_some_waited_those_sent_since_wait_behind_them(
    waiting: int, sent: int, ended: int, queue: int
) -> None:
    made = endpoint(None, in_flight=1)
    made.observe(metrics(waiting=waiting), NOW)
    for _ in range(sent):
        made.acquire()
    for _ in range(ended):
        made.release()
    assert made.queue == queue


def test_how_many_more_it_takes_between_scrapes_is_found_as_tcp_finds_it() -> None:
    made = endpoint()
    found = [made.allowance]
    for waiting in (0, 1, 0, 0, 0, 0, 0, 0, 0):
        made.observe(metrics(waiting=waiting), NOW)
        found.append(made.allowance)
    assert found == [MAX_ALLOWANCE, MAX_ALLOWANCE, 1, 2, 4, 8, 16, 32, 64, MAX_ALLOWANCE]
    made.reported(LoadReport(waiting=0), NOW)
    assert made.allowance == MAX_ALLOWANCE
    made.reported(LoadReport(waiting=1), NOW)
    assert made.allowance == 1


def test_figures_are_fresh_for_as_long_as_the_pool_says() -> None:
    made = Endpoint("10.0.0.1:80", max_age_s=3.0)
    made.observe(metrics(), NOW)
    assert (made.is_fresh(NOW + 2.9), made.is_fresh(NOW + 3.0)) == (True, False)
    made.configure({}, max_age_s=1.0)
    assert (made.is_fresh(NOW + 0.9), made.is_fresh(NOW + 1.0)) == (True, False)


@pytest.mark.parametrize(
    ("waiting", "kv", "saturated"), [(4, 0.89, False), (5, 0.0, True), (0, 0.9, True), (6, 1.0, True)]
)
def test_saturated_is_at_or_over_a_limit_while_that_is_known(
    waiting: int, kv: float, saturated: bool
) -> None:
    made = endpoint(metrics(waiting=waiting, kv=kv))
    assert made.is_saturated(NOW + 1.9, 5, 0.9) is saturated
    assert not made.is_saturated(NOW + 2.0, 5, 0.9)


def test_a_request_whose_stream_closed_early_is_counted_until_it_is_thought_to_have_ended() -> None:
    made = endpoint(None, in_flight=3)
    made.linger(NOW + 10)
    made.linger(NOW + 20)
    made.expire(NOW + 9.9)
    assert (made.in_flight, made.lingering) == (3, [NOW + 10, NOW + 20])
    made.expire(NOW + 10)
    assert (made.in_flight, made.lingering) == (2, [NOW + 20])
    made.expire(NOW + 99)
    made.expire(NOW + 99)
    assert (made.in_flight, made.lingering) == (1, [])


def test_a_scrape_tells_of_lingering_requests_better_than_a_guess() -> None:
    made = endpoint(None, in_flight=3)
    made.linger(NOW + 10)
    made.linger(NOW + 10)
    made.observe(metrics(running=2), NOW + 1)  # ours, and one that goes on
    assert (made.in_flight, made.external, made.load, made.lingering) == (1, 1, 2, [])
    made.expire(NOW + 99)
    assert made.in_flight == 1


# -- what requests are beside their number ------------------------------------------------------------------


def work(tokens: int = 1000, output: float = 200.0, adapter: str | None = None) -> Work:
    return Work(prompt_tokens=tokens, new_tokens=tokens, output_tokens=output, adapter=adapter)


def weights(of: Endpoint, now: float = NOW) -> tuple[int, float, float, dict[str, int]]:
    return of.in_flight, of.tokens_in_flight, of.backlog.left(now), of.loras_in_flight


NOTHING = (0, 0.0, 0.0, {})


def test_a_request_weighs_its_prompt_its_expected_answer_and_its_adapter() -> None:
    made = Endpoint("10.0.0.1:80")
    one, two, three = work(adapter="a"), work(300, 50.0, "a"), work(0, 0.0, "b")
    for each in (one, two, three):
        made.acquire(each, NOW)
    assert weights(made) == (3, 1550.0, 1300.0, {"a": 2, "b": 1})
    made.release(one)
    assert weights(made) == (2, 350.0, 300.0, {"a": 1, "b": 1})
    made.release(two)
    made.release(three)
    assert weights(made) == NOTHING


def test_a_request_of_which_nothing_is_known_weighs_nothing() -> None:
    made = Endpoint("10.0.0.1:80")
    made.acquire()
    assert weights(made) == (1, 0.0, 0.0, {})
    made.release()
    assert weights(made) == NOTHING


def test_what_lingers_may_still_wait_there_for_its_prompt_until_time_is_up() -> None:
    """Envoy closes the stream at the response headers, which vLLM sends before it computes anything.  With engine
    `none` no scrape ever tells more."""
    made = Endpoint("10.0.0.1:80")
    made.acquire(one := work(adapter="a"), NOW)
    made.linger(NOW + 10, one)
    assert weights(made) == (1, 0.0, 1000.0, {})
    made.expire(NOW + 9.9)
    assert weights(made) == (1, 0.0, 1000.0, {})
    made.expire(NOW + 10)
    assert weights(made) == NOTHING


def test_or_until_a_scrape_tells_that_it_does_not_wait() -> None:
    made = Endpoint("10.0.0.1:80")
    for each in (one := work(), two := work(300)):
        made.acquire(each, NOW)
        made.linger(NOW + 10, each)
    made.observe(metrics(waiting=1), NOW + 1)
    assert (weights(made, NOW + 1), made.external) == ((0, 0.0, two.new_tokens, {}), 1)
    made.observe(metrics(running=2), NOW + 2)
    made.observe(metrics(), NOW + 3)
    assert weights(made, NOW + 3) == NOTHING
    assert one is not two


def test_prompts_are_computed_as_fast_as_was_measured() -> None:
    made = Endpoint("10.0.0.1:80")
    for scrape in range(30):
        busy = replace(
            metrics(running=1),
            iterations_total=10.0 * scrape,
            prompt_tokens_total=1000.0 * scrape,
            generation_tokens_total=0.0,
        )
        made.observe(busy, NOW + scrape)
    assert made.backlog.rate == made.step_time.prefill_rate > 0.0


SIZES = st.tuples(st.integers(0, 200_000), st.floats(0, 50_000))


@given(st.lists(SIZES, max_size=50), st.randoms(use_true_random=False))
def test_in_whatever_order_requests_end_nothing_stays_behind(
    sizes: list[tuple[int, float]], rng: random.Random
) -> None:
    """Floats lose a little; so little that a billion requests do not make a token."""
    made = Endpoint("10.0.0.1:80")
    works = [work(*size, adapter=str(number % 3)) for number, size in enumerate(sizes)]
    for each in works:
        made.acquire(each, NOW)
    rng.shuffle(works)
    for each in works:
        made.release(each)
    assert weights(made)[2:] == NOTHING[2:]
    assert abs(made.tokens_in_flight) < 1e-7
