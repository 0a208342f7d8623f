"""Which target serves a request: drawn by weight, or the same one for the same key."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.canary import Target, draw, stick

KEYS = [f"user-{number}" for number in range(2000)]
OLD, NEW = Target("old", 90), Target("new", 10)


def within_binomial_bounds(hits: int, count: int, share: float) -> bool:
    """Five standard deviations: chance alone fails once in two million."""
    return abs(hits - count * share) <= 5 * math.sqrt(count * share * (1 - share)) + 1


weights = st.integers(1, 1_000_000_000)
target_lists = st.lists(weights, min_size=2, max_size=6).map(
    lambda given: [Target(f"v{number}", weight) for number, weight in enumerate(given)]
)


@pytest.mark.parametrize(
    "shares", [(90, 10), (1, 1), (1, 999), (5, 3, 2), (999_999_999, 1), (1_000_000_000, 1_000_000_000)]
)
def test_targets_are_drawn_as_often_as_their_weights_say(shares: tuple[int, ...]) -> None:
    targets = [Target(f"v{number}", share) for number, share in enumerate(shares)]
    rng = random.Random(7)
    drawn = Counter(draw(targets, rng).model for _ in range(10_000))
    for target in targets:
        assert within_binomial_bounds(drawn[target.model], 10_000, target.share / sum(shares)), drawn


@pytest.mark.parametrize("shares", [(90, 10), (1, 1, 1), (1, 99), (600, 300, 100)])
def test_sticky_keys_are_spread_as_the_weights_say(shares: tuple[int, ...]) -> None:
    targets = [Target(f"v{number}", share) for number, share in enumerate(shares)]
    held = Counter(stick(targets, "m", key).model for key in KEYS)
    for target in targets:
        assert within_binomial_bounds(held[target.model], len(KEYS), target.share / sum(shares)), held


def test_targets_without_weights_share_equally() -> None:
    targets, rng = [Target("x"), Target("y")], random.Random(7)
    drawn = Counter(draw(targets, rng).model for _ in range(10_000))
    assert within_binomial_bounds(drawn["x"], 10_000, 0.5)


def test_a_single_target_costs_no_draw() -> None:
    rng = random.Random(7)
    before = rng.getstate()
    assert draw([OLD], rng) is OLD
    assert stick([OLD], "m", "key") is OLD
    assert rng.getstate() == before


@pytest.mark.parametrize(("point", "model"), [(0.0, "a"), (0.49, "a"), (0.5, "b"), (1 - 2**-53, "b")])
def test_a_draw_takes_the_target_whose_part_of_the_line_the_point_falls_on(point: float, model: str) -> None:
    class Fixed(random.Random):
        def random(self) -> float:
            return point

    assert draw([Target("a", 500), Target("b", 500)], Fixed()).model == model


ASSIGNED = """
from extproc.canary import Target, stick
print(*[stick([Target('a', 3), Target('b', 7)], 'm', f'k{n}').model for n in range(40)])
"""


def test_a_key_has_the_same_target_in_every_process() -> None:
    """Two replicas, or one that was restarted: nothing may hang on the process (as `hash` does)."""
    answers = {
        subprocess.run(
            [sys.executable, "-c", ASSIGNED], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    here = [stick([Target("a", 3), Target("b", 7)], "m", f"k{number}").model for number in range(40)]
    assert answers == {(" ".join(here) + "\n").encode()}


def test_assignments_outlive_a_release() -> None:
    """Recorded once: a change of the hash would move every user of every canary on the day of an upgrade."""
    assert "".join(stick([OLD, NEW], "m", key).model[0] for key in KEYS[:60]) == RECORDED


RECORDED = "nooooooooooooooooonoonooooooooooooooooooooooooonoooonoooonoo"


@given(target_lists, st.text(max_size=20), st.randoms(use_true_random=False))
def test_the_order_of_the_targets_does_not_matter(
    targets: list[Target], key: str, rng: random.Random
) -> None:
    shuffled = rng.sample(targets, len(targets))
    assert stick(targets, "m", key) == stick(shuffled, "m", key)


@settings(max_examples=30)
@given(target_lists, st.integers(0, 5), st.integers(1, 1_000_000))
def test_raising_a_weight_moves_keys_to_that_target_only(targets: list[Target], which: int, by: int) -> None:
    which %= len(targets)
    raised = [*targets]
    raised[which] = Target(targets[which].model, targets[which].share + by)
    for key in KEYS[:200]:
        before, after = stick(targets, "m", key).model, stick(raised, "m", key).model
        assert after in (before, raised[which].model)


@settings(max_examples=30)
@given(target_lists, st.integers(0, 5))
def test_removing_a_target_moves_its_keys_only(targets: list[Target], which: int) -> None:
    which %= len(targets)
    left = [target for number, target in enumerate(targets) if number != which]
    for key in KEYS[:200]:
        before = stick(targets, "m", key)
        assert before == targets[which] or stick(left, "m", key) == before


def test_keys_of_different_models_are_assigned_independently() -> None:
    """Else the users of one model's canary would be those of every canary."""
    both = sum(stick([OLD, NEW], "m", key) == stick([OLD, NEW], "other", key) == NEW for key in KEYS)
    assert within_binomial_bounds(both, len(KEYS), 0.01)


def test_the_weight_is_no_part_of_a_targets_identity_but_model_and_labels_are() -> None:
    assert Target("x", 1, {"a": "b", "c": "d"}).identity == Target("x", 9, {"c": "d", "a": "b"}).identity
    different = [
        Target("x"),
        Target("y"),
        Target("x", labels={"a": "b"}),
        Target("x", labels={"a": "c"}),
        Target("x;a=b"),
        Target("x", labels={"a": "b,c=d"}),
        Target("x", labels={"a": "b", "c": "d"}),
    ]
    assert len({target.identity for target in different}) == len(different)


@pytest.mark.parametrize("key", ["", "\0", "\ud800", "ü" * 10_000, "user-1\n"])
def test_any_text_is_a_key(key: str) -> None:
    assert stick([OLD, NEW], "m", key) == stick([NEW, OLD], "m", key)


def test_a_tiny_weight_beside_a_huge_one_holds_almost_nothing_and_breaks_nothing() -> None:
    tiny, huge = Target("tiny", 1), Target("huge", 1_000_000_000)
    assert {stick([tiny, huge], "m", key).model for key in KEYS} == {"huge"}
