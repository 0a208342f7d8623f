"""Late binding: while every endpoint that could serve a request has a waiting queue, the request waits with us.

It goes to the first endpoint that has room; where it goes is looked at again then.  So the choice rests on what is
true when it counts, and priority and fairness hold for all who wait, which they can't in the endpoints' queues.
Pure: no I/O, no clock; the caller says what time it is, and calls `pump` whenever something may have changed.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from .config.schema import QueueConfig, TenantHeader
from .endpoint import Endpoint
from .errors import Reason, Rejected
from .pool import Pool
from .request import Headers, InferenceRequest
from .router import RETRY_AFTER_S, Decision, Draw, Router
from .tiers import NOBODY, Tiers
from .waiting_room import Ticket, WaitingRoom

H = TypeVar("H")

OUTPUT_WEIGHT = 2.0
"""A token of an answer counts as two of a prompt, as in "Fairness in Serving Large Language Models" (OSDI 2024)."""
TYPICAL_OUTPUT_TOKENS = 211.0
"""Where no endpoint's counters tell yet: the mean of Azure's published conversation trace (2023)."""
BYTES_PER_TOKEN = 4
"""About that of English text and JSON, where the prompt was not read."""


class Lane(Struct, frozen=True):
    """Requests in one lane can be served by the same endpoints."""

    pool: Pool
    labels: tuple[tuple[str, str], ...]
    subset: frozenset[str] | None
    tiers: Tiers | None
    barred: frozenset[str]
    """Tiers that must not serve them; by name, as pods come and go while a request waits."""
    waiting: int
    """From which queue length on an endpoint gets no more."""

    def endpoints(self, now: float) -> tuple[list[Endpoint], bool]:
        """(endpoints, healthy), as `Pool.candidates` has them."""
        excluded = self.tiers.excluded(self.barred) if self.tiers else NOBODY
        return self.pool.candidates(dict(self.labels), self.subset, now, excluded)


class Held(Struct, Generic[H]):
    """A request that waits."""

    holder: H
    """Who waits for it."""
    request: InferenceRequest
    router: Router
    draw: Draw
    overdue: bool = False
    """It was sent on without room, as its time was up."""


class Waiting(Struct, frozen=True):
    """Who waits for a pool."""

    critical: int
    """Requests with a priority above 0."""
    standard: int
    size_bytes: int
    longest_s: float
    """How long the first has waited."""


Outcome = Decision | Rejected
Called = tuple[Ticket[Held[H]], Outcome]


class Lobby(Generic[H]):
    """All requests that wait, of all pools."""

    def __init__(self) -> None:
        self._rooms: dict[str, WaitingRoom[Held[H]]] = {}
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return sum(map(len, self._rooms.values()))

    def room(self, pool: str) -> WaitingRoom[Held[H]]:
        """Who waits for *pool*, which may be nobody."""
        return self._rooms.get(pool) or WaitingRoom()

    def waiting(self, pool: str, now: float) -> Waiting:
        """Who waits for *pool*."""
        room = self.room(pool)
        critical = sum(count for priority, count in room.by_priority().items() if priority > 0)
        longest_s = max((now - ticket.since for ticket in room), default=0.0)
        return Waiting(critical, len(room) - critical, room.size_bytes, longest_s)

    def next_deadline(self) -> float | None:
        """When `pump` has something to do, whatever happens until then."""
        earliest = [ticket for room in self._rooms.values() if (ticket := room.earliest())]
        return min((ticket.deadline for ticket in earliest), default=None)

    def offer(
        self, router: Router, request: InferenceRequest, holder: H, now: float, rng: random.Random
    ) -> Decision | Ticket[Held[H]]:
        """Where *request* goes, or a ticket where it waits; raises Rejected."""
        draw = router.draw(request, now, rng)
        queue = router.queue(draw.pool.name)
        if queue is None or not draw.healthy:
            return router.place(request, draw, now, rng)
        lane = _lane(draw, request, queue)
        room = self._rooms.setdefault(draw.pool.name, WaitingRoom())
        free = free_of(draw.pool, draw.endpoints, queue.waiting, now)
        if free and not room.is_ahead(lane, draw.priority):
            return _push(router, request, draw, free, now, rng)
        if draw.priority < 0:
            raise _saturated(draw.pool, "the request is sheddable")
        if len(room) >= queue.max_requests or room.size_bytes + request.body_bytes > queue.max_bytes:
            if draw.priority > 0:
                return router.place(request, draw, now, rng)
            raise _saturated(draw.pool, "its queue is full")
        ticket = self._ticket(Held(holder, request, router, draw), lane, queue, now)
        room.add(ticket)
        return ticket

    def _ticket(self, held: Held[H], lane: Lane, queue: QueueConfig, now: float) -> Ticket[Held[H]]:
        tokens = expected_tokens(held.request, held.draw)
        return Ticket(
            held,
            next(self._numbers),
            lane,
            since=now,
            deadline=now + queue.timeout_s,
            priority=held.draw.priority,
            tenant=tenant_of(held.request.headers, queue),
            tokens=tokens,
            order=tokens if queue.order == "shortest" else 0.0,
            size_bytes=held.request.body_bytes,
        )

    def cancel(self, ticket: Ticket[Held[H]]) -> bool:
        """Nobody waits for *ticket* any more; False where it was called up before."""
        return ticket.room is not None and ticket.room.remove(ticket)

    def pump(self, now: float, rng: random.Random) -> Iterator[Called[H]]:
        """Those whose turn has come, and those whose time is up; each waits no longer once it is yielded.

        A decision must be counted (`Flight`) before the next is asked for, or two see the same room.
        """
        for room in list(self._rooms.values()):
            while (ticket := room.first(lambda lane: _is_open(lane, now))) is not None:
                outcome = _called_up(room, ticket, now, rng)
                if outcome is not None:
                    yield ticket, outcome
            while (ticket := room.earliest()) is not None and ticket.deadline <= now:
                room.remove(ticket, served=ticket.priority > 0)
                yield ticket, _overdue(ticket, now, rng)

    def reload(self, router: Router, now: float, rng: random.Random) -> Iterator[Called[H]]:
        """*router* is in force now: who waits is judged by it, and keeps place and deadline.

        To be consumed like `pump`, and before it.
        """
        waiting = [ticket for room in self._rooms.values() for ticket in room]
        for ticket in sorted(waiting, key=lambda ticket: ticket.number):
            if self.cancel(ticket):
                outcome = self._offer_again(ticket, router, now, rng)
                if outcome is not None:
                    yield ticket, outcome
        self._rooms = {pool: room for pool, room in self._rooms.items() if len(room)}

    def _offer_again(
        self, ticket: Ticket[Held[H]], router: Router, now: float, rng: random.Random
    ) -> Outcome | None:
        held = ticket.content
        held.router = router
        try:
            draw = router.draw(held.request, now, rng)
            queue = router.queue(draw.pool.name)
            if queue is None or not draw.healthy or draw.priority < 0:
                return router.place(held.request, draw, now, rng)
        except Rejected as rejection:
            return rejection
        held.draw = draw
        ticket.lane, ticket.priority = _lane(draw, held.request, queue), draw.priority
        ticket.tenant = tenant_of(held.request.headers, queue)
        ticket.order = ticket.tokens if queue.order == "shortest" else 0.0
        self._rooms.setdefault(draw.pool.name, WaitingRoom()).add(ticket)
        return None

    def clear(self) -> None:
        """Nobody waits any more, and nobody is called up."""
        self._rooms = {}


def _lane(draw: Draw, request: InferenceRequest, queue: QueueConfig) -> Lane:
    return Lane(draw.pool, _labels(draw), request.subset, draw.tiers, draw.barred, queue.waiting)


def _labels(draw: Draw) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(draw.target.labels.items()))


def _is_open(lane: Lane, now: float) -> bool:
    """Whether somebody in *lane* can be called up: an endpoint has room, or none of them is left."""
    endpoints, healthy = lane.endpoints(now)
    return not healthy or bool(free_of(lane.pool, endpoints, lane.waiting, now))


def _called_up(
    room: WaitingRoom[Held[H]], ticket: Ticket[Held[H]], now: float, rng: random.Random
) -> Outcome | None:
    """What comes of *ticket*, whose lane is open; None where it waits in another lane now."""
    try:
        decision = _place(room, ticket, now, rng)
    except Rejected as rejection:
        room.remove(ticket)
        return rejection
    if decision is not None:
        room.remove(ticket, served=True)
    return decision


def _place(
    room: WaitingRoom[Held[H]], ticket: Ticket[Held[H]], now: float, rng: random.Random
) -> Decision | None:
    held = ticket.content
    lane: Lane = ticket.lane
    endpoints, healthy = lane.endpoints(now)
    if not healthy:  # another of its model's targets may have endpoints left
        held.draw = held.router.draw(held.request, now, rng)
        if not held.draw.healthy:
            return held.router.place(held.request, held.draw, now, rng)
        lane, endpoints = replace(lane, labels=_labels(held.draw)), held.draw.endpoints
    free = free_of(lane.pool, endpoints, lane.waiting, now)
    if free:
        held.draw = replace(held.draw, endpoints=endpoints, healthy=True)
        return _push(held.router, held.request, held.draw, free, now, rng)
    room.move(ticket, lane)
    return None


def _push(
    router: Router,
    request: InferenceRequest,
    draw: Draw,
    free: Sequence[Endpoint],
    now: float,
    rng: random.Random,
) -> Decision:
    """*request* goes to one of *free*, or, where its profile's filters allow none of them, to whom they allow."""
    try:
        return router.place(request, draw, now, rng, free)
    except Rejected as rejection:
        if rejection.reason is not Reason.NO_ENDPOINTS:
            raise
    return router.place(request, draw, now, rng)


