"""Whatever happens, everybody who waits gets one answer in time, and nobody waits while there is room."""

from __future__ import annotations

from halls import TWO, Hall, text
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from extproc.errors import Reason, Rejected
from extproc.health import FAILURES, Failure
from extproc.holding import Held, with_room
from extproc.waiting_room import Ticket

CONFIG = text(TWO, max_requests=4, timeout_s=0.15, tenant={"header": "x-tenant"})
NUMBERS = st.sampled_from([1, 2])


class Holding(RuleBasedStateMachine):
    """Two endpoints, and requests of which four may wait."""

    def __init__(self) -> None:
        super().__init__()
        self.hall = Hall(CONFIG)
        self.waiting: dict[str, Ticket[Held[str]]] = {}
        self.answered: list[str] = []
        self.sent = dict.fromkeys(TWO, 0)
        self.offered = 0

    def hear(self, told: list[tuple[str, str]]) -> None:
        for name, what in told:
            del self.waiting[name]
            self.answer(name, what)

    def answer(self, name: str, what: str) -> None:
        self.answered.append(name)
        if what in self.sent:
            self.sent[what] += 1
        else:
            assert what in ("queue_timeout", "no_endpoints")

    @rule(model=st.sampled_from(["m", "critical", "sheddable"]), tenant=st.sampled_from("abc"))
    def offer(self, model: str, tenant: str) -> None:
        self.offered += 1
        name = str(self.offered)
        try:
            offered = self.hall.offer(name, model, headers={"x-tenant": tenant})
        except Rejected as rejection:
            refused = rejection
        else:
            assert model != "sheddable" or isinstance(offered, str)
            if isinstance(offered, Ticket):
                self.waiting[name] = offered
            else:
                self.answer(name, offered)
            return
        assert refused.reason is Reason.SATURATED
        assert model != "critical"

    @rule(one=st.integers(0, 2), other=st.integers(0, 2))
    def scrape(self, one: int, other: int) -> None:
        self.hall.scrape(one, other)

    @rule(number=NUMBERS)
    def end(self, number: int) -> None:
        address = TWO[number - 1]
        if self.sent[address]:
            self.sent[address] -= 1
            self.hall.endpoint(number).release()

    @precondition(lambda self: self.waiting)
    @rule(index=st.integers(0, 3))
    def leave(self, index: int) -> None:
        name = list(self.waiting)[index % len(self.waiting)]
        assert self.hall.lobby.cancel(self.waiting.pop(name))

    @rule(pause_s=st.sampled_from([0.01, 0.1, 0.2, 3.0]))
    def wait(self, pause_s: float) -> None:
        self.hall.now += pause_s

    @rule(number=NUMBERS)
    def fail(self, number: int) -> None:
        for _ in range(FAILURES):
            self.hall.router.pools["p"].failed(self.hall.endpoint(number), Failure.UNREACHABLE, self.hall.now)

    @rule()
    def reload(self) -> None:
        self.hear(self.hall.reload(CONFIG))

    @invariant()
    def nobody_waits_without_need(self) -> None:
        """Checked after a pump, which follows whatever happens."""
        self.hear(self.hall.pump())
        hall = self.hall
        assert len(hall.lobby) == len(self.waiting) <= 4
        assert all(ticket.deadline > hall.now for ticket in self.waiting.values())
        assert hall.lobby.next_deadline() == min((t.deadline for t in self.waiting.values()), default=None)
        if self.waiting:
            healthy, _ = hall.router.pools["p"].candidates({}, None, hall.now)
            assert with_room(healthy, 1, hall.now) == []

    @invariant()
    def everybody_is_answered_once_and_counted_where_it_went(self) -> None:
        assert len(self.answered) == len(set(self.answered))
        assert {e.address: e.in_flight for e in self.hall.router.pools["p"].endpoints} == self.sent

    def teardown(self) -> None:
        self.hall.now += 3600
        self.hear(self.hall.pump())
        assert (self.waiting, len(self.hall.lobby)) == ({}, 0)


Holding.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestHolding = Holding.TestCase
