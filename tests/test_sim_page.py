"""The simulated metrics page beside one of a real vLLM 0.32 (tests/data: 20 requests, max_loras=2, on a CPU)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from extproc.sim.engine import Engine, EngineConfig
from extproc.sim.http_metrics import HttpMetrics
from extproc.sim.page import MetricsPage, restrict
from extproc.sim.profiles import PROFILES
from extproc.sim.sequence import Request

REAL = Path(__file__).with_name("data").joinpath("vllm-0.32-busy.prom").read_text()
STARTED_S, OFFSET_S = 1.7953e9, 1.7952e9


def engine(max_loras: int = 2, max_num_seqs: int = 2) -> Engine:
    profile = PROFILES["a100-llama-3-8b"]
    return Engine(
        EngineConfig(
            profile=profile,
            num_blocks=1000,
            block_size=32,
            max_loras=max_loras,
            max_num_seqs=max_num_seqs,
            max_model_len=8192,
        )
    )


def busy() -> Engine:
    """Like the recorded server: one request over, then requests of one adapter running and waiting."""
    subject = engine()
    subject.submit(Request(id="done", prompt_tokens=14, output_tokens=5, max_tokens=5), 0.0)
    subject.advance(10.0)
    for number in range(5):
        subject.submit(Request(id=str(number), prompt_tokens=500, output_tokens=900, lora="lora-a"), 10.0)
    subject.advance(10.1)
    return subject


def rendered(subject: Engine, model: str = "qwq-32b") -> str:
    return MetricsPage(subject, model, STARTED_S, OFFSET_S).render()


def ours(page: str) -> list[str]:
    return [line for line in page.splitlines() if re.match(r"(# (HELP|TYPE) )?vllm:", line)]


def series(page: str) -> list[str]:
    """Names with labels; of the configuration only the labels' names."""
    lines = [line.rpartition(" ")[0] for line in ours(page) if line[0] != "#"]
    return [re.sub(r'"[^"]*"', "", line) if "cache_config_info" in line else line for line in lines]


def values(page: str, name: str) -> dict[str, float]:
    """Of one metric, by labels."""
    lines = [line for line in page.splitlines() if re.match(rf"{re.escape(name)}[{{ ]", line)]
    return {line[len(name) : line.rindex(" ")]: float(line.rpartition(" ")[2]) for line in lines}


def test_it_has_the_series_of_a_real_page_in_their_order() -> None:
    def split(page: str) -> tuple[list[str], list[str]]:
        """Adapters' lists, which are in order of appearance, and all else."""
        entries = series(page)
        lora = [entry for entry in entries if "lora_requests_info" in entry]
        return sorted(lora), [entry for entry in entries if entry not in lora]

    assert split(rendered(busy())) == split(REAL)
    assert len(series(REAL)) == 381


def test_it_has_the_help_and_type_lines_of_a_real_page() -> None:
    def headers(page: str) -> list[str]:
        return [line for line in ours(page) if line[0] == "#"]

    assert headers(rendered(busy())) == headers(REAL)


def test_it_is_as_large_as_a_real_page() -> None:
    http = HttpMetrics()
    http.observe("GET", "/v1/models", 200, 0.1, 0, 100)
    http.observe("POST", "/v1/chat/completions", 200, 0.1, 100, 0)
    page = rendered(busy()) + http.render()
    assert 0.8 < len(page) / len(REAL) < 1.2
    assert 0.8 < page.count("\n") / REAL.count("\n") < 1.2


def test_the_http_families_are_those_of_a_real_page() -> None:
    http = HttpMetrics()
    http.observe("GET", "/v1/models", 200, 0.002982146999784163, 0, 1311)
    http.observe("POST", "/v1/chat/completions", 200, 0.07080431499980477, 77, 709)

    def lines(page: str) -> list[str]:
        return [line for line in page.splitlines() if "http_" in line and "_created" not in line]

    assert lines(http.render()) == lines(REAL)


def test_scrapes_and_health_checks_are_not_counted() -> None:
    http = HttpMetrics()
    for path in ("/metrics", "/health", "/version"):
        http.observe("GET", path, 200, 0.1, 0, 0)
    assert values(http.render(), "http_requests_total") == {}


def test_a_parser_reads_it() -> None:
    names = [family.name for family in text_string_to_metric_families(rendered(busy()))]
    assert "vllm:num_requests_running" in names
    assert "vllm:time_to_first_token_seconds" in names


def test_a_new_server_shows_nothing_of_the_recorded_one() -> None:
    page = rendered(engine())
    figures = {line.rpartition(" ")[0]: line.rpartition(" ")[2] for line in ours(page) if line[0] != "#"}
    changed = {name: value for name, value in figures.items() if value != "0.0" and "_created" not in name}
    assert list(changed.values()) == ["1.0", "1.0"]
    assert ['sleep_state="awake"' in name or "cache_config_info" in name for name in changed] == [True, True]
    assert {value for name, value in figures.items() if "_created" in name} == {"1.7953e+09"}


