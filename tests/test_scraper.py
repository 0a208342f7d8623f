"""Scraping: which endpoints, when, what is told, and that nobody suffers from another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from metrics_server import (
    BOUND_S,
    BUSY_PAGE,
    METRICS,
    SELECT_PATH,
    SHORT_NAMES,
    UNUSED_PAGE,
    Heard,
    ModelServer,
    always,
    endless,
    hang_up,
    http,
    never,
    scrape_tasks,
    scraper_for,
    serving,
    until,
)

from extproc.engine_metrics import EngineMetrics
from extproc.engines import TRTLLM, VLLM
from extproc.scraper import SLOT_S, Scraper, ScrapeTarget, until_next


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
async def scraper(heard: Heard) -> AsyncIterator[Scraper]:
    async with scraper_for(heard) as scraper:
        yield scraper


async def test_times_come_from_the_clock_given(heard: Heard) -> None:
    ticks = iter(range(1000))
    scraper = Scraper(heard, heard.report_fault, clock=lambda: float(next(ticks)))
    async with serving(always(http())) as server:
        await scraper.update([server.target()])
        await until(lambda: heard.read)
        await scraper.close()
    assert heard.times[0] == (2.0, 1.0)  # 0 and 1: the first scrape was planned and awaited


async def test_a_server_that_refuses_is_scraped_again_once_it_is_back(scraper: Scraper, heard: Heard) -> None:
    async with serving(always(http())) as server:
        target = server.target()
    await scraper.update([target])
    await until(lambda: len(heard.failed) >= 2)
    assert {(of, why) for of, why, _ in heard.failed} == {(target, "refused")}
    async with serving(always(http()), target.port):
        await until(lambda: len(heard.read) >= 2)
        await scraper.close()
    assert set(heard.read) == {(target, METRICS)}


async def test_slow_dead_and_garbage_servers_hurt_nobody_else(scraper: Scraper, heard: Heard) -> None:
    async with (
        serving(never) as slow,
        serving(endless) as huge,
        serving(always(http(b"garbage"))) as garbage,
        serving(hang_up) as dead,
        serving(always(http(BUSY_PAGE))) as well,
    ):
        target = well.target(names=VLLM)
        others = [server.target(timeout_s=0.5) for server in (slow, huge, garbage, dead)]
        await scraper.update([*others, target])
        await until(lambda: len({of for of, *_ in heard.failed}) == 4 and len(heard.read) >= 20)
        await scraper.close()
    assert {(of, metrics.waiting) for of, metrics in heard.read} == {(target, 13)}
    assert {of for of, *_ in heard.failed} == set(others)
    assert heard.faults == []


async def test_a_page_that_tells_nothing_before_the_first_request_is_no_fault_of_it(
    scraper: Scraper, heard: Heard
) -> None:
    async with serving(always(http(UNUSED_PAGE))) as server:
        target = server.target(names=TRTLLM)
        await scraper.update([target])
        await until(lambda: heard.failed)
        server.respond = always(http(b"trtllm_num_requests_waiting 0\ntrtllm_num_requests_running 1\n"))
        await until(lambda: heard.read)
        await scraper.close()
    assert heard.failed[0] == (target, "empty", "it has had no request yet, and tells nothing before")
    assert heard.read[0] == (target, EngineMetrics(waiting=0, running=1))


def noted_pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds between a target's scrapes, which nobody waits for any more."""
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def note(delay_s: float) -> None:
        task = asyncio.current_task()
        assert task
        if task.get_name().startswith("scrape "):
            pauses.append(delay_s)
        await sleep(0)

    monkeypatch.setattr("extproc.scraper.asyncio.sleep", note)
    return pauses


