"""The search for the highest rate that is served well, on goodput curves whose answer is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.benchmark.capacity import GOOD_SHARE, MAX_STEPS, PRECISION, STEP, NoCapacity, seek


class Curve:
    """A goodput that falls with the rate, and the rates at which it was looked at."""

    def __init__(self, goodput_at: Callable[[float], float]) -> None:
        self.asked: list[float] = []
        self._goodput_at = goodput_at

    def __call__(self, rate: float) -> float:
        self.asked.append(rate)
        return self._goodput_at(rate)


def cliff(capacity: float) -> Curve:
    return Curve(lambda rate: 1.0 if rate <= capacity else 0.0)


@given(capacity=st.floats(0.1, 1000), far=st.floats(1 / 60, 60))
def test_the_answer_is_within_the_precision_below_the_capacity(capacity: float, far: float) -> None:
    found = seek(cliff(capacity), capacity * far)
    assert capacity / (1 + PRECISION) <= found <= capacity


def test_a_smooth_curve_is_cut_at_the_share_of_good_calls() -> None:
    capacity = 20 * -math.log(GOOD_SHARE)
    found = seek(Curve(lambda rate: math.exp(-rate / 20)), 10.0)
    assert capacity / (1 + PRECISION) <= found <= capacity


def test_exactly_the_share_is_enough() -> None:
    assert seek(Curve(lambda rate: GOOD_SHARE if rate <= 8 else 0.0), 7.0) >= 8 / (1 + PRECISION)


def test_the_answer_was_tried_and_served_well() -> None:
    curve = cliff(7.3)
    assert seek(curve, 5.0) in curve.asked


@pytest.mark.parametrize(
    ("capacity", "start", "looks"),
    [
        pytest.param(10.5, 10.0, 5, id="a step up, then three halvings of 25 %"),
        pytest.param(9.5, 10.0, 5, id="a step down"),
        pytest.param(10.0 * STEP**4.5, 10.0, 9, id="five steps up"),
        pytest.param(10.0 / STEP**4.5, 10.0, 9, id="five steps down"),
    ],
)
def test_it_looks_at_few_rates_and_at_none_twice(capacity: float, start: float, looks: int) -> None:
    curve = cliff(capacity)
    seek(curve, start)
    assert len(curve.asked) == len(set(curve.asked)) == looks


@pytest.mark.parametrize(
    ("goodput", "message"),
    [
        (0.0, f"no capacity between {10 / STEP**MAX_STEPS:g} and 10 calls a second"),
        (1.0, f"no capacity between 10 and {10 * STEP**MAX_STEPS:g} calls a second"),
    ],
)
def test_where_nothing_is_served_well_or_everything_there_is_no_answer(goodput: float, message: str) -> None:
    with pytest.raises(NoCapacity) as caught:
        seek(lambda rate: goodput, 10.0)
    assert str(caught.value) == message
