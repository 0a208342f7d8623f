"""Faults of Envoy's and of ours: each costs one request, and says so."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import grpc
import pytest
from envoy_peer import EnvoyStream
from ext_proc_service import (
    CHAT,
    A,
    routed_body,
    serving,
)
from stream_stages import (
    BODY,
    BUFFERED,
    DUPLEX,
    INTERNAL_ERROR,
    NONE,
    TWO,
    decided,
    headers_seen,
)

from extproc.protocol.messages import BodyMode

# -- Envoy's faults ---------------------------------------------------------------------------------------


async def body_first(stream: EnvoyStream) -> None:
    await stream.request_body(b"{}")


async def headers_twice(stream: EnvoyStream) -> None:
    await stream.request_headers(CHAT)
    await stream.request_headers(CHAT)


async def garbage(stream: EnvoyStream) -> None:
    await stream.raw(b"\xff\xff\xff")


async def garbage_later(stream: EnvoyStream) -> None:
    await stream.request_headers(CHAT)
    await stream.raw(b"\xff\xff\xff")


async def nothing_in_it(stream: EnvoyStream) -> None:
    await stream.raw(b"")


@pytest.mark.parametrize(
    ("sends", "says"),
    [
        (body_first, "RequestBody while IDLE"),
        (headers_twice, "RequestHeaders while BODY"),
        (garbage, "not a ProcessingRequest"),
        (garbage_later, "not a ProcessingRequest"),
        (nothing_in_it, "a ProcessingRequest without a request"),
    ],
)
async def test_an_impossible_message_ends_its_stream_and_nothing_else(
    sends: Callable[[EnvoyStream], Awaitable[None]], says: str
) -> None:
    async with serving() as (service, envoy):
        other = envoy.stream()
        await headers_seen(service, other)
        stream = envoy.stream()
        await sends(stream)
        assert await stream.failure() == (grpc.StatusCode.INVALID_ARGUMENT, says)
        await other.request_body(BODY)
        assert await other.reply() == routed_body("same", "same")
        await other.end()
        await service.idle()
        assert service.requests == {
            "none none none protocol_error": 1,
            "same same pool aborted": 1,
        }
        lines = [line for line in await service.log_lines() if line["outcome"] == "protocol_error"]
        assert [(line["event"], line["message"]) for line in lines] == [("request", says)]


async def test_an_envoy_that_sends_garbage_and_vanishes_is_no_fault_of_ours() -> None:
    async with serving() as (service, envoy):
        for _ in range(20):
            stream = envoy.stream()
            await garbage(stream)
            stream.cancel()
        await service.until(lambda: service.processor.open_streams == 0)
        assert service.sample("extproc_internal_errors_total") == 0


async def test_an_unknown_body_mode_ends_its_stream() -> None:
    async with serving() as (service, envoy):
        stream = envoy.stream(mode=99)
        await stream.request_headers(CHAT)
        says = "unknown body mode: 99 is not a valid BodyMode"
        assert await stream.failure() == (grpc.StatusCode.INVALID_ARGUMENT, says)
        await service.idle()
        assert service.requests == {"none none none protocol_error": 1}


async def test_an_impossible_message_after_the_decision_counts_the_request_down() -> None:
    async with serving() as (service, envoy):
        stream = envoy.stream()
        await decided(service, stream)
        await stream.request_body(b"{}")
        assert await stream.failure() == (grpc.StatusCode.INVALID_ARGUMENT, "RequestBody while DONE")
        await service.idle()
        assert service.in_flight == {}
        assert service.requests == {"same same pool protocol_error": 1}


# -- our faults -------------------------------------------------------------------------------------------


class BrokenRandom(random.Random):
    """Fails while `broken`."""

    broken = True

    def random(self) -> float:
        if self.broken:
            raise ZeroDivisionError("a bug")
        return super().random()


@pytest.mark.parametrize("mode", [BUFFERED, DUPLEX, NONE])
async def test_a_bug_of_ours_costs_one_request_a_500_a_traceback_and_a_count(mode: BodyMode) -> None:
    rng = BrokenRandom()
    async with serving(TWO, rng) as (service, envoy):
        stream = envoy.stream(mode)
        await stream.request_headers(CHAT)
        if mode is BUFFERED:
            await stream.reply()
        if mode is not NONE:
            await stream.request_body(BODY)
        assert await stream.reply() == INTERNAL_ERROR
        await stream.closed()
        await service.idle()
        model = "none" if mode is NONE else "other"
        assert service.requests == {f"{model} none none internal_error": 1}
        assert service.sample("extproc_internal_errors_total") == 1

        rng.broken = False
        stream = envoy.stream()
        await stream.request_headers({":method": "GET", ":path": "/version"}, end=True)
        assert (await stream.reply()).HasField("request_headers")
        await stream.end()

        bug, refusal, _ = await service.log_lines()
        assert (bug["event"], bug["level"]) == ("internal_error", "error")
        assert bug["exception"].startswith("Traceback (most recent call last):")
        assert bug["exception"].endswith("ZeroDivisionError: a bug")
        assert (refusal["event"], refusal["outcome"]) == ("request", "internal_error")


async def test_a_bug_between_decision_and_answer_is_a_500_and_not_a_clean_close() -> None:
    async with serving() as (service, envoy):
        service.endpoint(A).address = "\ud800"  # metadata can't carry that
        stream = envoy.stream()
        await stream.request_headers(CHAT)
        await stream.reply()
        await stream.request_body(BODY)
        assert await stream.reply() == INTERNAL_ERROR
        await stream.closed()
        await service.idle()
        service.endpoint(A).address = A
        assert service.in_flight == {}
        assert list(service.requests.values()) == [1]


async def test_a_bug_after_the_answer_closes_the_stream_cleanly_so_that_envoy_goes_on_alone() -> None:
    async with serving() as (service, envoy):
        stream = envoy.stream()
        await decided(service, stream)
        health = service.endpoint(A).health
        service.endpoint(A).health = None  # type: ignore[assignment]
        await stream.response_headers(200)
        await stream.closed()
        await service.idle()
        service.endpoint(A).health = health
        assert service.in_flight == {}
        assert service.requests == {"same same pool internal_error": 1}
        assert service.sample("extproc_internal_errors_total") == 1