async def test_a_failing_endpoint_is_tried_less_often_up_to_a_bound(
    scraper: Scraper, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(always(http(b"", "503 Unavailable"))) as server:
        pauses = noted_pauses(monkeypatch)
        await scraper.update([server.target(interval_s=0.5)])
        await until(lambda: len(heard.failed) >= 1200)  # far enough for 2 ** n to overflow
        server.respond = always(http())
        await until(lambda: len(heard.read) >= 2)
        server.respond = always(http(b"", "503 Unavailable"))
        failures = len(heard.failed)
        await until(lambda: len(heard.failed) >= failures + 2)
        await scraper.close()
    first, *failing = pauses[:1200]
    assert -SLOT_S <= first <= SLOT_S
    assert all(0.75 * most <= pause <= most for pause, most in zip(failing[:4], (1, 2, 4, 5), strict=True))
    assert all(3.75 <= pause <= 5 for pause in failing[4:])
    assert len(set(failing[4:])) > 100, "no jitter"
    read = len(heard.read)
    assert all(0 < pause <= 0.56 for pause in pauses[failures + 1 : failures + 1 + read])
    assert 0.75 <= pauses[failures + 1 + read] <= 1, "a success does not end the back-off"


async def test_update_starts_new_targets_keeps_unchanged_ones_and_ends_those_gone(
    scraper: Scraper, heard: Heard
) -> None:
    async with serving(always(http())) as first, serving(always(http())) as second:
        stays, goes = first.target(), second.target()
        await scraper.update([stays, goes])
        await until(lambda: heard.reads_of(stays) and heard.reads_of(goes))
        [task] = [task for task in scrape_tasks() if task.get_name() == f"scrape {stays.address}"]

        await scraper.update([first.target()])  # an equal one
        reads = heard.reads_of(goes)
        await until(lambda: heard.reads_of(stays) >= 10)
        assert heard.reads_of(goes) == reads
        assert not task.done()
        assert scrape_tasks() == [task]
        assert first.connections == 1

        changed = first.target(path="/other")
        await scraper.update([changed, second.target()])
        await until(lambda: heard.reads_of(changed) and heard.reads_of(goes) > reads)
        assert task.cancelled()
    assert first.paths[-1] == "/other"


async def test_a_target_that_goes_in_the_middle_of_a_scrape_is_not_heard_of_again(
    scraper: Scraper, heard: Heard
) -> None:
    async with serving(never) as server:
        await scraper.update([server.target(timeout_s=BOUND_S)])
        await until(lambda: server.paths)
        await scraper.update([])
        assert not scrape_tasks()
    assert heard.read == heard.failed == heard.faults == []


async def test_the_same_target_twice_is_scraped_once(scraper: Scraper) -> None:
    async with serving(always(http())) as server:
        await scraper.update([server.target(), server.target()])
        assert len(scrape_tasks()) == 1


async def test_close_ends_all_and_is_final(scraper: Scraper, heard: Heard) -> None:
    async with serving(always(http())) as server:
        await scraper.update([server.target()])
        await until(lambda: heard.read)
        await scraper.close()
        await scraper.close()
        await until(lambda: server.open == 0)
        with pytest.raises(RuntimeError, match="the scraper is closed"):
            await scraper.update([server.target()])


async def test_a_fault_of_the_listener_is_reported_once_and_scraping_goes_on(heard: Heard) -> None:
    now = 0.0
    scraper = Scraper(heard, heard.report_fault, clock=lambda: now)
    heard.error = ZeroDivisionError("a bug")
    async with serving(always(http())) as server:
        target = server.target()
        await scraper.update([target])
        await until(lambda: len(heard.read) >= 5)
        assert heard.faults == [(target, heard.error, 0)]
        now = 61.0
        await until(lambda: len(heard.faults) >= 2)
        await scraper.close()
    assert heard.faults[1][:2] == (target, heard.error)
    assert heard.faults[1][2] >= 3


async def test_of_faults_those_since_the_last_report_are_counted(heard: Heard) -> None:
    times = (0.0, 1.0, 2.0, 60.0, 120.0)
    scraper = Scraper(heard, heard.report_fault, clock=iter(times).__next__)
    target, error = ScrapeTarget(address="127.0.0.1:1", host="127.0.0.1", port=1), ZeroDivisionError("a bug")
    for _ in times:
        scraper._fault(target, error)
    assert [unreported for _, _, unreported in heard.faults] == [0, 2, 0]


async def test_a_failing_endpoint_is_not_tried_more_often_than_a_good_one(
    scraper: Scraper, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(always(http(b"", "503 Unavailable"))) as server:
        pauses = noted_pauses(monkeypatch)
        await scraper.update([server.target(interval_s=60.0)])
        await until(lambda: len(heard.failed) >= 20)
        await scraper.close()
    assert all(45.0 <= pause <= 60.0 for pause in pauses[1:])


async def test_a_report_that_fails_does_not_end_the_scraping(heard: Heard) -> None:
    def report(_target: ScrapeTarget, error: Exception, _unreported: int) -> None:
        raise error

    scraper = Scraper(heard, report)
    heard.error = ZeroDivisionError("a bug")
    async with serving(always(http())) as server:
        await scraper.update([server.target()])
        await until(lambda: len(heard.read) >= 3)
        await scraper.close()


async def test_the_needed_metrics_are_selected_where_the_server_can(scraper: Scraper, heard: Heard) -> None:
    async with serving(always(http())) as server:
        await scraper.update([server.target(select=True)])
        await until(lambda: len(heard.read) >= 3)
        await scraper.close()
    assert set(server.paths) == {SELECT_PATH}


async def test_a_server_that_ignores_the_selection_sends_its_whole_page(
    scraper: Scraper, heard: Heard
) -> None:
    async with serving(always(http(BUSY_PAGE))) as server:
        await scraper.update([server.target(select=True, names=VLLM)])
        await until(lambda: len(heard.read) >= 2)
        await scraper.close()
    assert {metrics.waiting for _, metrics in heard.read} == {13}
    assert {path.partition("?")[0] for path in server.paths} == {"/metrics/"}


@pytest.mark.parametrize(
    "refusal",
    [
        http(b"", "404 Not Found"),
        http(b"", "400 Bad Request"),
        http(b"", "307 Temporary Redirect", "location: /metrics"),
        http(b""),
    ],
    ids=["404", "400", "307", "nothing selected"],
)
async def test_a_server_that_cannot_select_is_asked_once_and_then_for_the_whole_page(
    scraper: Scraper, heard: Heard, refusal: bytes
) -> None:
    async def respond(_server: ModelServer, path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(refusal if "?" in path else http())

    async with serving(respond) as server:
        target = server.target(select=True)
        await scraper.update([target])
        await until(lambda: len(heard.read) >= 3)
        await scraper.close()
    assert server.paths[:4] == [SELECT_PATH, "/metrics", "/metrics", "/metrics"]
    assert set(heard.read) == {(target, METRICS)}
    assert heard.failed == []


async def test_selection_is_not_given_up_for_a_server_that_has_no_page_at_all_yet(
    scraper: Scraper, heard: Heard
) -> None:
    async with serving(always(http(b"", "404 Not Found"))) as server:
        await scraper.update([server.target(select=True)])
        await until(lambda: heard.failed)
        server.respond = always(http())
        await until(lambda: heard.read)
        await scraper.close()
    assert server.paths[:2] == [SELECT_PATH, "/metrics"]
    assert server.paths[-1] == SELECT_PATH


@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden"])
async def test_a_token_that_was_refused_is_read_again(
    scraper: Scraper, heard: Heard, tmp_path: Path, status: str
) -> None:
    token = tmp_path / "token"
    token.write_text("old")

    async def respond(server: ModelServer, _path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(http() if "bearer new" in server.heads[-1].lower() else http(b"", status))

    async with serving(respond) as server:
        await scraper.update([server.target(bearer_token_file=str(token))])
        await until(lambda: heard.failed)
        token.write_text("new")
        await until(lambda: heard.read)


async def test_a_server_that_fails_at_the_moment_is_not_asked_for_its_whole_page(
    scraper: Scraper, heard: Heard
) -> None:
    async with serving(always(http(b"", "503 Service Unavailable"))) as server:
        await scraper.update([server.target(select=True)])
        await until(lambda: len(heard.failed) >= 2)
        await scraper.close()
    assert set(server.paths) == {SELECT_PATH}


@pytest.mark.parametrize(
    ("path", "select", "select_path"),
    [
        ("/metrics", True, SELECT_PATH),
        ("/metrics/", True, SELECT_PATH),
        ("/", True, SELECT_PATH.removeprefix("/metrics")),
        ("/metrics?x=1", True, None),
        ("/metrics", False, None),
    ],
)
def test_metrics_are_selected_below_the_path_unless_it_has_a_query(
    path: str, select: bool, select_path: str | None
) -> None:
    target = ScrapeTarget(address="a", host="::1", port=1, path=path, select=select, names=SHORT_NAMES)
    assert target.select_path() == select_path


def test_the_request_is_small_and_asks_for_no_compression() -> None:
    target = ScrapeTarget(address="a", host="fd00::1", port=8000, headers=(("X-Scope", "a"),))
    assert target.request("/metrics", "token") == (
        b"GET /metrics HTTP/1.1\r\n"
        b"Host: [fd00::1]:8000\r\n"
        b"Accept: text/plain;version=0.0.4\r\n"
        b"Accept-Encoding: identity\r\n"
        b"User-Agent: extproc\r\n"
        b"X-Scope: a\r\n"
        b"Authorization: Bearer token\r\n"
        b"\r\n"
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"path": "metrics"},
        {"path": "/a b"},
        {"path": "/a\r\nX: y"},
        {"path": "/ü"},
        {"host": "a\nb"},
        {"headers": (("a", "b\r\nc: d"),)},
    ],
)
async def test_a_target_that_would_break_the_request_is_refused_and_changes_nothing(
    scraper: Scraper, heard: Heard, fields: dict[str, Any]
) -> None:
    async with serving(always(http())) as server:
        target = server.target()
        await scraper.update([target])
        with pytest.raises(ValueError, match="no HTTP request can be made of "):
            await scraper.update([ScrapeTarget(**{"address": "a", "host": "::1", "port": 1} | fields)])
        await until(lambda: heard.reads_of(target) >= 2)


@pytest.mark.parametrize(
    ("interval_s", "expected"),
    [
        (0.2, [0.007, 0.057, 0.107, 0.157]),
        (60.0, [0.007, 0.257, 0.507, 0.757]),
        (0.02, [0.007, 0.007, 0.017, 0.017]),
    ],
)
async def test_first_scrapes_are_spread_in_slots_over_the_interval_but_not_over_more_than_a_second(
    heard: Heard, monkeypatch: pytest.MonkeyPatch, interval_s: float, expected: list[float]
) -> None:
    delays: list[float] = []
    sleep = asyncio.sleep

    async def note(delay_s: float) -> None:
        delays.append(delay_s)
        await sleep(BOUND_S)

    scraper = Scraper(heard, heard.report_fault, clock=lambda: 100.003)
    with monkeypatch.context() as patched:
        patched.setattr("extproc.scraper.asyncio.sleep", note)
        targets = [ScrapeTarget(address=f"{i}", host="::1", port=1, interval_s=interval_s) for i in range(4)]
        await scraper.update(targets)
        for _ in range(3):
            await sleep(0)
        await scraper.close()
    assert delays == pytest.approx(expected)


@given(st.floats(0, 1e6), st.floats(0.01, 60), st.floats(0, 1e4))
def test_scrapes_keep_to_their_own_times_however_late_the_last_one_was(
    first: float, interval_s: float, late_s: float
) -> None:
    now = first + late_s
    pause_s = until_next(first, interval_s, now)
    assert 0.1 * interval_s < pause_s <= 1.1 * interval_s * (1 + 1e-6)
    beats = (now + pause_s - first) / interval_s
    assert beats == pytest.approx(round(beats), abs=1e-4)
