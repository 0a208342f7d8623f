"""Passive health: an endpoint that fails repeatedly is set aside with growing pauses, and tried again.

What counts is what a model server can be blamed for: a refused or reset connection, and the answers 502, 503
and 504.  Not 500: one client whose prompt crashes a request would set every endpoint aside.
"""

from __future__ import annotations

import enum
import math

FAILURES = 3
"""In a row, before an endpoint is set aside: one or two happen when a pod restarts under load."""
BASE_PAUSE_S = 5.0
"""The first pause, about what a readiness probe needs to notice; doubled with each that follows."""
MAX_PAUSE_S = 300.0
"""So that a repaired endpoint is found again within minutes."""
RECENT_S = 60.0
"""Failures that are older say nothing of now: where the port is closed scrapes tell every few seconds, and else no
request came since that could have gone well."""


class Failure(enum.Enum):
    """What an endpoint did wrong."""

    ANSWERED = enum.auto()
    """502, 503 or 504 to a request: it is there, and overloaded more often than broken."""
    UNREACHABLE = enum.auto()
    """It refused or reset the connection of a request."""
    SCRAPE_REFUSED = enum.auto()
    """It refused the connection of a scrape on the port that serves requests."""


class Health:
    """Consecutive failures of one endpoint, and until when it is set aside."""

    __slots__ = ("cause", "failed_at", "failures", "pauses", "refused_scrapes", "set_aside_until")

    def __init__(self) -> None:
        self.failures = 0
        """Of requests, in a row."""
        self.refused_scrapes = 0
        """In a row."""
        self.failed_at = float("-inf")
        """The last time."""
        self.pauses = 0
        """In a row without a success between them; decides how long the next is."""
        self.set_aside_until = float("-inf")
        self.cause: Failure | None = None
        """Of the present pause."""

    @property
    def in_a_row(self) -> int:
        """Failures of the kind that there are more of: requests' and scrapes' do not add up."""
        return max(self.failures, self.refused_scrapes)

    def is_set_aside(self, now: float) -> bool:
        return self.set_aside_until > now

    def is_failing(self, now: float) -> bool:
        """It failed often enough to be set aside, and requests go there all the same.

        As the last chance of its pool, or since its pause is over; until a success, or until nothing was heard of it.
        """
        lately = now < max(self.failed_at, self.set_aside_until) + RECENT_S
        return lately and self.in_a_row >= FAILURES and not self.is_set_aside(now)

    def succeeded(self) -> None:
        """It served a request."""
        self.failures = self.refused_scrapes = self.pauses = 0
        self.cause = None
        self.set_aside_until = float("-inf")

    def reachable(self) -> None:
        """A scrape was answered: ends a pause that a scrape began (requests may fail all the same)."""
        self.refused_scrapes = 0
        if self.cause is Failure.SCRAPE_REFUSED:
            self.succeeded()

    def failed(self, now: float, cause: Failure) -> bool:
        """Count a failure; True where it is one too many, as each is from then on until a success."""
        if cause is Failure.SCRAPE_REFUSED:
            self.refused_scrapes += 1
        else:
            self.failures += 1
        self.failed_at = now
        return self.in_a_row >= FAILURES and not self.is_set_aside(now)

    def set_aside(self, now: float, cause: Failure) -> float:
        """Send nothing there for a while; the length of the pause in seconds."""
        pause_s = min(math.ldexp(BASE_PAUSE_S, self.pauses), MAX_PAUSE_S)
        self.pauses = min(self.pauses + 1, 32)  # far beyond the longest pause; bounds the power
        self.cause, self.set_aside_until = cause, now + pause_s
        return pause_s
