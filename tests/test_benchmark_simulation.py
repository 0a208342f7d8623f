"""The routing simulator's event loop: what it counts, when policies learn what, and that nothing gets lost."""

from __future__ import annotations

from itertools import chain

import pytest
from bench_worlds import Scripted, call, replica, workload
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from extproc.benchmark.outcome import Outcome, Run
from extproc.benchmark.policies import GO_PICKER, LATE_BINDING, P2C, POLICIES, RANDOM, make
from extproc.benchmark.results import LEAST_REQUEST, OURS
from extproc.benchmark.simulation import OVERRUN, SCRAPE_DELAY_S, metrics_of, prefix_hashes, simulate
from extproc.benchmark.workload import BLOCK_TOKENS, Call, Workload
from extproc.benchmark.workloads import WORKLOADS
from extproc.engine_metrics import EngineMetrics
from extproc.request import CHECKPOINTS
from extproc.sim.engine import Engine
from extproc.sim.sequence import Request


def outcome(number: int, sent: float, first: float, finished: float, **more: object) -> Outcome:
    shown = {"replica": 0, "prompt_tokens": 16, "output_tokens": 1, **more}
    return Outcome(call=number, sent_s=sent, first_token_s=first, finished_s=finished, **shown)  # type: ignore[arg-type]


# -- time ---------------------------------------------------------------------------------------------------


def test_a_call_on_an_idle_replica_takes_a_step_for_its_prompt_and_one_for_each_further_token() -> None:
    run = simulate(workload(call(output=3)), Scripted())
    assert run.outcomes == [outcome(0, 0.0, 1.0, 3.0, output_tokens=3)]
    assert run.simulated_s == 3.0


def test_a_call_that_comes_within_a_step_begins_with_the_next_one() -> None:
    run = simulate(workload(call(output=3), call(0.5, output=2)), Scripted())
    assert run.outcomes == [
        outcome(0, 0.0, 1.0, 3.0, output_tokens=3),
        outcome(1, 0.5, 2.0, 3.0, output_tokens=2),
    ]


def test_a_call_waits_at_its_replica_until_there_is_room_whatever_is_free_elsewhere() -> None:
    narrow = replica(max_num_seqs=1)
    calls = call(output=3), call(output=3), call(output=2)
    run = simulate(workload(*calls, replicas=[narrow, narrow]), Scripted(0, 0, 1))
    assert run.outcomes == [
        outcome(2, 0.0, 1.0, 2.0, output_tokens=2, replica=1),
        outcome(0, 0.0, 1.0, 3.0, output_tokens=3),
        outcome(1, 0.0, 4.0, 6.0, output_tokens=3),
    ]


def test_what_is_cached_is_told_and_need_not_be_computed() -> None:
    calls = call(0, prompt=4096, blocks=(range(256),)), call(5, prompt=4096, blocks=(range(256),))
    run = simulate(workload(*calls), Scripted())
    # 4,096 tokens are two steps of 2,048; of the second prompt all but the last block is there
    assert run.outcomes == [
        outcome(0, 0.0, 2.0, 2.0, prompt_tokens=4096),
        outcome(1, 5.0, 6.0, 6.0, prompt_tokens=4096, cached_tokens=4080),
    ]


def test_the_policy_is_told_of_the_end_of_an_answer_when_it_ends() -> None:
    policy = Scripted(1)
    simulate(workload(call(0.25, output=2), replicas=[replica(), replica()]), policy)
    assert policy.arrivals == [(0, 0.25)]
    assert policy.ends == [(0, 1, 2.25)]


def test_a_call_may_be_held_and_that_counts() -> None:
    run = simulate(workload(call(1.0)), Scripted(held_s=2.5))
    assert run.outcomes == [outcome(0, 1.0, 4.5, 4.5, queued_s=2.5)]


def test_priority_and_tenant_stay_with_a_call() -> None:
    run = simulate(workload(call(priority=-1, tenant="a")), Scripted())
    assert run.outcomes == [outcome(0, 0.0, 1.0, 1.0, priority=-1, tenant="a")]


def test_the_kv_usage_is_noted_each_second() -> None:
    run = simulate(workload(call(prompt=160, output=3), replicas=[replica(num_blocks=20)] * 2), Scripted())
    # the answer's first token needs an eleventh block
    assert run.kv_usage == [(1.0, (0.5, 0.0)), (2.0, (0.55, 0.0)), (3.0, (0.0, 0.0))]


