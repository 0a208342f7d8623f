"""Means and paired ratios over seeds, with their intervals."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.benchmark.statistics import Mean, Ratio, mean, paired_ratio, ratio_of_means, t_975

POSITIVE = st.floats(min_value=1e-3, max_value=1e3)


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [
        (1, 12.7062),
        (2, 4.3027),
        (9, 2.2622),
        (30, 2.0423),
        (31, 2.0395),
        (40, 2.0211),
        (60, 2.0003),
        (120, 1.9799),
    ],
)
def test_students_t_is_that_of_the_tables(freedom: int, quantile: float) -> None:
    assert t_975(freedom) == pytest.approx(quantile, abs=5e-5)


def test_students_t_falls_to_the_normal_distribution() -> None:
    quantiles = [t_975(freedom) for freedom in range(1, 200)]
    assert quantiles == sorted(quantiles, reverse=True)
    assert t_975(10**9) == pytest.approx(1.959964)


def test_students_t_needs_a_degree_of_freedom() -> None:
    with pytest.raises(ValueError, match="at least one degree of freedom"):
        t_975(0)


def test_a_mean_has_the_interval_of_student() -> None:
    found = mean([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0])
    assert found.value == 5.0
    assert found.half_width == pytest.approx(2.3646 * 2.13809 / math.sqrt(8), rel=1e-5)
    assert (found.low, found.high) == pytest.approx((3.21252, 6.78748), abs=1e-4)
    assert found.n == 8


def test_one_seed_has_a_value_and_no_interval() -> None:
    assert mean([3.0]) == Mean(3.0, None, None, 1)
    assert mean([3.0]).half_width is None
    ratio = paired_ratio([3.0], [4.0])
    assert ratio == Ratio(pytest.approx(0.75), None, None, 1)
    assert (ratio.at_most(1.0), ratio.at_least(0.5)) == (None, None)


def test_no_seed_has_no_mean() -> None:
    with pytest.raises(ValueError, match="no values to take the mean of"):
        mean([])


def test_what_a_seed_does_to_both_policies_cancels() -> None:
    theirs = [1.0, 10.0, 100.0, 1000.0]
    ratio = paired_ratio([0.5 * value for value in theirs], theirs)
    assert (ratio.value, ratio.low, ratio.high, ratio.n) == pytest.approx((0.5, 0.5, 0.5, 4))


def test_a_ratio_is_the_geometric_mean_with_students_t_on_the_logarithms() -> None:
    ratio = paired_ratio([2.0, 8.0], [1.0, 1.0])
    margin = 12.7062 * math.log(2)
    expected = (4.0, math.exp(math.log(4) - margin), math.exp(math.log(4) + margin), 2)
    assert (ratio.value, ratio.low, ratio.high, ratio.n) == pytest.approx(expected)


@given(st.lists(st.tuples(POSITIVE, POSITIVE), min_size=2, max_size=12))
def test_the_inverse_ratio_has_the_inverse_interval(pairs: list[tuple[float, float]]) -> None:
    ours, theirs = zip(*pairs, strict=True)
    one, other = paired_ratio(ours, theirs), paired_ratio(theirs, ours)
    assert one.low is not None
    assert one.high is not None
    assert (1 / one.value) == pytest.approx(other.value)
    if one.low > 1e-100 and one.high < 1e100:
        assert (1 / one.high, 1 / one.low) == pytest.approx((other.low, other.high))


@pytest.mark.parametrize(
    ("ours", "theirs", "message"),
    [
        ([], [], "cannot pair 0 values with 0"),
        ([1.0], [1.0, 2.0], "cannot pair 1 values with 2"),
        ([0.0, 1.0], [1.0, 1.0], "a ratio needs values above 0"),
    ],
)
def test_what_cannot_be_paired_is_refused(ours: list[float], theirs: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        paired_ratio(ours, theirs)


@pytest.mark.parametrize(
    ("reach", "at_most", "at_least"),
    [(0.4, False, True), (0.5, None, True), (0.55, None, None), (0.6, True, None), (0.7, True, False)],
)
def test_a_figure_is_reached_when_its_whole_interval_is(
    reach: float, at_most: bool | None, at_least: bool | None
) -> None:
    ratio = Ratio(0.55, 0.5, 0.6, 10)
    assert (ratio.at_most(reach), ratio.at_least(reach)) == (at_most, at_least)


def test_a_ratio_of_means_takes_gains_and_losses() -> None:
    # the mean of -1, 5 and 5 is 3; residuals -4, 2 and 2, whose standard deviation is the root of 12
    margin = 4.3027 * 12**0.5 / 3**0.5 / 4
    found = ratio_of_means([-1.0, 5.0, 5.0], [4.0, 4.0, 4.0])
    assert found == Ratio(0.75, pytest.approx(0.75 - margin), pytest.approx(0.75 + margin), 3)


def test_a_ratio_of_means_needs_a_mean_below_that_is_surely_above_0() -> None:
    assert ratio_of_means([1.0, 1.0, 1.0], [0.0, 4.0, 8.0]) is None


@pytest.mark.parametrize(
    ("theirs", "found"),
    [([4.0], Ratio(0.5, None, None, 1)), ([0.0], None), ([-4.0], None)],
)
def test_a_ratio_of_means_of_one_pair_has_no_interval(theirs: list[float], found: Ratio | None) -> None:
    assert ratio_of_means([2.0], theirs) == found


@pytest.mark.parametrize(("ours", "theirs"), [([], []), ([1.0], [1.0, 2.0])])
def test_a_ratio_of_means_needs_pairs(ours: list[float], theirs: list[float]) -> None:
    with pytest.raises(ValueError, match=f"cannot pair {len(ours)} values with {len(theirs)}"):
        ratio_of_means(ours, theirs)
