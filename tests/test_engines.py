"""The metrics pages of model servers other than vLLM: what they tell, and what stays unknown."""

from __future__ import annotations

from pathlib import Path

import pytest
from fleets import NOW
from hypothesis import given
from hypothesis import strategies as st

from extproc.endpoint import Endpoint
from extproc.engine_metrics import EngineMetrics, MetricNames, UnusedError, all_names, parse
from extproc.engines import ENGINES, LLAMACPP, SGLANG, TRITON, TRTLLM, VLLM
from extproc.metrics_page import MAX_SERIES, MetricsError
from extproc.request import InferenceRequest
from extproc.scheduling.scorers import KvCacheScorer

DATA = Path(__file__).parent / "data"
PAGES = {
    "sglang": "sglang.prom",
    "trtllm": "trtllm-serve.prom",
    "triton": "triton-trtllm.prom",
    "llamacpp": "llamacpp.prom",
}


def read(engine: str, file: str | None = None) -> EngineMetrics:
    return parse((DATA / (file or PAGES[engine])).read_bytes(), ENGINES[engine].names)


# -- each engine's page -------------------------------------------------------------------------------------


def test_sglang_tells_of_load_cache_and_tokens() -> None:
    assert read("sglang") == EngineMetrics(
        waiting=2826,
        running=162,
        kv_cache_usage=0.28,
        prompt_tokens_total=8128900.0,
        generation_tokens_total=7557500.0,
    )


def test_sglangs_replicas_are_summed_and_the_ranks_of_one_count_once() -> None:
    """A tensor-parallel rank tells of the same requests as its peers, and a priority of some of them."""
    assert read("sglang", "sglang-ranks.prom") == EngineMetrics(
        waiting=4,
        running=12,
        kv_cache_usage=0.75,
        block_size=64,
        num_gpu_blocks=2100,
        prompt_tokens_total=5000.0,
        generation_tokens_total=900.0,
        requests_finished_total=12.0,
        prefix_cache_hits_total=1200.0,
    )


@pytest.mark.parametrize("rank", ["tp_rank", "pp_rank", "moe_ep_rank"])
def test_ranks_that_work_on_the_same_requests_count_once(rank: str) -> None:
    page = b"".join(
        b'sglang:%s{%s="%d"} %d\n' % (name, rank.encode(), number, requests)
        for name, requests in ((b"num_queue_reqs", 3), (b"num_running_reqs", 8))
        for number in (0, 1)
    )
    metrics = parse(page, SGLANG)
    assert (metrics.waiting, metrics.running) == (3, 8)


def test_an_older_sglang_tells_its_cache_in_labels() -> None:
    page = (DATA / "sglang.prom").read_bytes()
    page += b'sglang:cache_config_info{num_pages="500",page_size="16",tp_rank="0"} 1.0\n'
    page += b'sglang:cache_config_info{num_pages="500",page_size="16",tp_rank="1"} 1.0\n'
    metrics = parse(page, SGLANG)
    assert (metrics.block_size, metrics.num_gpu_blocks) == (16, 500)


def test_trtllm_serve_tells_of_load_cache_and_tokens() -> None:
    assert read("trtllm") == EngineMetrics(
        waiting=3,
        running=8,
        kv_cache_usage=0.62,
        block_size=32,
        num_gpu_blocks=4096,
        prompt_tokens_total=21000.0,
        generation_tokens_total=8400.0,
        requests_finished_total=42.0,
        prefix_cache_hits_total=6400.0,
    )


UNUSED = (DATA / "trtllm-serve-unused.prom").read_bytes()


def test_a_trtllm_serve_that_has_served_nobody_is_unknown_and_no_fault() -> None:
    with pytest.raises(UnusedError, match=r"^it has had no request yet, and tells nothing before$"):
        parse(UNUSED, TRTLLM)


@pytest.mark.parametrize(
    ("page", "names"),
    [
        (UNUSED + b'trtllm_request_success_total{finished_reason="stop"} 1.0\n', TRTLLM),
        (UNUSED + b"trtllm_num_requests_running 1.0\n", TRTLLM),
        (b"", TRTLLM),
        (b"<html># TYPE\n", TRTLLM),
        (b"# TYPE vllm:num_requests_waiting gauge\n# TYPE vllm:num_requests_running gauge\n", VLLM),
    ],
    ids=["has served", "tells of half", "another page", "no metrics", "another engine"],
)
def test_one_that_should_tell_and_does_not_is_a_fault(page: bytes, names: MetricNames) -> None:
    with pytest.raises(MetricsError, match=r"num_requests_waiting is missing, or too large$") as raised:
        parse(page, names)
    assert type(raised.value) is MetricsError


def test_triton_tells_everything_in_labels() -> None:
    assert read("triton") == EngineMetrics(
        waiting=3,
        running=6,
        kv_cache_usage=0.4875,
        block_size=64,
        num_gpu_blocks=6239,
        iterations_total=1234.0,
    )


def test_models_of_one_triton_are_one_server() -> None:
    page = (DATA / PAGES["triton"]).read_bytes()
    other = page.replace(b'model="tensorrt_llm"', b'model="other"')
    metrics = parse(page + other, TRITON)
    assert (metrics.waiting, metrics.running, metrics.kv_cache_usage) == (6, 12, 0.4875)


