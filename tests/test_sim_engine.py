"""The simulated engine: its arithmetic and its limits."""

from __future__ import annotations

import msgspec
import pytest
from sim_workloads import PROFILE, engine, request, run, times

from extproc.sim.profiles import PROFILES
from extproc.sim.sequence import Finished, FirstToken, Request
from extproc.sim.stats import Gauges, Histogram, one_two_five


@pytest.mark.parametrize(
    ("tokens", "context", "sequences", "step_s"),
    [
        (1, 0, 1, 1.25),
        (128, 0, 1, 1.25),
        (129, 0, 1, 1.75),
        (328, 0, 1, 101.25),
        (1, 1024, 1, 2.25),
        (4, 2048, 4, 4.0),
    ],
)
def test_a_step_is_flat_to_128_tokens_and_grows_with_tokens_context_and_sequences(
    tokens: int, context: int, sequences: int, step_s: float
) -> None:
    assert PROFILE.step_s(tokens, context, sequences) == step_s


def test_every_profile_takes_longer_for_more_work_and_holds_a_default_context() -> None:
    for profile in PROFILES.values():
        assert 0 < profile.step_s(1, 0, 1) < profile.step_s(2048, 0, 1) < profile.step_s(2048, 50_000, 100)
        assert profile.num_blocks * 16 >= 32_768


def test_a_lone_request_gets_its_first_token_after_its_prefill_and_one_more_a_step() -> None:
    subject = engine()
    subject.submit(request(prompt=1024 - 128, output=3, stream=True), 10.0)
    prefill = 1.25 + 0.5 * 768 + 896 / 1024
    first, second = 10 + prefill, 10 + prefill + 1.25 + 897 / 1024
    last = second + 1.25 + 898 / 1024
    assert times(run(subject, 10.0)) == [
        ("FirstToken", "r", first),
        ("Token", "r", second),
        ("Token", "r", last),
        ("Finished", "r", last),
    ]


def test_tokens_are_events_only_where_they_are_streamed() -> None:
    subject = engine()
    subject.submit(request(output=5), 0.0)
    assert [type(event) for event in run(subject)] == [FirstToken, Finished]


def test_speed_divides_every_step() -> None:
    slow, fast = engine(), engine(speed=4.0)
    for subject in (slow, fast):
        subject.submit(request(output=9, stream=True), 0.0)
    assert [at * 4 for *_, at in times(run(fast))] == [at for *_, at in times(run(slow))]


def test_the_end_of_a_request_tells_its_times() -> None:
    subject = engine(max_num_seqs=1)
    one, two = request("one", output=1, finish_reason="length"), request("two", output=2)
    subject.submit(one, 1.0)
    subject.submit(two, 1.5)
    step = 1.25 + 16 / 1024
    assert [event for event in run(subject, 1.5) if isinstance(event, Finished)] == [
        Finished("one", 1 + step, "length", one, 1.0, 1.0, 1 + step, 0, 0),
        Finished("two", 1 + 3 * step + 1 / 1024, "stop", two, 1.5, 1 + step, 1 + 2 * step, 0, 0),
    ]


def test_requests_of_one_instant_share_a_step_and_a_later_one_waits_for_its_end() -> None:
    subject = engine()
    subject.submit(request("a", output=1), 0.0)
    subject.submit(request("b", output=1), 0.0)
    subject.submit(request("c", output=1), 0.5)
    together = 1.5 + 32 / 1024
    alone = together + 1.25 + 16 / 1024
    assert [entry for entry in times(run(subject, 0.5)) if entry[0] == "Finished"] == [
        ("Finished", "a", together),
        ("Finished", "b", together),
        ("Finished", "c", alone),
    ]


def test_a_long_prompt_is_computed_in_chunks_of_the_token_budget_while_others_decode() -> None:
    profile = msgspec.structs.replace(PROFILE, token_s=0.0, context_s=0.0, max_num_batched_tokens=101)
    subject = engine(profile=profile, max_num_seqs=2)
    subject.submit(request("short", prompt=1, output=5), 0.0)
    subject.advance(0.0)
    subject.submit(request("long", prompt=250, output=1), 0.5)
    # the step of the short prompt, then chunks of 100, 100 and 50 beside its decodes, at 1.5 s each
    assert times(run(subject, 0.5)) == [
        ("FirstToken", "short", 1.25),
        ("FirstToken", "long", 5.75),
        ("Finished", "long", 5.75),
        ("Finished", "short", 7.0),
    ]
    assert subject.stats.iteration_tokens.sum == 1 + 101 + 101 + 51 + 1


