"""The Go endpoint picker's default, re-created: what it scores, what it remembers, what it does not count."""

from __future__ import annotations

import pytest
from bench_worlds import begun, call, choices, replica

from extproc.benchmark.baselines import GoPicker
from extproc.benchmark.workload import Call
from extproc.engine_metrics import EngineMetrics

PLAIN = call(prompt=640)


def scraped(policy: GoPicker, *figures: tuple[int, float]) -> GoPicker:
    """*figures*: waiting requests and KV usage of each replica."""
    for number, (waiting, usage) in enumerate(figures):
        policy.scraped(number, EngineMetrics(waiting=waiting, running=7, kv_cache_usage=usage), 0.0)
    return policy


@pytest.mark.parametrize(
    ("figures", "scores"),
    [
        pytest.param([(0, 0.0), (5, 0.0), (10, 0.0)], [4.0, 3.0, 2.0], id="queue: 2 between least and most"),
        pytest.param([(7, 0.0), (7, 0.0), (7, 0.0)], [4.0, 4.0, 4.0], id="all queues alike are all the best"),
        pytest.param([(0, 0.0), (0, 0.25), (0, 1.0)], [4.0, 3.5, 2.0], id="KV: 2 for what is free"),
        pytest.param([(0, 0.5), (5, 0.0), (10, 1.0)], [3.0, 3.0, 0.0], id="both"),
        pytest.param([(9, 0.5)], [1.0, 4.0, 4.0], id="a pod never scraped counts as empty"),
    ],
)
def test_the_go_picker_scores_queues_and_kv_caches(
    figures: list[tuple[int, float]], scores: list[float]
) -> None:
    policy = scraped(begun(GoPicker(1), PLAIN), *figures)
    assert policy.scores(policy.hashes(PLAIN)) == scores


def test_the_go_picker_takes_the_best_and_draws_ties() -> None:
    policy = scraped(begun(GoPicker(1), PLAIN), (0, 0.5), (5, 0.0), (10, 1.0))
    counts = choices(policy, 1000)
    assert set(counts) == {0, 1}
    assert min(counts.values()) > 400


def test_the_go_picker_counts_nothing_itself() -> None:
    policy = scraped(begun(GoPicker(1), PLAIN), (0, 0.0), (0, 0.1), (0, 0.1))
    assert choices(policy, 50) == {0: 50}


def test_the_go_picker_reads_metrics_every_50_ms() -> None:
    assert GoPicker(1).scrape_interval_s == 0.05


CONTENTS = (range(100, 200),)


@pytest.mark.parametrize(
    ("made", "hashes"),
    [
        (call(prompt=192, blocks=CONTENTS), [(None, 103), (None, 107), (None, 111)]),
        pytest.param(
            call(prompt=160, blocks=CONTENTS), [(None, 103), (None, 107), (None, 109)], id="the rest"
        ),
        pytest.param(
            call(prompt=165, blocks=CONTENTS), [(None, 103), (None, 107), 0], id="like nothing else"
        ),
        pytest.param(call(prompt=165), [0, 1, 2], id="nothing alike"),
        pytest.param(
            call(prompt=200, blocks=(range(6),)), [(None, 3), 0, 1, 2], id="alike to its sixth block"
        ),
        pytest.param(
            call(prompt=64, blocks=(range(2), range(7, 9))), [(None, 8)], id="ranges follow each other"
        ),
        pytest.param(call(prompt=64, blocks=CONTENTS, lora="a"), [("a", 103)], id="of the adapter"),
        pytest.param(call(prompt=5), [0], id="short"),
    ],
)
def test_the_go_picker_hashes_each_64_tokens_and_the_rest(made: Call, hashes: list[object]) -> None:
    assert begun(GoPicker(1)).hashes(made) == hashes


def test_the_go_picker_hashes_no_more_than_131072_tokens() -> None:
    policy = begun(GoPicker(1))
    assert len(policy.hashes(call(prompt=200_000))) == 2048
    assert len(policy.hashes(call(prompt=200_000, blocks=(range(12_500),)))) == 2048


def test_the_go_picker_scores_the_share_of_the_prompts_blocks_that_a_pod_got_by_three() -> None:
    first, longer = call(prompt=128, blocks=(range(8),)), call(prompt=250, blocks=(range(8), range(90, 94)))
    policy = begun(GoPicker(1), first, longer)
    chosen = policy.choose(0, 0.0)
    expected = [4.0, 4.0, 4.0]
    expected[chosen] += 3 * 2 / 4
    assert policy.scores(policy.hashes(longer)) == expected
    assert [policy.choose(1, 0.0) for _ in range(5)] == [chosen] * 5


def test_to_the_go_picker_adapters_share_nothing() -> None:
    policy = begun(GoPicker(1), call(prompt=128, blocks=(range(8),), lora="a"))
    policy.choose(0, 0.0)
    assert policy.scores(policy.hashes(call(prompt=128, blocks=(range(8),), lora="b"))) == [4.0] * 3


def test_the_go_picker_holds_as_many_hashes_for_a_pod_as_it_has_kv_blocks_the_least_recent_go() -> None:
    prompts = [call(prompt=64, blocks=(range(10 * number, 10 * number + 4),)) for number in range(4)]
    policy = begun(GoPicker(1), *prompts, replicas=[replica(num_blocks=3)])
    for number in (0, 1, 2, 0, 3):  # 0 is used again, so that 1 has to go
        policy.choose(number, 0.0)
    assert [policy.scores(policy.hashes(prompt)) for prompt in prompts] == [[7.0], [4.0], [7.0], [7.0]]


def test_what_is_like_nothing_else_takes_room_in_the_go_pickers_index_too() -> None:
    policy = begun(
        GoPicker(1), call(prompt=64, blocks=(range(4),)), call(prompt=192), replicas=[replica(num_blocks=3)]
    )
    policy.choose(0, 0.0)
    policy.choose(1, 0.0)
    assert policy.scores(policy.hashes(call(prompt=64, blocks=(range(4),)))) == [4.0]


def test_the_go_picker_counts_blocks_up_to_the_first_that_no_pod_got() -> None:
    whole = call(prompt=256, blocks=(range(16),))
    policy = begun(GoPicker(1), whole, replicas=[replica(num_blocks=3), replica()])
    scraped(policy, (0, 0.0), (9, 0.9))
    assert policy.choose(0, 0.0) == 0  # which forgets the first of four at once
    assert policy.scores(policy.hashes(whole)) == pytest.approx([4.0, 0.2])
    scraped(policy, (9, 0.9), (0, 0.0))
    assert policy.choose(0, 0.0) == 1
    assert policy.scores(policy.hashes(whole)) == pytest.approx([0.2 + 3 * 3 / 4, 7.0])
