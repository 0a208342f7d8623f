"""A reload by which endpoints are read otherwise, or no more: what scrapes told is dropped, what we counted stays."""

from __future__ import annotations

from typing import Any

import pytest
from fleets import NOW, fleet, metrics
from msgspec.structs import replace

from extproc.config import parse_config
from extproc.endpoint import Endpoint
from extproc.engine_metrics import EngineMetrics
from extproc.engines import SGLANG, VLLM, Page
from extproc.fleet import Fleet
from extproc.health import FAILURES
from extproc.load_report import LoadReport
from extproc.metrics import Metrics
from extproc.work import Work

A = "10.0.0.1:80"
READ_OTHERWISE = ["engine: sglang", "engine: vllm, path: /other", "engine: vllm, port: 9"]
NO_MORE = "engine: none"
READ_ALIKE = "engine: vllm, path: /metrics, port: 80, select: false, interval_s: 3, timeout_s: 2, orca: true"
COUNTERS = EngineMetrics(
    waiting=2,
    running=5,
    kv_cache_usage=0.7,
    running_loras=frozenset({"x"}),
    waiting_loras=frozenset({"y"}),
    max_loras=4,
)


def config(of_metrics: str) -> str:
    return f"pools: [{{name: p, endpoints: ['{A}'], metrics: {{{of_metrics}}}}}]"


def apply(to: Fleet, of_metrics: str) -> None:
    to.apply(parse_config(config(of_metrics).encode()))


def only(of: Fleet) -> Endpoint:
    ((_, endpoint),) = of.at(A)
    return endpoint


def served(of: Fleet) -> None:
    """Three requests of ours, of which one has ended."""
    works = [Work(prompt_tokens=100, new_tokens=50, output_tokens=10.0, adapter="x") for _ in range(3)]
    for work in works:
        only(of).acquire(work, NOW)
    only(of).release(works[0])


def was_read(of: Fleet) -> None:
    """For a minute, each second: many requests, most of them not ours."""
    for second in range(60):
        counters = replace(
            COUNTERS,
            prompt_tokens_total=9000.0 * second,
            generation_tokens_total=700.0 * second,
            requests_finished_total=7.0 * second,
            iterations_total=50.0 * second,
        )
        of.scraped(A, counters, NOW + second)
    only(of).reported(LoadReport(waiting=3, kv_cache_usage=0.8), NOW + 60)


def shown(value: Any) -> Any:
    """All that an endpoint knows, as plain values."""
    slots = getattr(type(value), "__slots__", None)
    if isinstance(value, Page | Work) or not slots:
        return value
    return {name: shown(getattr(value, name)) for name in slots if not isinstance(getattr(value, name), Work)}


def figures(of: Fleet) -> dict[str, float]:
    """What is exported of the endpoint."""
    found = Metrics(of, lambda: NOW + 600, "0").registry.collect()
    samples = [sample for family in found for sample in family.samples]
    return {each.name: each.value for each in samples if each.labels.get("endpoint") == A}


@pytest.mark.parametrize("after", [NO_MORE, *READ_OTHERWISE])
def test_an_endpoint_is_as_if_it_had_never_been_read_and_our_counts_stay(after: str) -> None:
    turned, never = fleet(config("engine: vllm")), fleet(config(after))
    was_read(turned)
    served(turned)
    apply(turned, after)
    served(never)
    here, there = shown(only(turned)), shown(only(never))
    for each in (here, there):
        del each["backlog"]["_works"]  # by identity
        del each["traffic"]["_ended"]
    assert here == there
    assert only(turned).in_flight == 2


@pytest.mark.parametrize("after", [NO_MORE, *READ_OTHERWISE])
def test_no_figure_is_exported_whose_age_would_only_grow(after: str) -> None:
    of = fleet(config("engine: vllm"))
    of.scraped(A, metrics(waiting=9), NOW)
    told_by_scrapes = {
        "extproc_endpoint_waiting_requests",
        "extproc_endpoint_running_requests",
        "extproc_endpoint_kv_cache_usage_ratio",
        "extproc_endpoint_metrics_age_seconds",
    }
    assert told_by_scrapes <= figures(of).keys()
    apply(of, after)
    of.scraped(A, metrics(waiting=9), NOW + 1, page=Page(VLLM, 80, "/metrics"))  # it was under way
    kept = figures(of)
    assert kept.keys().isdisjoint(told_by_scrapes)
    assert kept["extproc_endpoint_in_flight"] == 0


