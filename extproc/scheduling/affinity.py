"""Affinity: requests that share something (a prompt's beginning, a session) go where their like went before.

All are load-bounded: consistent hashing with bounded loads, Mirrokni, Thorup and Zadimoghaddam 2016.  Where several
routers share nothing they still agree by rendezvous hashing: Thaler and Ravishankar 1998.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, ClassVar

from msgspec import Meta

from ..endpoint import Endpoint
from ..rendezvous import rendezvous
from ..request import CHECKPOINTS, InferenceRequest
from .plugin import Plugin, Weight

LoadBound = Annotated[float, Meta(ge=1.0, le=100.0)]
"""Nobody is preferred that would then have more than so many times the mean of all loads."""
FieldName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+\Z",
        max_length=256,
        description="the name of a header or cookie (RFC 9110 token of 1..256 characters)",
    ),
]
Tokens = Annotated[int, Meta(ge=0, le=CHECKPOINTS[-1])]

SHARED_BY_RATIO = 0.75
"""A beginning that so many endpoints have in their cache is no reason to prefer them: a new endpoint would get no work,
and those that have it gain nothing from each other."""


class PrefixAffinityScorer(Plugin, frozen=True, tag="prefix-affinity"):
    """Prefers endpoints that have much of the prompt in their KV cache, as the pool's index knows: the share of it.

    What nearly all have does not count; 0 for endpoints over the load bound.
    """

    reads_prompt: ClassVar[bool] = True

    load_bound: LoadBound = 1.25
    weight: Weight = 1.0

    def score(self, request: InferenceRequest, endpoints: Sequence[Endpoint], now: float) -> list[float]:
        cached, total = request.cached, request.prompt.tokens
        if not cached or not total:
            return [0.0] * len(endpoints)
        tokens = [cached.get(endpoint, 0) for endpoint in endpoints]
        shared = _shared(tokens)
        if shared == max(tokens):
            return [0.0] * len(endpoints)
        most = _most_in_flight(endpoints, self.load_bound)
        return [
            min(1.0, (count - shared) / total) if count > shared and e.in_flight + e.external <= most else 0.0
            for count, e in zip(tokens, endpoints, strict=True)
        ]


def _shared(tokens: Sequence[int]) -> int:
    """How many of the prompt's first tokens nearly all endpoints have."""
    holders = math.ceil(len(tokens) * SHARED_BY_RATIO)
    if len(tokens) - tokens.count(0) < holders:
        return 0
    return sorted(tokens, reverse=True)[holders - 1]


class PrefixHashScorer(Plugin, frozen=True, tag="prefix-hash"):
    """Prompts with the same beginning go to the same endpoint, by a hash: 1 there, 0 elsewhere.

    Needs no memory: replicas of the router agree, and a restarted one goes on as before.  The beginning reaches up to
    `skip_tokens` + `block_tokens`; a shorter prompt counts as a whole.  0 for all where it is no longer than
    `skip_tokens`: so far all may have the same system prompt.
    """

    reads_prompt: ClassVar[bool] = True

    skip_tokens: Tokens = 512
    block_tokens: Tokens = 512
    load_bound: LoadBound = 1.25
    weight: Weight = 1.0

    def score(self, request: InferenceRequest, endpoints: Sequence[Endpoint], now: float) -> list[float]:
        prefix = request.prompt.prefix
        last = min(bisect_left(CHECKPOINTS, self.skip_tokens + self.block_tokens), len(prefix) - 1)
        if last < 0 or CHECKPOINTS[last] <= self.skip_tokens:
            return [0.0] * len(endpoints)
        return _prefer_home(prefix[last].to_bytes(8, "little"), endpoints, self.load_bound)


class SessionAffinityScorer(Plugin, frozen=True, tag="session-affinity"):
    """Requests of one session go to the same endpoint, by a hash: 1 there, 0 elsewhere.

    The session's name is in the header `header`, or else in the cookie `cookie`; 0 for all where it is in neither.
    """

    header: FieldName = "x-session-id"
    cookie: FieldName | None = None
    """Its name, case and all."""
    load_bound: LoadBound = 1.25
    weight: Weight = 1.0

    def score(self, request: InferenceRequest, endpoints: Sequence[Endpoint], now: float) -> list[float]:
        session = self._session(request)
        if not session:
            return [0.0] * len(endpoints)
        return _prefer_home(session.encode("utf-8", "surrogatepass"), endpoints, self.load_bound)

    def _session(self, request: InferenceRequest) -> str:
        session = request.headers.get(self.header.lower(), "")
        if session or self.cookie is None:
            return session
        cookies = request.headers.get("cookie")
        return cookie_value(cookies, self.cookie) if cookies else ""


def cookie_value(cookies: str, name: str) -> str:
    """The value of the first cookie called *name* in a `cookie` header (RFC 6265, section 4.2.1), as it was sent.

    Whatever clients send: "" where there is none, in time that grows with the header's length and no faster.
    """
    found = _cookie(name).search(
        f";{cookies}"
    )  # that all begin with the same character is quick to search for
    return found[1].rstrip(" \t") if found else ""


@lru_cache(maxsize=64)  # as many as configs have names
def _cookie(name: str) -> re.Pattern[str]:
    return re.compile(rf";[ \t]*+{re.escape(name)}=([^;]*+)")


def _prefer_home(key: bytes, endpoints: Sequence[Endpoint], load_bound: float) -> list[float]:
    """1 for the first of *endpoints* in *key*'s own order that is within the load bound, 0 for the others."""
    ranks = rendezvous(key, endpoints)
    most = _most_in_flight(endpoints, load_bound)
    home = ranks.index(max(ranks))
    if endpoints[home].load > most:
        ranks = [rank if e.load <= most else -1 for rank, e in zip(ranks, endpoints, strict=True)]
        home = ranks.index(max(ranks))  # the least loaded one at least is within the bound
    scores = [0.0] * len(endpoints)
    scores[home] = 1.0
    return scores


def _most_in_flight(endpoints: Sequence[Endpoint], load_bound: float) -> int:
    """With how many requests an endpoint may have one more; each counted as if the new one were there."""
    total = sum([e.in_flight + e.external for e in endpoints])
    return math.ceil(load_bound * (total / len(endpoints) + 1)) - 1
