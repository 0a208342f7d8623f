"""A profile: filters, then weighted scorers, then a picker; and what it tells of a choice."""

from __future__ import annotations

import random
from collections.abc import Sequence

from msgspec import Struct

from ..endpoint import Endpoint
from ..request import InferenceRequest
from .filters import Filter
from .outstanding_work import OutstandingWorkScorer
from .pickers import MaxScorePicker, Picker
from .scorers import Scorer

DEFAULT = "default"


class Choice(Struct, frozen=True):
    """The endpoints chosen, and why."""

    endpoints: tuple[Endpoint, ...]
    """The chosen one first, then fallbacks in order; empty where the filters left nobody."""
    dropped: dict[str, int]
    """Filter type to how many endpoints it dropped; filters that dropped none are left out."""
    scores: dict[str, float]
    """Scorer type to the score (0..1, before its weight) of the chosen endpoint."""


class Profile(Struct, frozen=True, forbid_unknown_fields=True):
    """How endpoints are chosen."""

    name: str
    filters: list[Filter] = []
    scorers: list[Scorer] = []
    picker: Picker = MaxScorePicker()

    def choose(
        self,
        request: InferenceRequest,
        endpoints: Sequence[Endpoint],
        count: int,
        now: float,
        rng: random.Random,
    ) -> Choice:
        """Up to *count* of *endpoints*, best first."""
        dropped: dict[str, int] = {}
        for plugin in self.filters:
            kept = plugin.keep(request, endpoints, now)
            if len(kept) < len(endpoints):
                name = plugin.type_name()
                dropped[name] = dropped.get(name, 0) + len(endpoints) - len(kept)
            endpoints = kept
        if not endpoints:
            return Choice((), dropped, {})
        if len(endpoints) == 1:
            return Choice((endpoints[0],), dropped, {})
        columns = [scorer.score(request, endpoints, now) for scorer in self.scorers]
        order = self.picker.pick(self._total(columns, len(endpoints)), count, rng)
        scores = {
            scorer.type_name(): column[order[0]] for scorer, column in zip(self.scorers, columns, strict=True)
        }
        return Choice(tuple(endpoints[index] for index in order), dropped, scores)

    def _total(self, columns: Sequence[Sequence[float]], size: int) -> list[float]:
        total = [0.0] * size
        for scorer, column in zip(self.scorers, columns, strict=True):
            weight = scorer.weight
            total = [sum_ + weight * score for sum_, score in zip(total, column, strict=True)]
        return total


def default_profile() -> Profile:
    """The built-in default: the least outstanding work, which holds balance, prefix and adapter affinity in one."""
    return Profile(name=DEFAULT, scorers=[OutstandingWorkScorer()])