@pytest.mark.parametrize("after", [READ_ALIKE, "max_age_s: 9"])
def test_what_changes_only_how_the_same_page_is_read_keeps_the_figures(after: str) -> None:
    of = fleet(config("engine: vllm"))
    was_read(of)
    before = shown(only(of))
    apply(of, after)
    ages = {"_max_age_s", "fresh_until", "queue_fresh_until", "kv_fresh_until"}
    assert {k: v for k, v in shown(only(of)).items() if k not in ages} == {
        k: v for k, v in before.items() if k not in ages
    }


def test_requests_that_ended_under_another_page_are_not_counted_as_this_ones() -> None:
    """Else a router that shares its endpoints would think for minutes that it has them to itself."""
    of = fleet(config("engine: vllm"))
    for _ in range(500):
        only(of).acquire()
        only(of).release()
    apply(of, "engine: sglang")
    for second, finished in enumerate((0.0, 100.0)):
        of.scraped(
            A,
            EngineMetrics(waiting=0, running=1, requests_finished_total=finished, prompt_tokens_total=1.0),
            NOW + second,
        )
    assert (only(of).traffic.ours, only(of).traffic.all) == (0.0, 100.0)


def test_what_the_pool_learnt_of_scrapes_is_dropped_with_them() -> None:
    of = fleet(config("engine: vllm"))
    was_read(of)
    ((pool, _),) = of.at(A)
    assert (pool.adapters, round(pool.mean_output), pool.others.share < 0.5) == ({"x", "y"}, 100, True)
    apply(of, READ_ALIKE)
    ((kept, _),) = of.at(A)
    assert (kept.adapters, kept.mean_output, kept.others.share) == (
        pool.adapters,
        pool.mean_output,
        pool.others.share,
    )
    apply(of, NO_MORE)
    ((turned, _),) = of.at(A)
    assert (turned.adapters, turned.mean_output, turned.others.share) == (set(), 0.0, 1.0)


def test_readiness_waits_for_the_other_page_and_not_for_none() -> None:
    of = fleet(config("engine: vllm"))
    of.scraped(A, metrics(), NOW)
    apply(of, "engine: sglang")
    assert of.not_tried() == [A]
    apply(of, NO_MORE)
    assert of.not_tried() == []


@pytest.mark.parametrize(("after", "aside"), [(NO_MORE, False), ("engine: sglang", True)])
def test_a_pause_that_a_scrape_began_lasts_only_while_a_scrape_can_end_it(after: str, aside: bool) -> None:
    of = fleet(config("engine: vllm"))
    of.apply(parse_config(b"pools: [{name: p, endpoints: ['10.0.0.1:80', '10.0.0.2:80']}]"))
    for _ in range(FAILURES):
        of.scrape_failed(A, refused=True, now=NOW)
    assert only(of).health.is_set_aside(NOW)
    apply(of, after)
    assert only(of).health.is_set_aside(NOW) is aside


def test_pools_that_share_an_address_hear_each_of_the_page_that_it_has_read() -> None:
    engines = {"p": "vllm", "q": "sglang", "r": "none"}
    pools = [f"{{name: {n}, endpoints: ['{A}'], metrics: {{engine: {e}}}}}" for n, e in engines.items()]
    of = fleet(f"pools: [{', '.join(pools)}]")
    of.scraped(A, metrics(running=1), NOW, page=Page(VLLM, 80, "/metrics"))
    of.scraped(A, metrics(running=2), NOW, page=Page(SGLANG, 80, "/metrics"))
    assert [(pool.name, endpoint.running) for pool, endpoint in of.at(A)] == [("p", 1), ("q", 2), ("r", 0)]
    for _ in range(FAILURES):
        of.scrape_failed(A, refused=True, now=NOW, page=Page(SGLANG, 80, "/metrics"))
    assert [(pool.name, e.health.in_a_row) for pool, e in of.at(A)] == [("p", 0), ("q", FAILURES), ("r", 0)]
