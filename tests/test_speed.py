"""How fast a server works, as its counters tell: time for an iteration, for a prompt token, length of answers."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.engine_metrics import EngineMetrics
from extproc.speed import CHUNK_TOKENS, FORGET_S, MAX_GAP_S, MIN_ANSWERS, MIN_BUSY_S, WINDOW_S, StepTime

STEP_S, TOKEN_S = 0.02, 0.0001
"""Of the server that is measured."""
INTERVAL_S = 0.2
ENOUGH_S = MIN_BUSY_S + 10 * WINDOW_S
"""Busy time after which the fit is believed."""


class Server:
    """Plays an engine whose iterations take STEP_S and TOKEN_S a prompt token, and its router's scrapes."""

    def __init__(self, *, cached: float | None = 0.0) -> None:
        self.fit = StepTime()
        self.figures: dict[str, Any] = {
            "waiting": 0,
            "running": 5,
            "prompt_tokens_total": 1e6,
            "generation_tokens_total": 1e6,
            "requests_finished_total": 5e3,
            "prefix_cache_hits_total": cached,
            "iterations_total": 1e5,
        }
        self.page = EngineMetrics(**self.figures)

    def work(self, iterations: int, tokens: int = 0, hits: int = 0) -> float:
        """The seconds that it takes; *hits* are prompt tokens that came from the cache."""
        self.grow(iterations_total=iterations, prompt_tokens_total=tokens + hits)
        if hits:
            self.grow(prefix_cache_hits_total=hits)
        return iterations * STEP_S + tokens * TOKEN_S

    def grow(self, **by: float) -> None:
        for name, amount in by.items():
            self.figures[name] += amount

    def scrape(self, elapsed_s: float, **figures: Any) -> None:
        self.figures.update(figures)
        after = EngineMetrics(**self.figures)
        self.fit.measure(self.page, after, elapsed_s)
        self.page = after

    def be_busy(self, busy_s: float = ENOUGH_S, prompts: tuple[int, ...] = (0, 2000, 500)) -> None:
        """Work for so long, and be scraped."""
        for tokens in itertools.cycle(prompts):
            busy_s -= (elapsed_s := self.work(8, tokens))
            self.scrape(elapsed_s)
            if busy_s <= 0:
                return


def figures(fit: StepTime) -> tuple[float, float, float]:
    return fit.step_s, fit.token_s, fit.prefill_rate


UNKNOWN = (0.0, 0.0, 0.0)


def test_at_first_nothing_is_known() -> None:
    fit = StepTime()
    assert (*figures(fit), fit.mean_output, fit.iteration_s) == (0.0,) * 5


def test_both_times_are_found_where_prompts_came_unevenly() -> None:
    server = Server()
    prompts = [(100, 0), (100, 20_000), (150, 1000), (50, 30_000)]
    for iterations, tokens in prompts * 10:
        server.scrape(server.work(iterations, tokens))
    step_s, token_s, rate = figures(server.fit)
    assert step_s == pytest.approx(STEP_S, rel=0.02)
    assert token_s == pytest.approx(TOKEN_S, rel=0.02)
    assert rate == pytest.approx(1 / (TOKEN_S + STEP_S / CHUNK_TOKENS), rel=0.02)


def test_what_the_prefix_cache_gave_was_not_computed() -> None:
    server = Server()
    for iterations, tokens, hits in [(100, 1000, 50_000), (50, 20_000, 0), (120, 0, 9000)] * 10:
        server.scrape(server.work(iterations, tokens, hits))
    assert server.fit.token_s == pytest.approx(TOKEN_S, rel=0.02)


def test_where_prompts_and_iterations_always_come_alike_their_sum_is_right() -> None:
    server = Server()
    server.be_busy(prompts=(800,))
    step_s, token_s, _ = figures(server.fit)
    assert step_s + 100 * token_s == pytest.approx(STEP_S + 100 * TOKEN_S, rel=0.02)


def test_where_no_prompt_came_an_iteration_takes_all_the_time() -> None:
    server = Server()
    server.be_busy(prompts=(0,))
    assert figures(server.fit) == pytest.approx((STEP_S, 0.0, CHUNK_TOKENS / STEP_S), rel=0.02)


@pytest.mark.parametrize(
    "contrary", [[(6.0, 100.0, 0.0), (3.0, 100.0, 30_000.0)], [(6.0, 50.0, 60_000.0), (3.0, 150.0, 40_000.0)]]
)
def test_where_noise_says_that_one_of_both_took_less_than_no_time_iterations_take_it_all(
    contrary: list[tuple[float, float, float]],
) -> None:
    fit = StepTime()
    for observed in contrary * 10:
        fit.observe(*observed)
    assert (fit.token_s, fit.step_s > 0) == (0.0, True)
    assert fit.prefill_rate == pytest.approx(CHUNK_TOKENS / fit.step_s)


def test_it_is_believed_once_it_rests_on_enough_time() -> None:
    server = Server()
    server.be_busy(MIN_BUSY_S - 2 * WINDOW_S)
    assert figures(server.fit) == UNKNOWN
    server.be_busy(4 * WINDOW_S)
    assert server.fit.step_s > 0


def test_a_change_is_followed() -> None:
    server = Server()
    server.be_busy()
    for _ in range(int(5 * FORGET_S)):
        server.grow(iterations_total=20)
        server.scrape(20 * 3 * STEP_S)
    assert server.fit.step_s == pytest.approx(3 * STEP_S, rel=0.1)


