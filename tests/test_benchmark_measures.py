"""What is measured of a run: latencies, throughput, goodput, evenness."""

from __future__ import annotations

from typing import Any

import pytest

from extproc.benchmark.measures import (
    QUANTILE_LEVELS,
    Latency,
    Measures,
    goodput,
    measure,
    ttft_quantiles,
)
from extproc.benchmark.outcome import Outcome, Run


def call(**changes: Any) -> Outcome:
    """Sent at 0, first token after 1 s, 11 tokens of 0.05 s each after the first."""
    start = {"sent_s": 0.0, "first_token_s": 1.0, "finished_s": 1.5, "replica": 0}
    tokens = {"prompt_tokens": 100, "output_tokens": 11}
    return Outcome(**{"call": 0, **start, **tokens, **changes})


def refusal(at_s: float, queued_s: float = 0.0) -> Outcome:
    times = {"sent_s": at_s - queued_s, "first_token_s": at_s, "finished_s": at_s, "queued_s": queued_s}
    return call(replica=-1, output_tokens=0, **times)


def run(*outcomes: Outcome, kv_usage: list[tuple[float, tuple[float, ...]]] | None = None) -> Run:
    return Run(
        outcomes=list(outcomes), measured_s=10.0, kv_usage=kv_usage or [], simulated_s=12.0, wall_s=0.1
    )


def test_a_run_is_measured_in_all_its_respects() -> None:
    quick = call(cached_tokens=60)
    slow = call(
        sent_s=2.0,
        first_token_s=5.0,
        finished_s=10.0,
        replica=2,
        prompt_tokens=300,
        output_tokens=26,
        preemptions=1,
        queued_s=0.5,
    )
    usage = [(0.0, (0.4, 0.1, 0.1)), (2.0, (0.5, 0.5, 0.2)), (9.0, (0.0, 0.0, 0.9))]
    measures = measure(run(quick, slow, refusal(2.0), refusal(1.5, queued_s=1.0), kv_usage=usage))
    assert measures == Measures(
        calls=4,
        ttft=Latency(mean_s=2.0, median_s=2.0, p90_s=pytest.approx(2.8), p99_s=pytest.approx(2.98)),
        tpot=Latency(
            mean_s=pytest.approx(0.125),
            median_s=pytest.approx(0.125),
            p90_s=pytest.approx(0.185),
            p99_s=pytest.approx(0.1985),
        ),
        e2e=Latency(mean_s=4.75, median_s=4.75, p90_s=pytest.approx(7.35), p99_s=pytest.approx(7.935)),
        output_tokens_per_s=pytest.approx(3.7),
        requests_per_s=pytest.approx(0.2),
        goodput=0.25,
        refused_share=0.5,
        hit_ratio=pytest.approx(0.15),
        kv_spread=pytest.approx(0.15),
        preemptions_per_call=0.5,
        replica_shares=(0.5, 0.0, 0.5),
        held_p99_s=pytest.approx(0.985),
    )


def test_the_last_few_answers_do_not_count_for_throughput() -> None:
    steady = [call(sent_s=second, first_token_s=second, finished_s=second + 1.0) for second in range(99)]
    straggler = call(finished_s=5000.0, output_tokens=3000)
    measures = measure(run(*steady, straggler))
    assert measures.requests_per_s == 1.0
    assert measures.output_tokens_per_s == 11.0


@pytest.mark.parametrize(
    ("outcome", "share"),
    [
        (call(first_token_s=2.0, finished_s=3.0), 1.0),
        (call(first_token_s=2.001, finished_s=3.0), 0.0),
        (call(finished_s=1.99), 1.0),
        (call(finished_s=2.01), 0.0),
        (call(finished_s=1.0, output_tokens=1), 1.0),
        (refusal(0.0), 0.0),
    ],
    ids=["at the TTFT limit", "late", "under the TPOT limit", "slow", "one token", "refused"],
)
def test_good_is_a_call_served_within_both_limits(outcome: Outcome, share: float) -> None:
    assert goodput([outcome]) == share
    assert goodput([outcome, call()]) == (share + 1) / 2


def test_goodput_of_no_calls_is_whole() -> None:
    assert goodput([]) == 1.0


def test_answers_of_one_token_have_no_time_per_token() -> None:
    only = measure(run(call(finished_s=1.0, output_tokens=1)))
    assert only.tpot == Latency(mean_s=0.0, median_s=0.0, p90_s=0.0, p99_s=0.0)
    both = measure(run(call(finished_s=1.0, output_tokens=1), call()))
    assert both.tpot.mean_s == pytest.approx(0.05)


def test_a_run_in_which_nothing_was_served_has_no_latencies() -> None:
    with pytest.raises(ValueError, match="no call was served"):
        measure(run(refusal(1.0)))
    assert ttft_quantiles([refusal(1.0)]) == ()


def test_ttft_quantiles_give_the_tail_as_many_steps_as_the_rest() -> None:
    outcomes = [call(first_token_s=1 + rank / 10_000, finished_s=9.0) for rank in range(10_001)]
    found = dict(zip(QUANTILE_LEVELS, ttft_quantiles([*outcomes, refusal(50.0)]), strict=True))
    assert len(found) == 200
    assert {level: found[level] for level in (0.0, 0.5, 0.99, 0.9999, 1.0)} == pytest.approx(
        {0.0: 1.0, 0.5: 1.5, 0.99: 1.99, 0.9999: 1.9999, 1.0: 2.0}
    )
    assert sorted(QUANTILE_LEVELS) == list(QUANTILE_LEVELS)
