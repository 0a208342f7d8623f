"""Tiers: the first takes all until it is full, only the excess goes on, and all comes back."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from fleets import NOW, decide, fleet, metrics, request, router

from extproc import address
from extproc.config import parse_config
from extproc.endpoint import NEVER, Endpoint
from extproc.engine_metrics import EngineMetrics
from extproc.errors import Reason, Rejected
from extproc.fleet import Fleet
from extproc.health import Failure
from extproc.router import Router
from extproc.tiers import BACK_RATIO, Never, Spill, Tier, is_over, place_of
from extproc.work import Work

IDC, CLOUD = ("10.0.0.1:80", "10.0.0.2:80"), ("10.1.0.1:80", "10.1.0.2:80")
MEMBERS = """
  endpoints:
  - {address: '10.0.0.1:80', labels: {tier: idc, gpu: a}}
  - {address: '10.0.0.2:80', labels: {tier: idc, gpu: b}}
  - {address: '10.1.0.1:80', labels: {tier: cloud, gpu: a}}
  - {address: '10.1.0.2:80', labels: {tier: cloud, gpu: c}}
  tiers:
  - {name: idc, labels: {tier: idc}}
  - {name: cloud, labels: {tier: cloud}NEVER}
"""


def text(pool: str = "", rest: str = "", never: str = "", spill: str = "waiting: 1") -> str:
    return f"pools:\n- name: p{MEMBERS.replace('NEVER', never)}  spill: {{{spill}}}\n{pool}\n{rest}"


def scrape(of: Router, now: float = NOW, **waiting: int) -> None:
    """Every endpoint is scraped: `_01=3`: 3 requests wait at 10.0.0.1; nobody waits where nothing is said."""
    for each in of.pools["p"].endpoints:
        _, net, _, host = each.ip.split(".")
        each.observe(metrics(waiting=waiting.get(f"_{net}{host}", 0)), now)


def at(of: Router, where: str) -> Endpoint:
    return of.pools["p"].by_address[where]


def served(of: Router, now: float = NOW, count: int = 60, **fields: object) -> set[str]:
    """The addresses that *count* requests, none of which stays, are sent to."""
    rng = random.Random(4)
    return {of.decide(request(**fields), now, rng).endpoint.address for _ in range(count)}


# -- when an endpoint is full -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("waiting", "kv", "in_flight", "full"),
    [
        (0, 0.0, 0, False),
        (1, 0.0, 0, False),
        (2, 0.0, 0, True),
        (0, 0.79, 0, False),
        (0, 0.8, 0, True),
        (0, 0.0, 9, False),
        (0, 0.0, 10, True),
        (1, 0.0, 1, True),  # one waits, and one was sent behind it
    ],
)
def test_an_endpoint_is_full_at_one_of_the_limits(
    waiting: int, kv: float, in_flight: int, full: bool
) -> None:
    made = Endpoint("10.0.0.1:80")
    made.observe(metrics(waiting=waiting, kv=kv), NOW)
    for _ in range(in_flight):
        made.acquire()
    made.external = 0
    assert is_over(made, Spill(waiting=2, kv_usage=0.8, in_flight=10), NOW) is full


@pytest.mark.parametrize(
    ("tokens", "later_s", "full"),
    [(999, 0.0, False), (1000, 0.0, True), (1500, 0.2, True), (1500, 0.26, False)],
)
def test_an_endpoint_is_full_while_its_prompts_keep_the_next_one_waiting(
    tokens: int, later_s: float, full: bool
) -> None:
    made = Endpoint("10.0.0.1:80")
    made.backlog.rate = 2000.0
    made.acquire(Work(prompt_tokens=tokens, new_tokens=tokens), NOW)
    assert is_over(made, Spill(wait_s=0.5), NOW + later_s) is full


@pytest.mark.parametrize(
    ("iteration_s", "step_s", "full"),
    [
        (0.079, 0.02, False),
        (0.080, 0.02, True),
        (0.080, 0.041, False),  # slow by itself: another server of its kind would be no faster
        (0.082, 0.041, True),
        (0.0, 0.0, False),
    ],
)
def test_an_endpoint_is_full_while_prompts_keep_its_tokens_from_coming(
    iteration_s: float, step_s: float, full: bool
) -> None:
    made = Endpoint("10.0.0.1:80")
    made.observe(metrics(running=1), NOW)
    made.step_time.iteration_s, made.step_time.step_s = iteration_s, step_s
    assert is_over(made, Spill(tpot_s=0.08), NOW) is full
    assert not is_over(made, Spill(tpot_s=0.08), NOW + 2)


def test_the_pace_of_tokens_is_measured_by_the_servers_iterations_and_forgotten_when_it_is_idle() -> None:
    made, paces = Endpoint("10.0.0.1:80"), []
    for step, running in enumerate([4] * 13 + [0, 0]):
        page = EngineMetrics(
            running=running, waiting=0, iterations_total=100.0 + 2 * step, prompt_tokens_total=0.0
        )
        made.observe(page, NOW + 0.2 * step)
        paces.append(round(made.step_time.iteration_s, 3))
    assert (paces[0], set(paces[12:13]), paces[-1]) == (0.0, {0.1}, 0.0)


def test_a_wait_at_an_unknown_speed_is_not_guessed() -> None:
    made = Endpoint("10.0.0.1:80")
    made.acquire(Work(prompt_tokens=100_000, new_tokens=100_000), NOW)
    assert not is_over(made, Spill(), NOW)


def test_old_figures_do_not_make_an_endpoint_full_but_our_own_count_does() -> None:
    made = Endpoint("10.0.0.1:80")
    made.observe(metrics(waiting=9, kv=1.0), NOW)
    assert is_over(made, Spill(), NOW + 1.9)
    assert not is_over(made, Spill(), NOW + 2.0)
    made.acquire()
    assert is_over(made, Spill(in_flight=1), NOW + 2.0)


# -- which tier ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "place"),
    [
        ({"tier": "idc"}, 0),
        ({"tier": "idc", "gpu": "a"}, 0),
        ({"tier": "cloud"}, 1),
        ({"spot": "yes"}, 2),
        ({"spot": "yes", "tier": "cloud"}, 1),
        ({}, 2),
        ({"tier": "icd"}, 2),
    ],
)
def test_an_endpoint_is_of_the_first_tier_whose_labels_it_carries_else_of_the_last(
    labels: dict[str, str], place: int
) -> None:
    tiers = [Tier("idc", {"tier": "idc"}), Tier("cloud", {"tier": "cloud"}), Tier("spot", {"spot": "yes"})]
    assert place_of(labels, tiers) == place


@pytest.mark.parametrize(
    ("waiting", "expected"),
    [
        ({}, set(IDC)),
        ({"_01": 1}, {IDC[1]}),
        ({"_01": 1, "_02": 1}, set(CLOUD)),
        ({"_01": 1, "_02": 1, "_11": 1}, {CLOUD[1]}),
        ({"_11": 1, "_12": 1}, set(IDC)),
        ({"_01": 1, "_02": 1, "_11": 1, "_12": 1}, {*IDC, *CLOUD}),
        ({"_01": 2, "_02": 2, "_11": 1, "_12": 2}, {CLOUD[0]}),  # all are full: the usual choice among all
    ],
)
def test_the_first_tier_with_room_takes_all(waiting: dict[str, int], expected: set[str]) -> None:
    of = router(text())
    scrape(of, **waiting)
    assert served(of) == expected


def test_a_decision_tells_the_tier_and_counts_all_that_could_have_served() -> None:
    of = router(text())
    scrape(of, _01=1, _02=1)
    assert (decide(of).tier, decide(of).candidates) == ("cloud", 4)
    scrape(of, NOW + 5)
    assert of.decide(request(), NOW + 5, random.Random(1)).tier == "idc"
    assert decide(router("pools: [{name: p, endpoints: ['10.0.0.1:80']}]")).tier is None


def test_a_tier_whose_endpoints_are_set_aside_is_passed_over() -> None:
    of = router(text())
    scrape(of)
    for each in IDC:
        at(of, each).health.set_aside(NOW, Failure.UNREACHABLE)
    assert served(of) == set(CLOUD)


def test_a_subset_hint_and_a_targets_labels_come_before_tiers() -> None:
    of = router(text(rest="models: [{name: m, pool: p, targets: [{model: x, labels: {gpu: a}}]}]"))
    scrape(of)
    assert served(of) == {IDC[0]}
    scrape(of, _01=1)
    assert served(of) == {CLOUD[0]}
    assert served(of, model="other", subset=address.hints("10.1.0.0/16,10.1.0.2:80")) == {CLOUD[1]}


def test_a_profiles_filter_that_leaves_nobody_of_a_tier_leads_to_the_next() -> None:
    of = router(text("  profile: c\n", "profiles: [{name: c, filters: [{type: labels, labels: {gpu: c}}]}]"))
    scrape(of)
    assert served(of) == {CLOUD[1]}


def test_fallbacks_come_from_other_tiers_once_the_preferred_endpoints_are_used_up() -> None:
    of = router(text("  fallback_endpoints: 2\n"))
    scrape(of, _01=1, _11=1)
    assert decide(of).pin == "10.0.0.2:80,10.1.0.2:80," + decide(of).pin.split(",")[2]
    assert {decide(of, seed=seed).pin.split(",")[2] for seed in range(30)} == {IDC[0], CLOUD[0]}


# -- figures that are missing or old ------------------------------------------------------------------------


def test_endpoints_that_were_never_scraped_are_used_in_the_order_of_tiers() -> None:
    assert served(router(text())) == set(IDC)


def test_the_excess_of_a_tier_does_not_end_at_the_one_of_which_nothing_is_known() -> None:
    of = router(text())
    for where, waiting in ((IDC[0], 1), (CLOUD[0], 0), (CLOUD[1], 0)):
        at(of, where).observe(metrics(waiting=waiting), NOW)
    assert served(of) == set(CLOUD)
    at(of, IDC[0]).observe(metrics(), NOW + 2)
    assert served(of, NOW + 3.1) == set(IDC)


# -- hysteresis ---------------------------------------------------------------------------------------------


def test_who_was_full_has_room_again_once_clearly_below_the_limit_and_not_before() -> None:
    of = router(text(spill="kv_usage: 0.8"))
    scrape(of)
    told = []
    for step, kv in enumerate([0.79, 0.8, 0.79, 0.73, 0.71, 0.79, 0.8]):
        now = NOW + step
        for each in IDC:
            at(of, each).observe(metrics(kv=kv), now)
        told.append(of.decide(request(), now, random.Random(1)).tier)
    assert BACK_RATIO == 0.9
    assert told == ["idc", "cloud", "cloud", "cloud", "idc", "idc", "cloud"]


def test_who_was_full_counts_as_full_for_a_while() -> None:
    of = router(text(spill="waiting: 1, hold_s: 1.5"))
    scrape(of, _01=1, _02=1)
    assert served(of, NOW) == set(CLOUD)
    scrape(of, NOW + 0.2)
    assert [served(of, NOW + later) == set(CLOUD) for later in (0.2, 1.4, 1.6)] == [True, True, False]


def test_what_was_full_survives_a_reload() -> None:
    of = fleet(text(spill="waiting: 1, hold_s: 9"))
    assert of.router is not None
    scrape(of.router, _01=1, _02=1)
    assert served(of.router) == set(CLOUD)
    scrape(of.router)
    again = of.apply(parse_config(text(rest="trusted_headers: [x]", spill="waiting: 1, hold_s: 9").encode()))
    assert served(again, NOW + 1) == set(CLOUD)


def test_looking_changes_nothing() -> None:
    of = router(text())
    scrape(of, _01=1, _02=1)
    tiers = of.tiers["p"]
    assert (tiers.open(NOW), tiers.is_full(at(of, IDC[0]), NOW)) == ([True, True], True)
    tiers.drainable(NOW)
    assert {each.full_until for each in of.pools["p"].endpoints} == {NEVER}


# -- never --------------------------------------------------------------------------------------------------

BARRED = "models: [{name: m, pool: p, never: cloud}, {name: n, pool: p, never: [idc]}]"


def refusal(of: Router, **fields: object) -> str:
    with pytest.raises(Rejected) as caught:
        decide(of, **fields)
    assert caught.value.reason is Reason.NO_ENDPOINTS
    return caught.value.message


def test_a_model_stays_out_of_the_tiers_that_never_serve_it() -> None:
    of = router(text(rest=BARRED))
    scrape(of, _01=9, _02=9)
    assert served(of, model="m") == set(IDC)
    assert served(of, model="n") == served(of, model="other") == set(CLOUD)
    scrape(of, NOW + 5)
    assert served(of, NOW + 5, model="n") == set(CLOUD)
    assert served(of, NOW + 5, model="other") == set(IDC)


def test_an_endpoint_that_is_set_aside_is_tried_rather_than_one_of_a_barred_tier() -> None:
    of = router(text(rest=BARRED))
    for each in IDC:
        at(of, each).health.set_aside(NOW, Failure.UNREACHABLE)
    assert served(of, model="m") == set(IDC)


def test_fallbacks_are_never_of_a_barred_tier() -> None:
    of = router(text("  fallback_endpoints: 3\n", BARRED))
    scrape(of, _01=9)
    assert decide(of, "m").pin == ",".join(reversed(IDC))


def test_where_only_barred_tiers_could_serve_the_refusal_says_so() -> None:
    of = router(
        text(rest=BARRED.replace("never: cloud", "never: cloud, targets: [{model: x, labels: {gpu: c}}]"))
    )
    told = "No endpoint of pool `p` is ready to take the request. Never to take it: tier `cloud`."
    assert refusal(of) == told
    assert refusal(router(text(rest=BARRED)), subset=address.hints("10.1.0.1")) == told


def test_a_target_that_only_a_barred_tier_has_gives_its_share_away() -> None:
    targets = "never: cloud, targets: [{model: x, labels: {gpu: c}}, {model: y, labels: {gpu: b}}]"
    of = router(text(rest=BARRED.replace("never: cloud", targets)))
    assert {decide(of, seed=seed).target_model for seed in range(20)} == {"y"}


TRUSTED = "trusted_headers: [X-Tenant]"


@pytest.mark.parametrize(
    ("headers", "absent", "expected"),
    [
        ({}, False, CLOUD),
        ({"x-tenant": ""}, False, CLOUD),
        ({"x-tenant": "shop"}, False, CLOUD),
        ({"x-tenant": "bank"}, False, IDC),
        ({"x-tenant": "clinic"}, False, IDC),
        ({"x-tenant": "banker"}, False, CLOUD),
        ({"x-tenant": "shop, bank"}, False, IDC),  # sent twice
        ({"x-tenant": "a, b"}, False, IDC),
        ({}, True, IDC),
        ({"x-tenant": ""}, True, IDC),
        ({"x-tenant": "shop"}, True, CLOUD),
    ],
)
def test_a_tenants_header_bars_a_tier(
    headers: dict[str, str], absent: bool, expected: tuple[str, ...]
) -> None:
    rule = f", never: {{header: X-Tenant, values: [bank, clinic, 'a, b'], absent: {str(absent).lower()}}}"
    of = router(text(rest=TRUSTED, never=rule))
    scrape(of, _01=9, _02=9)
    assert served(of, headers=headers) == set(expected)


def test_a_rule_may_be_about_absence_alone() -> None:
    rule = Never("x-tenant", absent=True)
    assert [rule.applies(headers) for headers in ({}, {"x-tenant": "any"})] == [True, False]


# -- what an autoscaler sees --------------------------------------------------------------------------------


def drainable(of: Router, now: float = NOW) -> set[str]:
    return {each.address for each, may_go in of.tiers["p"].drainable(now).items() if may_go}


def test_a_tier_is_open_while_none_before_it_has_room() -> None:
    of = router(text())
    scrape(of, _01=1)
    assert of.tiers["p"].open(NOW) == [True, False]
    scrape(of, _01=1, _02=1)
    assert of.tiers["p"].open(NOW) == [True, True]
    scrape(of, _01=1, _02=1, _11=1, _12=1)
    assert of.tiers["p"].open(NOW) == [True, True]


def test_idle_endpoints_of_a_tier_that_is_not_needed_are_drainable_and_the_first_tiers_never() -> None:
    of = router(text())
    scrape(of)
    assert drainable(of) == set(CLOUD)
    scrape(of, _01=1, _02=1)
    assert drainable(of) == set()


@pytest.mark.parametrize(("running", "waiting", "ours"), [(1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_an_endpoint_with_work_of_ours_or_others_is_not_drainable(
    running: int, waiting: int, ours: int
) -> None:
    of = router(text())
    scrape(of)
    at(of, CLOUD[0]).observe(metrics(running, waiting), NOW)
    for _ in range(ours):
        at(of, CLOUD[0]).acquire()
    assert drainable(of) == {CLOUD[1]}


def test_an_endpoint_of_which_nothing_fresh_is_known_is_not_drainable() -> None:
    of = router(text())
    assert drainable(of) == set()
    scrape(of)
    assert drainable(of, NOW + 1.9) == set(CLOUD)
    assert drainable(of, NOW + 2.0) == set()


def test_a_first_tier_that_is_set_aside_makes_the_next_one_needed() -> None:
    of = router(text())
    scrape(of)
    for each in IDC:
        at(of, each).health.set_aside(NOW, Failure.UNREACHABLE)
    assert drainable(of) == set()


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        ("{name: m, pool: p}", set(CLOUD)),
        ("{name: m, pool: p, never: idc}", set()),
        ("{name: m, pool: p, never: cloud}", set(CLOUD)),
        ("{name: m, pool: p, targets: [{model: x, labels: {gpu: c}}]}", {CLOUD[0]}),
        ("{name: m, pool: p, targets: [{model: x, labels: {gpu: a}}]}", set(CLOUD)),
        ("{name: m, pool: p, targets: [{model: x}, {model: y, weight: 0, labels: {gpu: c}}]}", set(CLOUD)),
    ],
)
def test_an_endpoint_that_alone_can_serve_some_target_is_not_drainable(
    models: str, expected: set[str]
) -> None:
    weighted = models.replace("{model: x}", "{model: x, weight: 1}")
    of = router(text(rest=f"models: [{weighted}]"))
    scrape(of)
    assert drainable(of) == expected


def test_where_all_are_set_aside_no_tier_has_room_and_every_endpoint_is_needed() -> None:
    of = router(text())
    scrape(of)
    for each in (*IDC, *CLOUD):
        at(of, each).health.set_aside(NOW, Failure.UNREACHABLE)
    assert (of.tiers["p"].open(NOW), drainable(of)) == ([True, True], set())


@pytest.mark.parametrize("rule", ["never: cloud", "targets: [{model: x, labels: {gpu: a}}], never: cloud"])
def test_only_what_requests_could_use_is_needed_and_the_first_tier_always(rule: str) -> None:
    of = router(text(rest=f"models: [{{name: m, pool: p, {rule}}}]\ndefault_pool: null"))
    scrape(of, _01=1, _02=1)
    assert drainable(of) == set(CLOUD)
    scrape(of)
    assert drainable(of) == set(CLOUD)


def test_endpoints_that_come_later_are_looked_up() -> None:
    of = router(text())
    pool = of.pools["p"]
    assert of.tiers["p"].excluded(frozenset({"cloud"})) == {at(of, each) for each in CLOUD}
    added = Endpoint("10.1.0.3:80", {"tier": "cloud"})
    pool.replace([*pool.endpoints[:3], added])
    assert of.tiers["p"].name(added) == "cloud"
    assert of.tiers["p"].excluded(frozenset({"cloud"})) == {at(of, CLOUD[0]), added}


# -- a day --------------------------------------------------------------------------------------------------

SLOTS, ANSWER_S, SCRAPE_S = 10, 4.0, 0.2


class Day:
    """Servers that run 10 requests of 4 s at once each and let others wait, scraped every 0.2 s."""

    def __init__(self) -> None:
        self.fleet: Fleet = fleet(text(spill="in_flight: 9"))
        self.ends: dict[str, list[float]] = {each: [] for each in (*IDC, *CLOUD)}
        self.now = NOW
        self.waited = 0
        self._rng = random.Random(8)

    def run(self, rate: float, duration_s: float) -> Counter[str]:
        """Requests come at *rate* a second; how many went to each tier."""
        tiers: Counter[str] = Counter()
        end = self.now + duration_s
        next_scrape = self.now
        assert self.fleet.router is not None
        while self.now < end:
            self._finish()
            if self.now >= next_scrape:
                self._scrape()
                next_scrape += SCRAPE_S
            decision = self.fleet.router.decide(request(), self.now, self._rng)
            decision.endpoint.acquire()
            tiers[decision.tier or ""] += 1
            running = self.ends[decision.endpoint.address]
            self.waited += len(running) >= SLOTS
            begins = self.now if len(running) < SLOTS else sorted(running)[-SLOTS]
            running.append(begins + ANSWER_S)
            self.now += self._rng.expovariate(rate)
        return tiers

    def _finish(self) -> None:
        for _, each in self.fleet.endpoints():
            ended = [at for at in self.ends[each.address] if at <= self.now]
            self.ends[each.address] = [at for at in self.ends[each.address] if at > self.now]
            for _ in ended:
                each.release()

    def _scrape(self) -> None:
        for where, ends in self.ends.items():
            running = min(len(ends), SLOTS)
            self.fleet.scraped(where, metrics(running, len(ends) - running, running / SLOTS * 0.5), self.now)


def test_over_a_day_only_the_excess_spills_nobody_waits_and_the_cloud_is_empty_again_at_night() -> None:
    day = Day()
    night, peak = 1.5, 5.5  # the own 20 slots serve 5 a second
    assert set(day.run(night, 60)) == {"idc"}
    by_tier = day.run(peak, 300)
    assert day.waited == 0
    assert 0.6 <= by_tier["idc"] / by_tier.total() <= 18 / ANSWER_S / peak  # as much as it has room for
    day.run(night, 30)
    assert set(day.run(night, 60)) == {"idc"}
    assert day.fleet.router is not None
    day._finish()
    day._scrape()
    assert day.fleet.router.tiers["p"].open(day.now) == [True, False]
    assert {
        each.address for each, may_go in day.fleet.router.tiers["p"].drainable(day.now).items() if may_go
    } == set(CLOUD)
