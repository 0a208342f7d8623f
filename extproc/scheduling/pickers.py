"""Pickers turn scores into an order: the chosen endpoint first, then `count - 1` fallbacks."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from heapq import nlargest

from .plugin import Plugin

TIE = 1e-9
"""Scores this close are equal: sums of weighted floats differ in their last bits."""


def tied(scores: Sequence[float]) -> list[int]:
    """The indexes of the highest score and of those that are equal to it."""
    limit = max(scores) - TIE
    return [index for index, score in enumerate(scores) if score >= limit]


def _best(scores: Sequence[float], rng: random.Random) -> int:
    """The index of the highest score, a random one of those that tie for it."""
    ties = tied(scores)
    return ties[0] if len(ties) == 1 else ties[int(rng.random() * len(ties))]


def _followed(first: int, scores: Sequence[float], count: int, rng: random.Random) -> list[int]:
    """*first*, then the indexes of the next best *count* - 1; ties among them are drawn too."""
    order, left = [first], list(scores)
    while len(order) < min(count, len(scores)):
        left[order[-1]] = -math.inf
        order.append(_best(left, rng))
    return order


class MaxScorePicker(Plugin, frozen=True, tag="max-score"):
    """The highest score; ties are drawn at random, so that routers that know the same do not herd."""

    def pick(self, scores: Sequence[float], count: int, rng: random.Random) -> list[int]:
        return _followed(_best(scores, rng), scores, count, rng)


class WeightedRandomPicker(Plugin, frozen=True, tag="weighted-random"):
    """Each endpoint with a probability in proportion to its score (A-Res: Efraimidis and Spirakis 2006)."""

    def pick(self, scores: Sequence[float], count: int, rng: random.Random) -> list[int]:
        keys = [math.log(1.0 - rng.random()) / max(score, TIE) for score in scores]
        return nlargest(count, range(len(scores)), key=keys.__getitem__)


class PowerOfTwoPicker(Plugin, frozen=True, tag="power-of-two"):
    """The better of two drawn at random: robust where figures are stale (Mitzenmacher 2001)."""

    def pick(self, scores: Sequence[float], count: int, rng: random.Random) -> list[int]:
        one, other = int(rng.random() * len(scores)), int(rng.random() * len(scores))
        if one == other:
            other = (one + 1) % len(scores)
        return _followed(one if scores[one] >= scores[other] else other, scores, count, rng)


Picker = MaxScorePicker | WeightedRandomPicker | PowerOfTwoPicker
