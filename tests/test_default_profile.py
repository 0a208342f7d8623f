"""The built-in default: a burst spreads evenly, and an endpoint that nothing is known of gets its part and no more."""

from __future__ import annotations

import random

import pytest
from fleets import NOW, endpoint, endpoints, metrics, request

from extproc.endpoint import Endpoint
from extproc.scheduling.profile import default_profile


def burst(targets: list[Endpoint], count: int, seed: int = 1, model: str = "m") -> list[int]:
    """How many of *count* requests each endpoint gets before any is scraped again."""
    rng = random.Random(seed)
    is_adapter = any(model in each.running_loras for each in targets)
    for _ in range(count):
        asked = request(model, target_model=model, is_adapter=is_adapter)
        default_profile().choose(asked, targets, 1, NOW, rng).endpoints[0].acquire()
    return [each.in_flight for each in targets]


@pytest.mark.parametrize(
    ("running", "count", "got"),
    [
        ((0, 0, 0), 30, [10, 10, 10]),
        ((0, 4, 8, 2), 26, [10, 6, 2, 8]),
        ((0, 100), 40, [40, 0]),
        ((3, 3, 3, 3, 3), 5, [1, 1, 1, 1, 1]),
    ],
)
@pytest.mark.parametrize("seed", range(5))
def test_a_burst_between_two_scrapes_fills_up_evenly(
    running: tuple[int, ...], count: int, got: list[int], seed: int
) -> None:
    assert burst(endpoints(*map(metrics, running)), count, seed) == got


@pytest.mark.parametrize("seed", range(5))
def test_a_burst_spreads_evenly_whatever_the_kv_caches_say(seed: int) -> None:
    targets = endpoints(*(metrics(2, kv=kv) for kv in (0.1, 0.5, 0.95)))
    assert burst(targets, 30, seed) == [10, 10, 10]


@pytest.mark.parametrize("seed", range(5))
def test_a_burst_spreads_evenly_where_nothing_was_ever_scraped(seed: int) -> None:
    assert burst(endpoints(None, None, None), 30, seed) == [10, 10, 10]


def test_a_burst_meets_the_shorter_queue_first_and_then_evens_out() -> None:
    targets = endpoints(*(metrics(8, waiting) for waiting in (2, 4, 6)))
    assert burst(targets, 30) == [12, 10, 8]


@pytest.mark.parametrize(("loads", "most_free"), [((0, 5, 9), 0), ((9, 5, 0), 2), ((1, 0, 1), 1)])
def test_an_endpoint_never_scraped_is_not_the_most_attractive(loads: tuple[int, ...], most_free: int) -> None:
    targets = [*endpoints(*(metrics(load) for load in loads)), endpoint(None, 9)]
    assert burst(targets, 1)[most_free] == 1


@pytest.mark.parametrize("seed", range(5))
def test_nor_does_it_win_because_we_never_sent_anything_there(seed: int) -> None:
    """A pod that has just been added beside busy ones, and may not even listen yet."""
    busy = [endpoint(metrics(), number, in_flight=10) for number in (1, 2, 3)]
    assert burst([*busy, endpoint(None, 9)], 12, seed)[3] <= 7


def test_nor_is_what_we_sent_there_forgotten() -> None:
    known = endpoints(metrics(2), metrics(4), metrics(3))
    assert burst([*known, endpoint(None, 9, in_flight=6)], 9) == [4, 2, 3, 6]


@pytest.mark.parametrize("seed", range(5))
def test_nor_is_it_shut_out(seed: int) -> None:
    for loads in ((0, 0, 0), (5, 5, 5), (0, 4, 8), (0, 30)):
        targets = [*endpoints(*(metrics(load) for load in loads)), endpoint(None, 9)]
        got = burst(targets, 40, seed)[-1]
        assert 3 <= got <= 14, (loads, got)


def test_requests_for_an_adapter_go_where_it_is_loaded_of_those_as_busy() -> None:
    targets = endpoints(
        metrics(loras="x", max_loras=1), metrics(loras="m", max_loras=1), metrics(max_loras=1)
    )
    assert burst(targets, 1) == [0, 1, 0]
