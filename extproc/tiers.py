"""Tiers: a pool's endpoints in order of preference.  The first takes all until it is full; only the excess goes on.

What is remembered (an endpoint that was full counts as full until it has clearly emptied) is kept in `Endpoint`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated

from msgspec import Meta, Struct

from .endpoint import NEVER, Endpoint
from .pool import Pool
from .request import Headers

WAIT_BACK_RATIO = 0.1
"""Of `wait_s`: an endpoint that was full takes work again once it has next to none.  In the peak, where endpoints fill
again and again, the first tier is so kept as quick as the whole fleet would be; off-peak it is hardly ever full."""
BACK_RATIO = 0.9
"""An endpoint that was full has room again below this share of each limit: between the two it stays what it was."""
HARDLY_S = 0.03
"""About an iteration: nobody is ahead, but one may be under way."""
NOBODY: frozenset[Endpoint] = frozenset()


class Spill(Struct, frozen=True, forbid_unknown_fields=True):
    """An endpoint is full at or over one of these: whoever came next would wait, or slow down the others."""

    wait_s: Annotated[float, Meta(gt=0, le=3600)] = 0.1
    """Seconds until it has computed the prompts that it has: what the next one waits; once its speed is known."""
    ttft_s: Annotated[float, Meta(gt=0, le=3600)] = 0.3
    """Where a request's first token would come later, as its prompt is long, no other prompt may be ahead of it while
    another tier has room: long prompts make the tail."""
    tpot_s: Annotated[float, Meta(gt=0, le=3600)] = 0.06
    """Seconds between two tokens, where prompts take at least half of them: below the 0.1 s at which readers mind.
    (A model that is slow by itself would be full always.)"""
    waiting: Annotated[float, Meta(gt=0)] = 3
    """Requests in its queue; fewer may have come in the middle of an iteration, and wait for its end only."""
    kv_usage: Annotated[float, Meta(gt=0, le=1)] = 0.8
    """Share of its KV cache: the answers that are being written need the rest."""
    in_flight: Annotated[int, Meta(ge=1)] | None = None
    """Requests there, ours and others'; for those who know from which batch on decoding gets too slow."""
    hold_s: Annotated[float, Meta(ge=0, le=3600)] = 0.0
    """For so long after it was last full it counts as full: 0 keeps most work in the first tier."""


class Never(Struct, frozen=True, forbid_unknown_fields=True):
    """Whose requests a tier never serves, by a header that the gateway sets."""

    header: str
    values: list[str] = []
    absent: bool = False
    """Nor requests without the header."""

    def applies(self, headers: Headers) -> bool:
        """A header that was sent twice comes as one, joined by commas: each of its values counts."""
        value = headers.get(self.header.lower())
        if not value:
            return self.absent
        return any(part.strip() in self.values for part in (value, *value.split(",")))


class Tier(Struct, frozen=True, forbid_unknown_fields=True):
    """Endpoints that are as welcome."""

    name: str
    labels: dict[str, str]
    """They carry all of these."""
    never: Never | None = None


class Demand(Struct, frozen=True):
    """Where the requests of some model can go."""

    labels: tuple[tuple[str, str], ...] = ()
    """Of a target."""
    never: frozenset[str] = frozenset()
    """Names of tiers."""


