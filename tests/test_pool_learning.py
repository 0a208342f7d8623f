"""What a pool learns from its endpoints' metrics and from what it sent: speeds, answers, caches, adapters."""

from __future__ import annotations

from typing import Any

import pytest
from fleets import NOW, endpoint, fleet, metrics, request
from msgspec.structs import replace
from prompts import chain

from extproc.config import parse_config
from extproc.endpoint import UNKNOWN_TOKEN_S, Endpoint
from extproc.pool import MAX_SPEED_RATIO, SAME_SPEED, Pool, compare
from extproc.request import Prompt
from extproc.speed import CHUNK_TOKENS, StepTime
from extproc.work import Work

TEXT = chain("abcdefgh")
TEXT_TOKENS = 512


TOKEN_S, STEP_S = 1e-4, 0.02
"""Of the server whose speed is 1."""
WHOLE_S = TOKEN_S + STEP_S / CHUNK_TOKENS
"""For a prompt token, its part of the iteration counted in."""


def measured(number: int, factor: float | None) -> Endpoint:
    """One that was measured to take *factor* times as long for everything; None: not measured."""
    made = endpoint(metrics(), number)
    if factor is not None:
        measure(made.step_time, factor)
    return made


def measure(fit: StepTime, factor: float) -> None:
    times, seconds = max(1.0, 1 / factor), max(1.0, factor)  # as busy for as long, or longer
    for iterations, tokens in [(100.0, 0.0), (100.0, 20_000.0)] * 20:
        fit.observe(seconds * (iterations * STEP_S + tokens * TOKEN_S), times * iterations, times * tokens)


def speeds(*endpoints: Endpoint) -> list[tuple[float, float]]:
    compare(endpoints)
    return [(each.token_s, each.slowness) for each in endpoints]


def page(pool: Pool, number: int, now: float, **figures: Any) -> None:
    """A scrape of endpoint *number* at *now*."""
    of = pool.by_address[f"10.0.0.{number}:8000"]
    before = of.metrics
    of.observe(replace(metrics(running=1), **figures), now)
    pool.observed(of, before)


# -- speeds -------------------------------------------------------------------------------------------------


def test_where_nothing_was_measured_all_are_equal() -> None:
    assert speeds(measured(1, None), measured(2, None)) == [(UNKNOWN_TOKEN_S, 1.0)] * 2


EQUAL = pytest.approx((WHOLE_S, 1.0), rel=0.02)


@pytest.mark.parametrize("factor", [1.0, 1 + SAME_SPEED * 0.98, 1 / (1 + SAME_SPEED * 0.98)])
def test_speeds_within_the_error_of_measurement_are_equal(factor: float) -> None:
    assert speeds(measured(1, 1.0), measured(2, 1.0), measured(3, factor)) == [EQUAL] * 3


def test_others_count_as_measured_and_the_unmeasured_as_the_median() -> None:
    found = speeds(measured(1, 1.0), measured(2, 2.5), measured(3, 1.0), measured(4, None))
    assert found == [EQUAL, pytest.approx((2.5 * WHOLE_S, 2.5), rel=0.02), EQUAL, EQUAL]


@pytest.mark.parametrize(("factor", "limit"), [(1e-6, 1 / MAX_SPEED_RATIO), (1e6, MAX_SPEED_RATIO)])
def test_one_whose_counters_are_nonsense_counts_as_the_fastest_or_slowest_card_there_is(
    factor: float, limit: float
) -> None:
    found = speeds(measured(1, 1.0), measured(2, 1.0), measured(3, factor))
    assert found == [EQUAL, EQUAL, pytest.approx((WHOLE_S * limit, limit), rel=0.02)]


def test_speeds_are_compared_as_scrapes_come_but_not_at_each() -> None:
    pool = Pool("p", [measured(number, 1.0) for number in (1, 2, 3)])
    last = pool.endpoints[2]
    page(pool, 1, NOW)
    page(pool, 1, NOW + 0.1)
    measure(last.step_time, 4.0)
    page(pool, 1, NOW + 0.5)
    assert (last.token_s, last.slowness) == EQUAL
    page(pool, 1, NOW + 1.1)
    assert last.slowness > 1 + SAME_SPEED


def test_a_new_endpoint_counts_as_the_median_at_once() -> None:
    """Not as an endpoint of a pool of which nothing is known: beside slow ones it would draw all requests."""
    pool = Pool("p", [measured(1, 30.0), measured(2, 30.0)])
    pool.replace([*pool.endpoints, added := endpoint(None, 3)])
    assert (added.token_s, added.slowness) == pytest.approx((30 * WHOLE_S, 1.0), rel=0.02)


# -- answers ------------------------------------------------------------------------------------------------


def test_the_mean_answer_is_that_of_the_endpoints_that_told() -> None:
    pool = Pool("p", [endpoint(metrics(), number) for number in (1, 2, 3)])
    assert pool.mean_output == 0.0
    for answered in range(20):
        for number, tokens in ((1, 100.0), (2, 300.0)):
            page(
                pool,
                number,
                NOW + answered,
                generation_tokens_total=tokens * answered,
                requests_finished_total=1.0 * answered,
            )
    assert pool.mean_output == pytest.approx(200.0)


