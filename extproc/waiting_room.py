"""Requests that wait, and whose turn it is: strict priority, fair between tenants, then first come or least work.

Fairness is start-time fair queuing (Goyal, Vin, Cheng 1996), counted in tokens of work: a tenant's next request
starts, in virtual time, where its last one finished.  Round robin with deficits would do the same for requests of
like size, but a prompt may be a thousand times another, and then it goes round a thousand times for one.  As in
WF2Q+ (Bennett, Zhang 1997) virtual time also moves with the work served, so that a stream of tenants never seen
before, who all start now, starves nobody.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")

KEPT = 64
"""Left-overs of a heap or a table that are not worth a sweep."""


class Ticket(Generic[T]):
    """One request that waits.  What it stands for is the caller's."""

    __slots__ = (
        "content",
        "deadline",
        "flow",
        "lane",
        "number",
        "order",
        "priority",
        "room",
        "since",
        "size_bytes",
        "tenant",
        "tokens",
    )

    def __init__(
        self,
        content: T,
        number: int,
        lane: Any,
        *,
        since: float = 0.0,
        deadline: float = 0.0,
        priority: int = 0,
        tenant: str = "",
        tokens: float = 0.0,
        order: float = 0.0,
        size_bytes: int = 0,
    ) -> None:
        self.content = content
        self.number = number
        """Rises with each that comes; no two have the same."""
        self.lane: Any = lane
        """Hashable: requests that the same endpoints could serve are in one lane."""
        self.since = since
        """When it began to wait, in seconds (monotonic), as `deadline`."""
        self.deadline = deadline
        self.priority = priority
        """The highest is served first."""
        self.tenant = tenant
        self.tokens = tokens
        """Work that it is expected to be: what its tenant pays."""
        self.order = order
        """The lowest of a tenant's is served first; among equals, who came first."""
        self.size_bytes = size_bytes
        self.room: WaitingRoom[T] | None = None
        """Where it waits; None before and after."""
        self.flow: _Flow[T] | None = None
        """Among whom it waits there."""


class WaitingRoom(Generic[T]):
    """Tickets, whose turn it is, and who is overdue.  Each operation takes at most logarithmic time."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self._levels: dict[int, _Level[T]] = {}
        self._deadlines = _Deadlines(self)

    def __len__(self) -> int:
        return self._deadlines.tickets

    def __iter__(self) -> Iterator[Ticket[T]]:
        """All tickets, in the order they came."""
        return iter(sorted(set(self._deadlines), key=lambda ticket: ticket.number))

    def add(self, ticket: Ticket[T]) -> None:
        """*ticket* waits."""
        ticket.room = self
        self.size_bytes += ticket.size_bytes
        self._deadlines.push(ticket.deadline, ticket)
        self._line_up(ticket)

    def move(self, ticket: Ticket[T], lane: Hashable) -> None:
        """*ticket*, which waits here, waits in *lane* from now on; it loses nothing but its tenant's turn."""
        self._step_out(ticket, served=False)
        ticket.lane = lane
        self._line_up(ticket)

    def _line_up(self, ticket: Ticket[T]) -> None:
        level = self._levels.get(ticket.priority)
        if level is None:
            level = self._levels[ticket.priority] = _Level()
        level.add(ticket)

    def remove(self, ticket: Ticket[T], *, served: bool = False) -> bool:
        """*ticket* waits no longer; False where it did not.  *served*: its tenant pays for it."""
        if ticket.room is not self:
            return False
        ticket.room = None
        self.size_bytes -= ticket.size_bytes
        self._deadlines.left()
        self._step_out(ticket, served)
        return True

    def _step_out(self, ticket: Ticket[T], served: bool) -> None:
        level = self._levels[ticket.priority]
        level.remove(ticket, served)
        if level.tickets == 0:
            del self._levels[ticket.priority]  # nobody waits: all are even again

    def first(self, is_open: Callable[[Any], bool]) -> Ticket[T] | None:
        """Whose turn it is, of those whose lane *is_open*; it stays until it is removed."""
        answers: dict[Hashable, bool] = {}
        for priority in sorted(self._levels, reverse=True):
            level = self._levels[priority]
            for lane in level.lanes:
                if lane not in answers:
                    answers[lane] = is_open(lane)
            ticket = level.first(answers)
            if ticket is not None:
                return ticket
        return None

    def is_ahead(self, lane: Hashable, priority: int) -> bool:
        """Whether somebody with this priority, or a higher one, waits in *lane*."""
        return any(p >= priority and lane in level.lanes for p, level in self._levels.items())

    def earliest(self) -> Ticket[T] | None:
        """The one with the earliest deadline."""
        return self._deadlines.first()

    def by_priority(self) -> dict[int, int]:
        """How many wait, of each priority."""
        return {priority: level.tickets for priority, level in self._levels.items()}