class Tiers:
    """The tiers of one pool.  An endpoint is of the first whose labels it carries, else of the last.

    The last, since nothing is sent there that must not leave the others.
    """

    def __init__(
        self, pool: Pool, tiers: Sequence[Tier], spill: Spill, demands: Iterable[Demand] = ()
    ) -> None:
        self.tiers = tuple(tiers)
        self.spill = spill
        self._pool = pool
        self._demands = tuple(dict.fromkeys(demands))
        self._rules = tuple(tier for tier in self.tiers if tier.never is not None)
        self._members: tuple[Endpoint, ...] = ()
        self._places: dict[Endpoint, int] = {}
        self._excluded: dict[frozenset[str], frozenset[Endpoint]] = {}
        self._look_up()

    def _look_up(self) -> Mapping[Endpoint, int]:
        """Each member's tier, as an index.  Labels are read when membership changes: a stream keeps its config."""
        if self._members is not self._pool.endpoints:
            self._members = self._pool.endpoints
            self._places = {e: place_of(e.labels, self.tiers) for e in self._members}
            self._excluded = {}
        return self._places

    def name(self, endpoint: Endpoint) -> str:
        """The name of *endpoint*'s tier."""
        return self.tiers[self._look_up().get(endpoint, -1)].name

    def barred(self, never: frozenset[str], headers: Headers) -> frozenset[str]:
        """Names of the tiers that must not serve a request: its model's *never*, and by its headers."""
        more = [tier.name for tier in self._rules if tier.never is not None and tier.never.applies(headers)]
        return never.union(more) if more else never

    def excluded(self, barred: frozenset[str]) -> frozenset[Endpoint]:
        """The members of the tiers *barred*."""
        if not barred:
            return NOBODY
        places = self._look_up()
        found = self._excluded.get(barred)
        if found is None:
            found = frozenset(e for e, place in places.items() if self.tiers[place].name in barred)
            self._excluded[barred] = found
        return found

    def preferences(
        self, endpoints: Sequence[Endpoint], prompt_tokens: int, now: float
    ) -> Iterator[Sequence[Endpoint]]:
        """Among whom to choose: of each tier those with room where the first token comes soon, the first tier first;
        then those with room; at last all *endpoints*."""
        rooms = []
        for members in self._split(endpoints):
            room = with_room(members, now, self._judge)
            soon = [e for e in room if self._is_soon(e, prompt_tokens, now)]
            if soon:
                yield soon
            rooms.append(room)
        yield from filter(None, rooms)
        yield endpoints

    def _is_soon(self, endpoint: Endpoint, prompt_tokens: int, now: float) -> bool:
        """Whether the first token of a prompt would come within `spill.ttft_s`, or hardly later than it must."""
        rate = endpoint.backlog.rate
        if rate <= 0:
            return True
        ahead_s = endpoint.backlog.left(now) / rate
        return ahead_s <= HARDLY_S or ahead_s + prompt_tokens / rate <= self.spill.ttft_s

    def _split(self, endpoints: Iterable[Endpoint]) -> list[list[Endpoint]]:
        places = self._look_up()
        split: list[list[Endpoint]] = [[] for _ in self.tiers]
        for endpoint in endpoints:
            split[places.get(endpoint, -1)].append(endpoint)
        return split

    def _judge(self, endpoint: Endpoint, now: float) -> bool:
        """Whether *endpoint* is full; remembers it."""
        if is_over(endpoint, self.spill, now):
            endpoint.filled(now + self.spill.hold_s)
            return True
        if endpoint.full_until == NEVER:
            return False
        full = self.is_full(endpoint, now)
        if not full:
            endpoint.filled(NEVER)
        return full

    def is_full(self, endpoint: Endpoint, now: float) -> bool:
        """Whether *endpoint* counts as full now; nothing is remembered, so that looking changes nothing."""
        if endpoint.full_until > now:
            return True
        ratio = 1.0 if endpoint.full_until == NEVER else BACK_RATIO
        return is_over(endpoint, self.spill, now, ratio)

    def open(self, now: float) -> list[bool]:
        """Of each tier, whether a request that may go anywhere can go there: no tier before it has room."""
        first = self._first_with_room(Demand(), now)
        return [place <= first for place in range(len(self.tiers))]

    def drainable(self, now: float) -> dict[Endpoint, bool]:
        """Of each member, whether it could be taken away without a loss.

        It has nothing to do as far as we and a fresh scrape know, and all that it could serve finds room in a tier
        before its own.
        """
        places = self._look_up()
        demands = [(dict(d.labels), d.never, self._first_with_room(d, now)) for d in self._demands]

        def needed(endpoint: Endpoint) -> bool:
            place = places[endpoint]
            carried, name = endpoint.labels.items(), self.tiers[place].name
            return place == 0 or any(
                place <= first and name not in never and labels.items() <= carried
                for labels, never, first in demands
            )

        return {endpoint: _is_idle(endpoint, now) and not needed(endpoint) for endpoint in places}

    def _first_with_room(self, demand: Demand, now: float) -> int:
        """The index of the first tier where requests of *demand* find room; past the last where none has."""
        endpoints, healthy = self._pool.candidates(
            dict(demand.labels), None, now, self.excluded(demand.never)
        )
        split = self._split(endpoints if healthy else ())
        return next((i for i, e in enumerate(split) if with_room(e, now, self.is_full)), len(split))


def place_of(labels: Mapping[str, str], tiers: Sequence[Tier]) -> int:
    """The index of the tier that an endpoint with *labels* is of."""
    fits = (index for index, tier in enumerate(tiers) if tier.labels.items() <= labels.items())
    return next(fits, len(tiers) - 1)


def is_over(endpoint: Endpoint, spill: Spill, now: float, ratio: float = 1.0) -> bool:
    """Whether *endpoint* is at or over *ratio* of one of the limits.

    Our own counts always tell, what was scraped while it is fresh.
    """
    backlog = endpoint.backlog
    wait_ratio = 1.0 if ratio == 1.0 else WAIT_BACK_RATIO
    if backlog.rate > 0 and backlog.left(now) >= spill.wait_s * wait_ratio * backlog.rate:
        return True
    pace = endpoint.step_time
    if endpoint.fresh_until > now and pace.iteration_s >= max(spill.tpot_s * ratio, 2 * pace.step_s):
        return True
    if spill.in_flight is not None and endpoint.load >= spill.in_flight * ratio:
        return True
    return endpoint.is_saturated(now, spill.waiting * ratio, spill.kv_usage * ratio)


def with_room(
    endpoints: Sequence[Endpoint], now: float, is_full: Callable[[Endpoint, float], bool]
) -> Sequence[Endpoint]:
    """Those of a tier that are not full.

    One whose figures are old has no room where all whose figures are fresh are full: the excess of a whole tier
    must not end at the one of which nothing is known.
    """
    room = [endpoint for endpoint in endpoints if not is_full(endpoint, now)]
    if any(endpoint.fresh_until > now for endpoint in room):
        return room
    return [] if any(endpoint.fresh_until > now for endpoint in endpoints) else room


def _is_idle(endpoint: Endpoint, now: float) -> bool:
    return (
        endpoint.in_flight == 0
        and endpoint.fresh_until > now
        and endpoint.waiting == 0
        and endpoint.running == 0
    )
