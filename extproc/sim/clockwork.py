"""Runs an engine on the event loop's clock and tells each request of its tokens."""

from __future__ import annotations

import asyncio

from extproc.sim.engine import Engine
from extproc.sim.sequence import Event, Finished, Request
from extproc.sim.stats import Gauges


class Ticket:
    """The client's end of one request."""

    def __init__(self, stream_interval: int = 1) -> None:
        self.tokens = 0
        """Tokens so far, of a request with `stream`."""
        self.finished = False
        self.cached_tokens = 0
        """Of the prompt, those that were cached; known at the end."""
        self._news = asyncio.Event()
        self._interval = stream_interval
        self._next_news = 1

    async def news(self) -> None:
        """Wait for the first token, for `stream_interval` more, or for the end; what came meanwhile counts as news."""
        await self._news.wait()
        self._news.clear()
        self._next_news = self.tokens + self._interval

    def tell(self, event: Event) -> None:
        if isinstance(event, Finished):
            self.finished, self.cached_tokens = True, event.cached_tokens
        else:
            self.tokens += 1
        if self.finished or self.tokens >= self._next_news:
            self._news.set()


class Clockwork:
    """Owns the engine's time: a timer for its next event, none while it is idle."""

    def __init__(self, engine: Engine, stream_interval: int = 1) -> None:
        self._engine = engine
        self._stream_interval = stream_interval
        self._loop = asyncio.get_running_loop()
        self._tickets: dict[str, Ticket] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def gauges(self) -> Gauges:
        """As of the end of the engine's last iteration."""
        return self._engine.gauges

    def submit(self, request: Request) -> Ticket:
        """ValueError: the engine cannot take it."""
        self._engine.submit(request, self._loop.time())
        ticket = self._tickets[request.id] = Ticket(self._stream_interval)
        self._set_timer()
        return ticket

    def release(self, request_id: str) -> None:
        """The client is done with a request; what is left of it is aborted."""
        if not self._tickets.pop(request_id).finished:
            self._engine.abort(request_id, self._loop.time())

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self) -> None:
        self.stop()
        due = self._engine.next_event(self._loop.time())
        if due is not None:
            self._timer = self._loop.call_at(due, self._tick)

    def _tick(self) -> None:
        for event in self._engine.advance(self._loop.time()):
            ticket = self._tickets.get(event.id)
            if ticket is not None:
                ticket.tell(event)
        self._set_timer()
