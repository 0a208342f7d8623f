"""Reading vLLM's metrics page."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.engine_metrics import EngineMetrics, MetricNames, all_names
from extproc.engine_metrics import parse as parse_with
from extproc.engines import VLLM
from extproc.metrics_page import MAX_LINES, MetricsError

DATA = Path(__file__).parent / "data"
LORA_A = frozenset({"lora-a"})
MINIMAL = b"vllm:num_requests_waiting 3.0\nvllm:num_requests_running 2.0\n"


def parse(page: bytes) -> EngineMetrics:
    return parse_with(page, VLLM)


def minimal(**fields: object) -> EngineMetrics:
    return msgspec.structs.replace(EngineMetrics(waiting=3, running=2), **fields)


def lora_line(running: bytes, waiting: bytes = b"", at: bytes = b"1.7e9") -> bytes:
    labels = b'max_lora="2",running_lora_adapters="%s",waiting_lora_adapters="%s"' % (running, waiting)
    return b"vllm:lora_requests_info{%s} %s\n" % (labels, at)


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (
            "vllm-0.32-idle.prom",
            EngineMetrics(
                waiting=0,
                running=0,
                kv_cache_usage=0.0,
                max_loras=2,
                block_size=32,
                num_gpu_blocks=32768,
                prompt_tokens_total=29451.0,
                generation_tokens_total=6005.0,
                requests_finished_total=21.0,
                prefix_cache_hits_total=0.0,
                iterations_total=608.0,
            ),
        ),
        (
            "vllm-0.32-busy.prom",
            EngineMetrics(
                waiting=13,
                running=7,
                kv_cache_usage=0.009308145390179101,
                running_loras=LORA_A,
                waiting_loras=LORA_A,
                max_loras=2,
                block_size=32,
                num_gpu_blocks=32768,
                prompt_tokens_total=8845.0,
                generation_tokens_total=22.0,
                requests_finished_total=1.0,
                prefix_cache_hits_total=0.0,
                iterations_total=10.0,
            ),
        ),
        (
            "vllm-0.32-busy-selected.prom",
            EngineMetrics(
                waiting=4,
                running=16,
                kv_cache_usage=0.0023804437391278244,
                running_loras=LORA_A,
                waiting_loras=LORA_A,
                max_loras=2,
                block_size=32,
                num_gpu_blocks=32768,
                prompt_tokens_total=112.0,
                generation_tokens_total=1972.0,
                requests_finished_total=1.0,
            ),
        ),
        (
            "vllm-0.32-busy-openmetrics.prom",
            EngineMetrics(
                waiting=4,
                running=16,
                kv_cache_usage=0.002441480758079817,
                running_loras=LORA_A,
                waiting_loras=LORA_A,
                max_loras=2,
                block_size=32,
                num_gpu_blocks=32768,
                prompt_tokens_total=112.0,
                generation_tokens_total=2004.0,
                requests_finished_total=1.0,
                prefix_cache_hits_total=0.0,
                iterations_total=129.0,
            ),
        ),
    ],
)
def test_recorded_pages_are_read(file: str, expected: EngineMetrics) -> None:
    assert parse((DATA / file).read_bytes()) == expected


@pytest.mark.parametrize("file", ["vllm-0.32-idle.prom", "vllm-0.32-busy.prom"])
def test_line_ends_of_windows_make_no_difference(file: str) -> None:
    page = (DATA / file).read_bytes()
    assert parse(page.replace(b"\n", b"\r\n")) == parse(page)


def test_the_order_of_lines_makes_no_difference() -> None:
    page = (DATA / "vllm-0.32-busy.prom").read_bytes()
    assert parse(b"\n".join(reversed(page.split(b"\n")))) == parse(page)


def test_a_page_without_optional_figures_leaves_them_unknown() -> None:
    assert parse(MINIMAL) == EngineMetrics(waiting=3, running=2)


def test_the_last_line_needs_no_line_feed() -> None:
    assert parse(MINIMAL.rstrip()) == minimal()


@pytest.mark.parametrize(
    "noise",
    [
        b"# HELP vllm:num_requests_waiting vllm:num_requests_waiting 99\n",
        b"# TYPE vllm:num_requests_waiting gauge\n",
        b"# vllm:num_requests_waiting 99\n",
        b'vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 99\n',
        b"vllm:num_requests_waiting_total 99\n",
        b"other_vllm:num_requests_waiting 99\n",
        b"vllm:num_requests_waitin 99\n",
        b'other{text="\\nvllm:num_requests_waiting 99"} 1\n',
        b'other{text="vllm:num_requests_waiting 99"} 1\n',
        b"vllm_num_requests_waiting_by_reason 99\n",
        b"vllm:kv_cache_usage_perc_bucket 0.5\n",
        b"\n\n\n",
        b"\xff\xfe\0",
    ],
)
def test_lines_that_only_look_like_a_wanted_one_do_not_count(noise: bytes) -> None:
    assert parse(noise + b"\n" + MINIMAL + noise) == minimal()


@pytest.mark.parametrize(
    "line",
    [
        b"vllm:num_requests_waiting 3",
        b"vllm:num_requests_waiting{} 3",
        b"vllm:num_requests_waiting\t3.0",
        b"vllm:num_requests_waiting   3.0   ",
        b'vllm:num_requests_waiting { engine = "0" , } 3e0',
        b'vllm:num_requests_waiting{engine="0"} 3.0 1795300828453',
        b'vllm:num_requests_waiting{engine="0"} 3.0 1795300828.453 # {trace_id="a}b 7"} 9 1.5',
        b'vllm:num_requests_waiting{engine="0"} 3.0 # {trace_id="x"} 9',
        b'vllm:num_requests_waiting{model_name="} 99"} 3',
        b'vllm:num_requests_waiting{model_name="a{b}c \\" } 99 {"} 3',
        b'vllm:num_requests_waiting{model_name="\\\\"} 3',
        b'vllm:num_requests_waiting{model_name="vllm:num_requests_waiting 99"} 3',
        b'vllm:num_requests_waiting{model_name="a # b"} 3',
        b'vllm_num_requests_waiting{engine="0"} 3',
    ],
)
def test_a_value_is_found_behind_any_labels_and_before_anything_else(line: bytes) -> None:
    assert parse(line + b"\nvllm:num_requests_running 2\n# EOF\n") == minimal()


def test_data_parallel_ranks_are_one_server() -> None:
    page = b"""\
