"""What requests in flight still mean to an endpoint: prompts to compute, and an estimate of how far it has come.

Token streams do not pass through us.  What we know: each prompt's size and when we sent it; that engines compute
prompts first come first served; how many requests wait, as of the last scrape; and the measured speed in between.
"""

from __future__ import annotations

from msgspec import Struct

UNSEEN_S = 0.05
"""A request sent this shortly before a scrape may be in none of its figures: they are as of the end of an iteration."""


class Work(Struct, eq=False, gc=False):
    """One request, as a load on the endpoint that serves it."""

    prompt_tokens: int = 0
    new_tokens: int = 0
    """Of the prompt, those that are probably in no cache there and must be computed."""
    found_tokens: int = 0
    """Of the prompt, those that an endpoint had from us, any endpoint; without those that many had."""
    findable_tokens: int = 0
    """Of the prompt, all but those that many endpoints had from us."""
    output_tokens: float = 0.0
    """Expected length of the answer; 0: unknown."""
    adapter: str | None = None
    """The LoRA adapter that it needs."""
    prefix: tuple[int, ...] = ()
    """Hashes of the prompt's beginnings, for the prefix index; let go of once it is known who serves it."""
    salt: int = 0
    """Goes with `prefix`: it tells apart who would compute the same text otherwise."""
    sent_at: float = 0.0


class Backlog:
    """Prompts that an endpoint may not have computed yet, oldest first."""

    __slots__ = ("_lingering", "_tokens", "_works", "at", "others", "rate", "tokens")

    def __init__(self) -> None:
        self.tokens = 0.0
        """Prompt tokens still to compute, as of `at`; from then on they fall by `rate`."""
        self.at = 0.0
        self.rate = 0.0
        """Prompt tokens a second that the endpoint computes; 0: unknown."""
        self.others = 0.0
        """Prompt tokens more, of requests that are not ours, as many as a request finds there on average."""
        self._works: dict[Work, None] = {}
        self._tokens = 0
        """Of all works here."""
        self._lingering: list[tuple[float, Work]] = []
        """Works whose end nobody will tell, and when they are let go of at the latest."""

    def left(self, now: float) -> float:
        """Prompt tokens still to compute."""
        tokens = self.tokens - (now - self.at) * self.rate
        return tokens if tokens > 0 else 0.0

    def add(self, work: Work, now: float) -> None:
        """*work* was sent."""
        self._works[work] = None
        self._tokens += work.new_tokens
        self.tokens, self.at = self.left(now) + work.new_tokens, now

    def remove(self, work: Work) -> None:
        """*work* ended, or went elsewhere."""
        if self._works.pop(work, work) is None:
            self._forget(work)

    def _forget(self, work: Work) -> None:
        self._tokens -= work.new_tokens
        self.tokens = min(self.tokens, self._tokens)

    def linger(self, work: Work, until: float) -> None:
        """*work* may go on, and nobody will tell when it ends: the next scrapes do, or time, at *until*."""
        self._lingering.append((until, work))

    def expire(self, now: float) -> None:
        """Let go of what lingered long enough."""
        if self._lingering:
            for until, work in self._lingering:
                if until <= now:
                    self.remove(work)
            self._lingering = [each for each in self._lingering if each[0] > now]

    def scraped(self, waiting: int, running: int, now: float) -> None:
        """A scrape said how many requests wait there and run.

        Those that wait have no token computed, and of those that run at most the last one is partly computed.
        """
        seen = [work for work in self._works if work.sent_at <= now - UNSEEN_S]
        waits = min(waiting, len(seen))
        begun = seen[: len(seen) - waits]
        partly = begun.pop() if begun and running else None
        for work in begun:
            del self._works[work]
            self._tokens -= work.new_tokens
        least = self._tokens - (partly.new_tokens if partly else 0)
        self.tokens, self.at = min(max(self.left(now), least), self._tokens), now
