"""How many endpoints of a pool are to be had, as a metric."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fleets import NOW, fleet, metrics

from extproc.config import parse_config
from extproc.endpoint import Endpoint
from extproc.fleet import Fleet
from extproc.health import FAILURES, RECENT_S, Failure
from extproc.metrics import Metrics

CONFIG = """
pools:
- {name: p, endpoints: ["10.0.0.1:8000", "10.0.0.2:8000"], saturation: {waiting: 5, kv_usage: 0.9}, max_in_flight: 2}
- {name: empty, endpoints: []}
"""


def full(endpoint: Endpoint) -> None:
    endpoint.acquire()
    endpoint.acquire()


def sick(endpoint: Endpoint) -> None:
    endpoint.health.set_aside(NOW, Failure.UNREACHABLE)


def queueing(endpoint: Endpoint) -> None:
    endpoint.observe(metrics(waiting=5), NOW)


def dead_and_the_last(endpoint: Endpoint) -> None:
    for _ in range(FAILURES):
        endpoint.health.failed(NOW - RECENT_S + 1, Failure.SCRAPE_REFUSED)


def failed_long_ago(endpoint: Endpoint) -> None:
    for _ in range(FAILURES):
        endpoint.health.failed(NOW - RECENT_S, Failure.ANSWERED)


def dead_and_full(endpoint: Endpoint) -> None:
    dead_and_the_last(endpoint)
    full(endpoint)


def cordoned_and_sick(endpoint: Endpoint) -> None:
    sick(endpoint)
    endpoint.cordoned = "command"


def nothing(endpoint: Endpoint) -> None:
    """It stays as it was: never scraped, and nothing known against it."""


@pytest.mark.parametrize(
    ("what", "state"),
    [
        (nothing, "available"),
        (queueing, "saturated"),
        (full, "saturated"),
        (dead_and_the_last, "failing"),
        (dead_and_full, "failing"),
        (failed_long_ago, "available"),
        (sick, "set_aside"),
        (cordoned_and_sick, "cordoned"),
    ],
)
def test_an_endpoint_counts_once_as_the_worst_that_is_true_of_it(
    what: Callable[[Endpoint], None], state: str
) -> None:
    made = fleet(CONFIG)
    shown = Metrics(made, lambda: NOW, "test").registry
    ((_, endpoint),) = made.at("10.0.0.1:8000")
    what(endpoint)
    counts = {
        (pool, each): shown.get_sample_value("extproc_pool_endpoints", {"pool": pool, "state": each})
        for pool in ("p", "empty")
        for each in ("available", "saturated", "failing", "set_aside", "cordoned")
    }
    expected = dict.fromkeys(counts, 0.0)
    expected["p", "available"] += 1
    expected["p", state] += 1
    assert counts == expected


def test_a_pool_without_endpoints_has_series_too() -> None:
    shown = Metrics(fleet(CONFIG), lambda: NOW, "test").registry
    labels = {"pool": "empty", "state": "available"}
    assert shown.get_sample_value("extproc_pool_endpoints", labels) == 0


def shown_of(pool: Fleet, name: str) -> list[float | None]:
    """Of each endpoint, in order."""
    registry = Metrics(pool, lambda: NOW, "test").registry
    return [
        registry.get_sample_value(f"extproc_{name}", {"pool": "p", "endpoint": f"10.0.0.{n}:8000"})
        for n in (1, 2)
    ]


def test_when_all_endpoints_are_dead_none_is_available_though_one_gets_requests() -> None:
    made = fleet(CONFIG)
    for _ in range(10 * FAILURES):
        for address in ("10.0.0.1:8000", "10.0.0.2:8000"):
            made.scrape_failed(address, refused=True, now=NOW)
    shown = Metrics(made, lambda: NOW, "test").registry
    counts = {
        state: shown.get_sample_value("extproc_pool_endpoints", {"pool": "p", "state": state})
        for state in ("available", "failing", "set_aside")
    }
    assert counts == {"available": 0, "failing": 1, "set_aside": 1}
    assert shown_of(made, "endpoint_ready") == [0, 0]


def test_what_was_scraped_is_shown_of_who_was_scraped() -> None:
    made = fleet(CONFIG)
    made.scraped("10.0.0.2:8000", metrics(running=3, waiting=2, kv=0.5), NOW)
    figures = ("running_requests", "waiting_requests", "kv_cache_usage_ratio")
    assert [shown_of(made, f"endpoint_{name}") for name in figures] == [[None, 3], [None, 2], [None, 0.5]]


def test_an_endpoint_is_shown_as_cordoned_while_it_is() -> None:
    made = fleet(CONFIG)
    ((_, endpoint),) = made.at("10.0.0.2:8000")
    endpoint.cordoned = "command"
    assert shown_of(made, "endpoint_cordoned") == [0, 1]
    endpoint.cordoned = None
    assert shown_of(made, "endpoint_cordoned") == [0, 0]


def test_figures_that_were_never_read_are_as_old_as_the_first_try() -> None:
    made = fleet(CONFIG)
    assert shown_of(made, "endpoint_metrics_age_seconds") == [None, None]
    made.scraped("10.0.0.1:8000", metrics(), NOW - 1.0)
    for now in (NOW - 40.0, NOW - 0.5):
        made.scrape_failed("10.0.0.2:8000", refused=False, now=now)
        made.scrape_failed("10.0.0.1:8000", refused=False, now=now)
    assert shown_of(made, "endpoint_metrics_age_seconds") == [1.0, 40.0]


def test_a_pool_that_is_read_no_more_has_no_figures_that_grow_old() -> None:
    made = fleet(CONFIG)
    made.scrape_failed("10.0.0.2:8000", refused=False, now=NOW - 40.0)
    made.apply(parse_config(CONFIG.replace("name: p", "name: p, metrics: {engine: none}").encode()))
    assert shown_of(made, "endpoint_metrics_age_seconds") == [None, None]