def test_the_gauges_are_the_engines() -> None:
    page = rendered(busy())
    assert values(page, "vllm:num_requests_running") == {'{engine="0",model_name="qwq-32b"}': 2.0}
    assert values(page, "vllm:num_requests_waiting") == {'{engine="0",model_name="qwq-32b"}': 3.0}
    assert values(page, "vllm:num_requests_waiting_by_reason") == {
        '{engine="0",model_name="qwq-32b",reason="capacity"}': 3.0,
        '{engine="0",model_name="qwq-32b",reason="deferred"}': 0.0,
    }
    assert values(page, "vllm:kv_cache_usage_perc") == {
        '{engine="0",model_name="qwq-32b"}': busy().gauges.kv_cache_usage
    }


def test_counters_and_histograms_are_the_engines() -> None:
    subject = busy()
    page = rendered(subject)
    one = '{engine="0",model_name="qwq-32b"}'
    assert values(page, "vllm:prompt_tokens_total") == {one: 1014.0}
    assert values(page, "vllm:generation_tokens_total") == {one: float(subject.stats.generation_tokens)}
    assert values(page, "vllm:request_success_total") == {
        f'{{engine="0",finished_reason="{reason}",model_name="qwq-32b"}}': count
        for reason, count in {"stop": 1.0, "length": 0, "abort": 0, "error": 0, "repetition": 0}.items()
    }
    ttft = subject.stats.ttft
    assert values(page, "vllm:time_to_first_token_seconds_sum") == {one: ttft.sum}
    assert values(page, "vllm:time_to_first_token_seconds_count") == {one: 3.0}
    buckets = values(page, "vllm:time_to_first_token_seconds_bucket")
    assert list(buckets.values()) == list(ttft.cumulative())


def test_what_the_prefix_cache_had_is_told_as_a_real_server_does() -> None:
    subject = engine()
    for name in ("first", "second"):
        subject.submit(Request(id=name, prompt_tokens=100, output_tokens=1, blocks=(range(3),)), 0.0)
    subject.advance(10.0)
    page, one = rendered(subject), '{engine="0",model_name="qwq-32b"}'

    def by_source(name: str) -> dict[str, float]:
        sources = values(page, name).items()
        return {labels.split('source="')[1].rstrip('"}'): value for labels, value in sources}

    assert values(page, "vllm:prefix_cache_queries_total") == {one: 200.0}
    assert values(page, "vllm:prefix_cache_hits_total") == {one: 96.0}
    assert values(page, "vllm:prompt_tokens_total") == {one: 200.0}
    assert values(page, "vllm:prompt_tokens_cached_total") == {one: 96.0}
    assert by_source("vllm:prompt_tokens_by_source_total") == {
        "local_compute": 104.0,
        "local_cache_hit": 96.0,
        "external_kv_transfer": 0.0,
    }
    assert by_source("vllm:prompt_tokens_cached_by_source_total") == {
        "device": 96.0,
        "host": 0.0,
        "p2p": 0.0,
        "disk": 0.0,
        "external_unspecified": 0.0,
    }


def test_the_newest_list_of_adapters_is_the_one_with_the_highest_value() -> None:
    subject = busy()
    name = "vllm:lora_requests_info"
    active = '{max_lora="2",running_lora_adapters="lora-a",waiting_lora_adapters="lora-a"}'
    none = '{max_lora="2",running_lora_adapters="",waiting_lora_adapters=""}'
    before = values(rendered(subject), name)
    assert sorted(before, key=before.__getitem__) == [none, active]
    assert OFFSET_S + 10 < before[active] < OFFSET_S + 10.1
    for number in range(5):
        subject.abort(str(number), 10.2)
    subject.advance(10.3)
    after = values(rendered(subject), name)
    assert sorted(after, key=after.__getitem__) == [active, none]


def test_a_server_without_adapters_has_no_list_of_them() -> None:
    assert "lora_requests_info" not in rendered(engine(max_loras=0))


def test_requests_that_wait_for_an_adapters_slot_are_deferred() -> None:
    subject = engine(max_loras=1)
    for lora in ("a", "b"):
        subject.submit(Request(id=lora, prompt_tokens=1, output_tokens=100, lora=lora), 0.0)
    subject.advance(0.1)
    page = rendered(subject)
    assert list(values(page, "vllm:num_requests_waiting").values()) == [1.0]
    assert list(values(page, "vllm:num_requests_waiting_by_reason").values()) == [0.0, 1.0]


def test_the_cache_is_described() -> None:
    (labels,) = values(rendered(engine()), "vllm:cache_config_info")
    for label in (
        'block_size="32"',
        'num_gpu_blocks="1000"',
        'kv_cache_size_tokens="32000"',
        'enable_prefix_caching="True"',
    ):
        assert re.search(f"[{{,]{label}[,}}]", labels), label


def test_a_models_name_is_escaped() -> None:
    page = rendered(engine(), 'a"b\\c\nd')
    assert list(values(page, "vllm:num_requests_running")) == [r'{engine="0",model_name="a\"b\\c\nd"}']


@pytest.mark.parametrize(
    ("names", "lines"),
    [
        ({"vllm:num_requests_waiting"}, 3),
        ({"vllm:num_requests_waiting_by_reason"}, 4),
        ({"vllm:time_to_first_token_seconds_bucket"}, 25),
        ({"vllm:num_requests_waiting", "python_info"}, 6),
        ({"vllm:time_to_first_token_seconds"}, 0),
        ({"vllm:num_requests"}, 0),
    ],
)
def test_a_page_can_be_restricted_to_samples_by_their_full_names(names: set[str], lines: int) -> None:
    assert restrict(rendered(busy()), frozenset(names)).count("\n") == lines
