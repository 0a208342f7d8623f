"""Requests that are held: as Envoy sees them, and what is told of them."""

from __future__ import annotations

import asyncio

import pytest
from ext_proc_service import (
    RESPONSE_HEADERS_GO,
    A,
    B,
    refused,
    routed_body,
    routed_headers,
    serving,
    streamed,
)
from queue_talk import TIMEOUT, ask, config, held, hold, results, scrape
from stream_stages import BUFFERED, DUPLEX, INTERNAL_ERROR, SHUTTING_DOWN

from extproc.protocol.messages import BodyMode

# -- held, then sent ----------------------------------------------------------------------------------------


async def test_a_held_request_goes_on_when_a_scrape_shows_room() -> None:
    async with serving(config()) as (service, envoy):
        scrape(service, 1)
        stream = await hold(service, envoy)
        assert service.sample("extproc_queue_bytes", pool="pool") == 13
        assert service.in_flight == {}
        scrape(service, 0)
        assert await stream.reply() == routed_body("m", "m")
        assert (held(service), service.in_flight) == (0, {A: 1})
        await stream.end()
        await service.idle()
        assert results(service) == {"dispatched": 1}


async def test_a_held_request_goes_on_when_another_request_ends() -> None:
    async with serving(config()) as (service, envoy):
        before = await ask(envoy)
        await before.reply()
        scrape(service, 1)
        stream = await hold(service, envoy)
        await before.end()
        assert await stream.reply() == routed_body("m", "m")
        await stream.end()


async def test_a_held_request_goes_on_when_envoy_says_that_another_endpoint_served() -> None:
    async with serving(config([A, B])) as (service, envoy):
        for address in (A, B):
            scrape(service, 0, address)
        first = await ask(envoy)
        pinned = dict((await first.reply()).dynamic_metadata["envoy.lb"])["x-gateway-destination-endpoint"]
        other = B if pinned == A else A
        scrape(service, 1, A), scrape(service, 1, B)
        stream = await hold(service, envoy)
        await first.response_headers(200, attributes={"upstream.address": other})
        assert await first.reply() == RESPONSE_HEADERS_GO
        assert await stream.reply() == routed_body("m", "m", address=pinned)
        await first.end()
        await stream.end()


async def test_a_held_full_duplex_body_goes_on_whole() -> None:
    async with serving(config()) as (service, envoy):
        scrape(service, 1)
        stream = await hold(service, envoy, mode=DUPLEX)
        scrape(service, 0)
        assert await stream.reply() == routed_headers("m", "m")
        assert await stream.reply() == streamed(b'{"model":"m"}', end=True)
        await stream.end()


async def test_the_repeated_end_of_a_held_full_duplex_body_is_no_fault() -> None:
    async with serving(config()) as (service, envoy):
        scrape(service, 1)
        stream = await hold(service, envoy, mode=DUPLEX)
        await stream.request_body(b"")  # envoyproxy/envoy#46237
        await asyncio.sleep(0.05)
        scrape(service, 0)
        assert await stream.reply() == routed_headers("m", "m")
        assert await stream.reply() == streamed(b'{"model":"m"}', end=True)
        await stream.end()


async def test_a_request_without_a_body_is_held_too() -> None:
    async with serving(config()) as (service, envoy):
        scrape(service, 1)
        stream = envoy.stream()
        await stream.request_headers({":method": "GET", ":path": "/version"}, end=True)
        await service.until(lambda: held(service) == 1)
        scrape(service, 0)
        assert await stream.reply() == routed_headers()
        await stream.end()


async def test_an_answer_follows_a_held_request_as_any_other() -> None:
    async with serving(config()) as (service, envoy):
        scrape(service, 1)
        stream = await hold(service, envoy)
        scrape(service, 0)
        await stream.reply()
        await stream.response_headers(200)
        assert await stream.reply() == RESPONSE_HEADERS_GO
        await stream.end()
        (line,) = await service.log_lines()
        assert line["outcome"] == "completed"
        assert line["queued_ms"] > 0
        assert service.requests == {"m m pool completed": 1}


async def test_room_for_one_lets_one_go() -> None:
    async with serving(config()) as (service, envoy):
        before = await ask(envoy)
        await before.reply()
        scrape(service, 1)
        first, second = await hold(service, envoy), await hold(service, envoy)
        await before.end()
        assert await first.reply() == routed_body("m", "m")
        assert (held(service), service.in_flight) == (1, {A: 1})
        await first.end()
        assert await second.reply() == routed_body("m", "m")
        await second.end()


