"""Several routers that share nothing: what each expects of the others' requests, and that it expects nothing alone."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import msgspec
import pytest
from counters import page
from fleets import NOW, fleet, request
from hypothesis import given
from hypothesis import strategies as st
from prompts import prompt

from extproc.benchmark.ours import Extproc
from extproc.benchmark.simulation import simulate
from extproc.benchmark.workloads import WORKLOADS
from extproc.endpoint import Endpoint
from extproc.others import HOME_TOKENS, HOME_WORTH, MOST_AT_HOME, MOST_BUSY, Others, shared_tokens
from extproc.pool import Pool
from extproc.request import CHECKPOINTS, Prompt
from extproc.restoring import parse, restore
from extproc.scheduling.outstanding_work import OutstandingWorkScorer
from extproc.state import describe
from extproc.traffic import DOUBT, FADE_S
from extproc.work import Work


def servers(count: int) -> list[Endpoint]:
    return [Endpoint(f"10.0.0.{number}:8000") for number in range(1, count + 1)]


def served(endpoint: Endpoint, ours: int, finished: int, busy: float = 0.0) -> None:
    """In one second *finished* requests ended there, *ours* of them, and it computed prompts for *busy* of it."""
    tokens = busy / endpoint.token_s
    endpoint.traffic.measure(page(0), page(finished, tokens), ours, 1.0)


def others(share: float, found: float = 0.0) -> Others:
    made = Others()
    made.share, made.found = share, found
    return made


# -- prompts of others ahead ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "busy", "expected"),
    [
        (995, 0.5, 0.0),  # all
        (245, 0.5, 0.75 * 1.0 * 500),
        (495, 0.5, 0.5 * 1.0 * 500),
        (495, 0.2, 0.5 * 0.25 * 500),
        (495, 0.0, 0.0),
        (495, 1.0, 0.5 * MOST_BUSY / (1 - MOST_BUSY) * 500),
    ],
)
def test_prompts_of_others_are_expected_ahead_by_their_share_of_the_queues_mean(
    ours: int, busy: float, expected: float
) -> None:
    known, (one,) = Others(), servers(1)
    known.sent(Work(prompt_tokens=1000, new_tokens=1000))  # half of which is left on average
    served(one, ours, 995, busy)
    known.observe([one])
    assert one.backlog.others == pytest.approx(expected)


def test_long_prompts_count_for_more_than_their_number() -> None:
    known, (one,) = Others(), servers(1)
    for tokens in (100, 100, 100, 100, 100, 100, 100, 100, 100, 9100):
        known.sent(Work(prompt_tokens=tokens, new_tokens=tokens))
    served(one, 495, 995, 0.5)
    known.observe([one])
    assert one.backlog.others == pytest.approx(0.5 * 9100 / 2, rel=0.1)


def test_most_is_expected_where_others_send_most() -> None:
    known, (mine, theirs) = Others(), servers(2)
    known.sent(Work(prompt_tokens=1000, new_tokens=1000))
    served(mine, 895, 995, 0.5)
    served(theirs, 95, 995, 0.5)
    known.observe([mine, theirs])
    assert [mine.backlog.others, theirs.backlog.others] == pytest.approx([50, 450])
    scorer, asked = OutstandingWorkScorer(), request(prompt=Prompt(1000))
    assert [cost.ahead_tokens for cost in scorer.explain(asked, [mine, theirs], NOW)] == [
        mine.backlog.others,
        theirs.backlog.others,
    ]
    scores = scorer.score(asked, [mine, theirs], NOW)
    assert scores[0] > scores[1]


def test_what_is_ours_and_what_is_others_ahead_add_up() -> None:
    (one,) = servers(1)
    one.acquire(Work(prompt_tokens=300, new_tokens=300), NOW)
    one.backlog.others = 50.0
    (cost,) = OutstandingWorkScorer().explain(request(prompt=Prompt(1000)), [one], NOW)
    assert [cost.new_tokens, cost.ahead_tokens, cost.cost_s] == pytest.approx([1000, 350, 1350e-4 * 2])


def test_a_few_requests_of_others_are_nobody() -> None:
    known, (one, other) = Others(), servers(2)
    known.sent(Work(prompt_tokens=1000, new_tokens=1000))
    served(one, 96, 100, 0.5)
    served(other, 96, 100, 0.5)
    known.observe([one, other])
    assert (known.share, one.backlog.others, other.backlog.others) == (1.0, 0.0, 0.0)


def test_who_is_alone_again_expects_nobody() -> None:
    known, (one,) = Others(), servers(1)
    known.sent(Work(prompt_tokens=1000, new_tokens=1000))
    served(one, 495, 995, 0.5)
    known.observe([one])
    assert known.share == 0.5
    assert one.backlog.others > 0
    one.traffic.measure(page(0), page(1000), 1495, 20 * FADE_S)
    known.observe([one])
    assert (known.share, one.backlog.others) == (1.0, 0.0)


# -- what others left in the caches --------------------------------------------------------------------------


def asked(tokens: int = 2048) -> Prompt:
    return prompt(*((f"part {number}", 1) for number in range(CHECKPOINTS.index(tokens) + 1)))


def expected(known: Others, cached: Mapping[int, int], of: Prompt, count: int = 4) -> list[int]:
    """What each of *count* endpoints is expected to have, where *cached* tells what ours left, by index."""
    there = servers(count)
    found = known.expect({there[index]: tokens for index, tokens in cached.items()}, of, there)
    return [found.get(endpoint, 0) for endpoint in there]


@pytest.mark.parametrize(
    ("share", "cached", "everywhere"),
    [
        (0.5, {}, 0),
        (0.5, {0: 1024}, 256),  # as many as ours: another has it with 1/4
        (0.25, {0: 1024}, 592),  # three times as many: with 1 - (3/4)^3
        (0.5, {0: 1024, 1: 1024}, 512),
        (0.5, {0: 1024, 1: 1024, 2: 1024, 3: 1024}, 1024),
        (0.5, {0: 2048, 1: 512, 2: 512}, 512),  # the longest at one counts for more than the others at three
        (0.5, {0: 1024, 1: 512, 2: 512}, 384),
    ],
)
def test_a_beginning_that_ours_brought_somewhere_others_brought_elsewhere(
    share: float, cached: dict[int, int], everywhere: int
) -> None:
    told = expected(others(share), cached, asked())
    assert told == [max(cached.get(index, 0), everywhere) for index in range(4)]


def test_a_conversation_goes_home_as_far_as_conversations_return() -> None:
    found = 0.1
    told = expected(others(0.5, found), {}, asked())
    assert sorted(told) == [0, 0, 0, int(HOME_WORTH * found * 2048)]


def test_a_home_is_never_as_good_as_having_seen_the_prompt_there() -> None:
    assert max(expected(others(0.25, 0.8), {}, asked())) == int(MOST_AT_HOME * 2048)


def test_conversations_that_never_return_have_no_home() -> None:
    assert expected(others(0.25, 0.0), {}, asked()) == [0, 0, 0, 0]


def test_a_prompt_that_is_no_longer_than_what_many_have_has_no_home() -> None:
    assert expected(others(0.5, 0.5), {0: 512, 1: 512}, asked(512)) == [512, 512, 256, 256]
    assert expected(others(0.5, 0.5), {2: 512, 3: 512}, asked(512)) == [256, 256, 512, 512]


def test_what_many_have_is_at_home_too_and_a_part_of_the_rest() -> None:
    told = expected(others(0.5, 0.05), dict.fromkeys(range(4), 1024), asked())
    assert sorted(told) == [1024, 1024, 1024, 1024 + int(HOME_WORTH * 0.05 * 1024)]


@pytest.mark.parametrize("holder", range(4))
def test_where_ours_left_more_than_is_expected_of_a_home_it_stays(holder: int) -> None:
    assert expected(others(0.5, 0.05), {holder: 1920}, asked())[holder] == 1920


@given(number=st.integers(0, 2**64 - 1), order=st.randoms(use_true_random=False))
def test_all_routers_find_the_same_home(number: int, order: random.Random) -> None:
    of = Prompt(1000, tuple(number ^ at for at in range(CHECKPOINTS.index(960) + 1)))
    one, other = servers(9), servers(9)
    order.shuffle(other)

    def home(known: Others, there: Sequence[Endpoint]) -> str:
        (address,) = (endpoint.address for endpoint in known.expect({}, of, there))
        return address

    assert home(others(0.5, 0.3), one) == home(others(0.2, 0.6), other)


def test_the_home_is_that_of_what_comes_after_what_many_have() -> None:
    system = ("system prompt", CHECKPOINTS.index(1024) + 1)
    many = {0: 1024, 1: 1024, 2: 1024, 3: 1024}
    homes = set()
    for number in range(64):
        told = expected(others(0.5, 0.5), many, prompt(system, (f"question {number}", 16)))
        homes.add(max(range(4), key=told.__getitem__))
        follow_up = prompt(system, (f"question {number}", 16), ("answer", 16))
        told_later = expected(others(0.5, 0.5), many, follow_up)
        assert max(range(4), key=told_later.__getitem__) == max(range(4), key=told.__getitem__)
    assert homes == {0, 1, 2, 3}
    assert CHECKPOINTS[CHECKPOINTS.index(1024) + 16] - 1024 >= HOME_TOKENS


@pytest.mark.parametrize(
    ("cached", "tokens"), [([], 0), ([9], 0), ([9, 5], 5), ([9, 5, 3], 5), ([9, 5, 3, 3], 5)]
)
def test_what_half_of_the_endpoints_have_many_have(cached: list[int], tokens: int) -> None:
    assert shared_tokens(cached, 4) == tokens


# -- the pool ------------------------------------------------------------------------------------------------


def pool(known: Others, count: int = 4) -> Pool:
    made = Pool("p", servers(count))
    made.others = known
    return made


def send(of: Pool, to: int, text: Prompt) -> Work:
    """One of our requests goes to the endpoint with the index *to*."""
    of.match(asking := request(prompt=text))
    work = of.work(asking, of.endpoints[to])
    of.sent(work, of.endpoints[to], NOW)
    return work


def test_alone_nothing_is_expected_but_what_ours_left() -> None:
    of = pool(Others())
    send(of, 1, asked())
    of.match(asking := request(prompt=asked()))
    assert asking.cached == {of.endpoints[1]: 2048}
    assert asking.expected is asking.cached


def test_what_others_may_have_left_is_not_taken_for_granted_where_work_is_counted() -> None:
    of = pool(others(0.25, 0.8))
    of.match(asking := request(prompt=asked()))
    (home,) = asking.expected
    work = of.work(asking, home)
    assert (asking.cached, work.new_tokens, work.found_tokens) == ({}, 2048, 0)


def test_but_it_decides() -> None:
    of = pool(others(0.25, 0.8))
    of.match(asking := request(prompt=asked()))
    (home,) = asking.expected
    costs = OutstandingWorkScorer().explain(asking, of.endpoints, NOW)
    told = {each: cost.new_tokens for each, cost in zip(of.endpoints, costs, strict=True)}
    assert told == {**dict.fromkeys(of.endpoints, 2048), home: 2048 - int(MOST_AT_HOME * 2048)}


def test_the_share_that_returns_is_learnt_from_what_is_sent() -> None:
    of = pool(Others())
    first, again = send(of, 0, asked()), send(of, 2, asked())
    assert [(work.found_tokens, work.findable_tokens) for work in (first, again)] == [(0, 2048), (2048, 2048)]
    assert of.others.found == pytest.approx(0.5, abs=0.01)
    seen = of.others.found
    of.match(request(prompt=asked()))
    assert of.others.found == seen  # asking alone teaches nothing


def test_what_many_have_does_not_count_as_returning() -> None:
    of, system = pool(Others()), ("system prompt", CHECKPOINTS.index(1024) + 1)
    works = [send(of, to, prompt(system, (f"question {to}", 8))) for to in (0, 1, 2)]
    assert (works[2].found_tokens, works[2].findable_tokens) == (0, works[2].prompt_tokens - 1024)


def test_requests_without_a_readable_prompt_teach_nothing() -> None:
    of = pool(Others())
    send(of, 0, asked())
    send(of, 0, asked())
    seen = of.others.found
    send(of, 0, Prompt(100_000))
    assert of.others.found == seen > 0


def test_what_was_learnt_outlives_a_reload() -> None:
    before = pool(others(0.5, 0.3))
    assert Pool("p", before.endpoints, before).others is before.others


def test_scrapes_tell_the_pool_of_others() -> None:
    of = fleet("pools: [{name: p, endpoints: ['10.0.0.1:80']}]")
    assert of.router is not None
    the_pool = of.router.pools["p"]
    send(the_pool, 0, Prompt(1000))
    for second in range(3):
        of.scraped("10.0.0.1:80", page(100 * second, 2500 * second), NOW + second)
    assert the_pool.others.share == pytest.approx(DOUBT / (200 + DOUBT), rel=0.05)
    assert the_pool.endpoints[0].backlog.others > 0


def test_explain_knows_of_others_what_the_router_knew() -> None:
    of = fleet("pools: [{name: p, endpoints: ['10.0.0.1:80', '10.0.0.2:80']}]")
    assert of.router is not None
    told = of.router.pools["p"]
    told.others.share, told.others.found, told.endpoints[1].backlog.others = 0.25, 0.125, 700.0
    restored = restore(parse(msgspec.json.encode(describe(of.router, "", NOW)))).pools["p"]
    assert (restored.others.share, restored.others.found) == (0.25, 0.125)
    assert [endpoint.backlog.others for endpoint in restored.endpoints] == [0.0, 700.0]


# -- all together, in virtual time ---------------------------------------------------------------------------


class Watched(Extproc):
    """Routers whose pools can be looked at after the run."""

    @property
    def pools(self) -> list[Pool]:
        return [fleet.router.pools["pool"] for fleet in self._fleets if fleet.router is not None]


def run(workload: str, rate: float, routers: int) -> list[Pool]:
    policy = Watched(1, routers=routers)
    simulate(WORKLOADS[workload].make(1, rate, 120.0), policy)
    return policy.pools


@pytest.mark.parametrize(("workload", "rate"), [("azure-conv", 28.0), ("agents", 10.5)])
def test_a_single_router_expects_nothing_of_anybody(workload: str, rate: float) -> None:
    (alone,) = run(workload, rate, 1)
    assert (alone.others.share, [each.backlog.others for each in alone.endpoints]) == (1.0, [0.0] * 5)


def test_four_routers_know_their_share_and_divide_the_endpoints_among_them() -> None:
    pools = run("azure-conv", 28.0, 4)
    assert [pool.others.share for pool in pools] == [pytest.approx(0.25, abs=0.08)] * 4
    assert [pool.others.found for pool in pools] == [0.0] * 4  # nothing shared: no homes
    shares = [[pool.endpoints[number].traffic.share for pool in pools] for number in range(5)]
    owned = [max(of_endpoint) for of_endpoint in shares]
    assert sum(share > 0.45 for share in owned) >= 3


def test_where_conversations_return_they_get_a_home() -> None:
    assert all(pool.others.found > 0.3 and pool.others.share < 0.4 for pool in run("agents", 10.5, 4))