def test_no_more_than_max_num_seqs_run_and_the_first_to_come_is_the_first_to_run() -> None:
    subject = engine(max_num_seqs=2)
    for name in "abcd":
        subject.submit(request(name, output=2), 0.0)
    subject.advance(0.0)
    assert (subject.num_running, subject.num_waiting) == (2, 2)
    assert [event.id for event in run(subject) if isinstance(event, Finished)] == ["a", "b", "c", "d"]


def test_a_prompt_waits_until_its_blocks_are_free() -> None:
    subject = engine(block_size=16, num_blocks=4)
    subject.submit(request("big", prompt=40, output=2), 0.0)
    subject.submit(request("small", prompt=17, output=1), 0.0)
    subject.advance(0.0)
    assert (subject.free_blocks, subject.num_waiting) == (1, 1)
    assert [event.id for event in run(subject) if isinstance(event, Finished)] == ["big", "small"]
    assert subject.free_blocks == 4


def test_when_blocks_run_out_the_last_admitted_is_preempted_and_computed_again() -> None:
    subject = engine(block_size=16, num_blocks=4)
    subject.submit(request("first", prompt=32, output=10), 0.0)
    subject.submit(request("last", prompt=32, output=10, stream=True), 0.0)
    events = run(subject)
    assert [(event.id, event.preemptions) for event in events if isinstance(event, Finished)] == [
        ("first", 0),
        ("last", 1),
    ]
    assert len([event for event in events if event.id == "last" and not isinstance(event, Finished)]) == 10
    stats = subject.stats
    assert (stats.preemptions, stats.prompt_tokens, stats.generation_tokens) == (1, 64, 20)
    ends = [event for event in events if isinstance(event, Finished)]
    assert stats.inter_token.sum == sum(event.at_s - event.first_token_s for event in ends)
    assert stats.inter_token.count == 18
    # 1 token of `last` was generated: prompts, 9 decodes of each, and 32 + 1 tokens again for one of them
    assert stats.iteration_tokens.sum == 64 + 9 + 33 + 8
    assert subject.free_blocks == 4


def test_no_more_than_max_loras_adapters_share_a_batch_and_others_pass_the_deferred() -> None:
    subject = engine(max_loras=1)
    for name, lora in (("a1", "a"), ("b1", "b"), ("a2", "a"), ("base", None)):
        subject.submit(request(name, output=2, lora=lora), 0.0)
    events = subject.advance(1.6)
    assert subject.gauges == Gauges(running=0, waiting=0, deferred=0, kv_cache_usage=0.0)
    assert [event.id for event in events] == []
    subject.advance(2.0)
    assert subject.gauges == Gauges(running=3, waiting=1, deferred=1, kv_cache_usage=1 - 997 / 1000)
    assert [event.id for event in run(subject, 2.0) if isinstance(event, Finished)] == [
        "a1",
        "a2",
        "base",
        "b1",
    ]


def test_adapters_are_listed_while_any_request_for_them_is_there_and_old_lists_stay() -> None:
    subject = engine(max_loras=1)
    subject.submit(request("one", output=1, lora="a"), 0.0)
    subject.submit(request("two", output=1, lora="b"), 0.0)
    step = 1.25 + 16 / 1024
    events = run(subject)
    assert [event.at_s for event in events if isinstance(event, Finished)] == [step, 2 * step]
    assert dict(subject.lora_requests) == {"b": step, "": 2 * step}


def test_what_is_cached_of_a_prompt_is_not_computed_again_and_is_read_as_context() -> None:
    subject = engine()
    first = request("first", prompt=512, output=1, blocks=(range(32),))
    second = request("second", prompt=512, output=1, blocks=(range(20), range(50, 62)))
    subject.submit(first, 0.0)
    (*_, one) = run(subject)
    subject.submit(second, 1000.0)
    (*_, two) = run(subject, 1000.0)
    assert isinstance(one, Finished)
    assert isinstance(two, Finished)
    assert one.at_s == PROFILE.step_s(512, 512, 1)
    assert two.at_s - 1000 == PROFILE.step_s(192, 512, 1)
    assert (one.cached_tokens, two.cached_tokens) == (0, 320)
    snapshot = subject.snapshot()
    assert (snapshot.prefix_cache_queries, snapshot.prefix_cache_hits) == (1024, 320)
    assert (snapshot.prompt_tokens, snapshot.cached_prompt_tokens) == (1024, 320)
    assert subject.stats.histograms["request_prefill_kv_computed_tokens"].sum == 512 + 192


def test_of_a_prompt_that_is_cached_whole_the_last_block_is_computed() -> None:
    subject = engine()
    for name in ("first", "second"):
        subject.submit(request(name, prompt=64, output=1, blocks=(range(4),)), 0.0)
    ends = [event for event in run(subject) if isinstance(event, Finished)]
    assert [(event.id, event.cached_tokens) for event in ends] == [("first", 0), ("second", 48)]
    assert subject.stats.iteration_tokens.sum == 64 + 16


