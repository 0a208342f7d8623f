"""Whole conversations over real gRPC: what Envoy sends, and the whole of what it gets back."""

from __future__ import annotations

import json

import pytest
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from ext_proc_service import (
    CHAT,
    REQUEST_HEADERS_GO,
    REQUEST_TRAILERS_GO,
    RESPONSE_HEADERS_GO,
    RESPONSE_TRAILERS_GO,
    A,
    routed_body,
    routed_headers,
    serving,
    streamed,
)

from extproc.protocol.messages import BodyMode

NONE, STREAMED, BUFFERED = BodyMode.NONE, BodyMode.STREAMED, BodyMode.BUFFERED
PARTIAL, DUPLEX = BodyMode.BUFFERED_PARTIAL, BodyMode.FULL_DUPLEX_STREAMED
BODY = b'{ "n": 1e400, "model" : "qwq", "messages":[], "n":2, "x": "\\u003c" }'
NEW_BODY = b'{ "n": 1e400, "model" : "qwq-32b", "messages":[], "n":2, "x": "\\u003c" }'


# -- BUFFERED ---------------------------------------------------------------------------------------------


async def test_a_buffered_request_is_routed_and_rewritten_in_the_answer_to_its_body() -> None:
    async with serving() as (service, envoy):
        stream = envoy.stream()
        await stream.request_headers({**CHAT, "content-length": str(len(BODY))})
        assert await stream.reply() == REQUEST_HEADERS_GO
        assert service.in_flight == {}
        await stream.request_body(BODY)
        assert await stream.reply() == routed_body(
            "qwq", "qwq-32b", content_length=len(NEW_BODY), body=NEW_BODY
        )
        assert service.in_flight == {A: 1}
        await stream.response_headers(200)
        assert await stream.reply() == RESPONSE_HEADERS_GO
        assert service.in_flight == {A: 1}
        await stream.end()
        await service.idle()
        assert service.in_flight == {}


async def test_a_chunked_request_stays_chunked() -> None:
    async with serving() as (_, envoy):
        stream = envoy.stream()
        await stream.request_headers(CHAT)
        await stream.reply()
        await stream.request_body(BODY, end=False)
        assert await stream.reply() == routed_body("qwq", "qwq-32b", body=NEW_BODY)
        await stream.request_trailers()
        assert await stream.reply() == REQUEST_TRAILERS_GO
        await stream.end()


@pytest.mark.parametrize("model", ["same", "unlisted", "caf\u00e9", "s\\u0061me"])
async def test_a_body_whose_model_does_not_change_goes_on_as_it_came(model: str) -> None:
    body = f'{{"model":"{model}"}}'.encode()
    name = json.loads(body)["model"]
    async with serving() as (_, envoy):
        stream = envoy.stream()
        await stream.request_headers({**CHAT, "content-length": str(len(body))})
        await stream.reply()
        await stream.request_body(body)
        assert await stream.reply() == routed_body(name, name)
        await stream.end()


async def test_where_the_model_stands_twice_the_last_decides_and_both_are_rewritten() -> None:
    async with serving() as (_, envoy):
        stream = envoy.stream()
        await stream.request_headers(CHAT)
        await stream.reply()
        await stream.request_body(b'{"model":"same","a":[{"model":"x"}],"model":"qwq"}')
        assert await stream.reply() == routed_body(
            "qwq", "qwq-32b", body=b'{"model":"qwq-32b","a":[{"model":"x"}],"model":"qwq-32b"}'
        )
        await stream.end()


@pytest.mark.parametrize(
    ("path", "content_type", "body"),
    [
        ("/tokenize", "application/json", b'{"prompt": "x"}'),
        ("/v1/score", "application/json", b'{"model": null}'),
        ("/anything", "application/json", b"[1, 2]"),
        ("/upload", "application/octet-stream", b"\x00\xff{"),
    ],
)
async def test_a_request_that_names_no_model_goes_to_the_default_pool_untouched(
    path: str, content_type: str, body: bytes
) -> None:
    async with serving() as (_, envoy):
        stream = envoy.stream()
        await stream.request_headers({":method": "POST", ":path": path, "content-type": content_type})
        await stream.reply()
        await stream.request_body(body)
        assert await stream.reply() == routed_body()
        await stream.end()