vllm:num_requests_waiting{engine="0"} 1.0
vllm:num_requests_waiting{engine="1"} 2.0
vllm:num_requests_running{engine="0"} 2.0
vllm:num_requests_running{engine="1"} 0.0
vllm:kv_cache_usage_perc{engine="0"} 0.5
vllm:kv_cache_usage_perc{engine="1"} 1.0
vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="100"} 1.0
vllm:cache_config_info{block_size="16",engine="1",num_gpu_blocks="101"} 1.0
vllm:prompt_tokens_total{engine="0"} 10.0
vllm:prompt_tokens_total{engine="1"} 20.0
"""
    assert parse(page) == minimal(
        kv_cache_usage=0.75, block_size=16, num_gpu_blocks=201, prompt_tokens_total=30.0
    )


def test_requests_finished_for_whatever_reason_are_summed() -> None:
    page = MINIMAL + b'vllm:request_success_total{finished_reason="stop"} 4\n'
    page += b'vllm:request_success_total{finished_reason="abort"} 3\n'
    assert parse(page) == minimal(requests_finished_total=7.0)


def test_iterations_are_the_count_of_a_histogram_and_nothing_else_of_it() -> None:
    page = MINIMAL + b'vllm:iteration_tokens_total_bucket{le="1.0"} 3\nvllm:iteration_tokens_total_sum 99\n'
    assert parse(page) == minimal()
    page += b"vllm:iteration_tokens_total_count 4\n"
    assert parse(page) == minimal(iterations_total=4.0)


@pytest.mark.parametrize("name", [b"vllm:prefix_cache_hits_total", b"vllm:gpu_prefix_cache_hits_total"])
def test_tokens_from_the_prefix_cache_are_read_under_their_old_name_too(name: bytes) -> None:
    assert parse(MINIMAL + name + b' {engine="0"} 512\n') == minimal(prefix_cache_hits_total=512.0)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (b"vllm:gpu_cache_usage_perc 0.25\n", 0.25),
        (b"vllm:gpu_cache_usage_perc 0.25\nvllm:kv_cache_usage_perc 0.5\n", 0.5),
        (b"vllm:kv_cache_usage_perc 1.0000001\n", 1.0),
        (b"vllm:kv_cache_usage_perc -0.1\n", 0.0),
        (b"vllm:kv_cache_usage_perc 1e300\n", 1.0),
        (b"", None),
    ],
)
def test_cache_usage_is_a_ratio_under_its_new_or_its_old_name(lines: bytes, expected: float | None) -> None:
    assert parse(MINIMAL + lines) == minimal(kv_cache_usage=expected)


@pytest.mark.parametrize(("blocks", "expected"), [(b"999999999999", 999999999999), (b"1000000000000", 0)])
def test_no_cache_has_a_trillion_blocks(blocks: bytes, expected: int) -> None:
    page = MINIMAL + b'vllm:cache_config_info{block_size="16",num_gpu_blocks="%s"} 1.0\n' % blocks
    assert parse(page) == minimal(block_size=16, num_gpu_blocks=expected)


def test_of_several_lora_series_of_one_time_the_first_counts() -> None:
    assert parse(MINIMAL + lora_line(b"a") + lora_line(b"b")) == minimal(
        running_loras=frozenset({"a"}), max_loras=2
    )


@pytest.mark.parametrize("newest_first", [True, False])
def test_of_several_lora_series_the_newest_by_value_counts(newest_first: bool) -> None:
    new, old = lora_line(b"new", b"next", b"1.7953008284533436e+09"), lora_line(b"old", at=b"1.795300827e+09")
    page = MINIMAL + (new + old if newest_first else old + new)
    assert parse(page) == minimal(
        running_loras=frozenset({"new"}), waiting_loras=frozenset({"next"}), max_loras=2
    )


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (b"", set()),
        (b"a,b", {"a", "b"}),
        (b"a, b,,", {"a", "b"}),
        (b'a\\"} 5,b\\\\,c\\nd', {'a"} 5', "b\\", "c\nd"}),
        (b"a\\q", {"a\\q"}),
        (b"x=1;running_lora_adapters=1", {"x=1;running_lora_adapters=1"}),
        ("zürich".encode(), {"zürich"}),
        (b"\xff", {"\ufffd"}),
    ],
)
def test_adapter_names_are_split_and_unescaped(label: bytes, expected: set[str]) -> None:
    assert parse(MINIMAL + lora_line(label)) == minimal(running_loras=frozenset(expected), max_loras=2)


@given(st.lists(st.text().map(lambda name: name.replace(",", "").strip()).filter(bool), max_size=4))
def test_any_adapter_name_survives_escaping(names: list[str]) -> None:
    label = ",".join(names).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    metrics = parse(MINIMAL + lora_line(label.encode("utf-8", "replace")))
    assert metrics.running_loras == {n.encode("utf-8", "replace").decode() for n in names}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'vllm:cache_config_info{block_size="None",num_gpu_blocks="7"} 1\n', minimal(num_gpu_blocks=7)),
        (b'vllm:cache_config_info{block_size="-1",num_gpu_blocks="1e3"} 1\n', minimal()),
        (b'vllm:cache_config_info{block_size="%s"} 1\n' % (b"9" * 5000), minimal()),
        (b'vllm:cache_config_info{block_size="16"\n', minimal()),
        (b'vllm:lora_requests_info{max_lora="2",running_lora_adapters="a} 1\n', minimal()),
        (b"vllm:lora_requests_info{} NaN\n", minimal()),
        (b"vllm:prompt_tokens_total NaN\n", minimal()),
        (b"vllm:prompt_tokens_total -1\n", minimal()),
        (b"vllm:prompt_tokens_total +Inf\n", minimal()),
        (b"vllm:prompt_tokens_total 1e15\n", minimal(prompt_tokens_total=1e15)),
        (b"vllm:prompt_tokens_total 1.1e15\n", minimal()),
        (b"vllm:prompt_tokens_total ten\n", minimal()),
    ],
)
def test_optional_figures_that_make_no_sense_are_unknown(line: bytes, expected: EngineMetrics) -> None:
    assert parse(MINIMAL + line) == expected


WAITING, RUNNING = b"vllm:num_requests_waiting 1\n", b"vllm:num_requests_running 1\n"
MISSING = "vllm:num_requests_waiting is missing, or too large"


@pytest.mark.parametrize(
    ("page", "message"),
    [
        (b"", MISSING),
        (WAITING, "vllm:num_requests_running is missing, or too large"),
        (b"<html>busy</html>", MISSING),
        (b"\x1f\x8b\x08\0\0", MISSING),
        (b"vllm:num_requests_waiting NaN\n" + RUNNING, "vllm:num_requests_waiting: out of range: nan"),
        (b"vllm:num_requests_waiting +Inf\n" + RUNNING, "vllm:num_requests_waiting: out of range: inf"),
        (b"vllm:num_requests_waiting -1\n" + RUNNING, "vllm:num_requests_waiting: out of range: -1.0"),
        (
            b"vllm:num_requests_waiting 1e10\n" + RUNNING,
            "vllm:num_requests_waiting: out of range: 10000000000.0",
        ),
        (b"vllm:num_requests_waiting ten\n" + RUNNING, "vllm:num_requests_waiting: not a number: 'ten'"),
        (b"vllm:num_requests_waiting \n" + RUNNING, "vllm:num_requests_waiting: malformed: ' '"),
        (b"vllm:num_requests_waiting{a=\n" + RUNNING, "vllm:num_requests_waiting: malformed: '{a='"),
        (b'vllm:num_requests_waiting{a="} 1\n' + RUNNING, "vllm:num_requests_waiting: malformed: '{a=\"} 1'"),
        (
            b"vllm:num_requests_waiting %s\n" % (b"x" * 1000) + RUNNING,
            f"vllm:num_requests_waiting: not a number: {'x' * 80!r}",
        ),
        (WAITING + b"vllm:num_requests_running NaN\n", "vllm:num_requests_running: out of range: nan"),
        (MINIMAL + b"vllm:kv_cache_usage_perc NaN\n", "cache usage is no finite number: [nan]"),
        (MINIMAL + b"vllm:kv_cache_usage_perc x\n", "not a number: 'x'"),
        (WAITING * (MAX_LINES + 1), f"more than {MAX_LINES} lines of the wanted metrics"),
        (WAITING * 20_000 + RUNNING, MISSING),
        (b'vllm:num_requests_waiting{a="%s"} 1\n' % (b"x" * 200_000) + RUNNING, MISSING),
    ],
)
def test_pages_without_the_needed_figures_are_refused(page: bytes, message: str) -> None:
    with pytest.raises(MetricsError) as caught:
        parse(page)
    assert str(caught.value) == message


def test_too_many_lora_combinations_hide_the_adapters_but_not_the_load() -> None:
    page = MINIMAL + b"".join(lora_line(b"adapter-%d" % i) for i in range(2000))
    assert parse(page) == minimal()


@given(st.binary(max_size=400))
def test_garbage_is_refused_or_ignored_never_a_crash(garbage: bytes) -> None:
    for page in (garbage, b"vllm:num_requests_waiting" + garbage, b"vllm:lora_requests_info{" + garbage):
        try:
            metrics = parse(page + b"\n" + MINIMAL)
        except MetricsError:
            continue
        assert metrics.waiting >= 3
        assert metrics.running >= 2


@given(st.integers(0, 53_000))
def test_a_page_cut_anywhere_is_refused_or_read_as_far_as_it_goes(cut: int) -> None:
    page = (DATA / "vllm-0.32-busy.prom").read_bytes()
    try:
        metrics = parse(page[:cut])
    except MetricsError:
        return
    assert metrics.running == 7
    assert metrics.waiting in (1, 13)  # cut between the digits of 13


def test_another_engine_is_another_table() -> None:
    names = MetricNames(waiting=("engine:queue", "engine:queued"), running=("engine:active",))
    assert parse_with(b"engine:queued 3\nengine:active 2\n" + WAITING, names) == minimal()


def test_all_names_of_a_table_can_be_listed_for_a_selective_request() -> None:
    assert all_names(VLLM) == (
        "vllm:num_requests_waiting",
        "vllm:num_requests_running",
        "vllm:kv_cache_usage_perc",
        "vllm:gpu_cache_usage_perc",
        "vllm:lora_requests_info",
        "vllm:cache_config_info",
        "vllm:prompt_tokens_total",
        "vllm:generation_tokens_total",
        "vllm:request_success_total",
        "vllm:prefix_cache_hits_total",
        "vllm:gpu_prefix_cache_hits_total",
        "vllm:iteration_tokens_total_count",
    )