# -- which calls, and which count ---------------------------------------------------------------------------


def test_in_an_open_loop_calls_come_when_they_come() -> None:
    policy = Scripted()
    simulate(workload(*(call(0.5 * number, output=9) for number in range(4))), policy)
    assert policy.arrivals == [(0, 0.0), (1, 0.5), (2, 1.0), (3, 1.5)]


def test_in_a_closed_loop_a_client_sends_its_next_call_when_its_last_one_ended() -> None:
    policy = Scripted()
    calls = call(output=1), call(output=3), call(output=1), call(output=1)
    run = simulate(workload(*calls, concurrency=2), policy)
    # where call 1 goes on, the step from 1 to 2 has begun when call 2 comes
    assert policy.arrivals == [(0, 0.0), (1, 0.0), (2, 1.0), (3, 3.0)]
    assert policy.ends == [(0, 0, 1.0), (1, 0, 3.0), (2, 0, 3.0), (3, 0, 4.0)]
    assert run.measured_s == 4.0


def test_in_a_closed_loop_a_refused_call_is_over_too() -> None:
    policy = Scripted(refused=[0])
    run = simulate(workload(call(), call(), concurrency=1), policy)
    assert run.outcomes == [outcome(0, 0.0, 0.0, 0.0, replica=-1), outcome(1, 0.0, 1.0, 1.0)]


def test_in_a_closed_loop_no_call_is_sent_before_its_time() -> None:
    policy = Scripted()
    simulate(workload(call(), call(5.0), concurrency=1), policy)
    assert policy.arrivals == [(0, 0.0), (1, 5.0)]


def test_more_clients_than_calls_send_each_call_once() -> None:
    policy = Scripted()
    simulate(workload(call(), call(), concurrency=5), policy)
    assert policy.arrivals == [(0, 0.0), (1, 0.0)]


def test_calls_of_the_warm_up_are_served_but_not_measured() -> None:
    narrow = replica(max_num_seqs=1)
    run = simulate(workload(call(0.0, output=5), call(2.0), replicas=[narrow], warmup_s=2.0), Scripted())
    assert run.outcomes == [outcome(1, 2.0, 6.0, 6.0)]
    assert run.measured_s == 8.0


def test_a_refused_call_counts_as_one() -> None:
    policy = Scripted(refused=[1])
    run = simulate(workload(call(0.0), call(0.5)), policy)
    assert run.outcomes == [outcome(1, 0.5, 0.5, 0.5, replica=-1), outcome(0, 0.0, 1.0, 1.0)]
    assert policy.ends == [(0, 0, 1.0)]


def test_where_a_run_is_cut_what_is_not_over_counts_as_refused() -> None:
    calls = call(0.25, output=90), call(0.5), call(0.75)
    run = simulate(workload(*calls, duration_s=1.0, replicas=[replica(max_num_seqs=1)]), Scripted(lost=[2]))
    assert run.simulated_s == OVERRUN
    assert run.outcomes == [
        outcome(0, 0.25, OVERRUN, OVERRUN, replica=-1, output_tokens=90),
        outcome(1, 0.5, OVERRUN, OVERRUN, replica=-1),
        outcome(2, 0.75, OVERRUN, OVERRUN, replica=-1, queued_s=OVERRUN - 0.75),
    ]


def test_a_closed_loop_is_never_cut() -> None:
    run = simulate(workload(call(output=50), duration_s=1.0, concurrency=1), Scripted())
    assert run.outcomes == [outcome(0, 0.0, 1.0, 50.0, output_tokens=50)]


# -- metrics pages ------------------------------------------------------------------------------------------


def test_a_page_is_as_of_the_last_iteration_and_comes_with_delay() -> None:
    policy = Scripted(scrape_interval_s=0.75)
    simulate(workload(call(0.25, output=2)), policy)
    # the steps end at 1.25 and 2.25
    assert [(page.running, now) for _, page, now in policy.pages] == [
        (0, SCRAPE_DELAY_S),
        (0, 0.75 + SCRAPE_DELAY_S),
        (1, 1.5 + SCRAPE_DELAY_S),
    ]


