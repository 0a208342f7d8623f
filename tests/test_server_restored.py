"""The client's model name put back into answers, and faults in reading them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from answer_talk import (
    DONE,
    DUPLEX,
    GO_ON,
    JSON,
    NONE,
    ONE,
    PARTIAL,
    POOLS,
    READS,
    RESTORES,
    STREAMED,
    TRAILERS_GO,
    TWO,
    USAGE,
    WHOLE,
    WHOLE_ANSWER,
    asked,
    begun,
    line_of,
    read,
    renamed,
    replaced,
    routed,
    told,
)
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from ext_proc_service import serving, streamed

from extproc.answers import AnswerReader
from extproc.protocol.messages import BodyMode

# -- the client's model name --------------------------------------------------------------------------------------


async def test_asked_for_it_comes_without_its_length_and_with_the_clients_name() -> None:
    async with serving(RESTORES) as (service, envoy):
        stream, _ = await routed(envoy)
        await stream.response_headers(200, {**JSON, "content-length": str(len(WHOLE_ANSWER))})
        assert await stream.reply() == asked("content-length")
        await stream.response_body(WHOLE_ANSWER)
        assert (await told(stream))[0] == replaced(renamed(WHOLE_ANSWER))
        await stream.response_body(b"", end=True)
        assert await told(stream) == (GO_ON, {})
        await stream.end()
        assert (await line_of(service))["answer"] == "ok"


async def test_in_a_stream_it_stands_in_every_event() -> None:
    async with serving(RESTORES) as (_, envoy):
        stream = await begun(envoy, STREAMED)
        for chunk in (ONE, TWO, USAGE):
            await stream.response_body(chunk)
            assert (await told(stream))[0] == replaced(renamed(chunk))
        await stream.response_body(DONE, end=True)
        assert (await told(stream))[0] == GO_ON
        await stream.end()


@pytest.mark.parametrize("mode", [NONE, STREAMED, DUPLEX])
@pytest.mark.parametrize("ending", ["end", "trailers"])
async def test_cut_anywhere_all_other_bytes_are_those_that_came(mode: BodyMode, ending: str) -> None:
    body, passed = ONE + TWO + DONE, bytearray()
    async with serving(RESTORES) as (_, envoy):
        stream = await begun(envoy, mode)
        for position in range(len(body)):
            last = ending == "end" and position == len(body) - 1
            await stream.response_body(body[position : position + 1], end=last)
            reply, _ = await told(stream)
            change = reply.response_body.response.body_mutation
            kind = change.WhichOneof("mutation")
            if mode is DUPLEX:
                assert kind == "streamed_response"
                assert change.streamed_response.end_of_stream is last
                passed += change.streamed_response.body
            else:
                passed += change.body if kind == "body" else body[position : position + 1]
        if ending == "trailers":
            await stream.response_trailers()
            assert (await told(stream))[0] == TRAILERS_GO
        await stream.end()
    assert passed == renamed(body)


async def test_nothing_is_read_beyond_the_length_announced() -> None:
    async with serving(RESTORES) as (_, envoy):
        stream, _ = await routed(envoy)
        await stream.response_headers(200, {**JSON, "content-length": str(len(WHOLE_ANSWER))})
        await stream.reply()
        await stream.response_body(WHOLE_ANSWER)
        assert (await told(stream))[0] == replaced(renamed(WHOLE_ANSWER))
        await stream.response_body(WHOLE_ANSWER, end=True)
        assert await stream.reply() == GO_ON
        await stream.end()


@pytest.mark.parametrize("mode", [WHOLE, PARTIAL])
async def test_a_whole_body_is_replaced_at_once(mode: BodyMode) -> None:
    async with serving(RESTORES) as (_, envoy):
        stream, _ = await routed(envoy, mode)
        await stream.response_headers(200, {**JSON, "content-length": "9"})
        without_length = pb.ProcessingResponse(response_headers=pb.HeadersResponse())
        without_length.response_headers.response.header_mutation.remove_headers.append("content-length")
        assert await stream.reply() == without_length
        await stream.response_body(WHOLE_ANSWER, end=True)
        assert (await told(stream))[0] == replaced(renamed(WHOLE_ANSWER))
        await stream.end()


@pytest.mark.parametrize("ending", ["end", "trailers"])
async def test_in_full_duplex_what_was_held_back_goes_on_at_the_end(ending: str) -> None:
    """The answer breaks off within a name."""
    body, passed = b'data: {"model":"qwq-', b""
    async with serving(RESTORES) as (service, envoy):
        stream = await begun(envoy, DUPLEX)
        await stream.response_body(body, end=ending == "end")
        if ending == "trailers":
            await stream.response_trailers()
        while len(passed) < len(body):
            reply = await stream.reply()
            piece = reply.response_body.response.body_mutation.streamed_response
            passed += piece.body
        assert (passed, piece.end_of_stream) == (body, ending == "end")
        if ending == "trailers":
            assert await stream.reply() == TRAILERS_GO
        await stream.end()
        await service.idle()
        assert read(service) == {"cut": 1}


async def test_a_large_piece_goes_through_changed() -> None:
    """Above the size from which bodies are taken out of their messages by hand."""
    big = WHOLE_ANSWER.replace(b'"ab"', b'"%b"' % (b"x" * 300_000))
    async with serving(RESTORES) as (service, envoy):
        for mode in (NONE, WHOLE, DUPLEX):
            stream, _ = await routed(envoy, mode)
            await stream.response_headers(200, JSON)
            await stream.reply()
            await stream.response_body(big, end=True)
            passed = b""
            while True:
                reply, facts = await told(stream)
                change = reply.response_body.response.body_mutation
                passed += change.body or change.streamed_response.body
                if mode is not DUPLEX or change.streamed_response.end_of_stream:
                    break
            assert passed == renamed(big)
            assert facts["total_tokens"] == 9
            await stream.end()
        await service.idle()
        assert read(service) == {"ok": 3}


@pytest.mark.parametrize(("config", "model"), [(RESTORES, "same"), (READS, "qwq")])
async def test_a_name_that_stays_needs_no_change(config: str, model: str) -> None:
    async with serving(config) as (_, envoy):
        stream, request = await routed(envoy, NONE, model, accept_encoding="gzip")
        removed = request.request_body.response.header_mutation.remove_headers
        assert "accept-encoding" not in removed
        await stream.response_headers(200, {**JSON, "content-length": "99"})
        assert await stream.reply() == asked()
        await stream.response_body(WHOLE_ANSWER)
        assert (await told(stream))[0] == GO_ON
        await stream.end()


async def test_an_answer_whose_name_is_to_be_put_back_is_asked_for_plain() -> None:
    async with serving(RESTORES) as (_, envoy):
        stream, request = await routed(envoy, accept_encoding="gzip, br")
        assert list(request.request_body.response.header_mutation.remove_headers) == ["accept-encoding"]
        await stream.end()


async def test_names_are_put_back_into_all_answers_whatever_the_share() -> None:
    config = POOLS + "responses: {percent: 0.001, restore_model: true}\n"
    async with serving(config) as (service, envoy):
        for _ in range(20):
            stream, _ = await routed(envoy)
            await stream.response_headers(200, JSON)
            assert await stream.reply() == asked("content-length")
            await stream.end()
        await service.idle()
        assert read(service) == {"not_sent": 20}


# -- faults -----------------------------------------------------------------------------------------------------


async def test_a_fault_of_ours_in_reading_leaves_the_answer_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    fed: Callable[..., Any] = AnswerReader.feed

    def feed(reader: AnswerReader, data: bytes, now: float) -> Any:
        if data == TWO:
            raise ValueError("a bug")
        return fed(reader, data, now)

    monkeypatch.setattr(AnswerReader, "feed", feed)
    async with serving(RESTORES) as (service, envoy):
        stream = await begun(envoy, DUPLEX)
        await stream.response_body(ONE)
        assert (await told(stream))[0] == streamed(renamed(ONE), end=False, response=True)
        for chunk, end in ((TWO, False), (USAGE, True)):
            await stream.response_body(chunk, end=end)
            assert await stream.reply() == streamed(chunk, end=end, response=True)
        await stream.end()
        await service.idle()
        assert read(service) == {"unreadable": 1}
        assert service.sample("extproc_internal_errors_total") == 1
        (fault, line) = await service.log_lines()
    assert (fault["event"], line["outcome"], line["answer"]) == ("internal_error", "completed", "unreadable")