def stripped(reply: pb.ProcessingResponse) -> list[str]:
    """The headers that an answer removes; asserts that it changes nothing else."""
    removed = list(reply.request_headers.response.header_mutation.remove_headers)
    reply.request_headers.response.header_mutation.ClearField("remove_headers")
    rest = pb.HeadersResponse(response=pb.CommonResponse(clear_route_cache=True))
    rest.response.header_mutation.SetInParent()
    assert reply == pb.ProcessingResponse(request_headers=rest)
    return removed


async def test_control_headers_of_a_client_are_removed_and_its_sticky_key_stays() -> None:
    async with serving() as (_, envoy):
        stream = envoy.stream()
        removed = (
            "x-gateway-destination-endpoint-subset",
            "x-prefiller-host-port",
            "x-llm-d-inference-objective",
        )
        spoofed = {
            "x-gateway-destination-endpoint": "10.6.6.6:22",
            "x-gateway-destination-endpoint-subset": "10.6.6.6:22",
            "x-extproc-pool": "other",
            "x-prefiller-host-port": "10.6.6.6:22",
            "x-llm-d-inference-objective": "first",
            "x-user-id": "me",
            "authorization": "Bearer secret",
        }
        await stream.request_headers({**CHAT, **spoofed})
        ours = ("x-gateway-destination-endpoint", "x-extproc-pool")
        assert sorted(stripped(await stream.reply())) == sorted((*ours, *removed))
        await stream.request_body(b'{"model":"same"}')
        assert await stream.reply() == routed_body("same", "same", removed=removed)
        await stream.end()


# -- FULL_DUPLEX_STREAMED ---------------------------------------------------------------------------------


@pytest.mark.parametrize("trailers", [False, True])
async def test_a_duplex_request_is_routed_once_its_body_is_whole_and_its_answer_is_echoed(
    trailers: bool,
) -> None:
    async with serving() as (service, envoy):
        stream = envoy.stream(DUPLEX, DUPLEX)
        await stream.request_headers({**CHAT, "content-length": str(len(BODY))})
        at = BODY.index(b"wq")  # in the middle of the name
        await stream.request_body(BODY[:at], end=False)
        await stream.request_body(BODY[at:], end=not trailers)
        if trailers:
            await stream.request_trailers()
        assert await stream.reply() == routed_headers("qwq", "qwq-32b")
        start = NEW_BODY.index(b"qwq-32b") + len(b'qwq-32b"')
        assert await stream.reply() == streamed(NEW_BODY[:start], end=False)
        assert await stream.reply() == streamed(NEW_BODY[start:], end=not trailers)
        if trailers:
            assert await stream.reply() == REQUEST_TRAILERS_GO
        assert service.in_flight == {A: 1}
        await stream.response_headers(200)
        assert await stream.reply() == RESPONSE_HEADERS_GO
        for chunk in (b"data: {}\n\n", bytes(100_000), b""):
            await stream.response_body(chunk, end=not chunk)
            assert await stream.reply() == streamed(chunk, end=not chunk, response=True)
        await stream.response_trailers()
        assert await stream.reply() == RESPONSE_TRAILERS_GO
        await stream.end()


async def test_a_second_end_of_a_duplex_body_is_tolerated() -> None:
    async with serving() as (_, envoy):
        stream = envoy.stream(DUPLEX)
        await stream.request_headers(CHAT)
        await stream.request_body(b'{"model":"same"}')
        await stream.request_body(b'{"model":"same"}')
        assert await stream.reply() == routed_headers("same", "same")
        assert await stream.reply() == streamed(b'{"model":"same"}', end=True)
        await stream.response_headers(200)
        assert await stream.reply() == RESPONSE_HEADERS_GO
        await stream.end()


