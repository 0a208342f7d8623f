"""A lobby in which names wait, with the fleet that they wait for."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from fleets import NOW, fleet, metrics, request

from extproc.config import parse_config
from extproc.endpoint import Endpoint
from extproc.errors import Rejected
from extproc.holding import Held, Lobby, Outcome
from extproc.router import Decision, Router
from extproc.waiting_room import Ticket

MODELS = """
models:
- {name: critical, pool: p, criticality: Critical}
- {name: m, pool: p}
- {name: n, pool: p}
- {name: sheddable, pool: p, criticality: Sheddable}
"""
ONE, TWO = ["10.0.0.1:80"], ["10.0.0.1:80", "10.0.0.2:80"]


def text(endpoints: Any = ONE, models: str = MODELS, **queue: Any) -> str:
    return f"pools: [{{name: p, endpoints: {endpoints!r}, queue: {queue!r}}}]\n{models}"


class Hall:
    """A lobby with its router, in which names wait; who is sent somewhere is counted there, as the server does."""

    def __init__(self, config: str | None = None, **queue: Any) -> None:
        self.fleet = fleet(config or text(**queue))
        self.lobby: Lobby[str] = Lobby()
        self.rng = random.Random(1)
        self.now = NOW

    @property
    def router(self) -> Router:
        assert self.fleet.router is not None
        return self.fleet.router

    def offer(
        self, name: str, model: str = "m", now: float | None = None, **fields: Any
    ) -> Ticket[Held[str]] | str:
        """The address where it goes at once, or a ticket."""
        offered = self.lobby.offer(
            self.router, request(model, **fields), name, self.now if now is None else now, self.rng
        )
        return offered if isinstance(offered, Ticket) else self._count(offered)

    def _count(self, decision: Decision) -> str:
        decision.endpoint.acquire()
        return decision.endpoint.address

    def hold(self, name: str, *arguments: Any, **fields: Any) -> Ticket[Held[str]]:
        ticket = self.offer(name, *arguments, **fields)
        assert isinstance(ticket, Ticket), f"{name} went to {ticket} at once"
        return ticket

    def refused(self, name: str, *arguments: Any, **fields: Any) -> Rejected:
        with pytest.raises(Rejected) as caught:
            self.offer(name, *arguments, **fields)
        return caught.value

    def pump(self) -> list[tuple[str, str]]:
        """(name, address or reason) of those who wait no longer."""
        return self.told(self.lobby.pump(self.now, self.rng))

    def reload(self, config: str) -> list[tuple[str, str]]:
        router = self.fleet.apply(parse_config(config.encode()))
        return self.told(self.lobby.reload(router, self.now, self.rng))

    def told(self, called: Iterator[tuple[Ticket[Held[str]], Outcome]]) -> list[tuple[str, str]]:
        return [
            (t.content.holder, self._count(o) if isinstance(o, Decision) else o.reason.code)
            for t, o in called
        ]

    def endpoint(self, number: int = 1) -> Endpoint:
        return self.router.pools["p"].by_address[f"10.0.0.{number}:80"]

    def scrape(self, *waiting: int, running: int = 8) -> None:
        """So many wait at 10.0.0.1, 10.0.0.2, … now."""
        for number, count in enumerate(waiting, 1):
            self.endpoint(number).observe(metrics(waiting=count, running=running), self.now)


def busy(**queue: Any) -> Hall:
    """One endpoint, where a request waits."""
    hall = Hall(**queue)
    hall.scrape(1)
    return hall
