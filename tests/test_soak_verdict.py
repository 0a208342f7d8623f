"""What `make soak` concludes from its readings."""

from __future__ import annotations

import random

import pytest
from msgspec.structs import replace

from soak.reading import Reading, Sample, lowest
from soak.verdict import FIGURES, Row, compare, slope

MB = 1e6
BEFORE = Reading(
    rss=120 * MB,
    heap=35 * MB,
    blocks=500_000,
    objects=5000,
    tasks=50,
    fds=50,
    threads=10,
    streams=0,
    in_flight=0,
    buffered=0,
    held=0,
    index=1000,
    series=800,
    internal_errors=0,
    requests=6000,
)
REQUESTS = 72_000
"""Half an hour at 40 a second."""
AFTER = replace(BEFORE, requests=BEFORE.requests + REQUESTS)
SAMPLES = 180


def bad(after: Reading, samples: list[Sample] | None = None, before: Reading = BEFORE) -> set[str]:
    return {row.figure.name for row in compare(before, after, samples or []) if not row.good}


def course(seed: int = 1, **lost: float) -> list[Sample]:
    """Half an hour in which so much of each is lost with each request, and who is served holds some as well."""
    rng = random.Random(seed)
    samples = []
    for number in range(SAMPLES):
        requests = REQUESTS * number / SAMPLES
        held = rng.expovariate(2 / MB)
        grown = {name: getattr(BEFORE, name) + each * requests for name, each in lost.items()}
        reading = replace(BEFORE, **grown, requests=requests)
        samples.append(
            Sample(number * 10.0, replace(reading, heap=reading.heap + held, rss=reading.rss + held))
        )
    return samples


def test_what_came_back_is_good() -> None:
    assert bad(AFTER, course()) == set()


def test_less_than_before_is_good_too() -> None:
    assert bad(replace(AFTER, fds=40, heap=30 * MB, series=500)) == set()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rss", BEFORE.rss + 10 * MB),
        ("heap", BEFORE.heap + 1.8 * MB),
        ("blocks", BEFORE.blocks + 7200),
        ("objects", BEFORE.objects + 1500),
        ("tasks", 52),
        ("fds", 53),
        ("threads", 17),
        ("streams", 1),
        ("in_flight", 1),
        ("buffered", 1),
        ("held", 1),
        ("index", 1201),
        ("series", 861),
        ("internal_errors", 1),
    ],
)
def test_each_figure_is_looked_at(name: str, value: float) -> None:
    """Of memory: 1 KB lost in 100 requests, as ten small objects; or 2.5 KB, as one that is large."""
    assert bad(replace(AFTER, **{name: value})) == {name}


def test_where_caches_fill_up_yet_more_may_differ_but_no_request_may_stay() -> None:
    after = replace(AFTER, tasks=54, fds=58, requests=BEFORE.requests + 200, streams=1)
    assert {row.figure.name for row in compare(BEFORE, after, [], slack=4.0) if not row.good} == {"streams"}


def test_there_is_no_other_figure() -> None:
    assert {figure.name for figure in FIGURES} == {*Reading.__struct_fields__} - {"requests"}


def test_what_was_there_before_is_no_excuse_for_a_request_that_is_still_there() -> None:
    assert bad(replace(AFTER, in_flight=3), before=replace(BEFORE, in_flight=3)) == {"in_flight"}


@pytest.mark.parametrize("seed", range(5))
def test_what_is_lost_of_the_heap_is_seen_while_it_is_lost(seed: int) -> None:
    assert bad(AFTER, course(seed, heap=40.0)) == {"heap"}


@pytest.mark.parametrize("seed", range(5))
def test_what_comes_and_goes_with_requests_is_not_taken_for_a_leak(seed: int) -> None:
    assert bad(AFTER, course(seed)) == set()


def test_small_objects_that_grow_more_are_seen_as_well() -> None:
    assert bad(AFTER, course(blocks=0.2)) == {"blocks"}


def test_a_short_course_says_nothing_of_growth() -> None:
    assert bad(AFTER, course(blocks=0.2)[:12]) == set()


@pytest.mark.parametrize(("error", "steady"), [(1.0, False), (5.0, True)])
def test_growth_that_may_be_chance_is_no_leak(error: float, steady: bool) -> None:
    heap = next(figure for figure in FIGURES if figure.name == "heap")
    assert heap.trend == 20.0
    row = Row(figure=heap, before=0.0, after=0.0, allowed=0.0, growth=25.0, error=error)
    assert row.good is steady


def test_the_slope_of_a_line_is_exact() -> None:
    x = [float(each) for each in range(30)]
    found, error = slope(x, [3 * each + 5 for each in x])
    assert (found, round(error, 9)) == (pytest.approx(3.0), 0.0)


def test_who_is_served_at_the_moment_is_no_part_of_the_slope() -> None:
    x = [float(each) for each in range(30)]
    y = [3 * each + 5 + (0 if index % 3 == 0 else 1000 * index) for index, each in enumerate(x)]
    found, error = slope(x, y)
    assert (found, round(error, 9)) == (pytest.approx(3.0), 0.0)


def test_what_each_request_may_lose_is_not_taken_more_than_once() -> None:
    after = replace(AFTER, blocks=BEFORE.blocks + 9000)
    assert {row.figure.name for row in compare(BEFORE, after, [], slack=2.0) if not row.good} == {"blocks"}


def test_of_several_readings_the_lowest_of_each_figure_counts() -> None:
    one, other = replace(BEFORE, tasks=51, fds=49), replace(BEFORE, tasks=50, fds=52)
    assert lowest([one, other]) == replace(BEFORE, tasks=50, fds=49)
