"""Whatever a cluster tells one after another: the fleet is as if it had been told the last of it alone."""

from __future__ import annotations

from fleets import NOW, fleet
from hypothesis import given
from hypothesis import strategies as st

from extproc.endpoint import Endpoint
from extproc.fleet import Fleet
from extproc.member import Member

CLUSTER = (
    "pools: [{name: p, kubernetes: {inference_pool: p}}, {name: q, kubernetes: {inference_pool: q}}, "
    "{name: r, endpoints: ['10.0.0.1:80']}]"
)
addresses = st.lists(st.sampled_from([f"10.0.0.{number}:80" for number in range(1, 5)]), unique=True)
labels = st.dictionaries(st.just("v"), st.sampled_from("ab"), max_size=1)


@st.composite
def tellings(draw: st.DrawFn) -> list[tuple[str, list[Member]]]:
    """(pool, members): some are the objects of a telling before, some equal to them, some others."""
    drawn: list[tuple[str, list[Member]]] = []
    there: dict[str, Member] = {}
    for _ in range(draw(st.integers(1, 8))):
        told = []
        for address in draw(addresses):
            if address not in there or draw(st.booleans()):
                there[address] = Member(address, draw(labels), draw(st.sampled_from("12")))
            told.append(there[address])
        drawn.append((draw(st.sampled_from("pq")), told))
    return drawn


def shown(of: Fleet) -> list[tuple[str, list[tuple[str, str, dict[str, str]]]]]:
    return [(pool.name, [_shown(endpoint) for endpoint in pool.endpoints]) for _, pool in of.pools()]


def _shown(endpoint: Endpoint) -> tuple[str, str, dict[str, str]]:
    return endpoint.address, endpoint.uid, dict(endpoint.labels)


def found(of: Fleet) -> dict[str, list[tuple[str, Endpoint]]]:
    every = set(of._by_address) | {endpoint.address for _, endpoint in of.endpoints()}
    return {address: [(pool.name, endpoint) for pool, endpoint in of.at(address)] for address in every}


@given(tellings())
def test_what_was_told_last_of_a_pool_is_what_it_consists_of(told: list[tuple[str, list[Member]]]) -> None:
    of = fleet(CLUSTER)
    for turn, (pool, members) in enumerate(told):
        before = {_shown(e)[:2]: e for of_pool, e in of.endpoints() if of_pool.name == pool}
        of.replace_members(pool, members, NOW + turn)
        after = {_shown(e)[:2]: e for of_pool, e in of.endpoints() if of_pool.name == pool}
        assert all(after[key] is before[key] for key in before.keys() & after.keys())
    last = dict(told)
    assert shown(of) == [
        *((pool, [(m.address, m.uid, m.labels) for m in last.get(pool, ())]) for pool in "pq"),
        ("r", [("10.0.0.1:80", "", {})]),
    ]
    by_address: dict[str, list[tuple[str, Endpoint]]] = {}
    for pool_of, endpoint in of.endpoints():
        by_address.setdefault(endpoint.address, []).append((pool_of.name, endpoint))
    assert found(of) == by_address


def test_endpoints_can_be_gone_through_while_the_membership_changes() -> None:
    """Metrics are read in a thread."""
    of = fleet(CLUSTER)
    of.replace_members("p", [Member("10.0.0.1:80"), Member("10.0.0.2:80")], NOW)
    going = of.endpoints()
    first = next(going)[1].address
    of.replace_members("p", [Member("10.0.0.3:80")], NOW)
    assert [first, *(endpoint.address for _, endpoint in going)] == [
        "10.0.0.1:80",
        "10.0.0.2:80",
        "10.0.0.1:80",
    ]
