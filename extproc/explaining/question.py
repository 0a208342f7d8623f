"""A request to a router at a time, and how the real core answers it."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Mapping

from msgspec import Struct

from ..endpoint import Endpoint
from ..errors import Rejected
from ..holding import Held, Lobby
from ..request import CHECKPOINTS, InferenceRequest
from ..router import Decision, Draw, Router
from ..routes import target_name
from ..scheduling.profile import Table
from ..waiting_room import Ticket

Outcome = Decision | Ticket[Held[None]] | Rejected


class Question(Struct, frozen=True):
    """A request to a router at a time."""

    router: Router
    request: InferenceRequest
    now: float
    seed: int = 0
    """Of what is drawn: a target by weight, one of those who tie."""

    def draw(self) -> Draw:
        """Raises Rejected."""
        return self.router.draw(self.request, self.now, random.Random(self.seed))

    def answer(self) -> Outcome:
        """What would come of it if nobody waited before it.  Nothing is remembered of having asked."""
        pools = self.router.pools.values()
        full = [(endpoint, endpoint.full_until) for pool in pools for endpoint in pool.endpoints]
        try:
            lobby: Lobby[None] = Lobby()
            return lobby.offer(self.router, self.request, None, self.now, random.Random(self.seed))
        except Rejected as rejection:
            return rejection
        finally:
            for endpoint, until in full:
                endpoint.filled(until)

    def best(self) -> list[Endpoint]:
        """Those it could be sent to: several where they tie, nobody where it is held or refused."""
        answer = self.answer()
        return table_of(answer).best() if isinstance(answer, Decision) else []


def table_of(decision: Decision) -> Table:
    """What the decision rests on."""
    table = decision.choice.table
    assert table is not None  # nobody took it
    return table


def synthetic_prefix(tokens: int) -> tuple[int, ...]:
    """Hashes of a prompt of *tokens* of which nobody has anything cached, for `cache`."""
    return tuple(range(1, bisect_right(CHECKPOINTS, tokens) + 1))


def cache(question: Question, tokens: Mapping[Endpoint, int]) -> None:
    """Make the pool's index believe that each of *tokens* has so many tokens of the prompt, as exactly as it can."""
    draw, request = question.draw(), question.request
    request.target_model = target_name(request.model, draw.target)
    for endpoint, count in tokens.items():
        work = draw.pool.work(request, endpoint)
        prefix = work.prefix[: bisect_right(CHECKPOINTS, count)]
        if prefix:
            draw.pool.index.insert(prefix, endpoint, question.now, work.salt)
