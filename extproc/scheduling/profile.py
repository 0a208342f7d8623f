"""A profile: filters, then weighted scorers, then a picker; and what it tells of a choice."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from itertools import pairwise

from msgspec import Struct

from ..endpoint import Endpoint
from ..request import InferenceRequest
from .filters import Filter
from .outstanding_work import OutstandingWorkScorer
from .pickers import MaxScorePicker, Picker, tied
from .scorers import Scorer

DEFAULT = "default"


class Table(Struct, eq=False):
    """All that a choice rests on, as it was then; nothing in it is copied."""

    profile: Profile
    passed: Sequence[tuple[str, Sequence[Endpoint]]]
    """Who was there before the first filter (whose type is ""), then the type of each filter that dropped
    somebody, and whom it let pass."""
    columns: Sequence[Sequence[float]]
    """What each scorer rated those that passed all filters; empty where only one did."""
    cached: Mapping[Endpoint, int]
    """Tokens of the prompt that were taken to be in an endpoint's cache."""

    @property
    def rated(self) -> Sequence[Endpoint]:
        """Those who passed all filters."""
        return self.passed[-1][1]

    def dropped(self) -> dict[Endpoint, str]:
        """By which type of filter."""
        found: dict[Endpoint, str] = {}
        for (_, before), (name, after) in pairwise(self.passed):
            left = set(after)
            found.update({endpoint: name for endpoint in before if endpoint not in left})
        return found

    def totals(self) -> Sequence[float]:
        """Weighted sums, beside `rated`."""
        rated = self.rated
        return self.profile.total(self.columns, len(rated)) if self.columns else [0.0] * len(rated)

    def best(self) -> list[Endpoint]:
        """Those with the highest total, all of them where several are equal."""
        rated = self.rated
        return [rated[index] for index in tied(self.totals())] if rated else []


class Choice(Struct):
    """The endpoints chosen, and why."""

    endpoints: tuple[Endpoint, ...]
    """The chosen one first, then fallbacks in order; empty where the filters left nobody."""
    dropped: dict[str, int]
    """Filter type to how many endpoints it dropped; filters that dropped none are left out."""
    scores: dict[str, float]
    """Scorer type to the score (0..1, before its weight) of the chosen endpoint."""
    table: Table | None = None
    """Whoever counts the decision takes it out: a decision lives as long as its stream, which may be an hour."""

    def take_table(self) -> Table | None:
        """The table, which is no longer here."""
        table, self.table = self.table, None
        return table


class Profile(Struct, frozen=True, forbid_unknown_fields=True):
    """How endpoints are chosen."""

    name: str
    filters: list[Filter] = []
    scorers: list[Scorer] = []
    picker: Picker = MaxScorePicker()

    @property
    def reads_prompts(self) -> bool:
        """Whether a request's prompt matters to it."""
        return any(scorer.reads_prompt and scorer.weight > 0 for scorer in self.scorers)

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
        passed = [("", endpoints)]
        for plugin in self.filters:
            kept = plugin.keep(request, endpoints, now)
            if len(kept) < len(endpoints):
                name = plugin.type_name()
                dropped[name] = dropped.get(name, 0) + len(endpoints) - len(kept)
                passed.append((name, kept))
            endpoints = kept
        if not endpoints:
            return Choice((), dropped, {})
        if len(endpoints) == 1:
            return Choice((endpoints[0],), dropped, {}, Table(self, passed, (), request.cached))
        columns = [scorer.score(request, endpoints, now) for scorer in self.scorers]
        order = self.picker.pick(self.total(columns, len(endpoints)), count, rng)
        scores = {
            scorer.type_name(): column[order[0]] for scorer, column in zip(self.scorers, columns, strict=True)
        }
        table = Table(self, passed, columns, request.cached)
        return Choice(tuple(endpoints[index] for index in order), dropped, scores, table)

    def total(self, columns: Sequence[Sequence[float]], size: int) -> Sequence[float]:
        """The weighted sums of *columns*, each of *size* scores."""
        if len(columns) == 1 and self.scorers[0].weight == 1.0:
            return columns[0]
        total = [0.0] * size
        for scorer, column in zip(self.scorers, columns, strict=True):
            weight = scorer.weight
            total = [sum_ + weight * score for sum_, score in zip(total, column, strict=True)]
        return total


def default_profile() -> Profile:
    """The built-in default: the least outstanding work, which holds balance, prefix and adapter affinity in one."""
    return Profile(name=DEFAULT, scorers=[OutstandingWorkScorer()])