async def test_a_big_duplex_body_comes_back_whole_in_small_pieces() -> None:
    body = b'{"model":"qwq","pad":"' + b"x" * 3_000_000 + b'"}'
    async with serving() as (service, envoy):
        stream = envoy.stream(DUPLEX)
        await stream.request_headers(CHAT)
        for start in range(0, len(body), 1_000_000):
            await stream.request_body(body[start : start + 1_000_000], end=False)
        await stream.request_body(b"")
        assert await stream.reply() == routed_headers("qwq", "qwq-32b")
        pieces: list[pb.StreamedBodyResponse] = []
        while not pieces or not pieces[-1].end_of_stream:
            mutation = (await stream.reply()).request_body.response.body_mutation
            pieces.append(mutation.streamed_response)
        assert b"".join(piece.body for piece in pieces) == body.replace(b"qwq", b"qwq-32b", 1)
        assert max(len(piece.body) for piece in pieces) == 62_000
        assert service.held_bytes == 0
        await stream.end()


# -- without a body, upgrades, skipped phases -------------------------------------------------------------


@pytest.mark.parametrize("mode", [NONE, STREAMED, BUFFERED, PARTIAL, DUPLEX])
async def test_a_request_without_a_body_is_routed_at_its_headers(mode: BodyMode) -> None:
    async with serving() as (service, envoy):
        stream = envoy.stream(mode)
        headers = {":method": "GET", ":path": "/version", "x-gateway-destination-endpoint": "10.6.6.6:22"}
        await stream.request_headers(headers, end=True)
        assert await stream.reply() == routed_headers()
        assert service.in_flight == {A: 1}
        await stream.response_headers(200, end=True)
        assert await stream.reply() == RESPONSE_HEADERS_GO
        await stream.end()


async def test_where_envoy_sends_no_bodies_requests_go_to_the_default_pool() -> None:
    async with serving() as (_, envoy):
        stream = envoy.stream(NONE)
        await stream.request_headers({**CHAT, "content-length": "20"})
        assert await stream.reply() == routed_headers()
        await stream.end()


WEBSOCKET = {":method": "GET", ":path": "/v1/realtime", "connection": "upgrade", "upgrade": "websocket"}


@pytest.mark.parametrize("mode", [STREAMED, BUFFERED, PARTIAL])
async def test_a_buffered_upgrade_is_pinned_at_its_headers_and_its_stream_closed(mode: BodyMode) -> None:
    async with serving() as (service, envoy):
        stream = envoy.stream(mode)
        await stream.request_headers({**WEBSOCKET, "x-gateway-destination-endpoint": "10.6.6.6:22"})
        assert await stream.reply() == routed_headers()
        await stream.closed()
        await service.idle()
        assert service.requests == {"none none pool completed": 1}


async def test_a_duplex_upgrade_is_pinned_at_its_headers_and_echoed() -> None:
    async with serving() as (_, envoy):
        stream = envoy.stream(DUPLEX, DUPLEX)
        await stream.request_headers({":method": "CONNECT", ":authority": "x:1"})
        assert await stream.reply() == routed_headers()
        await stream.request_body(b"ping", end=False)
        assert await stream.reply() == streamed(b"ping", end=False)
        await stream.response_headers(200)
        assert await stream.reply() == RESPONSE_HEADERS_GO
        await stream.response_body(b"pong")
        assert await stream.reply() == streamed(b"pong", end=False, response=True)
        await stream.request_body(b"", end=True)
        assert await stream.reply() == streamed(b"", end=True)
        await stream.end()


async def test_a_response_with_no_request_phase_before_it_passes() -> None:
    async with serving() as (service, envoy):
        stream = envoy.stream(BUFFERED, DUPLEX)
        await stream.response_headers(503)
        assert await stream.reply() == RESPONSE_HEADERS_GO
        await stream.response_body(b"x", end=True)
        assert await stream.reply() == streamed(b"x", end=True, response=True)
        await stream.end()
        await service.idle()
        assert service.requests == {"none none none completed": 1}


async def test_an_answer_of_envoys_own_before_the_body_is_whole_passes() -> None:
    async with serving() as (service, envoy):
        stream = envoy.stream(DUPLEX)
        await stream.request_headers(CHAT)
        await stream.request_body(b'{"mod', end=False)
        await stream.response_headers(408, end=True)
        assert await stream.reply() == RESPONSE_HEADERS_GO
        await stream.end()
        await service.idle()
        assert service.requests == {"none none none completed": 1}