def test_the_next_turn_of_a_conversation_finds_the_answer_cached() -> None:
    subject = engine()
    subject.submit(request("turn 1", prompt=60, output=40, blocks=(range(6),)), 0.0)
    run(subject)
    subject.submit(request("turn 2", prompt=110, output=1, blocks=(range(6), range(90, 91))), 1000.0)
    (*_, end) = run(subject, 1000.0)
    assert isinstance(end, Finished)
    assert end.cached_tokens == 96


def test_without_prefix_caching_nothing_is_looked_for() -> None:
    subject = engine(prefix_caching=False)
    for name in ("first", "second"):
        subject.submit(request(name, prompt=64, output=1, blocks=(range(4),)), 0.0)
    run(subject)
    snapshot = subject.snapshot()
    assert (snapshot.prefix_cache_queries, snapshot.prefix_cache_hits) == (0, 0)
    assert subject.stats.iteration_tokens.sum == 128


def test_the_token_budget_of_the_gpu_can_be_overridden() -> None:
    subject = engine(max_num_batched_tokens=300)
    subject.submit(request(prompt=700, output=1), 0.0)
    run(subject)
    assert (subject.stats.iteration_tokens.count, subject.stats.iteration_tokens.sum) == (3, 700)


def test_without_chunked_prefill_prompts_go_whole_and_before_all_decoding() -> None:
    subject = engine(chunked_prefill=False, max_num_batched_tokens=300, max_model_len=1000)
    decode, prefill = PROFILE.step_s(1, 17, 1), PROFILE.step_s(900, 900, 1)
    subject.submit(request("short", prompt=16, output=3, stream=True), 0.0)
    first = PROFILE.step_s(16, 16, 1)
    subject.advance(first)
    subject.submit(request("long", prompt=900, output=1), first + 0.5)
    subject.submit(request("more", prompt=900, output=1), first + 0.5)
    second = first + decode
    last = second + 2 * prefill + PROFILE.step_s(1, 18, 1)
    assert times(run(subject, first + 0.5)) == [
        ("Token", "short", second),
        ("FirstToken", "long", second + prefill),
        ("Finished", "long", second + prefill),
        ("FirstToken", "more", second + 2 * prefill),
        ("Finished", "more", second + 2 * prefill),
        ("Token", "short", last),
        ("Finished", "short", last),
    ]
    assert (subject.stats.inter_token.count, subject.stats.inter_token.sum) == (2, last - first)


def test_without_chunked_prefill_a_hundredth_of_the_blocks_is_kept_for_those_that_run() -> None:
    subject = engine(chunked_prefill=False, num_blocks=200, prefix_caching=False)
    subject.submit(request("one", prompt=99 * 16, output=4), 0.0)
    subject.submit(request("two", prompt=99 * 16 + 1, output=4), 0.0)
    subject.advance(0.0)
    assert (subject.num_running, subject.num_waiting, subject.free_blocks) == (1, 1, 101)


def test_an_iteration_takes_longer_for_each_adapter_that_is_not_on_the_gpu() -> None:
    subject = engine(max_loras=2, lora_load_s=8.0)
    ends = []
    for name, lora in enumerate(["a", "b", "a", "c", "a", "b", None]):
        at = 1000.0 * name
        subject.submit(request(str(name), output=1, lora=lora), at)
        ends += [round(event.at_s - at) for event in run(subject, at) if isinstance(event, Finished)]
    assert ends == [9, 9, 1, 9, 1, 9, 1]


def test_adapters_that_come_together_are_loaded_one_behind_the_other_while_all_wait() -> None:
    subject = engine(max_loras=2, lora_load_s=8.0)
    for lora in ("a", "b"):
        subject.submit(request(lora, output=1, lora=lora), 0.0)
    assert [event.at_s for event in run(subject)] == [16 + PROFILE.step_s(32, 32, 2)] * 4


def test_gauges_are_as_of_the_end_of_the_last_step() -> None:
    subject = engine(max_num_seqs=1, num_blocks=10)
    subject.submit(request("a", prompt=20, output=2), 0.0)
    subject.submit(request("b", output=2), 0.0)
    subject.advance(1.0)
    assert subject.gauges == Gauges(0, 0, 0, 0.0)
    assert (subject.num_running, subject.num_waiting) == (1, 1)
    subject.advance(1.5)
    assert subject.gauges == Gauges(running=1, waiting=1, deferred=0, kv_cache_usage=1 - 8 / 10)


