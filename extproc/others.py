"""Requests that are not ours: another router's, which shares nothing with us, or a direct client's.

Where all requests are ours nothing here counts.  Else three things are expected of the others, from what the endpoints'
counters tell and from what our own share of the requests is like:

- Their prompts ahead of ours at an endpoint, on average.  That routers expect most where others send most divides the
  endpoints among them within a minute: each prefers those that it has to itself, and there it knows all.
- What they left of a prompt in the caches: a beginning that our requests have brought to some endpoints theirs have
  brought to more.
- Where conversations go on: at their home, which all routers find by the same hash (Thaler and Ravishankar 1998).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence

from .endpoint import Endpoint
from .rendezvous import rendezvous
from .request import CHECKPOINTS, Prompt
from .traffic import DOUBT
from .work import Work

ALONE = 0.95
"""A greater share of a pool's requests is all of them: a few are counted late, or asked for by hand."""
MOST_BUSY = 0.9
"""Share of the time spent on prompts, above which queues are as long as chance and shedding let them."""
SIZES = 1000
"""Over how many prompts their sizes fade."""
FOUND = 200
"""Over how many prompts it fades what share of them was found."""

SHARED_BY_RATIO = 0.5
"""A beginning that so many endpoints have tells no conversation from others."""
HOME_TOKENS = 512
"""So much after it conversations differ: chat templates and dates are shorter, and most first questions with their
documents longer."""
HOME_WORTH = 6.0
"""What is brought home is found there by all later requests, whoever gets them, so that it is worth more than what this
one is expected to find.  Measured: less loses hits, more changes nothing, as `MOST_AT_HOME` ends it."""
MOST_AT_HOME = 0.9
"""A home never counts for as much as having seen the prompt there."""


class Others:
    """What is expected of them in a pool."""

    __slots__ = ("_findable", "_found", "_squares", "_tokens", "found", "share")

    def __init__(self) -> None:
        self.share = 1.0
        """Of the pool's requests, ours; 1: nobody else's are there."""
        self.found = 0.0
        """Of our prompts, beyond what all have in common, the share that an endpoint had from us."""
        self._tokens = self._squares = 0.0
        self._found = self._findable = 0.0

    def sent(self, work: Work) -> None:
        """*work* is ours."""
        keep = 1.0 - 1.0 / SIZES
        self._tokens = self._tokens * keep + work.new_tokens
        self._squares = self._squares * keep + work.new_tokens * work.new_tokens
        keep = 1.0 - 1.0 / FOUND
        self._findable = self._findable * keep + work.findable_tokens
        self._found = self._found * keep + work.found_tokens
        self.found = self._found / self._findable if self._findable else 0.0

    def observe(self, endpoints: Sequence[Endpoint]) -> None:
        """Set the shares, and what prompts of others are expected ahead at each of *endpoints*."""
        ours = sum(e.traffic.ours for e in endpoints) + DOUBT
        share = ours / (sum(e.traffic.all for e in endpoints) + DOUBT)
        self.share = share if share < ALONE else 1.0
        for endpoint in endpoints:
            endpoint.backlog.others = self._ahead(endpoint) if share < ALONE else 0.0

    def _ahead(self, endpoint: Endpoint) -> float:
        """Prompt tokens that a request finds before it, of others: Pollaczek and Khinchine's mean, and their share."""
        busy = min(endpoint.traffic.busy(endpoint.token_s), MOST_BUSY)
        residual = self._squares / (2.0 * self._tokens) if self._tokens else 0.0
        return (1.0 - endpoint.traffic.share) * busy / (1.0 - busy) * residual

    def expect(
        self, cached: Mapping[Endpoint, int], prompt: Prompt, endpoints: Sequence[Endpoint]
    ) -> Mapping[Endpoint, int]:
        """*cached*, what *endpoints* have of *prompt* from us, with what they may have from others."""
        if self.share >= 1.0 or not prompt.prefix:
            return cached
        more = 1.0 / self.share - 1.0
        spread = _spread(cached.values(), len(endpoints), more)
        expected = {e: max(cached.get(e, 0), spread) for e in endpoints} if spread else dict(cached)
        shared = shared_tokens(cached.values(), len(endpoints))
        last = min(bisect_left(CHECKPOINTS, shared + HOME_TOKENS), len(prompt.prefix) - 1)
        worth = min(MOST_AT_HOME, HOME_WORTH * self.found * more)
        if worth and CHECKPOINTS[last] > shared:
            ranks = rendezvous(prompt.prefix[last].to_bytes(8, "little"), endpoints)
            home = endpoints[ranks.index(max(ranks))]
            there = shared + int(worth * (prompt.tokens - shared))
            expected[home] = max(expected.get(home, 0), there)
        return expected


def shared_tokens(cached: Iterable[int], endpoints: int) -> int:
    """How many of a prompt's first tokens many of so many *endpoints* have, by what those that have some have."""
    holders = math.ceil(endpoints * SHARED_BY_RATIO)
    ordered = sorted(cached, reverse=True)
    return ordered[holders - 1] if len(ordered) >= holders else 0


def _spread(cached: Iterable[int], endpoints: int, more: float) -> int:
    """Tokens that any of *endpoints* is expected to have from others, who send *more* times as much as we.

    If ours brought a beginning to one in n endpoints, any other has it with 1 - (1 - 1/n)^more.
    """
    ordered = sorted(cached, reverse=True)
    best = 0.0
    for index, tokens in enumerate(ordered):
        if index + 1 == len(ordered) or ordered[index + 1] < tokens:  # the last of those that have as much
            best = max(best, tokens * (1.0 - (1.0 - (index + 1) / endpoints) ** more))
    return int(best)