async def test_critical_work_goes_first() -> None:
    async with serving(config()) as (service, envoy):
        before = await ask(envoy)
        await before.reply()
        scrape(service, 1)
        standard, critical = await hold(service, envoy), await hold(service, envoy, "critical")
        await before.end()
        assert await critical.reply() == routed_body("critical", "critical")
        await critical.end()
        assert await standard.reply() == routed_body("m", "m")
        await standard.end()


# -- refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [BUFFERED, DUPLEX])
async def test_who_waits_in_vain_gets_503(mode: BodyMode) -> None:
    async with serving(config(timeout_s=0.05)) as (service, envoy):
        scrape(service, 1)
        stream = await ask(envoy, mode=mode)
        assert await stream.reply() == TIMEOUT
        await stream.closed()
        (line,) = await service.log_lines()
        assert (line["outcome"], line["status"]) == ("queue_timeout", 503)
        assert line["queued_ms"] >= 50
        assert results(service) == {"queue_timeout": 1}
        assert service.sample("extproc_queue_wait_seconds_count", pool="pool") == 1


async def test_one_timer_serves_all_deadlines() -> None:
    async with serving(config(timeout_s=0.05)) as (service, envoy):
        scrape(service, 1)
        for _ in range(3):
            streams = [await ask(envoy) for _ in range(5)]
            for stream in streams:
                assert await stream.reply() == TIMEOUT
                await stream.closed()


async def test_critical_work_that_waits_in_vain_goes_on_all_the_same() -> None:
    async with serving(config(timeout_s=0.05)) as (service, envoy):
        scrape(service, 1)
        stream = await ask(envoy, "critical")
        assert await stream.reply() == routed_body("critical", "critical")
        await stream.end()
        await service.idle()
        assert results(service) == {"overdue": 1}


async def test_a_full_queue_refuses_standard_work_and_lets_critical_work_through() -> None:
    async with serving(config(max_requests=1)) as (service, envoy):
        scrape(service, 1)
        waiting = await hold(service, envoy)
        more = await ask(envoy)
        message = "Pool `pool` is saturated and its queue is full; try again later."
        assert await more.reply() == refused("saturated", 429, "rate_limit_error", message, retry_after=1)
        await more.closed()
        critical = await ask(envoy, "critical")
        assert await critical.reply() == routed_body("critical", "critical")
        await critical.end()
        scrape(service, 0)
        assert await waiting.reply() == routed_body("m", "m")
        await waiting.end()


async def test_sheddable_work_is_refused_at_once() -> None:
    async with serving(config()) as (service, envoy):
        scrape(service, 1)
        stream = await ask(envoy, "sheddable")
        message = "Pool `pool` is saturated and the request is sheddable; try again later."
        assert await stream.reply() == refused("saturated", 429, "rate_limit_error", message, retry_after=1)
        await stream.closed()
        assert results(service) == {}


@pytest.mark.parametrize("mode", [BUFFERED, DUPLEX])
async def test_the_end_of_the_drain_refuses_what_is_held(mode: BodyMode) -> None:
    async with serving(config()) as (service, envoy):
        scrape(service, 1)
        stream = await hold(service, envoy, mode=mode)
        scrape(service, 0)  # room in the very same moment
        service.processor.end_drain()
        assert await stream.reply() == SHUTTING_DOWN
        await stream.closed()
        await service.idle()
        assert (service.in_flight, results(service)) == ({}, {"shutting_down": 1})
        assert service.requests == {"m none none shutting_down": 1}


async def test_a_fault_of_ours_is_told_to_each_who_waits() -> None:
    async with serving(config()) as (service, envoy):
        scrape(service, 1)
        streams = [await hold(service, envoy) for _ in range(3)]
        assert service.fleet.router is not None
        pool = service.fleet.router.pools["pool"]
        pool.endpoints = (None,)  # type: ignore[assignment]
        service.processor.dispatcher.poke()
        for stream in streams:
            assert await stream.reply() == INTERNAL_ERROR
            await stream.closed()
        assert (held(service), service.sample("extproc_internal_errors_total")) == (0, 3)
        pool.replace([service.endpoint(A)])
