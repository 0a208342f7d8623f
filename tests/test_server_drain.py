"""The end of the drain: what is undecided is refused; what is decided goes on without us, or is left."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from answer_talk import ONE, READS, RESTORES, STREAMED, begun, line_of, renamed, replaced, told
from envoy.config.core.v3 import base_pb2 as core
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from ext_proc_service import (
    CHAT,
    REQUEST_HEADERS_GO,
    RESPONSE_HEADERS_GO,
    routed_headers,
    serving,
    streamed,
)
from stream_stages import (
    BUFFERED,
    DUPLEX,
    NONE,
    SHUTTING_DOWN,
    Stage,
    answered,
    decided,
    duplex_answering,
    duplex_body_half_seen,
    duplex_body_not_taken,
    duplex_headers_seen,
    headers_seen,
)

from extproc.protocol.messages import BodyMode

UNDECIDED: list[tuple[Stage, BodyMode]] = [
    (headers_seen, BUFFERED),
    (duplex_headers_seen, DUPLEX),
    (duplex_body_half_seen, DUPLEX),
]


@pytest.mark.parametrize(("stage", "mode"), UNDECIDED)
async def test_the_end_of_the_drain_refuses_what_is_undecided(stage: Stage, mode: BodyMode) -> None:
    async with serving() as (service, envoy):
        stream = envoy.stream(mode)
        await stage(service, stream)
        service.processor.end_drain()
        assert await stream.reply() == SHUTTING_DOWN
        await stream.closed()
        await service.idle()
        assert service.requests == {"none none none shutting_down": 1}


@pytest.mark.parametrize("mode", [BUFFERED, DUPLEX])
async def test_a_stream_whose_request_comes_after_the_drain_is_refused_too(mode: BodyMode) -> None:
    async with serving() as (service, envoy):
        stream = envoy.stream(mode)
        await service.until(lambda: service.processor.open_streams == 1)
        service.processor.end_drain()
        await stream.request_headers(CHAT)
        assert await stream.reply() == SHUTTING_DOWN
        await stream.closed()


@pytest.mark.parametrize(
    ("stage", "outcome"), [(decided, "aborted"), (answered, "completed")], ids=["decided", "answered"]
)
@pytest.mark.parametrize("responses", [NONE, STREAMED, BUFFERED])
async def test_at_the_end_of_the_drain_envoy_goes_on_alone_with_what_is_decided(
    stage: Stage, outcome: str, responses: BodyMode
) -> None:
    async with serving() as (service, envoy):
        stream = envoy.stream(BUFFERED, responses)
        await stage(service, stream)
        service.processor.end_drain()
        await stream.closed()
        await service.idle()
        assert service.requests == {f"same same pool {outcome}": 1}


async def test_an_answer_that_is_only_read_goes_on_alone_too() -> None:
    async with serving(READS) as (service, envoy):
        stream = await begun(envoy)
        await stream.response_body(ONE)
        await told(stream)
        service.processor.end_drain()
        await stream.closed()
        assert (await line_of(service))["answer"] == "cut"


async def test_the_end_of_the_drain_leaves_an_answer_whose_body_only_we_hold() -> None:
    async with serving() as (service, envoy):
        stream = envoy.stream(DUPLEX, DUPLEX)
        await duplex_answering(service, stream)
        service.processor.end_drain()
        await stream.response_body(b"more")
        assert await stream.reply() == streamed(b"more", end=False, response=True)
        await stream.end()
        await service.idle()
        assert service.requests == {"same same pool completed": 1}


async def test_the_end_of_the_drain_leaves_an_answer_that_gets_the_clients_name() -> None:
    async with serving(RESTORES) as (service, envoy):
        stream = await begun(envoy)
        service.processor.end_drain()
        await stream.response_body(ONE)
        assert (await told(stream))[0] == replaced(renamed(ONE))
        await stream.end()


async def test_the_end_of_the_drain_leaves_a_decided_body_that_is_still_being_sent() -> None:
    async with serving() as (service, envoy):
        stream = envoy.stream(DUPLEX)
        await duplex_body_not_taken(service, stream)
        service.processor.end_drain()
        assert await stream.reply() == routed_headers("same", "same")
        size, ended = 0, False
        while not ended:
            piece = (await stream.reply()).request_body.response.body_mutation.streamed_response
            size, ended = size + len(piece.body), piece.end_of_stream
        assert size == 20_000_025
        await stream.end()


async def test_the_end_of_the_drain_leaves_a_response_that_had_no_request_phase() -> None:
    async with serving() as (service, envoy):
        stream = envoy.stream(BUFFERED, DUPLEX)
        await stream.response_headers(200)
        assert await stream.reply() == RESPONSE_HEADERS_GO
        service.processor.end_drain()
        await stream.response_body(b"x", end=True)
        assert await stream.reply() == streamed(b"x", end=True, response=True)
        await stream.end()


async def test_clients_that_leave_while_they_are_being_refused_are_no_bug() -> None:
    async with serving() as (service, envoy):
        streams = [envoy.stream() for _ in range(50)]
        for stream in streams:
            await headers_seen(service, stream)
        for turns, stream in enumerate(streams):
            stream.cancel()
            for _ in range(turns % 10):
                await asyncio.sleep(0)
            service.processor.end_drain()
        await service.idle()
        assert service.sample("extproc_internal_errors_total") == 0
        assert set(service.requests) <= {"none none none shutting_down", "none none none aborted"}
        assert sum(service.requests.values()) == 50


class SlowToWrite:
    """A gRPC stream of one message, whose every write waits to be let go; grpc takes one at a time."""

    def __init__(self, message: bytes) -> None:
        self.began = asyncio.Event()
        self.go_on = asyncio.Event()
        self.written: list[pb.ProcessingResponse] = []
        self._messages = [message]
        self._writing = False

    def invocation_metadata(self) -> None:
        return None

    async def read(self) -> Any:
        if not self._messages:
            await asyncio.Event().wait()
        return self._messages.pop()

    async def write(self, data: bytes) -> None:
        assert not self._writing
        self._writing = True
        self.began.set()
        await self.go_on.wait()
        self._writing = False
        self.written.append(pb.ProcessingResponse.FromString(data))


async def test_what_is_being_written_when_the_drain_ends_is_written_before_the_refusal() -> None:
    async with serving() as (service, _):
        headers = [core.HeaderValue(key=name, raw_value=value.encode()) for name, value in CHAT.items()]
        begin = pb.HttpHeaders(headers=core.HeaderMap(headers=headers))
        stream = SlowToWrite(pb.ProcessingRequest(request_headers=begin).SerializeToString())
        process = asyncio.create_task(service.processor.process(None, stream))
        await stream.began.wait()
        service.processor.end_drain()
        await asyncio.sleep(0)
        stream.go_on.set()
        await process
        assert stream.written == [REQUEST_HEADERS_GO, SHUTTING_DOWN]
        assert service.requests == {"none none none shutting_down": 1}
