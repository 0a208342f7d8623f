"""Which requests are mirrored, and where: drawn by percent, or the same for the same key."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence

import pytest
from fleets import NOW, request, router
from halls import Hall, text
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from extproc.canary import Target, stick
from extproc.mirror import Mirror, choose
from extproc.router import Decision, Router
from extproc.waiting_room import Ticket

KEYS = [f"session-{number}" for number in range(4000)]
HEADER = "x-session-id"
ONE = [Mirror("a", 10, HEADER)]
TWO = [Mirror("a", 20, HEADER), Mirror("b", 30, HEADER)]
mirror_lists = st.lists(st.integers(1, 250), min_size=1, max_size=4).map(
    lambda tenths: [Mirror(f"m{number}", tenth / 10, HEADER) for number, tenth in enumerate(tenths)]
)


def near(hits: int, count: int, percent: float) -> bool:
    """Five standard deviations: chance alone fails once in two million."""
    share = percent / 100
    return abs(hits - count * share) <= 5 * math.sqrt(count * share * (1 - share)) + 1


def of_key(mirrors: Sequence[Mirror], key: str, model: str = "m") -> str | None:
    return choose(mirrors, model, {HEADER: key}, random.Random(0))


def held(mirrors: Sequence[Mirror], model: str = "m") -> Counter[str | None]:
    """How many of the KEYS each mirror gets; None: of nobody."""
    return Counter(of_key(mirrors, key, model) for key in KEYS)


def drawn(mirrors: Sequence[Mirror], count: int, **headers: str) -> Counter[str | None]:
    rng = random.Random(7)
    return Counter(choose(mirrors, "m", headers, rng) for _ in range(count))


# -- drawn --------------------------------------------------------------------------------------------------

SHARES = [[0.5], [25], [100], [20, 30], [50, 50], [1, 98.5], [99, 0.5], [33.3, 33.3, 33.4], [10, 20, 30, 40]]


@pytest.mark.parametrize("percents", SHARES)
@pytest.mark.parametrize("sticky", [None, HEADER])
def test_each_mirror_gets_its_percent_of_all_requests_wherever_it_stands(
    percents: list[float], sticky: str | None
) -> None:
    mirrors = [Mirror(f"m{number}", percent, sticky) for number, percent in enumerate(percents)]
    got = held(mirrors) if sticky else drawn(mirrors, len(KEYS))
    shares = {mirror.name: mirror.percent for mirror in mirrors} | {None: max(0.0, 100 - sum(percents))}
    assert {name: near(got[name], len(KEYS), share) for name, share in shares.items()} == dict.fromkeys(
        shares, True
    ), got


def test_no_mirrors_take_no_draw() -> None:
    rng = random.Random(7)
    before = rng.getstate()
    assert choose([], "m", {}, rng) is None
    assert rng.getstate() == before


def test_100_percent_are_all() -> None:
    assert drawn([Mirror("a", 100)], 2000) == {"a": 2000}
    assert held([Mirror("a", 100, HEADER)]) == {"a": len(KEYS)}


@pytest.mark.parametrize("headers", [{}, {HEADER: ""}, {"x-other": "s"}])
def test_without_a_key_each_request_is_drawn(headers: dict[str, str]) -> None:
    assert near(drawn(ONE, 5000, **headers)["a"], 5000, 10)


@pytest.mark.parametrize(
    "headers", [{"upgrade": "websocket", ":method": "GET"}, {":method": "CONNECT"}, {"upgrade": "h2c"}]
)
def test_an_upgrade_is_never_mirrored(headers: dict[str, str]) -> None:
    assert drawn([Mirror("a", 100)], 10, **headers) == {None: 10}


# -- by key -------------------------------------------------------------------------------------------------


def test_a_key_costs_no_draw() -> None:
    rng = random.Random(7)
    before = rng.getstate()
    choose(TWO, "m", {HEADER: "s"}, rng)
    assert rng.getstate() == before


CHOSEN = """
import random
from extproc.mirror import Mirror, choose
mirrors = [Mirror('a', 20, 'x-session-id'), Mirror('b', 30, 'x-session-id')]
print(*[choose(mirrors, 'm', {'x-session-id': f'session-{n}'}, random.Random()) for n in range(40)])
"""


def test_a_key_is_mirrored_alike_in_every_process() -> None:
    """Two replicas, or one that was restarted: nothing may hang on the process (as `hash` does)."""
    answers = {
        subprocess.run(
            [sys.executable, "-c", CHOSEN], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert answers == {(" ".join(str(of_key(TWO, key)) for key in KEYS[:40]) + "\n").encode()}


def test_what_is_mirrored_outlives_a_release() -> None:
    """Recorded once: a change of the hash would cut every mirrored conversation in two on the day of an upgrade."""
    assert "".join(of_key(TWO, key) or "-" for key in KEYS[:60]) == RECORDED


RECORDED = "b--bba--b-aa----b--b-bbaa-bbbba------a----b-b--b-bb-a-b--b--"


@settings(max_examples=40)
@given(mirror_lists, st.integers(0, 3), st.integers(1, 200))
def test_a_raised_percent_only_adds_keys_to_its_own_and_takes_none_from_those_before_it(
    mirrors: list[Mirror], which: int, tenths: int
) -> None:
    which %= len(mirrors)
    room = 100 - sum(mirror.percent for mirror in mirrors)
    raised = [*mirrors]
    raised[which] = replace(mirrors[which], percent=mirrors[which].percent + min(tenths / 10, room))
    names = [mirror.name for mirror in mirrors]
    for key in KEYS[:300]:
        was, now = of_key(mirrors, key), of_key(raised, key)
        if was is None:
            assert now not in names[:which]
        elif was in names[: which + 1]:
            assert now == was
        else:  # still mirrored, by itself or by one that looks before it
            assert now in names[which : names.index(was) + 1]


def test_a_raised_percent_moves_few_keys_of_those_after_it() -> None:
    """On one line divided among all mirrors, 10 percent more for the first would take 10 from the second's keys
    (half of them); here it is a tenth of them."""
    mirrors = [Mirror("a", 10, HEADER), Mirror("b", 20, HEADER)]
    raised = [Mirror("a", 20, HEADER), mirrors[1]]
    moved = sum(of_key(mirrors, key) == "b" != of_key(raised, key) for key in KEYS)
    assert near(moved, len(KEYS), 20 * 10 / 90)


def test_models_mirrors_and_canaries_choose_independently() -> None:
    """Else the same users would be in every experiment."""
    half = [Mirror("a", 50, HEADER)]
    assert near(sum(of_key(half, k) == of_key(half, k, "other") == "a" for k in KEYS), len(KEYS), 25)
    other = [Mirror("b", 50, HEADER)]
    assert near(sum(bool(of_key(half, k) and of_key(other, k)) for k in KEYS), len(KEYS), 25)
    arms = [Target("x", 1), Target("y", 1)]
    assert near(sum(of_key(half, k) == "a" and stick(arms, "m", k).model == "x" for k in KEYS), len(KEYS), 25)


def test_each_mirror_can_have_a_key_of_its_own() -> None:
    mirrors = [Mirror("a", 50, "x-user"), Mirror("b", 50, HEADER)]
    for number in range(50):
        headers = {"x-user": f"u{number}", HEADER: f"s{number}"}
        assert len({choose(mirrors, "m", headers, random.Random(seed)) for seed in range(5)}) == 1


@pytest.mark.parametrize("key", ["\0", "\ud800", "ü" * 10_000, "s\n"])
def test_any_text_is_a_key(key: str) -> None:
    assert of_key([Mirror("a", 100, HEADER)], key) == "a"


# -- of a router's decisions --------------------------------------------------------------------------------

POOL = "pools: [{name: p, endpoints: ['10.0.0.1:80', '10.0.0.2:80']}]\n"
MIRRORED = (
    POOL
    + """