@pytest.mark.parametrize(("before", "after"), [(0, 0), (0, 5), (5, 0)])
def test_time_in_which_it_may_have_been_idle_says_nothing(before: int, after: int) -> None:
    server = Server()
    for _ in range(int(ENOUGH_S / INTERVAL_S)):
        server.scrape(0.0, running=before)
        server.grow(iterations_total=1)
        server.scrape(INTERVAL_S, running=after)
    assert figures(server.fit) == UNKNOWN


def test_nor_does_a_long_time_without_a_scrape() -> None:
    server = Server()
    server.be_busy()
    known = figures(server.fit)
    for _ in range(5):
        server.grow(iterations_total=3)
        server.scrape(MAX_GAP_S + 1)
    assert figures(server.fit) == known


def test_nor_one_in_which_it_was_restarted() -> None:
    server = Server()
    server.be_busy()
    known = figures(server.fit)
    assert known != UNKNOWN
    server.scrape(server.work(4))  # a window was begun
    server.scrape(9.0, iterations_total=3.0, prompt_tokens_total=50.0, generation_tokens_total=9.0)
    assert figures(server.fit) == known
    server.be_busy()
    assert figures(server.fit) == pytest.approx(known, rel=0.05)


@pytest.mark.parametrize("missing", ["iterations_total", "prompt_tokens_total"])
def test_an_engine_that_does_not_say_is_not_measured_or_found_to_need_no_time_for_prompts(
    missing: str,
) -> None:
    server = Server()
    server.figures[missing] = None
    for _ in range(int(ENOUGH_S / INTERVAL_S)):
        known = {"prompt_tokens_total": 500, "iterations_total": 8}
        server.grow(**{name: by for name, by in known.items() if name != missing})
        server.scrape(INTERVAL_S)
    assert server.fit.token_s == 0.0
    assert (server.fit.prefill_rate == 0.0) is (missing == "iterations_total")


def test_the_time_between_two_tokens_is_that_of_the_last_seconds() -> None:
    server = Server()
    server.be_busy(2 * WINDOW_S, prompts=(0,))
    assert server.fit.iteration_s == pytest.approx(STEP_S)
    server.be_busy(3 * WINDOW_S, prompts=(1000,))
    assert server.fit.iteration_s == pytest.approx(STEP_S + 125 * TOKEN_S)
    server.scrape(INTERVAL_S, running=0)
    assert server.fit.iteration_s == 0.0


def test_the_mean_length_of_answers_is_known_after_some() -> None:
    server = Server()
    for answers, known in ((MIN_ANSWERS - 1, 0.0), (2, 300.0), (100, 300.0)):
        server.grow(generation_tokens_total=300 * answers, requests_finished_total=answers)
        server.scrape(INTERVAL_S)
        assert server.fit.mean_output == pytest.approx(known)


def test_and_follows_what_is_asked_for() -> None:
    server = Server()
    for tokens in [300] * 500 + [100] * 3000:
        server.grow(generation_tokens_total=tokens, requests_finished_total=1)
        server.scrape(INTERVAL_S)
    assert server.fit.mean_output == pytest.approx(100, rel=0.02)


def test_tokens_count_before_their_answers_end() -> None:
    server = Server()
    for _ in range(100):
        for finished in (0, 0, 0, 1):
            server.grow(generation_tokens_total=50, requests_finished_total=finished)
            server.scrape(INTERVAL_S)
    assert server.fit.mean_output == pytest.approx(200, rel=0.01)


def test_a_restart_does_not_count_as_answers() -> None:
    server = Server()
    for _ in range(20):
        server.grow(generation_tokens_total=300, requests_finished_total=1)
        server.scrape(INTERVAL_S)
    server.scrape(INTERVAL_S, generation_tokens_total=0.0, requests_finished_total=0.0, iterations_total=0.0)
    assert server.fit.mean_output == pytest.approx(300.0)


COUNTERS = st.one_of(st.none(), st.floats(0, 1e15))


@given(
    st.lists(st.tuples(st.floats(2, 10), st.floats(0, 1e15), st.floats(0, 1e15)), min_size=20, max_size=40)
)
def test_no_busy_times_make_nonsense_of_it(observed: list[tuple[float, float, float]]) -> None:
    fit = StepTime()
    for elapsed_s, iterations, tokens in observed:
        fit.observe(elapsed_s, iterations, tokens)
        assert all(0.0 <= each < 1e300 for each in figures(fit)), figures(fit)
        assert (fit.prefill_rate > 0) is (fit.step_s > 0)


@given(
    st.lists(
        st.tuples(COUNTERS, COUNTERS, COUNTERS, COUNTERS, COUNTERS, st.integers(0, 3), st.floats(0, 12)),
        max_size=30,
    )
)
def test_no_counters_make_nonsense_of_it(
    pages: list[tuple[float | None, float | None, float | None, float | None, float | None, int, float]],
) -> None:
    """Infinite or negative costs would shut an endpoint out for ever, or draw all requests."""
    fit, before = StepTime(), EngineMetrics(waiting=0, running=1)
    for prompts, generated, finished, hits, iterations, running, elapsed_s in pages:
        after = EngineMetrics(
            waiting=0,
            running=running,
            prompt_tokens_total=prompts,
            generation_tokens_total=generated,
            requests_finished_total=finished,
            prefix_cache_hits_total=hits,
            iterations_total=iterations,
        )
        fit.measure(before, after, elapsed_s)
        before = after
        told = (*figures(fit), fit.mean_output, fit.iteration_s)
        assert all(0.0 <= each < 1e300 for each in told), told
        assert (fit.prefill_rate > 0) is (fit.step_s > 0)