class _Heap(Generic[T]):
    """Tickets by a key, then by number.  Those that left are dropped as they come up, or once they are the most."""

    __slots__ = ("_entries", "tickets")

    def __init__(self) -> None:
        self.tickets = 0
        self._entries: list[tuple[float, int, Ticket[T]]] = []

    def __iter__(self) -> Iterator[Ticket[T]]:
        return (ticket for _, _, ticket in self._entries if self._holds(ticket))

    def _holds(self, ticket: Ticket[T]) -> bool:
        raise NotImplementedError

    def push(self, key: float, ticket: Ticket[T]) -> None:
        self.tickets += 1
        heapq.heappush(self._entries, (key, ticket.number, ticket))

    def left(self) -> None:
        """One of the tickets waits no longer."""
        self.tickets -= 1
        if len(self._entries) > 2 * self.tickets + KEPT:
            self._entries = [entry for entry in self._entries if self._holds(entry[2])]
            heapq.heapify(self._entries)

    def first(self) -> Ticket[T] | None:
        while self._entries:
            ticket = self._entries[0][2]
            if self._holds(ticket):
                return ticket
            heapq.heappop(self._entries)
        return None


class _Deadlines(_Heap[T]):
    """All tickets of a room."""

    __slots__ = ("_room",)

    def __init__(self, room: WaitingRoom[T]) -> None:
        super().__init__()
        self._room = room

    def _holds(self, ticket: Ticket[T]) -> bool:
        return ticket.room is self._room


class _Flow(_Heap[T]):
    """One tenant's tickets in one lane of one level."""

    __slots__ = ("lane", "start", "tenant")

    def __init__(self, lane: Hashable, tenant: str, start: float) -> None:
        super().__init__()
        self.lane = lane
        self.tenant = tenant
        self.start = start
        """Of its next request, in virtual time, unless its tenant's last one finishes later."""

    def _holds(self, ticket: Ticket[T]) -> bool:
        return ticket.flow is self


class _Level(Generic[T]):
    """The tickets of one priority."""

    def __init__(self) -> None:
        self.tickets = 0
        self.lanes: dict[Hashable, dict[str, _Flow[T]]] = {}
        self._turns: dict[Hashable, list[tuple[float, int, _Flow[T]]]] = {}
        """Of each lane a heap: virtual start, who came first, and the flow."""
        self._virtual_time = 0.0
        self._finish: dict[str, float] = {}
        """Virtual time at which a tenant's last request finishes; absent: in the past."""
        self._count = 0

    def add(self, ticket: Ticket[T]) -> None:
        flows = self.lanes.setdefault(ticket.lane, {})
        flow = flows.get(ticket.tenant)
        if flow is None:
            flow = flows[ticket.tenant] = _Flow(ticket.lane, ticket.tenant, self._virtual_time)
            self._count += 1
            heapq.heappush(self._turns.setdefault(ticket.lane, []), (flow.start, self._count, flow))
        ticket.flow = flow
        flow.push(ticket.order, ticket)
        self.tickets += 1

    def remove(self, ticket: Ticket[T], served: bool) -> None:
        flow, ticket.flow = ticket.flow, None
        assert flow is not None
        if served:
            self._charge(flow, ticket.tokens)
        self.tickets -= 1
        flow.left()
        if flow.tickets == 0:
            del self.lanes[flow.lane][flow.tenant]
            self._forget(flow.lane)

    def _charge(self, flow: _Flow[T], tokens: float) -> None:
        start = max(flow.start, self._finish.get(flow.tenant, 0.0))
        active = sum(map(len, self.lanes.values()))
        self._finish[flow.tenant] = start + tokens
        self._virtual_time = max(self._virtual_time + tokens / active, start)
        if len(self._finish) > 2 * active + KEPT:
            now = self._virtual_time
            self._finish = {tenant: at for tenant, at in self._finish.items() if at > now}

    def _forget(self, lane: Hashable) -> None:
        """A flow of *lane* ended; its turn is dropped as it comes up, or once such turns are the most."""
        flows, turns = self.lanes[lane], self._turns[lane]
        if not flows:
            del self.lanes[lane], self._turns[lane]
        elif len(turns) > 2 * len(flows) + KEPT:
            self._turns[lane] = [turn for turn in turns if turn[2].tickets]
            heapq.heapify(self._turns[lane])

    def first(self, is_open: dict[Hashable, bool]) -> Ticket[T] | None:
        """Whose turn it is in the lanes that are open."""
        turns = [turn for lane in self.lanes if is_open[lane] and (turn := self._turn(lane))]
        return min(turns, key=lambda turn: turn[:2])[2].first() if turns else None

    def _turn(self, lane: Hashable) -> tuple[float, int, _Flow[T]] | None:
        turns = self._turns[lane]
        while turns:
            start, count, flow = turns[0]
            due = max(start, self._finish.get(flow.tenant, 0.0))
            if flow.tickets == 0:
                heapq.heappop(turns)
            elif due > start:  # served since, here or in another lane
                flow.start = due
                heapq.heapreplace(turns, (due, count, flow))
            else:
                return turns[0]
        return None
