"""What the compared policies do: the re-created defaults by the facts, our own core as it is, the bound."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import pytest
from bench_worlds import begun, call, choices, replica, workload

from extproc import config_file
from extproc.benchmark.baselines import Blind, LeastRequest, PowerOfTwo, Random, RoundRobin
from extproc.benchmark.oracle import Oracle
from extproc.benchmark.ours import POOL, Extproc
from extproc.benchmark.outcome import Outcome
from extproc.benchmark.policies import (
    LATE_BINDING,
    LATE_BINDING_TIMEOUT_S,
    OWN,
    POLICIES,
    TIERED,
    OwnConfig,
    make,
)
from extproc.benchmark.results import LEAST_REQUEST, OURS
from extproc.benchmark.results import POLICIES as SHOWN
from extproc.benchmark.simulation import World, simulate
from extproc.benchmark.workload import Replica, Workload
from extproc.benchmark.workloads import WORKLOADS
from extproc.config.schema import PoolConfig, QueueConfig
from extproc.endpoint import Endpoint
from extproc.request import InferenceRequest
from extproc.scheduling.outstanding_work import OutstandingWorkScorer
from extproc.sim.sequence import Request

# -- the simple ones ----------------------------------------------------------------------------------------


def test_random_takes_each_replica_about_as_often() -> None:
    counts = choices(begun(Random(1)), 3000)
    assert set(counts) == {0, 1, 2}
    assert min(counts.values()) > 900


def test_round_robin_takes_each_replica_in_its_turn() -> None:
    policy = begun(RoundRobin(1))
    first = policy.choose(0, 0.0)
    assert [policy.choose(0, 0.0) for _ in range(6)] == [(first + step) % 3 for step in range(1, 7)]


def test_round_robin_begins_anywhere() -> None:
    assert {begun(RoundRobin(seed)).choose(0, 0.0) for seed in range(30)} == {0, 1, 2}


def test_least_request_takes_the_replica_with_the_fewest_in_flight() -> None:
    policy = begun(LeastRequest(1))
    assert choices(policy, 30) == {0: 10, 1: 10, 2: 10}
    for _ in range(2):
        policy.ended(0, 1, 0.0)
    assert choices(policy, 2) == {1: 2}


def test_least_request_draws_ties() -> None:
    assert {begun(LeastRequest(seed)).choose(0, 0.0) for seed in range(30)} == {0, 1, 2}


def test_power_of_two_takes_the_one_with_fewer_in_flight_of_the_two_it_draws() -> None:
    policy = begun(PowerOfTwo(1))
    policy.in_flight = [9, 5, 1]
    rng = random.Random()
    rng.setstate(policy.rng.getstate())
    for _ in range(200):
        drawn = rng.randrange(3), rng.randrange(3)
        assert policy.pick() == max(drawn)  # the higher the index, the fewer in flight


def test_power_of_two_takes_the_worst_replica_only_where_it_draws_it_twice() -> None:
    policy = begun(PowerOfTwo(1))
    policy.in_flight = [9, 5, 1]
    counts = Counter(policy.pick() for _ in range(9000))
    assert [counts[number] / 1000 for number in range(3)] == pytest.approx([1, 3, 5], abs=0.3)


# -- the bound ----------------------------------------------------------------------------------------------


def engine_request(name: str, **more: object) -> Request:
    shown = {"prompt_tokens": 1024, "output_tokens": 5, **more}
    return Request(id=name, **shown)  # type: ignore[arg-type]


def chosen(policy: Blind, world: World, at: float) -> set[int]:
    policy.start(world)
    return {policy.choose(0, at) for _ in range(20)}


def test_the_oracle_prefers_an_idle_replica() -> None:
    world = World(workload(call(), replicas=[replica()] * 2), Oracle(1))
    world.engines[0].submit(engine_request("busy"), 0.0)
    assert chosen(Oracle(1), world, 0.5) == {1}


def test_the_oracle_knows_at_once_that_a_replica_is_idle_again() -> None:
    world = World(workload(call(), replicas=[replica()] * 2), Oracle(1))
    world.engines[0].submit(engine_request("busy"), 0.0)
    assert chosen(Oracle(1), world, 5.0) == {0, 1}


def test_the_oracle_prefers_the_replica_that_has_the_prompt_in_its_cache() -> None:
    world = World(workload(call(prompt=1024, blocks=(range(64),)), replicas=[replica()] * 3), Oracle(1))
    world.engines[2].submit(engine_request("before", blocks=(range(64),)), 0.0)
    assert chosen(Oracle(1), world, 9.0) == {2}


def test_the_oracle_prefers_the_replica_whose_answers_end_sooner_where_memory_is_short() -> None:
    short = replica(num_blocks=70)
    world = World(workload(call(prompt=1024), replicas=[short] * 2), Oracle(1))
    world.engines[0].submit(engine_request("long", output_tokens=90), 0.0)
    world.engines[1].submit(engine_request("short", output_tokens=9), 0.0)
    assert chosen(Oracle(1), world, 3.5) == {1}


def test_the_oracle_prefers_a_replica_with_a_free_lora_slot() -> None:
    slots = replica(max_loras=1)
    world = World(workload(call(lora="new"), replicas=[slots] * 2), Oracle(1))
    for number, lora in enumerate(("other", "new")):
        world.engines[number].submit(engine_request(lora, lora=lora, output_tokens=50), 0.0)
    assert chosen(Oracle(1), world, 3.5) == {1}


# -- ours ---------------------------------------------------------------------------------------------------


def run(
    policy: str, name: str = "azure-conv", rate: float = 20.0, seed: int = 1, **more: int
) -> list[Outcome]:
    return simulate(WORKLOADS[name].make(seed, rate, 10.0, 0.0), make(policy, seed, **more)).outcomes


def test_our_choice_is_the_real_scorers(monkeypatch: pytest.MonkeyPatch) -> None:
    def last(
        self: OutstandingWorkScorer, request: InferenceRequest, endpoints: Sequence[Endpoint], now: float
    ) -> list[float]:
        return [float(endpoint is endpoints[-1]) for endpoint in endpoints]

    before = {outcome.replica for outcome in run(OURS)}
    monkeypatch.setattr(OutstandingWorkScorer, "score", last)
    assert before == {0, 1, 2, 3, 4}
    assert {outcome.replica for outcome in run(OURS)} == {4}


def spread(routers: int, seed: int) -> list[int]:
    """On which of two replicas two long prompts that come at once are served, before any metrics are read."""
    calls = call(1.01, prompt=2000, output=9), call(1.02, prompt=2000, output=9)
    policy = Extproc(seed, routers=routers, scrape_interval_s=1.0)
    return [
        outcome.replica for outcome in simulate(workload(*calls, replicas=[replica()] * 2), policy).outcomes
    ]


def test_one_router_sees_what_it_sent() -> None:
    assert all(len(set(spread(1, seed))) == 2 for seed in range(20))


def test_several_routers_share_nothing() -> None:
    assert {len(set(spread(2, seed))) for seed in range(20)} == {1, 2}


@pytest.mark.parametrize("seed", range(8))
def test_an_answer_that_ended_no_longer_counts(seed: int) -> None:
    calls = call(1.01, prompt=2000, output=90), call(1.02, output=5), call(20.02, prompt=2000)
    run = simulate(
        workload(*calls, replicas=[replica()] * 2, duration_s=40.0), Extproc(seed, scrape_interval_s=1.0)
    )
    where = {outcome.call: outcome.replica for outcome in run.outcomes}
    assert where[2] == where[1] != where[0]


def test_with_late_binding_an_answers_end_calls_up_the_next_at_once() -> None:
    calls = [call(1.0 + 0.5 * number, output=5) for number in range(6)]
    pool = PoolConfig(POOL, [], queue=QueueConfig(timeout_s=30.0))
    policy = Extproc(1, scrape_interval_s=1.0, pool=pool)
    run = simulate(workload(*calls, replicas=[replica(max_num_seqs=1)], duration_s=100.0), policy)
    # the page of 2.0 tells of a queue, so that only one waits there from then on; answers take 5 s
    assert [outcome.sent_s + outcome.queued_s for outcome in run.outcomes] == [
        1.0,
        1.5,
        2.0,
        11.0,
        16.0,
        21.0,
    ]
    assert [outcome.finished_s for outcome in run.outcomes] == [6.0, 11.0, 16.0, 21.0, 26.0, 31.0]


def queued_s(outcomes: list[Outcome]) -> list[float]:
    return [outcome.queued_s for outcome in outcomes]


@pytest.mark.parametrize("routers", [1, 2])
def test_late_binding_holds_calls_until_there_is_room_or_their_time_is_up(routers: int) -> None:
    outcomes = run(LATE_BINDING, "priorities", 80.0, routers=routers)
    held = [outcome for outcome in outcomes if outcome.queued_s > 0]
    assert [outcome for outcome in held if outcome.priority < 0] == []
    assert 0 < min(queued_s(held)) < LATE_BINDING_TIMEOUT_S  # there was room
    assert max(queued_s(held)) == pytest.approx(LATE_BINDING_TIMEOUT_S)  # there was none in time
    refused = {outcome.priority for outcome in outcomes if outcome.replica < 0}
    assert refused == {-1, 0}


def test_without_late_binding_nothing_is_held() -> None:
    assert set(queued_s(run(OURS, "priorities", 80.0))) == {0.0}


@pytest.fixture(scope="module")
def day() -> Workload:
    return WORKLOADS["tidal"].make(1, 7.5, 300.0, 0.0)


def cloud_share(outcomes: list[Outcome], *tenths: int) -> float:
    """Of the calls sent in *tenths* of the day, those that the cloud's replicas (the last two) served."""
    return fmean(outcome.replica >= 4 for outcome in outcomes if int(outcome.sent_s // 30) in tenths)


def test_tiers_keep_the_cloud_empty_off_peak_and_use_it_at_the_peak(day: Workload) -> None:
    outcomes = simulate(day, make(TIERED, 1)).outcomes
    assert cloud_share(outcomes, 0, 9) < 0.02
    assert cloud_share(outcomes, 4, 5) > 0.02


def test_without_tiers_the_cloud_is_used_all_day(day: Workload) -> None:
    outcomes = simulate(day, make(OURS, 1)).outcomes
    assert cloud_share(outcomes, 0, 9) > 0.2


FILE = """
pools:
- name: mine
  endpoints: ["10.0.0.1:8000"]
  metrics: {{interval_s: 0.5}}
  profile: {profile}
profiles:
- name: {profile}
  scorers: [{{type: queue}}]
"""


def run_own(profile: str, directory: Path) -> list[Outcome]:
    path = directory / "router.yaml"
    path.write_text(FILE.format(profile=profile))
    config, _ = config_file.load(path)
    policy = make(OWN, 1, own=OwnConfig(config.pools[0], config.profile(profile)))
    assert policy.scrape_interval_s == 0.5
    return simulate(WORKLOADS["azure-conv"].make(1, 20.0, 10.0), policy).outcomes


def test_your_own_config_is_run_with_its_profile_even_one_called_default(tmp_path: Path) -> None:
    built_in = simulate(
        WORKLOADS["azure-conv"].make(1, 20.0, 10.0), Extproc(1, scrape_interval_s=0.5)
    ).outcomes
    own = run_own("own", tmp_path)
    assert own != built_in
    assert run_own("default", tmp_path) == own


def preferred(pool: str, *replicas: Replica) -> set[int]:
    """Who serves calls that come one by one under a config that prefers those labelled `t: own`."""
    config = config_file.parse(f"pools: [{{name: p, {pool}, tiers: {TIERS}}}]".encode())
    policy = make(OWN, 1, own=OwnConfig(config.pools[0], config.profile("default")))
    calls = [call(10.0 * number) for number in range(30)]
    run = simulate(workload(*calls, replicas=replicas, duration_s=300.0), policy)
    return {outcome.replica for outcome in run.outcomes}


TIERS = "[{name: own, labels: {t: own}}, {name: cloud, labels: {t: cloud}}]"
OWN_AND_CLOUD = "{address: '10.9.9.9:80', labels: {t: own}}, {address: '10.9.9.8:80', labels: {t: cloud}}"


def test_simulated_endpoints_carry_the_labels_of_your_configs_in_turn() -> None:
    assert preferred(f"endpoints: [{OWN_AND_CLOUD}]", *[replica()] * 5) == {0, 2, 4}


def test_where_your_pools_endpoints_are_the_clusters_the_workloads_labels_count() -> None:
    labelled = [Replica(engine=replica().engine, labels={"t": tier}) for tier in ("cloud", "own")]
    assert preferred("kubernetes: {selector: {app: x}, port: 80}", *labelled) == {1}


def test_every_policy_that_the_report_knows_can_be_run() -> None:
    assert set(SHOWN) <= set(POLICIES)


# -- the ranking --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "share"), [("azure-conv", 0.95), ("agents", 0.7), ("mixed-gpus", 0.9)])
def test_our_default_gives_first_tokens_sooner_than_least_request(name: str, share: float) -> None:
    def ttft_s(policy: str) -> float:
        spec = WORKLOADS[name]
        runs = [simulate(spec.make(seed, None, 60.0), make(policy, seed)) for seed in (1, 2)]
        return fmean(each.first_token_s - each.sent_s for run in runs for each in run.outcomes)

    assert ttft_s(OURS) < share * ttft_s(LEAST_REQUEST)
