"""How many endpoints of a pool are to be had, as a metric."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fleets import NOW, fleet, metrics

from extproc.endpoint import Endpoint
from extproc.health import Failure
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
        for each in ("available", "saturated", "set_aside", "cordoned")
    }
    expected = dict.fromkeys(counts, 0.0)
    expected["p", "available"] += 1
    expected["p", state] += 1
    assert counts == expected


def test_a_pool_without_endpoints_has_series_too() -> None:
    shown = Metrics(fleet(CONFIG), lambda: NOW, "test").registry
    labels = {"pool": "empty", "state": "available"}
    assert shown.get_sample_value("extproc_pool_endpoints", labels) == 0