def _overdue(ticket: Ticket[Held[H]], now: float, rng: random.Random) -> Outcome:
    """What comes of *ticket*, whose time is up: critical work goes on all the same."""
    held = ticket.content
    try:
        if ticket.priority > 0:
            held.overdue = True
            return held.router.decide(held.request, now, rng)
    except Rejected as rejection:
        return rejection
    return Rejected(
        Reason.QUEUE_TIMEOUT,
        f"No endpoint of pool `{held.draw.pool.name}` had room in time; try again later.",
        retry_after_s=RETRY_AFTER_S,
    )


def _saturated(pool: Pool, why: str) -> Rejected:
    message = f"Pool `{pool.name}` is saturated and {why}; try again later."
    return Rejected(Reason.SATURATED, message, retry_after_s=RETRY_AFTER_S)


def free_of(pool: Pool, endpoints: Sequence[Endpoint], waiting: int, now: float) -> Sequence[Endpoint]:
    """Those of *endpoints*, of *pool*, that can take one more request: below their maximum, and with room."""
    return pool.below_max(with_room(endpoints, waiting, now))


def with_room(endpoints: Sequence[Endpoint], waiting: int, now: float) -> list[Endpoint]:
    """Those of *endpoints* whose queue is shorter than *waiting*.

    One whose figures are unknown or stale has room while we have fewer requests there than any known one has: it
    neither closes the pool nor takes what all others are too full for.
    """
    known = [e for e in endpoints if e.queue_fresh_until > now]
    if len(known) == len(endpoints):
        return [e for e in endpoints if e.has_room(waiting)]
    least = min((e.load for e in known), default=math.inf)
    return [
        e for e in endpoints if (e.has_room(waiting) if e.queue_fresh_until > now else e.in_flight < least)
    ]


def expected_tokens(request: InferenceRequest, draw: Draw) -> float:
    """The work that *request* is expected to be, in prompt tokens."""
    prompt, pool = request.prompt, draw.pool
    request.target_model = draw.target.model
    pool.match(request)
    new = (prompt.tokens or request.body_bytes / BYTES_PER_TOKEN) - max(request.cached.values(), default=0)
    output = pool.mean_output or TYPICAL_OUTPUT_TOKENS
    if prompt.max_output_tokens is not None:
        output = min(output, prompt.max_output_tokens)
    return max(new, 0.0) + OUTPUT_WEIGHT * output


def tenant_of(headers: Headers, queue: QueueConfig) -> str:
    """Who sent a request; "" where nothing tells.  A digest: no credential is kept."""
    if isinstance(queue.tenant, TenantHeader):
        key = headers.get(queue.tenant.header.lower(), "")
    elif queue.tenant == "api-key":
        key = headers.get("authorization") or headers.get("x-api-key", "")
    else:
        return ""
    return hashlib.blake2b(key.encode(errors="surrogatepass"), digest_size=16).hexdigest() if key else ""
