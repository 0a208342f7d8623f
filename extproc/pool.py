"""A pool of endpoints that serve the same thing: membership, selection by labels, in-flight counts, health."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .endpoint import Endpoint
from .health import Failure

MAX_SET_ASIDE_ANSWERING_RATIO = 0.5
"""Endpoints that still answer (502, 503, 504) are overloaded more often than broken: setting aside more than half
of a pool for that would crush the rest.  Unreachable ones may all be set aside but one."""

Labels = Mapping[str, str]


class Pool:
    """Endpoints in a fixed order, replaced as a whole when membership changes."""

    def __init__(self, name: str, endpoints: Iterable[Endpoint] = ()) -> None:
        self.name = name
        self.endpoints: tuple[Endpoint, ...] = ()
        self.by_address: dict[str, Endpoint] = {}
        self._selections: dict[frozenset[tuple[str, str]], tuple[Endpoint, ...]] = {}
        self.replace(endpoints)

    def replace(self, endpoints: Iterable[Endpoint]) -> None:
        """Set the membership; what vanished gets no new request, what it still serves is counted down as usual."""
        self.endpoints = tuple(endpoints)
        self.by_address = {endpoint.address: endpoint for endpoint in self.endpoints}
        self._selections = {}

    def select(self, labels: Labels) -> tuple[Endpoint, ...]:
        """The members that carry all of *labels*."""
        if not labels:
            return self.endpoints
        key = frozenset(labels.items())
        selection = self._selections.get(key)
        if selection is None:
            selection = tuple(e for e in self.endpoints if key <= e.labels.items())
            self._selections[key] = selection
        return selection

    def candidates(
        self, labels: Labels, subset: frozenset[str] | None, now: float
    ) -> tuple[list[Endpoint], bool]:
        """(endpoints, healthy): those with *labels* that a subset hint allows.

        Those set aside are left out (healthy is True), unless nobody else is left: a poor chance beats none.
        """
        selection: Iterable[Endpoint] = self.select(labels)
        if subset is not None:
            selection = [e for e in selection if e.address in subset or e.ip in subset]
        healthy = [e for e in selection if e.health.set_aside_until <= now]
        return (healthy, True) if healthy else (list(selection), False)

    def failed(self, endpoint: Endpoint, failure: Failure, now: float) -> float | None:
        """Note a failure; the pause in seconds where *endpoint* is set aside for it, else None."""
        if not endpoint.health.failed(now, failure):
            return None
        aside = sum(e.health.is_set_aside(now) for e in self.endpoints)
        total = len(self.endpoints)
        most = int(total * MAX_SET_ASIDE_ANSWERING_RATIO) if failure is Failure.ANSWERED else total - 1
        return endpoint.health.set_aside(now, failure) if aside < most else None