models:
- {name: m, pool: p, mirrors: [{name: shadow, percent: 25}]}
- {name: session, pool: p, mirrors: [{name: shadow, percent: 50, sticky: {header: X-Session-Id}}]}
- {name: plain, pool: p}
"""
)


def decisions(of: Router, count: int, model: str | None = "m", **headers: str) -> list[Decision]:
    rng = random.Random(5)
    return [of.decide(request(model, headers=headers), NOW, rng) for _ in range(count)]


def test_a_decision_says_who_gets_a_copy() -> None:
    mirrored = router(MIRRORED)
    assert near(Counter(d.mirror for d in decisions(mirrored, 2000))["shadow"], 2000, 25)
    assert {d.mirror for d in decisions(mirrored, 50, "session", **{HEADER: KEYS[0]})} in ({None}, {"shadow"})
    for model in ("plain", "not listed", None):
        assert {d.mirror for d in decisions(mirrored, 20, model)} == {None}


def test_what_is_not_listed_is_mirrored_where_the_rule_for_it_says_so_but_no_upgrade() -> None:
    rest = router(POOL + "models: [{name: '*', pool: p, mirrors: [{name: all, percent: 100}]}]")
    assert {d.mirror for model in ("x", None) for d in decisions(rest, 5, model)} == {"all"}
    assert {d.mirror for d in decisions(rest, 5, None, upgrade="websocket")} == {None}


def test_mirrors_change_no_target_and_no_endpoint() -> None:
    """The mirror is drawn last; where keys decide, and where no model has mirrors, nothing is drawn at all."""

    def told(text: str, **headers: str) -> list[tuple[str | None, str]]:
        return [(d.target_model, d.endpoint.address) for d in decisions(router(text), 200, "c", **headers)]

    canary = POOL + "models: [{name: c, pool: p, targets: [{model: x}, {model: y}]%s}]"
    plain = told(canary % "")
    mirrors = ", mirrors: [{name: a, percent: 5%s}, {name: b, percent: 5%s}]"
    sticky = ", sticky: {header: x-session-id}"
    assert told(canary % (mirrors % (sticky, sticky)), **{HEADER: "s"}) == plain
    assert told(canary % (mirrors % ("", "")))[0] == plain[0]


def test_headers_that_decide_a_mirror_go_on_to_the_model_server() -> None:
    assert router(MIRRORED).sticky_headers == {HEADER}


class Counting(random.Random):
    """Counts the draws that a mirror takes: endpoints that tie are told apart by others."""

    draws = 0

    def random(self) -> float:
        self.draws += 1
        return super().random()


def test_a_held_request_is_drawn_once_when_it_is_sent_on() -> None:
    hall = Hall(text(models="models: [{name: m, pool: p, mirrors: [{name: shadow, percent: 100}]}]"))
    counting = hall.rng = Counting(1)
    hall.scrape(1)
    ticket = hall.hold("first")
    assert hall.pump() == []
    assert counting.draws == 0
    hall.scrape(0)
    ((called, outcome),) = list(hall.lobby.pump(hall.now, hall.rng))
    assert isinstance(ticket, Ticket)
    assert called is ticket
    assert isinstance(outcome, Decision)
    assert (outcome.mirror, counting.draws) == ("shadow", 1)