@pytest.mark.parametrize("at", [0.0, 0.5, 1.5, 3.0], ids=["queued", "prefill", "decode", "decode later"])
def test_an_aborted_request_is_heard_of_no_more_and_gives_everything_back(at: float) -> None:
    subject = engine(max_loras=1)
    subject.submit(request("gone", output=100, stream=True, lora="a"), 0.0)
    subject.submit(request("other", output=4, lora="b"), 0.0)
    subject.advance(at) if at else None
    subject.abort("gone", at)
    events = run(subject, at)
    assert {event.id for event in events} == {"other"}
    assert (subject.free_blocks, subject.num_running, subject.num_waiting) == (1000, 0, 0)
    assert subject.gauges == Gauges(0, 0, 0, 0.0)
    assert (subject.stats.aborted, subject.stats.success["stop"]) == (1, 1)


def test_an_abort_between_steps_shows_at_once() -> None:
    subject = engine()
    subject.submit(request(output=9), 0.0)
    first = 1.25 + 16 / 1024
    subject.abort("r", first)
    assert subject.gauges == Gauges(0, 0, 0, 0.0)
    assert times(subject.advance(first)) == [("FirstToken", "r", first)]
    assert subject.next_event(first) is None


def test_an_unknown_or_finished_request_can_be_aborted_without_effect() -> None:
    subject = engine()
    subject.submit(request(output=1), 0.0)
    run(subject)
    subject.abort("r", 5.0)
    subject.abort("never", 5.0)
    assert subject.stats.aborted == 0


def test_a_request_without_output_ends_with_its_prefill() -> None:
    subject = engine()
    subject.submit(request(output=0), 0.0)
    assert times(run(subject)) == [("Finished", "r", 1.25 + 16 / 1024)]
    assert (subject.stats.generation_tokens, subject.stats.ttft.count) == (0, 0)


def test_events_that_came_due_before_a_call_are_an_event_due_now() -> None:
    subject = engine()
    subject.submit(request("early", output=0), 0.0)
    subject.abort("other", 5.0)
    assert subject.next_event(5.0) == 5.0
    assert times(subject.advance(5.0)) == [("Finished", "early", 1.25 + 16 / 1024)]
    assert subject.next_event(5.0) is None


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (request("r", 0, 1), "1 to 64"),
        (request("r", 60, 5), "1 to 64"),
        (request("same", 1, 1), "in use"),
    ],
)
def test_what_can_never_run_is_refused(refused: Request, message: str) -> None:
    subject = engine(num_blocks=4)
    subject.submit(request("same"), 0.0)
    with pytest.raises(ValueError, match=message):
        subject.submit(refused, 0.0)


@pytest.mark.parametrize(
    "bad",
    [
        {"speed": 0.0},
        {"max_num_seqs": 0},
        {"num_blocks": 0},
        {"max_model_len": 0},
        {"max_loras": -1},
        {"lora_load_s": -1.0},
        {"max_num_seqs": 2049},
        {"max_num_batched_tokens": 0},
        {"max_num_batched_tokens": 255},
    ],
)
def test_a_configuration_that_cannot_work_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        engine(**bad)


def test_the_snapshot_counts_what_happened() -> None:
    subject = engine()
    subject.submit(request("a", output=3, max_tokens=3, finish_reason="length"), 0.0)
    subject.submit(request("b", output=1), 0.0)
    run(subject)
    prefill, decode = 1.5 + 32 / 1024, 2.5 + 35 / 1024
    snapshot = subject.snapshot()
    assert snapshot.gauges == Gauges(0, 0, 0, 0.0)
    assert (snapshot.prompt_tokens, snapshot.generation_tokens, snapshot.preemptions) == (32, 4, 0)
    assert snapshot.success == {"stop": 1, "length": 1, "abort": 0, "error": 0, "repetition": 0}
    assert snapshot.ttft == (2 * prefill, 2)
    assert snapshot.inter_token_latency == (decode, 2)
    assert snapshot.e2e_latency == (2 * prefill + decode, 2)
    assert snapshot.queue_time == (0.0, 2)
    tpot = subject.stats.histograms["request_time_per_output_token_seconds"]
    assert (tpot.sum, tpot.count) == (decode / 2, 2)
    assert subject.stats.histograms["request_params_max_tokens"].count == 1


def test_a_histogram_counts_up_to_and_including_its_bounds() -> None:
    histogram = Histogram((1.0, 2.0))
    for value, count in ((0.5, 1), (1.0, 1), (1.5, 3), (2.5, 1)):
        histogram.observe(value, count)
    assert list(histogram.cumulative()) == [2, 5, 6]
    assert (histogram.sum, histogram.count) == (8.5, 6)


def test_length_buckets_go_in_steps_of_1_2_5() -> None:
    assert one_two_five(8192) == (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
