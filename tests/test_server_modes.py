"""How Envoy sends bodies: where they come too late, cut, or not at all."""

from __future__ import annotations

import pytest
from envoy.extensions.filters.http.ext_proc.v3.processing_mode_pb2 import ProcessingMode
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from envoy_peer import EnvoyPeer, EnvoyStream
from ext_proc_service import (
    CHAT,
    CONFIG,
    RESPONSE_HEADERS_GO,
    A,
    refused,
    request_headers_parked,
    routed_body,
    routed_headers,
    serving,
)

from extproc.protocol.messages import BodyMode

NONE, STREAMED, PARTIAL = BodyMode.NONE, BodyMode.STREAMED, BodyMode.BUFFERED_PARTIAL
BODY = b'{"model" : "qwq", "n": 1e400}'
NEW_BODY = b'{"model" : "qwq-32b", "n": 1e400}'
NOT_HONOURED = refused(
    "unsupported_body_mode",
    500,
    "server_error",
    "Envoy sends STREAMED request bodies and honours no mode override (allow_mode_override), so that the endpoint is "
    "picked before the body is read; configure BUFFERED or FULL_DUPLEX_STREAMED.",
)
CUT = refused(
    "body_too_large",
    413,
    "invalid_request_error",
    "The body is larger than what the gateway buffers, or trailers follow it.",
)


def overridden() -> pb.ProcessingResponse:
    reply = pb.ProcessingResponse()
    reply.CopyFrom(request_headers_parked())
    reply.mode_override.request_body_mode = ProcessingMode.BUFFERED_PARTIAL
    reply.mode_override.response_body_mode = ProcessingMode.NONE
    reply.mode_override.response_header_mode = ProcessingMode.SEND
    reply.mode_override.request_trailer_mode = ProcessingMode.SEND
    reply.mode_override.response_trailer_mode = ProcessingMode.SEND
    return reply


async def parked(envoy: EnvoyPeer, mode: BodyMode = STREAMED) -> EnvoyStream:
    """A request whose body is waited for."""
    stream = envoy.stream(mode)
    await stream.request_headers({**CHAT, "content-length": str(len(BODY))})
    assert await stream.reply() == (overridden() if mode is STREAMED else request_headers_parked())
    return stream


@pytest.mark.parametrize("mode", [PARTIAL, STREAMED])
async def test_a_whole_body_is_routed_and_rewritten_and_its_request_gets_its_path_back(
    mode: BodyMode,
) -> None:
    """Envoy drops content-length in these modes."""
    async with serving() as (service, envoy):
        stream = await parked(envoy, mode)
        await stream.request_body(BODY)
        routed = routed_body("qwq", "qwq-32b", body=NEW_BODY, path=CHAT[":path"])
        assert await stream.reply() == routed
        assert service.in_flight == {A: 1}
        await stream.response_headers(200)
        assert await stream.reply() == RESPONSE_HEADERS_GO
        await stream.end()
        await service.idle()
        assert service.requests == {"qwq qwq-32b pool completed": 1}


@pytest.mark.parametrize("mode", [PARTIAL, STREAMED])
async def test_a_body_that_envoy_cut_is_too_large(mode: BodyMode) -> None:
    async with serving() as (service, envoy):
        stream = await parked(envoy, mode)
        await stream.request_body(BODY[:9], end=False)
        assert await stream.reply() == CUT
        await stream.closed()
        await service.idle()
        assert service.requests == {"none none none body_too_large": 1}


async def test_control_headers_are_taken_from_a_request_that_waits() -> None:
    async with serving() as (_, envoy):
        stream = envoy.stream(STREAMED)
        await stream.request_headers({**CHAT, "x-extproc-pool": "other"})
        expected = overridden()
        expected.request_headers.response.header_mutation.remove_headers.append("x-extproc-pool")
        assert await stream.reply() == expected
        await stream.end()


async def test_an_override_that_is_not_honoured_is_seen_by_more_of_the_body() -> None:
    async with serving() as (service, envoy):
        stream = await parked(envoy)
        await stream.request_body(BODY[:9], end=False)
        await stream.request_body(BODY[9:], end=False)
        assert await stream.reply() == NOT_HONOURED
        await stream.closed()
        await service.idle()
        assert service.requests == {"none none none unsupported_body_mode": 1}


@pytest.mark.parametrize("body", [None, BODY[:9]])
async def test_an_override_that_is_not_honoured_is_seen_by_an_answer_that_comes_too_soon(
    body: bytes | None,
) -> None:
    """Without a route Envoy answers 404; the client is told what is wrong instead."""
    async with serving() as (service, envoy):
        stream = await parked(envoy)
        if body is not None:
            await stream.request_body(body, end=False)
        await stream.response_headers(404, end=True)
        assert await stream.reply() == NOT_HONOURED
        await stream.closed()
        (line,) = await service.log_lines()
        assert (line["outcome"], line["status"]) == ("unsupported_body_mode", 500)


@pytest.mark.parametrize("status", [408, 413, 504])
async def test_what_envoy_answers_while_it_waits_for_a_body_stays(status: int) -> None:
    async with serving() as (service, envoy):
        stream = await parked(envoy)
        await stream.response_headers(status)
        assert await stream.reply() == RESPONSE_HEADERS_GO
        await stream.end()
        await service.idle()
        assert service.requests == {"none none none completed": 1}


async def test_bodies_that_come_unasked_are_refused_at_once() -> None:
    """Envoy honours no mode override then, and tells so."""
    async with serving() as (_, envoy):
        stream = envoy.stream(STREAMED, ahead=True)
        await stream.request_headers(CHAT)
        says = (
            "Envoy sends STREAMED request bodies and can't be told otherwise, so that the endpoint is picked before "
            "the body is read; configure BUFFERED or FULL_DUPLEX_STREAMED."
        )
        assert await stream.reply() == refused("unsupported_body_mode", 500, "server_error", says)
        await stream.closed()


async def test_a_client_that_leaves_after_a_piece_of_its_body_leaves_nothing_behind() -> None:
    async with serving() as (service, envoy):
        stream = await parked(envoy)
        await stream.request_body(BODY[:9], end=False)
        stream.cancel()
        await service.idle()


# -- NONE ---------------------------------------------------------------------------------------------------

TRUSTING = CONFIG + "trusted_headers: [X-Gateway-Model-Name]\n"


async def test_without_bodies_the_model_is_what_a_trusted_header_says() -> None:
    async with serving(TRUSTING) as (service, envoy):
        stream = envoy.stream(NONE)
        await stream.request_headers({**CHAT, "content-length": "20", "x-gateway-model-name": "qwq"})
        assert await stream.reply() == routed_headers("qwq", "qwq-32b")
        await stream.end()
        await service.idle()
        assert service.requests == {"qwq qwq-32b pool aborted": 1}


async def test_without_bodies_a_header_that_is_not_trusted_says_nothing() -> None:
    async with serving() as (_, envoy):
        stream = envoy.stream(NONE)
        await stream.request_headers({**CHAT, "x-gateway-model-name": "qwq"})
        assert await stream.reply() == routed_headers(removed=("x-gateway-model-name",))
        await stream.end()


async def test_without_bodies_a_name_that_no_model_has_is_refused() -> None:
    async with serving(TRUSTING.replace("default_pool: pool", "default_pool: null")) as (_, envoy):
        stream = envoy.stream(NONE)
        await stream.request_headers({**CHAT, "x-gateway-model-name": "unknown"})
        says = "The model `unknown` does not exist."
        assert await stream.reply() == refused(
            "model_not_found", 404, "invalid_request_error", says, param="model"
        )
        await stream.closed()
