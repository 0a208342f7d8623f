"""What an endpoint's counters tell of its traffic, and how much of it is ours."""

from __future__ import annotations

import pytest
from counters import page
from fleets import metrics
from msgspec.structs import replace

from extproc.engine_metrics import EngineMetrics
from extproc.traffic import DOUBT, FADE_S, Traffic


@pytest.mark.parametrize(
    ("ours", "finished", "share"),
    [
        (0, 0, 1.0),  # nothing known
        (95, 95, 1.0),
        (20, 95, 0.25),
        (0, 95, 0.05),
        (97, 95, 1.0),  # refused by the engine, which does not count them
        (0, 1, 5 / 6),  # of few, one may just be counted late
    ],
)
def test_the_share_is_ours_of_those_that_ended(ours: int, finished: int, share: float) -> None:
    traffic = Traffic()
    traffic.measure(page(0), page(finished), ours, 0.2)
    assert traffic.share == pytest.approx(share)


def test_ours_are_those_that_ended_since_the_last_scrape() -> None:
    traffic = Traffic()
    traffic.measure(page(0), page(100), 100, 0.0)
    traffic.measure(page(100), page(200), 100, 0.0)
    assert traffic.share == (100 + DOUBT) / (200 + DOUBT)


def test_old_traffic_fades() -> None:
    traffic = Traffic()
    traffic.measure(page(0), page(1000), 0, 1.0)
    traffic.measure(page(1000), page(1010), 10, 20 * FADE_S)
    assert traffic.share == pytest.approx(1.0, abs=1e-4)


def test_old_work_fades() -> None:
    traffic = Traffic()
    traffic.measure(page(0), page(0, tokens=1e9), 0, 1.0)
    traffic.measure(page(0), page(0, tokens=100), 0, 20 * FADE_S)
    assert traffic.busy(1e-4) == pytest.approx(100 * 1e-4 / (20 * FADE_S), rel=0.1)


def test_an_endpoint_is_busy_with_the_prompt_tokens_that_it_computes() -> None:
    traffic = Traffic()
    assert traffic.busy(1e-4) == 0.0
    traffic.measure(page(0), page(0, tokens=0, cached=4000), 0, 0.5)
    assert traffic.busy(1e-4) == 0.0  # what is cached is counted first, the whole prompt later
    traffic.measure(page(0, cached=4000), page(1, tokens=9000, cached=4000), 1, 0.5)
    assert traffic.busy(1e-4) == pytest.approx(0.5, rel=0.02)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (metrics(), metrics()),  # an engine without these counters
        (page(500, 9e6), page(3, 300)),  # restarted
        (page(0), replace(page(9), prompt_tokens_total=None)),
    ],
)
def test_counters_that_tell_nothing_change_nothing(before: EngineMetrics, after: EngineMetrics) -> None:
    traffic = Traffic()
    traffic.measure(before, after, 0, 1.0)
    assert (traffic.share, traffic.busy(1e-4)) == (1.0, 0.0)


def test_what_ended_while_the_counters_told_nothing_is_not_counted_later() -> None:
    traffic = Traffic()
    traffic.measure(page(500), page(3), 90, 0.0)
    traffic.measure(page(3), page(98), 90, 0.0)
    assert traffic.share == DOUBT / (95 + DOUBT)
