"""Whose turn it is: strict priority, fair between tenants, first come or least work; nobody lost, nobody twice."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.waiting_room import KEPT, Ticket, WaitingRoom

Waiting = Ticket[str]
_numbers = itertools.count()


def ticket(name: str, lane: str = "lane", **fields: object) -> Waiting:
    return Ticket(name, next(_numbers), lane, **fields)  # type: ignore[arg-type]


def room_of(*tickets: Waiting) -> WaitingRoom[str]:
    room: WaitingRoom[str] = WaitingRoom()
    for each in tickets:
        room.add(each)
    return room


def everywhere(lane: str) -> bool:
    return True


def serve(room: WaitingRoom[str], count: int | None = None) -> list[str]:
    """The names of the next *count* tickets, or of all, in the order they are served."""
    served: list[str] = []
    while (count is None or len(served) < count) and (turn := room.first(everywhere)) is not None:
        room.remove(turn, served=True)
        served.append(turn.content)
    return served


def test_the_highest_priority_is_served_first_whatever_it_costs_its_tenant() -> None:
    room = room_of(
        ticket("standard", priority=0, tenant="a"),
        ticket("critical 1", priority=1, tenant="b", tokens=1e6),
        ticket("critical 2", priority=1, tenant="b", tokens=1e6),
        ticket("most critical", priority=7, tenant="b", tokens=1e6),
    )
    assert serve(room) == ["most critical", "critical 1", "critical 2", "standard"]


def test_one_tenant_is_served_in_the_order_of_arrival() -> None:
    assert serve(room_of(*map(ticket, "cab"))) == ["c", "a", "b"]


def test_least_work_first_is_an_order_too_and_ties_go_to_who_came_first() -> None:
    room = room_of(
        ticket("long", order=900),
        ticket("short 1", order=10),
        ticket("mid", order=50),
        ticket("short 2", order=10),
    )
    assert serve(room) == ["short 1", "short 2", "mid", "long"]


def test_tenants_with_requests_of_like_size_take_turns() -> None:
    room = room_of(
        *(ticket(f"greedy {n}", tenant="greedy", tokens=100) for n in range(4)),
        *(ticket(f"modest {n}", tenant="modest", tokens=100) for n in range(2)),
    )
    assert serve(room) == ["greedy 0", "modest 0", "greedy 1", "modest 1", "greedy 2", "greedy 3"]


def test_fair_means_equal_work_not_equally_many_requests() -> None:
    room = room_of(
        *(ticket("heavy", tenant="heavy", tokens=1000) for _ in range(10)),
        *(ticket("light", tenant="light", tokens=100) for _ in range(100)),
    )
    served = serve(room, 55)
    assert (served.count("heavy"), served.count("light")) == (5, 50)


def test_a_tenant_that_comes_late_waits_for_one_request_of_each_other_tenant_at_most() -> None:
    room = room_of(*(ticket("greedy", tenant="greedy", tokens=100) for _ in range(1000)))
    serve(room, 10)
    room.add(ticket("late", tenant="late", tokens=100))
    assert serve(room, 3) == ["greedy", "late", "greedy"]


def test_a_tenant_cannot_save_up_turns_by_staying_away() -> None:
    room = room_of(*(ticket("there", tenant="there", tokens=100) for _ in range(100)))
    serve(room, 50)
    for _ in range(50):
        room.add(ticket("back", tenant="back", tokens=100))
    served = serve(room, 20)
    assert (served.count("there"), served.count("back")) == (10, 10)


def test_a_tenant_cannot_get_ahead_by_asking_for_one_at_a_time() -> None:
    room = room_of(*(ticket("steady", tenant="steady", tokens=100) for _ in range(100)))
    served = []
    for _ in range(20):
        room.add(ticket("again", tenant="again", tokens=1000))
        served += serve(room, 1)
        for left in [t for t in room if t.content == "again"]:
            room.remove(left)
    assert served.count("again") <= 3


def test_ever_new_tenants_starve_nobody() -> None:
    room = room_of(*(ticket("old", tenant="old", tokens=100) for _ in range(5)))
    served = []
    for number in range(20):
        for more in range(2):
            room.add(ticket("new", tenant=f"{number}-{more}", tokens=100))
        served += serve(room, 2)
    assert served.count("old") >= 2


def test_who_waits_for_others_endpoints_is_passed_over() -> None:
    room = room_of(
        ticket("a critical", "a", priority=1),
        ticket("a standard", "a"),
        ticket("b standard", "b"),
    )
    turn = room.first(lambda lane: lane == "b")
    assert turn is not None
    assert turn.content == "b standard"
    assert room.first(lambda lane: lane == "c") is None
    assert len(room) == 3


def test_a_tenants_turn_is_one_over_all_lanes() -> None:
    room = room_of(
        ticket("a in x", "x", tenant="a", tokens=100),
        ticket("a in y", "y", tenant="a", tokens=100),
        ticket("b in y", "y", tenant="b", tokens=100),
    )
    assert serve(room) == ["a in x", "b in y", "a in y"]


def test_a_ticket_can_change_lanes() -> None:
    first, second = ticket("first", "a", deadline=1), ticket("second", "b", deadline=2)
    room = room_of(first, second)
    room.move(first, "b")
    assert [t.content for t in room] == ["first", "second"]
    assert room.first(lambda lane: lane == "a") is None
    assert serve(room) == ["first", "second"]
    assert len(room) == 0


def test_who_is_ahead_of_a_newcomer_has_its_priority_or_more_in_its_lane() -> None:
    room = room_of(ticket("t", "a", priority=1))
    asked = [("a", 0), ("a", 1), ("a", 2), ("b", 0)]
    assert [room.is_ahead(*each) for each in asked] == [True, True, False, False]
    assert serve(room) == ["t"]
    assert not room.is_ahead("a", 0)


def test_the_earliest_deadline_is_known_whoever_left() -> None:
    late, early, soon = ticket("late", deadline=9), ticket("early", deadline=3), ticket("soon", deadline=5)
    room = room_of(late, early, soon)
    deadlines = []
    for gone in (early, soon, late):
        earliest = room.earliest()
        assert earliest is not None
        deadlines.append(earliest.deadline)
        assert room.remove(gone)
    assert deadlines == [3, 5, 9]
    assert room.earliest() is None


def test_one_that_left_can_leave_only_once_and_costs_its_tenant_nothing() -> None:
    gone = ticket("gone", tenant="a", tokens=1e9, size_bytes=7)
    room = room_of(gone, ticket("a", tenant="a", size_bytes=5), ticket("b", tenant="b"))
    assert room.size_bytes == 12
    assert (room.remove(gone), room.remove(gone)) == (True, False)
    assert (len(room), room.size_bytes) == (2, 5)
    assert serve(room) == ["a", "b"]
    assert (len(room), room.size_bytes, room.by_priority()) == (0, 0, {})


def test_clients_that_come_and_go_behind_one_that_stays_leave_no_memory_behind() -> None:
    room = room_of(ticket("stays", deadline=1, order=0))
    for number in range(10_000):
        gone = ticket("goes", tenant=f"t{number}", deadline=2, order=1)
        room.add(gone)
        room.remove(gone)
        again = ticket("goes", deadline=2, order=1)
        room.add(again)
        room.remove(again)
    (level,) = room._levels.values()
    (flow,) = level.lanes["lane"].values()
    kept = [len(room._deadlines._entries), len(flow._entries), len(level._turns["lane"])]
    assert max(kept) <= 2 + KEPT


def test_tenants_that_were_served_leave_no_memory_behind_while_others_wait() -> None:
    room = room_of(*(ticket("stays", tenant="stays", tokens=1) for _ in range(6000)))
    for number in range(5000):
        room.add(ticket("once", tenant=f"t{number}", tokens=1))
        serve(room, 2)
    (level,) = room._levels.values()
    assert len(level._finish) <= 3 + KEPT


SPECS = st.lists(
    st.tuples(
        st.integers(-1, 2),  # priority
        st.sampled_from("abc"),  # tenant
        st.sampled_from("xy"),  # lane
        st.integers(0, 50),  # tokens
        st.integers(0, 5),  # order
        st.integers(0, 9),  # deadline
    ),
    max_size=40,
)


@given(SPECS, st.lists(st.tuples(st.sampled_from(["serve", "cancel", "move"]), st.integers(0, 39))))
def test_nobody_is_lost_nobody_is_served_twice_and_no_priority_overtakes(
    specs: list[tuple[int, str, str, int, int, int]], steps: list[tuple[str, int]]
) -> None:
    tickets = [
        ticket("", lane, priority=p, tenant=t, tokens=w, order=o, deadline=d, size_bytes=1)
        for p, t, lane, w, o, d in specs
    ]
    room = room_of(*tickets)
    waiting = dict.fromkeys(tickets)
    for step, index in steps:
        turn = room.first(everywhere)
        if turn is None:
            break
        other = tickets[index % len(tickets)]
        if step == "serve":
            assert turn.priority == max(t.priority for t in waiting)
            same = [
                t
                for t in waiting
                if (t.priority, t.tenant, t.lane) == (turn.priority, turn.tenant, turn.lane)
            ]
            assert turn is min(same, key=lambda t: (t.order, t.number))
            assert room.remove(turn, served=True)
            del waiting[turn]
        elif step == "cancel":
            assert room.remove(other) is (other in waiting)
            waiting.pop(other, None)
        elif other in waiting:
            room.move(other, "y" if other.lane == "x" else "x")
        assert (list(room), len(room), room.size_bytes) == (list(waiting), len(waiting), len(waiting))
        earliest = room.earliest()
        assert (earliest.deadline if earliest else None) == min((t.deadline for t in waiting), default=None)
    left = set(waiting)
    while (turn := room.first(everywhere)) is not None:
        room.remove(turn, served=True)
        left.remove(turn)
    assert left == set()


@pytest.mark.parametrize("largest", [1, 40])
@given(st.data())
def test_backlogged_tenants_get_equal_work_within_two_requests(largest: int, data: st.DataObject) -> None:
    sizes = st.lists(st.integers(1, largest), min_size=30, max_size=30)
    work = {tenant: data.draw(sizes) for tenant in "ab"}
    room = room_of(*(ticket(t, tenant=t, tokens=n) for t, sizes in work.items() for n in sizes))
    got = dict.fromkeys(work, 0)
    while True:
        turn = room.first(everywhere)
        assert turn is not None
        room.remove(turn, served=True)
        got[turn.content] += int(turn.tokens)
        if {t.content for t in room} != set(work):
            break
        assert abs(got["a"] - got["b"]) <= 2 * largest