@pytest.mark.parametrize(
    ("labels", "waiting"),
    [
        (b'{request_type="waiting"}', 5),
        (b'{ request_type = "waiting" , }', 5),
        (b'{model="request_type=\\"waiting\\"",request_type="waiting"}', 5),
        (b'{model="{request_type=\\"waiting\\"}",request_type="max"}', None),
        (b'{xrequest_type="waiting"}', None),
        (b'{request_type="waiting2"}', None),
        (b"", None),
    ],
)
def test_only_series_with_the_label_count(labels: bytes, waiting: int | None) -> None:
    page = b'nv_trt_llm_request_metrics{request_type="scheduled"} 2\n'
    page += b"nv_trt_llm_request_metrics%s 5\n" % labels
    if waiting is None:
        with pytest.raises(MetricsError, match="is missing"):
            parse(page, TRITON)
    else:
        assert parse(page, TRITON) == EngineMetrics(waiting=waiting, running=2)


def test_llamacpp_tells_of_load_tokens_and_calls_but_not_of_its_cache() -> None:
    assert read("llamacpp") == EngineMetrics(
        waiting=2,
        running=4,
        prompt_tokens_total=33065.0,
        generation_tokens_total=7801.0,
        iterations_total=6120.0,
    )


def test_a_llamacpp_of_before_may_2025_tells_of_its_cache_too() -> None:
    page = (DATA / PAGES["llamacpp"]).read_bytes() + b"llamacpp:kv_cache_usage_ratio 0.81\n"
    assert parse(page, LLAMACPP).kv_cache_usage == 0.81


# -- what all have in common --------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", PAGES)
def test_the_order_of_lines_and_their_ends_make_no_difference(engine: str) -> None:
    page = (DATA / PAGES[engine]).read_bytes()
    names = ENGINES[engine].names
    assert parse(b"\n".join(reversed(page.split(b"\n"))), names) == parse(page, names)
    assert parse(page.replace(b"\n", b"\r\n"), names) == parse(page, names)


@pytest.mark.parametrize("engine", PAGES)
@pytest.mark.parametrize("other", PAGES)
def test_no_engine_takes_anothers_page_for_its_own(engine: str, other: str) -> None:
    if engine == other:
        return
    with pytest.raises(MetricsError, match="is missing"):
        read(engine, PAGES[other])


@pytest.mark.parametrize("value", [b"NaN", b"-1", b"+Inf", b"1e10", b"many", b""])
@pytest.mark.parametrize("engine", PAGES)
def test_a_load_that_makes_no_sense_is_refused(engine: str, value: bytes) -> None:
    names = ENGINES[engine].names
    page = (DATA / PAGES[engine]).read_bytes()
    spoilt = b"%s %s\n" % (names.waiting[0].encode(), value)
    with pytest.raises(MetricsError):
        parse(page + spoilt, names)


@pytest.mark.parametrize("value", [b"NaN", b"-1", b"1e13", b"many"])
def test_a_cache_size_that_makes_no_sense_is_unknown(value: bytes) -> None:
    page = b"trtllm_num_requests_waiting 0\ntrtllm_num_requests_running 0\n"
    page += b"trtllm_kv_cache_max_blocks %s\ntrtllm_kv_cache_tokens_per_block %s\n" % (value, value)
    assert parse(page, TRTLLM) == EngineMetrics(waiting=0, running=0)


def test_a_page_of_too_many_ranks_is_refused_as_it_is() -> None:
    page = b"sglang:num_running_reqs 1\n"
    page += b"".join(b'sglang:num_queue_reqs{tp_rank="%d"} 1\n' % rank for rank in range(MAX_SERIES + 1))
    with pytest.raises(MetricsError, match="num_queue_reqs is missing, or too large"):
        parse(page, SGLANG)


@given(st.binary(max_size=300))
def test_garbage_is_refused_or_ignored_never_a_crash(garbage: bytes) -> None:
    for engine in PAGES:
        names = ENGINES[engine].names
        first = names.waiting[0].encode().partition(b"{")[0]
        for page in (garbage, first + garbage, first + b"{" + garbage):
            try:
                parse(page + b"\n" + (DATA / PAGES[engine]).read_bytes(), names)
            except MetricsError:
                continue


def test_of_a_table_with_labels_each_metric_is_asked_for_once() -> None:
    assert all_names(TRITON) == (
        "nv_trt_llm_request_metrics",
        "nv_trt_llm_kv_cache_block_metrics",
        "nv_trt_llm_general_metrics",
    )


# -- what an engine does not tell ---------------------------------------------------------------------------


def test_an_endpoint_whose_engine_does_not_tell_of_its_cache_scores_as_the_median_not_as_empty() -> None:
    figures = [EngineMetrics(waiting=0, running=0, kv_cache_usage=usage) for usage in (0.2, 0.4, 0.9, None)]
    endpoints = [Endpoint(f"10.0.0.{number}:80") for number in range(1, 5)]
    for endpoint, each in zip(endpoints, figures, strict=True):
        endpoint.observe(each, NOW)
    scores = KvCacheScorer().score(InferenceRequest({}, "m"), endpoints, NOW)
    assert scores == pytest.approx([0.8, 0.6, 0.1, 0.6])


def test_a_cache_of_which_nothing_is_told_is_not_full_whatever_the_limit() -> None:
    endpoint = Endpoint("10.0.0.1:80")
    endpoint.observe(EngineMetrics(waiting=0, running=9, kv_cache_usage=1.0), NOW)
    assert endpoint.is_saturated(NOW, 5, 0.9)
    endpoint.observe(EngineMetrics(waiting=0, running=9), NOW)
    assert not endpoint.is_saturated(NOW, 5, 0.9)
