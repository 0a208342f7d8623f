"""Requests that are held, as the event loop sees them: who is told when, and the one timer of all deadlines."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Iterator

from .errors import Rejected
from .exchange import Exchange
from .holding import Called, Lobby
from .router import Router
from .telemetry import Telemetry


class Dispatcher:
    """Owns the lobby.  Whoever changes what endpoints have room `poke`s it."""

    def __init__(self, telemetry: Telemetry, clock: Callable[[], float], rng: random.Random) -> None:
        self.lobby: Lobby[Exchange] = Lobby()
        self._telemetry = telemetry
        self._clock = clock
        self._rng = rng
        self._called: dict[Exchange, asyncio.Future[None]] = {}
        self._soon: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = math.inf
        """When the timer goes off."""
        self._closed = False
        telemetry.metrics.show_queues(self.lobby)

    def hold(self, exchange: Exchange) -> asyncio.Future[None]:
        """Done when *exchange*, which has a ticket, is called; then, or before, `leave`."""
        loop = asyncio.get_running_loop()
        called = self._called[exchange] = loop.create_future()
        self._set_timer()
        return called

    def leave(self, exchange: Exchange) -> None:
        """Nobody waits for *exchange* any more; fine where it was called."""
        self._called.pop(exchange, None)
        assert exchange.ticket is not None
        if self.lobby.cancel(exchange.ticket):
            self._tell(exchange, "shutting_down" if self._closed else "gone")
        exchange.ticket = None  # they refer to each other, and one to the body

    def poke(self) -> None:
        """An endpoint may have room: look, once for all that happens in this turn of the event loop."""
        if self._soon is None and len(self.lobby):
            self._soon = asyncio.get_running_loop().call_soon(self._pump)

    def reload(self, router: Router) -> None:
        """*router* is in force now."""
        if len(self.lobby):
            self._call(self.lobby.reload(router, self._clock(), self._rng))
            self.poke()

    def close(self) -> None:
        """Nobody is called any more: those who wait are about to be refused."""
        self._closed = True
        self.lobby.clear()

    def _pump(self) -> None:
        self._soon = None
        self._due = math.inf
        self._call(self.lobby.pump(self._clock(), self._rng))
        self._set_timer()

    def _call(self, called: Iterator[Called[Exchange]]) -> None:
        try:
            for ticket, outcome in called:
                exchange = ticket.content.holder
                exchange.call(outcome)  # counts it, before the next is looked at
                if isinstance(outcome, Rejected):
                    self._tell(exchange, outcome.reason.code)
                else:
                    self._tell(exchange, "overdue" if ticket.content.overdue else "dispatched")
                self._called.pop(exchange).set_result(None)
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """A fault of ours: it is reported by each who waits, and nobody waits for ever."""
        waiting, self._called = self._called, {}
        for called in waiting.values():
            if not called.done():
                called.set_exception(error)

    def _tell(self, exchange: Exchange, result: str) -> None:
        ticket = exchange.ticket
        assert ticket is not None
        exchange.queued_s = self._clock() - ticket.since
        self._telemetry.waited(ticket.content.draw.pool.name, result, exchange.queued_s)

    def _set_timer(self) -> None:
        """For the earliest deadline; where it was of one who left, it goes off for nothing."""
        deadline = self.lobby.next_deadline()
        if deadline is None or deadline >= self._due:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._due = deadline
        self._timer = asyncio.get_running_loop().call_later(max(0.0, deadline - self._clock()), self._pump)