def test_pages_of_several_replicas_come_evenly_over_the_interval() -> None:
    policy = Scripted(scrape_interval_s=1.0)
    simulate(workload(call(output=1), replicas=[replica()] * 4), policy)
    assert [(number, now) for number, _, now in policy.pages] == [
        (number, number / 4 + SCRAPE_DELAY_S) for number in range(4)
    ]


def test_who_asks_for_no_pages_gets_none() -> None:
    policy = Scripted()
    simulate(workload(call(output=9)), policy)
    assert policy.pages == []


def test_a_page_holds_what_vllms_would() -> None:
    engine = Engine(replica(max_num_seqs=1, max_loras=2, num_blocks=20).engine)
    for number, lora in enumerate(("one", "two", "two")):
        engine.submit(Request(id=str(number), prompt_tokens=32, output_tokens=3, lora=lora), 0.0)
    engine.catch_up(5.0)
    assert metrics_of(engine) == EngineMetrics(
        waiting=1,
        running=1,
        kv_cache_usage=pytest.approx(0.15),
        running_loras=frozenset({"two"}),
        waiting_loras=frozenset({"two"}),
        max_loras=2,
        block_size=16,
        num_gpu_blocks=20,
        prompt_tokens_total=64,
        generation_tokens_total=5,
        requests_finished_total=1,
        prefix_cache_hits_total=0,
        iterations_total=5,
    )


# -- all policies -------------------------------------------------------------------------------------------

CASES = [("priorities", 45.0, 8.0), ("lora", 20.0, 8.0), ("seed", 12.0, 60.0)]
"""More than the fleet can do, with priorities and tenants; more adapters than slots; a closed loop."""


def made(name: str, rate: float, duration_s: float) -> Workload:
    return WORKLOADS[name].make(1, rate, duration_s, 0.0)


@pytest.mark.parametrize(("workload", "rate", "duration_s"), CASES)
@pytest.mark.parametrize(
    ("policy", "routers"), [*((name, 1) for name in POLICIES), (OURS, 3), (LATE_BINDING, 3)]
)
def test_every_call_ends_exactly_once(
    policy: str, routers: int, workload: str, rate: float, duration_s: float
) -> None:
    calls = made(workload, rate, duration_s)
    run = simulate(calls, make(policy, 1, routers))
    assert sorted(each.call for each in run.outcomes) == list(range(len(calls.calls)))
    for each in run.outcomes:
        assert each.sent_s <= each.first_token_s <= each.finished_s <= run.simulated_s
        assert -1 <= each.replica < len(calls.replicas)


def without_wall(run: Run) -> Run:
    return replace(run, wall_s=0.0)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_run_is_a_function_of_its_seed(policy: str) -> None:
    first, again = (simulate(made("priorities", 45.0, 6.0), make(policy, 3)) for _ in range(2))
    assert without_wall(first) == without_wall(again)


@pytest.mark.parametrize("policy", [OURS, LEAST_REQUEST, P2C, RANDOM, GO_PICKER])
def test_a_policys_own_draws_come_from_its_seed(policy: str) -> None:
    one, other = (simulate(made("priorities", 45.0, 6.0), make(policy, seed)) for seed in (3, 4))
    assert without_wall(one) != without_wall(other)


# -- what is alike in prompts -------------------------------------------------------------------------------

RANGES = st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 60)), max_size=6).map(
    lambda pieces: tuple(range(start, start + count) for start, count in pieces)
)
STEPS = st.lists(st.integers(1, 30), max_size=12).map(
    lambda steps: [BLOCK_TOKENS * sum(steps[: end + 1]) for end in range(len(steps))]
)


@given(tokens=st.integers(1, 6000), blocks=RANGES, checkpoints=STEPS | st.just(CHECKPOINTS))
def test_the_hash_of_a_beginning_is_its_last_block(
    tokens: int, blocks: tuple[range, ...], checkpoints: list[int]
) -> None:
    flat = list(chain.from_iterable(blocks))
    made = Call(prompt_tokens=tokens, output_tokens=1, blocks=blocks)
    assert prefix_hashes(made, checkpoints, BLOCK_TOKENS) == tuple(
        flat[at // BLOCK_TOKENS - 1] for at in checkpoints if at <= min(tokens, len(flat) * BLOCK_TOKENS)
    )


def test_the_routers_checkpoints_are_ends_of_blocks() -> None:
    assert [at for at in CHECKPOINTS if at % BLOCK_TOKENS] == []
