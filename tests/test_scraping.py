"""From the config to what is scraped, and from a scrape to the fleet, the metrics and the log."""

from __future__ import annotations

from typing import Any

import pytest
import structlog
from fleets import NOW, fleet, metrics

from extproc.config import parse_config
from extproc.engine_metrics import MetricNames
from extproc.engines import LLAMACPP, SGLANG, TRITON, TRTLLM, VLLM
from extproc.health import FAILURES
from extproc.load_report import LoadReport
from extproc.metrics import Metrics
from extproc.scraper import ScrapeTarget
from extproc.scraping import ScrapeListener, scrape_targets
from extproc.telemetry import Telemetry

TWO = "pools: [{name: p, endpoints: ['10.0.0.1:80', '[::1]:81']}]"


def targets(text: str) -> list[ScrapeTarget]:
    return scrape_targets(fleet(text))


class Listening:
    """A listener over a fleet under *text*, with the lines that it logs."""

    def __init__(self, text: str = TWO) -> None:
        self.fleet = fleet(text)
        self.now = NOW
        self.metrics = Metrics(self.fleet, lambda: self.now, "0")
        self.lines: list[Any] = []
        capture = structlog.testing.LogCapture()
        self.lines = capture.entries
        log = structlog.wrap_logger(None, processors=[capture])
        self.changes = 0
        """How often who waits for room was told to look again."""
        telemetry = Telemetry(self.metrics, log)
        self.listener = ScrapeListener(self.fleet, telemetry, lambda: self.now, self._changed)
        self.target = targets(text)[0]

    def _changed(self) -> None:
        self.changes += 1

    def scraped(self, running: int = 0) -> None:
        self.listener.scraped(self.target, metrics(running), self.now - 0.01, 0.01)

    def failed(self, reason: Any = "timeout", target: ScrapeTarget | None = None) -> None:
        self.listener.scrape_failed(target or self.target, reason, "no answer", 1.0)

    def count(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


def test_each_endpoint_is_scraped_at_its_own_port_with_the_pools_settings() -> None:
    assert targets(TWO) == [
        ScrapeTarget(address="10.0.0.1:80", host="10.0.0.1", port=80),
        ScrapeTarget(address="[::1]:81", host="::1", port=81),
    ]
    settings = """metrics: {port: 9, path: /m, scheme: https, bearer_token_file: /t,
      ca_file: /ca, server_name: n, select: false, interval_s: 3, timeout_s: 2}"""
    assert targets(TWO.replace("name: p", f"name: p, {settings}"))[0] == ScrapeTarget(
        address="10.0.0.1:80",
        host="10.0.0.1",
        port=9,
        path="/m",
        scheme="https",
        bearer_token_file="/t",
        ca_file="/ca",
        server_name="n",
        select=False,
        interval_s=3.0,
        timeout_s=2.0,
    )


@pytest.mark.parametrize(
    ("engine", "path", "names", "select"),
    [
        ("vllm", "/metrics", VLLM, True),
        ("sglang", "/metrics", SGLANG, False),
        ("trtllm", "/prometheus/metrics", TRTLLM, False),
        ("triton", "/metrics", TRITON, False),
        ("llamacpp", "/metrics", LLAMACPP, False),
    ],
)
def test_each_engine_has_its_names_and_its_path_and_only_vllm_can_select(
    engine: str, path: str, names: MetricNames, select: bool
) -> None:
    (target, _) = targets(TWO.replace("name: p", f"name: p, metrics: {{engine: {engine}}}"))
    assert (target.path, target.names, target.select) == (path, names, select)
    (target, _) = targets(TWO.replace("name: p", f"name: p, metrics: {{engine: {engine}, path: /own}}"))
    assert target.path == "/own"


def test_several_ports_of_one_pod_are_scraped_each_by_itself() -> None:
    """One server for each data-parallel rank: each is an endpoint of its own."""
    assert [
        (target.host, target.port)
        for target in targets("pools: [{name: p, endpoints: ['10.0.0.1:8000', '10.0.0.1:8001']}]")
    ] == [("10.0.0.1", 8000), ("10.0.0.1", 8001)]


def test_a_certificate_is_looked_at_unless_told_otherwise() -> None:
    assert [target.insecure_skip_verify for target in targets(TWO)] == [False, False]
    text = TWO.replace("name: p", "name: p, metrics: {scheme: https, insecure_skip_verify: true}")
    assert [target.insecure_skip_verify for target in targets(text)] == [True, True]


def test_an_address_that_two_pools_scrape_alike_is_scraped_once() -> None:
    text = "pools: [{name: p, endpoints: ['10.0.0.1:80']}, {name: q, endpoints: ['10.0.0.1:080'], metrics: {METRICS}}]"
    assert len(targets(text.replace("METRICS", ""))) == 1
    assert len(targets(text.replace("METRICS", "interval_s: 9"))) == 2


def test_how_long_a_scrape_took_is_counted_in_seconds() -> None:
    heard = Listening()
    heard.scraped()
    assert heard.count("extproc_scrape_duration_seconds_sum") == 0.01


def test_a_pool_without_metrics_is_not_scraped() -> None:
    assert targets(TWO.replace("name: p", "name: p, metrics: {engine: none}")) == []


def test_a_scrape_reaches_the_endpoint_and_is_counted() -> None:
    heard = Listening()
    heard.scraped(running=7)
    ((_, endpoint),) = heard.fleet.at("10.0.0.1:80")
    assert (endpoint.running, endpoint.scraped_at) == (7, NOW)
    assert heard.count("extproc_scrapes_total", pool="p", result="ok") == 1
    assert heard.count("extproc_scrape_duration_seconds_count") == 1
    assert heard.lines == []


def test_a_page_asked_for_before_a_load_report_came_does_not_undo_it() -> None:
    heard = Listening()
    heard.scraped()
    ((_, endpoint),) = heard.fleet.at("10.0.0.1:80")
    endpoint.reported(LoadReport(waiting=4), NOW - 0.005)
    heard.scraped()  # asked for 10 ms ago
    assert endpoint.waiting == 4
    heard.now += 0.1
    heard.scraped()
    assert endpoint.waiting == 0


def test_a_failing_endpoint_is_logged_once_for_each_reason_and_counted_every_time() -> None:
    heard = Listening()
    for reason in ("timeout", "timeout", "http_status", "timeout"):
        heard.failed(reason)
    assert [(line["event"], line["reason"]) for line in heard.lines] == [
        ("scrape_failed", "timeout"),
        ("scrape_failed", "http_status"),
        ("scrape_failed", "timeout"),
    ]
    assert heard.lines[0] == {
        "event": "scrape_failed",
        "log_level": "warning",
        "endpoint": "10.0.0.1:80",
        "url": "http://10.0.0.1:80/metrics",
        "reason": "timeout",
        "detail": "no answer",
    }
    assert heard.count("extproc_scrapes_total", pool="p", result="timeout") == 3


@pytest.mark.parametrize(
    ("pool", "url"),
    [
        ("metrics: {port: 9100, path: /stats}", "http://10.0.0.1:9100/stats"),
        ("metrics: {scheme: https, path: '/m?key=s3cret'}", "https://10.0.0.1:80/m"),
    ],
    ids=["port and path", "scheme, without the query"],
)
def test_a_failing_endpoint_is_logged_with_the_page_that_was_asked_for(pool: str, url: str) -> None:
    (target, *_) = targets(TWO.replace("name: p", f"name: p, {pool}"))
    assert target.url == url


def test_its_recovery_is_logged_once() -> None:
    heard = Listening()
    heard.failed()
    heard.scraped()
    heard.scraped()
    assert [line["event"] for line in heard.lines] == ["scrape_failed", "scrape_recovered"]


def test_refused_scrapes_set_the_endpoint_aside_and_that_is_told() -> None:
    heard = Listening()
    for _ in range(3):
        heard.failed("refused")
    ((_, endpoint),) = heard.fleet.at("10.0.0.1:80")
    assert endpoint.health.is_set_aside(NOW)
    assert heard.lines[1:] == [
        {
            "event": "endpoint_set_aside",
            "log_level": "warning",
            "pool": "p",
            "endpoint": "10.0.0.1:80",
            "cause": "scrape_refused",
            "failures": 3,
            "pause_s": 5.0,
        }
    ]
    assert heard.count("extproc_endpoints_set_aside_total", pool="p", cause="scrape_refused") == 1
    heard.scraped()
    assert not endpoint.health.is_set_aside(NOW)


def test_who_waits_looks_again_at_new_figures_and_when_an_endpoint_was_set_aside() -> None:
    heard = Listening()
    changes = []
    for step in (heard.scraped, *[lambda: heard.failed("refused")] * FAILURES, heard.scraped):
        step()
        changes.append(heard.changes)
    assert changes == [1, *[1] * (FAILURES - 1), 2, 3]


@pytest.mark.parametrize(
    ("metrics", "reason"), [("port: 9", "refused"), ("", "timeout"), ("", "http_status")]
)
def test_only_a_refusal_by_the_port_that_serves_requests_counts_against_an_endpoint(
    metrics: str, reason: str
) -> None:
    heard = Listening(TWO.replace("name: p", f"name: p, metrics: {{{metrics}}}"))
    for _ in range(10):
        heard.failed(reason)
    ((_, endpoint),) = heard.fleet.at("10.0.0.1:80")
    assert not endpoint.health.is_set_aside(NOW)
    assert endpoint.tried


def test_endpoints_that_left_are_forgotten() -> None:
    """Pods come and go for months; what failed of them must not add up."""
    heard = Listening()
    gone, stays = targets(TWO)
    heard.failed(target=gone)
    heard.fleet.apply(parse_config(TWO.replace("'10.0.0.1:80', ", "").encode()))
    heard.failed(target=stays)
    heard.fleet.apply(parse_config(TWO.encode()))
    heard.listener.scraped(gone, metrics(), NOW, 0.01)
    assert [line["event"] for line in heard.lines] == ["scrape_failed", "scrape_failed"]


def test_what_was_under_way_when_the_pool_is_read_otherwise_is_neither_taken_nor_counted_nor_told() -> None:
    heard = Listening()
    heard.fleet.apply(parse_config(TWO.replace("name: p", "name: p, metrics: {engine: sglang}").encode()))
    heard.scraped(running=7)
    heard.failed("refused")
    ((_, endpoint),) = heard.fleet.at("10.0.0.1:80")
    assert (endpoint.running, endpoint.metrics, endpoint.tried) == (0, None, False)
    assert heard.count("extproc_scrapes_total", pool="p", result="ok") is None
    assert heard.count("extproc_scrapes_total", pool="p", result="refused") is None
    assert heard.lines == []


def test_a_server_that_has_had_no_request_yet_is_tried_and_unknown_and_nobody_is_warned() -> None:
    heard = Listening()
    heard.failed("empty")
    ((_, endpoint),) = heard.fleet.at("10.0.0.1:80")
    assert (endpoint.tried, endpoint.metrics, endpoint.figures_age(NOW + 99.0)) == (True, None, None)
    assert heard.lines == []
    assert heard.count("extproc_scrapes_total", pool="p", result="empty") == 1


def test_one_that_was_restarted_and_has_had_no_request_since_is_unknown_and_well() -> None:
    heard = Listening()
    heard.scraped(running=3)
    ((pool, endpoint),) = heard.fleet.at("10.0.0.1:80")
    pool.index.insert((1, 2), endpoint, NOW)
    for _ in range(FAILURES):
        heard.failed("refused")
    heard.failed("empty")
    assert (endpoint.metrics, endpoint.running, endpoint.figures_age(NOW + 99.0)) == (None, 0, None)
    assert pool.index.match((1, 2)) == {}
    assert not endpoint.health.is_set_aside(NOW)
    assert heard.lines[-1] == {"event": "scrape_recovered", "log_level": "info", "endpoint": "10.0.0.1:80"}


def test_one_that_starts_and_then_has_had_no_request_has_no_figures_that_grow_old() -> None:
    heard = Listening()
    ((_, endpoint),) = heard.fleet.at("10.0.0.1:80")
    heard.failed("timeout")
    assert endpoint.figures_age(NOW + 9.0) == 9.0
    heard.failed("empty")
    assert endpoint.figures_age(NOW + 9.0) is None