def test_a_reload_forgets_nothing() -> None:
    text = "pools: [{name: p, endpoints: ['10.0.0.1:8000', '10.0.0.2:8000']}]"
    made = fleet(text)
    assert made.router is not None
    before = made.router.pools["p"]
    before.mean_output = 321.0
    before.adapters.add("a")
    sent = before.work(request(prompt=Prompt(TEXT_TOKENS, TEXT), target_model="m"), before.endpoints[0])
    before.sent(sent, before.endpoints[0], NOW)
    before.endpoints[0].acquire(sent, NOW)
    measure(before.endpoints[1].step_time, 5.0)
    after = made.apply(parse_config(text.encode())).pools["p"]
    assert (after.mean_output, after.adapters) == (321.0, {"a"})
    first, second = after.endpoints
    assert (first.backlog.left(NOW), first.tokens_in_flight) == (TEXT_TOKENS, TEXT_TOKENS + 321.0)
    assert (first.token_s, second.token_s) == pytest.approx((5 * WHOLE_S, 5 * WHOLE_S), rel=0.02)
    asked = request(prompt=Prompt(TEXT_TOKENS, TEXT), target_model="m")
    after.match(asked)
    assert asked.cached == {first: TEXT_TOKENS}


# -- what a request means to an endpoint --------------------------------------------------------------------


def test_a_requests_work_is_what_is_not_cached_of_its_prompt_and_the_expected_answer() -> None:
    pool = Pool("p", [endpoint(None, 1), endpoint(None, 2)])
    first, second = pool.endpoints
    pool.mean_output = 250.0
    prompt = Prompt(TEXT_TOKENS + 100, TEXT)
    sent = pool.work(request(prompt=prompt, target_model="m"), first)
    assert (sent.prompt_tokens, sent.new_tokens, sent.output_tokens) == (612, 612, 250.0)
    assert (sent.adapter, sent.prefix) == (None, TEXT)
    pool.sent(sent, first, NOW)
    again = request(prompt=prompt, target_model="m")
    pool.match(again)
    assert [pool.work(again, each).new_tokens for each in (first, second)] == [100, 612]
    other = request(prompt=prompt, target_model="another model")
    pool.match(other)
    assert pool.work(other, first).new_tokens == 612


@pytest.mark.parametrize(("limit", "expected"), [(None, 250.0), (9000, 250.0), (10, 10)])
def test_a_clients_limit_bounds_the_expected_answer(limit: int | None, expected: float) -> None:
    pool = Pool("p", [endpoint(None)])
    pool.mean_output = 250.0
    asked = request(prompt=Prompt(max_output_tokens=limit))
    assert pool.work(asked, pool.endpoints[0]).output_tokens == expected


def test_more_cached_than_the_prompt_is_thought_to_have_leaves_nothing_to_compute() -> None:
    pool = Pool("p", [endpoint(None)])
    asked = request(prompt=Prompt(100), cached={pool.endpoints[0]: 128})
    assert pool.work(asked, pool.endpoints[0]).new_tokens == 0


def test_a_request_for_an_adapter_takes_its_slot() -> None:
    pool = Pool("p", [endpoint(None)])
    page(pool, 1, NOW, running_loras=frozenset({"a"}), max_loras=2)
    for name, adapter in (("a", "a"), ("base", None)):
        asked = request(target_model=name)
        pool.match(asked)
        assert pool.work(asked, pool.endpoints[0]).adapter == adapter


# -- caches -------------------------------------------------------------------------------------------------


def cached(pool: Pool) -> list[int]:
    """Tokens of TEXT in each endpoint's cache."""
    found = pool.index.match(TEXT)
    return [found.get(each, 0) for each in pool.endpoints]


COUNTERS = {"prompt_tokens_total": 0.0, "generation_tokens_total": 0.0, "prefix_cache_hits_total": 0.0}
CACHE = {"block_size": 16, "num_gpu_blocks": 100}


def test_a_cache_is_used_up_by_what_the_server_says_that_it_wrote() -> None:
    pool = Pool("p", [endpoint(None, 1), endpoint(None, 2)])
    for number in (1, 2):
        page(pool, number, NOW, **COUNTERS, **CACHE)
        pool.sent(Work(TEXT_TOKENS, TEXT_TOKENS, prefix=TEXT), pool.endpoints[number - 1], NOW)
    page(
        pool,
        1,
        NOW + 1,
        **(COUNTERS | {"prompt_tokens_total": 9000.0, "prefix_cache_hits_total": 8000.0}),
        **CACHE,
    )
    assert cached(pool) == [TEXT_TOKENS, TEXT_TOKENS]
    page(
        pool,
        1,
        NOW + 2,
        **(COUNTERS | {"prompt_tokens_total": 9700.0, "prefix_cache_hits_total": 8000.0}),
        **CACHE,
    )
    assert cached(pool) == [0, TEXT_TOKENS]


def test_or_where_it_does_not_say_by_what_we_sent() -> None:
    pool = Pool("p", [endpoint(None, 1)])
    only = pool.endpoints[0]
    pool.sent(Work(TEXT_TOKENS, TEXT_TOKENS, prefix=TEXT), only, NOW)
    for number in range(3):
        assert cached(pool) == [TEXT_TOKENS]
        pool.sent(Work(90_000, 60_000, output_tokens=9_999.6, prefix=chain(str(number))), only, NOW)
    assert cached(pool) == [0]


@pytest.mark.parametrize("counter", ["prompt_tokens_total", "requests_finished_total"])
def test_a_restarted_servers_cache_is_empty(counter: str) -> None:
    pool = Pool("p", [endpoint(None, 1)])
    page(pool, 1, NOW, **{counter: 100.0})
    pool.sent(Work(TEXT_TOKENS, TEXT_TOKENS, prefix=TEXT), pool.endpoints[0], NOW)
    page(pool, 1, NOW + 1, **{counter: 101.0})
    assert cached(pool) == [TEXT_TOKENS]
    page(pool, 1, NOW + 2, **{counter: 5.0})
    assert cached(pool) == [0]
