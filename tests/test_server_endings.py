"""However a stream ends: counted down once, told once, and never let through unrouted."""

from __future__ import annotations

import asyncio
import gc
import random
import tracemalloc

import pytest
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from envoy_peer import EnvoyStream
from ext_proc_service import (
    CHAT,
    RESPONSE_HEADERS_GO,
    A,
    routed_body,
    serving,
)
from grpc import aio
from stream_stages import (
    BODY,
    BUFFERED,
    DUPLEX,
    STAGES,
    TWO,
    Stage,
    decided,
    duplex_body_not_taken,
    duplex_decided,
    headers_seen,
)

from extproc.config import parse_config
from extproc.exchange import Exchange
from extproc.protocol.messages import BodyMode

at_every_stage = pytest.mark.parametrize(("stage", "mode", "told"), STAGES)


@at_every_stage
@pytest.mark.parametrize("how", ["client gone", "Envoy gone"])
async def test_a_stream_that_breaks_off_is_counted_down_once_and_told_once(
    stage: Stage, mode: BodyMode, told: str, how: str
) -> None:
    async with serving() as (service, envoy):
        stream = envoy.stream(mode, mode)
        await stage(service, stream)
        if how == "client gone":
            stream.cancel()
        else:
            await envoy.vanish()
        await service.idle()
        assert service.in_flight == {}
        assert service.held_bytes == 0
        assert service.requests == {told: 1}
        lines = await service.log_lines()
        assert [(line["event"], line["outcome"]) for line in lines] == [("request", told.split()[-1])]


@pytest.mark.parametrize(("stage", "mode", "told"), [s for s in STAGES if s[0] is not duplex_body_not_taken])
async def test_a_stream_that_envoy_ends_is_counted_down_once_and_told_once(
    stage: Stage, mode: BodyMode, told: str
) -> None:
    async with serving() as (service, envoy):
        stream = envoy.stream(mode, mode)
        await stage(service, stream)
        if stage is duplex_decided:
            await stream.reply()
            await stream.reply()
        await stream.end()
        await service.idle()
        assert service.in_flight == {}
        assert service.requests == {told: 1}


async def test_a_stream_without_a_message_is_not_a_request() -> None:
    async with serving() as (service, envoy):
        await envoy.stream().end()
        gone = envoy.stream()
        gone.cancel()
        await service.idle()
        assert service.requests == {}


@pytest.mark.parametrize("how", ["clients gone", "Envoy gone"])
async def test_streams_that_break_off_while_their_bodies_are_being_sent_are_no_bugs(how: str) -> None:
    async with serving() as (service, envoy):
        streams = [envoy.stream(DUPLEX) for _ in range(40)]
        for stream in streams:
            await stream.request_headers(CHAT)
            await stream.request_body(b'{"model":"same","pad":"' + b"x" * 500_000 + b'"}')
        await service.until(lambda: service.in_flight == {A: len(streams)})
        if how == "Envoy gone":
            await envoy.vanish()
        for stream in streams:
            stream.cancel()
        await service.idle()
        assert service.sample("extproc_internal_errors_total") == 0
        assert service.requests == {"same same pool aborted": len(streams)}


class VanishedPeer:
    """What grpc hands to a handler, where the peer is gone before grpc cancels the handler: a race in real life."""

    def __init__(self, error: aio.BaseError, fails_to: str) -> None:
        self._error = error
        self._fails_to = fails_to
        request = pb.ProcessingRequest()
        request.request_headers.headers.headers.add(key=":method", value="GET")
        request.request_headers.end_of_stream = True
        self._messages = [request.SerializeToString()]

    async def read(self) -> bytes:
        if not self._messages:
            assert self._fails_to == "read"
            raise self._error
        return self._messages.pop()

    async def write(self, message: bytes) -> None:
        if self._fails_to == "write":
            raise self._error


@pytest.mark.parametrize("fails_to", ["read", "write"])
@pytest.mark.parametrize("error", [aio.UsageError("finished"), aio.InternalError("no such call")])
async def test_a_peer_that_grpc_finds_gone_is_no_bug(error: aio.BaseError, fails_to: str) -> None:
    async with serving() as (service, _):
        await service.processor.process(None, VanishedPeer(error, fails_to))
        assert service.sample("extproc_internal_errors_total") == 0
        assert service.requests == {"none none pool aborted": 1}
        assert service.in_flight == {}


async def test_one_client_that_leaves_takes_nobody_along() -> None:
    async with serving() as (service, envoy):
        stays, leaves = envoy.stream(), envoy.stream()
        await decided(service, stays)
        await headers_seen(service, leaves)
        leaves.cancel()
        await service.until(lambda: service.processor.open_streams == 1)
        await stays.response_headers(200)
        assert await stays.reply() == RESPONSE_HEADERS_GO
        assert service.in_flight == {A: 1}
        await stays.end()


async def test_many_clients_that_leave_at_any_time_leave_nothing_behind() -> None:
    async with serving() as (service, envoy):
        rng = random.Random(1)

        async def come_and_go() -> None:
            stream = envoy.stream()
            try:
                async with asyncio.timeout(rng.random() * 0.02):
                    await answered_alone(stream)
            except TimeoutError:
                stream.cancel()

        await asyncio.gather(*(come_and_go() for _ in range(200)))
        await service.idle()
        assert service.in_flight == {}
        assert service.held_bytes == 0
        assert set(service.requests) <= {
            "none none none aborted",
            "same same pool aborted",
            "same same pool completed",
        }


async def answered_alone(stream: EnvoyStream) -> None:
    await stream.request_headers(CHAT)
    await stream.reply()
    await stream.request_body(BODY)
    await stream.reply()
    await asyncio.sleep(0.005)
    await stream.response_headers(200)
    await stream.reply()
    await stream.end()


# -- what is left behind ----------------------------------------------------------------------------------


async def test_a_body_is_let_go_once_it_is_answered() -> None:
    """The answer may take an hour."""
    async with serving() as (service, envoy):
        for mode in (BUFFERED, DUPLEX):
            tracemalloc.start()
            try:
                stream = envoy.stream(mode)
                await big_request(stream, mode)
                await service.until(lambda: tracemalloc.get_traced_memory()[0] < 1_000_000)
                await service.until(lambda: biggest_message() < 1_000_000)
            finally:
                tracemalloc.stop()
            assert service.in_flight == {A: 1}
            await stream.end()
            await service.idle()


def biggest_message() -> int:
    """Bytes of the biggest of Envoy's messages that is still there: protobuf's memory is not traced."""
    messages = [thing for thing in gc.get_objects() if isinstance(thing, pb.ProcessingRequest)]
    return max((message.ByteSize() for message in messages), default=0)


async def big_request(stream: EnvoyStream, mode: BodyMode) -> None:
    body = b'{"model":"qwq","pad":"' + b"x" * 4_000_000 + b'"}'
    await stream.request_headers(CHAT)
    if mode is BUFFERED:
        await stream.reply()
    await stream.request_body(body)
    reply = await stream.reply()
    while mode is DUPLEX and not reply.request_body.response.body_mutation.streamed_response.end_of_stream:
        reply = await stream.reply()


@pytest.mark.parametrize("body", [BODY, b'{"x":', b'{"model":7}', b"{} x" + bytes(600_000)])
@pytest.mark.parametrize("mode", [BUFFERED, DUPLEX])
async def test_a_stream_leaves_no_cycle_that_would_hold_its_body_until_a_collection(
    mode: BodyMode, body: bytes
) -> None:
    async with serving() as (service, envoy):
        gc.collect()
        gc.disable()
        before = exchanges()
        try:
            stream = envoy.stream(mode)
            await stream.request_headers(CHAT)
            await stream.request_body(body)
            await stream.reply()
            if body is BODY or mode is BUFFERED:
                await stream.reply()
            await stream.end()
            await service.idle()
            await asyncio.sleep(0)  # the handler's task is let go
            assert exchanges() == before
        finally:
            gc.enable()


def exchanges() -> int:
    """How many there are, those included that wait for a collection."""
    return sum(isinstance(thing, Exchange) for thing in gc.get_objects())


async def test_a_reload_does_not_touch_a_stream_that_began_before_it() -> None:
    async with serving() as (service, envoy):
        before, after = envoy.stream(), envoy.stream()
        await headers_seen(service, before)
        service.fleet.apply(parse_config(TWO.replace("8001", "9001").encode()))
        await before.request_body(BODY)
        assert await before.reply() == routed_body("same", "same")
        await before.end()
        await headers_seen(service, after)
        hint = {"envoy.lb.subset_hint": {"x-gateway-destination-endpoint-subset": "127.0.0.1:9001"}}
        await after.request_body(BODY, metadata=hint)
        assert await after.reply() == routed_body("same", "same", address="127.0.0.1:9001")
        await after.end()
