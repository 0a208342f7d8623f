"""What refused requests get (CONTRACT section 5): an ImmediateResponse that OpenAI's clients understand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from envoy_peer import EnvoyPeer, EnvoyStream
from ext_proc_service import (
    CHAT,
    CONFIG,
    REQUEST_HEADERS_GO,
    A,
    refused,
    request_headers_parked,
    routed_body,
    routed_headers,
    serving,
)

from extproc.engine_metrics import EngineMetrics
from extproc.protocol.messages import BodyMode

BUFFERED, PARTIAL, DUPLEX = BodyMode.BUFFERED, BodyMode.BUFFERED_PARTIAL, BodyMode.FULL_DUPLEX_STREAMED
CLIENT, SERVER, BUSY = "invalid_request_error", "server_error", "service_unavailable_error"
LIMITS = CONFIG + "limits: {max_body_bytes: 100, max_buffered_bytes: 150}\n"
LISTED_ONLY = CONFIG.replace("default_pool: pool", "default_pool: null")
UNUSABLE = "The model name is not usable: it has 1 to 256 bytes and no control characters."


async def refusal_of(
    envoy: EnvoyPeer,
    body: bytes | None,
    mode: BodyMode = BUFFERED,
    headers: Mapping[str, str] = CHAT,
    **beside: Any,
) -> pb.ProcessingResponse:
    """The answer to a request that is refused for what it says; asserts that the stream then ends well."""
    stream = envoy.stream(mode)
    await stream.request_headers(headers, end=body is None, **beside)
    if body is not None:
        if mode is not DUPLEX:
            assert await stream.reply() == (
                REQUEST_HEADERS_GO if mode is BUFFERED else request_headers_parked()
            )
        await stream.request_body(body)
    reply = await stream.reply()
    await stream.closed()
    return reply


# -- the body -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [BUFFERED, PARTIAL, DUPLEX])
@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "unexpected end of JSON at byte 0"),
        (b'{"model":"qwq"', "unexpected end of JSON at byte 14"),
        (b'{"model":"qwq"} x', "expected the end at byte 16"),
        (b'{"model":"a\x00b"}', "control character in a string at byte 11"),
        (b'{"model":"\xff"}', "invalid UTF-8 at byte 10"),
        (b'{"model":"qwq","x":' + b"[" * 100_000, "unexpected end of JSON at byte 100019"),
    ],
)
async def test_invalid_json(mode: BodyMode, body: bytes, says: str) -> None:
    async with serving() as (service, envoy):
        expected = refused("invalid_json", 400, CLIENT, f"The body is not JSON: {says}.")
        assert await refusal_of(envoy, body, mode) == expected
        await service.idle()
        assert service.requests == {"none none none invalid_json": 1}


async def test_invalid_json_in_a_duplex_body_is_refused_as_soon_as_it_is_known() -> None:
    async with serving() as (_, envoy):
        stream = envoy.stream(DUPLEX)
        await stream.request_headers(CHAT)
        await stream.request_body(b"[}" + bytes(1_000_000), end=False)
        says = "The body is not JSON: expected a value at byte 1."
        assert await stream.reply() == refused("invalid_json", 400, CLIENT, says)
        await stream.closed()


async def test_a_post_without_a_body() -> None:
    async with serving() as (_, envoy):
        expected = refused("invalid_json", 400, CLIENT, "The body is empty; a JSON object is expected.")
        assert await refusal_of(envoy, None) == expected


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/sleep"])
@pytest.mark.parametrize("mode", [BUFFERED, PARTIAL])
async def test_a_buffered_body_that_never_came_before_trailers(mode: BodyMode, path: str) -> None:
    """A real Envoy asks only at the trailers then, which is too late to pin: better refused than let through."""
    async with serving() as (_, envoy):
        stream = envoy.stream(mode)
        await stream.request_headers({":method": "POST", ":path": path})
        assert await stream.reply() == (
            REQUEST_HEADERS_GO if mode is BUFFERED else request_headers_parked(path)
        )
        await stream.request_trailers()
        says = "The body is empty; a JSON object is expected."
        assert await stream.reply() == refused("invalid_json", 400, CLIENT, says)
        await stream.closed()


@pytest.mark.parametrize("mode", [BUFFERED, DUPLEX])
@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{}", "the top-level `model` is missing"),
        (b'[{"model":"qwq"}]', "the top-level `model` is missing"),
        (b'{"x":{"model":"qwq"}}', "the top-level `model` is missing"),
        (b'{"model":7}', "`model` is not a string"),
        (b'{"model":"qwq","model":null}', "`model` is not a string"),
    ],
)
async def test_missing_model(mode: BodyMode, body: bytes, says: str) -> None:
    async with serving() as (_, envoy):
        expected = refused(
            "missing_model", 400, CLIENT, f"The request names no model: {says}.", param="model"
        )
        assert await refusal_of(envoy, body, mode) == expected


async def test_model_not_found_where_only_listed_models_are_served() -> None:
    async with serving(LISTED_ONLY) as (service, envoy):
        expected = refused("model_not_found", 404, CLIENT, "The model `café` does not exist.", param="model")
        assert await refusal_of(envoy, '{"model":"café"}'.encode()) == expected
        await service.idle()
        assert service.requests == {"other none none model_not_found": 1}


@pytest.mark.parametrize(
    "name", ["", "a" * 257, "é" * 129, "a\\nb", "a\\u0000b", "\\u007f", "\\ud800", "a" * 100_000]
)
async def test_model_not_found_for_names_that_nobody_can_have(name: str) -> None:
    async with serving() as (_, envoy):
        expected = refused("model_not_found", 404, CLIENT, UNUSABLE, param="model")
        assert await refusal_of(envoy, f'{{"model":"{name}"}}'.encode()) == expected


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gone", "The model `gone` does not exist."),
        ("x" * 257, UNUSABLE),
        ("a%0Ab", UNUSABLE),
        ("%00", UNUSABLE),
    ],
)
async def test_model_not_found_when_asked_about_one(name: str, says: str) -> None:
    async with serving() as (_, envoy):
        headers = {":method": "GET", ":path": f"/v1/models/{name}"}
        expected = refused("model_not_found", 404, CLIENT, says, param="model")
        assert await refusal_of(envoy, None, headers=headers) == expected


# -- size ---------------------------------------------------------------------------------------------------

TOO_LARGE = refused("body_too_large", 413, CLIENT, "The body is larger than 100 bytes.")


@pytest.mark.parametrize("mode", [BUFFERED, PARTIAL, DUPLEX])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/upload"])
async def test_a_body_that_announces_to_be_too_large(mode: BodyMode, path: str) -> None:
    async with serving(LIMITS) as (_, envoy):
        stream = envoy.stream(mode)
        await stream.request_headers({":method": "POST", ":path": path, "content-length": "101"})
        assert await stream.reply() == TOO_LARGE
        await stream.closed()


@pytest.mark.parametrize("mode", [BUFFERED, PARTIAL, DUPLEX])
async def test_a_body_that_turns_out_too_large_is_refused_and_one_at_the_limit_is_not(mode: BodyMode) -> None:
    body = b'{"model":"same"}'.ljust(100)
    async with serving(LIMITS) as (_, envoy):
        assert await refusal_of(envoy, body + b" ", mode) == TOO_LARGE
        stream = envoy.stream(mode)
        await stream.request_headers(CHAT)
        if mode is DUPLEX:
            await stream.request_body(body)
            assert await stream.reply() == routed_headers("same", "same")
            await stream.reply()
        else:
            await stream.reply()
            await stream.request_body(body)
            path = CHAT[":path"] if mode is PARTIAL else None
            assert await stream.reply() == routed_body("same", "same", path=path)
        await stream.end()


async def test_a_duplex_body_is_refused_as_soon_as_it_is_too_large() -> None:
    async with serving(LIMITS) as (service, envoy):
        stream = envoy.stream(DUPLEX)
        await stream.request_headers({":method": "POST", ":path": "/upload"})
        await stream.request_body(bytes(60), end=False)
        await service.until(lambda: service.held_bytes == 60)
        await stream.request_body(bytes(41), end=False)
        assert await stream.reply() == TOO_LARGE
        await stream.closed()


async def test_a_body_that_envoy_cut() -> None:
    async with serving(LIMITS) as (_, envoy):
        stream = envoy.stream(PARTIAL)
        await stream.request_headers(CHAT)
        await stream.reply()
        await stream.request_body(b'{"model":"same"', end=False)
        says = "The body is larger than what the gateway buffers, or trailers follow it."
        assert await stream.reply() == refused("body_too_large", 413, CLIENT, says)
        await stream.closed()


async def test_a_buffered_body_over_the_default_limit_is_refused_and_does_not_break_the_stream() -> None:
    """gRPC's own limit is 4 MiB; Envoy answers 500 where it is hit."""
    async with serving() as (_, envoy):
        expected = refused("body_too_large", 413, CLIENT, "The body is larger than 33554432 bytes.")
        assert await refusal_of(envoy, bytes(32 * 1024 * 1024 + 1)) == expected


async def test_overloaded_while_too_much_is_held_and_not_after() -> None:
    async with serving(LIMITS) as (service, envoy):
        first = envoy.stream(DUPLEX)
        await first.request_headers({":method": "POST", ":path": "/upload"})
        await first.request_body(bytes(100), end=False)
        await service.until(lambda: service.held_bytes == 100)
        body = b'{"model":"same"}'.ljust(51)
        says = "Too many request bodies are held at once."
        assert await refusal_of(envoy, body) == refused("overloaded", 503, BUSY, says, retry_after=1)
        await service.until(lambda: service.held_bytes == 100)
        first.cancel()
        await service.until(lambda: service.held_bytes == 0)
        second = envoy.stream()
        await second.request_headers(CHAT)
        await second.reply()
        await second.request_body(body)
        assert await second.reply() == routed_body("same", "same")
        await service.until(lambda: service.held_bytes == 0)  # once it is answered, not once the answer ends
        await second.end()


# -- headers ------------------------------------------------------------------------------------------------


async def refusal_at_headers(stream: EnvoyStream, headers: Mapping[str, str]) -> pb.ProcessingResponse:
    await stream.request_headers(headers)
    reply = await stream.reply()
    await stream.closed()
    return reply


@pytest.mark.parametrize("mode", [BUFFERED, DUPLEX])
async def test_unsupported_encoding(mode: BodyMode) -> None:
    async with serving() as (_, envoy):
        says = (
            "The body's content-encoding cannot be read; send it plain, or in one of gzip, deflate, br, zstd."
        )
        reply = await refusal_at_headers(envoy.stream(mode), {**CHAT, "content-encoding": "gzip, br"})
        assert reply == refused("unsupported_encoding", 415, CLIENT, says)


# -- the pool -----------------------------------------------------------------------------------------------

NOBODY_READY = refused("no_endpoints", 503, BUSY, "No endpoint of pool `pool` is ready to take the request.")


@pytest.mark.parametrize("value", ["", [], "127.0.0.9", "127.0.0.1:9", "garbage", ["127.0.0.9:8001"], 5])
async def test_no_endpoints_where_a_subset_hint_allows_none(value: object) -> None:
    hint = {"envoy.lb.subset_hint": {"x-gateway-destination-endpoint-subset": value}}
    async with serving() as (service, envoy):
        assert await refusal_of(envoy, b'{"model":"qwq"}', metadata=hint) == NOBODY_READY
        await service.idle()
        assert service.requests == {"qwq none none no_endpoints": 1}


@pytest.mark.parametrize("body", [b'{"model":"qwq"}', None])
async def test_no_endpoints_in_an_empty_pool(body: bytes | None) -> None:
    config = "pools: [{name: pool, endpoints: []}]\nmodels: [{name: qwq, pool: pool}]\n"
    headers = CHAT if body else {":method": "GET", ":path": "/version"}
    async with serving(config) as (_, envoy):
        assert await refusal_of(envoy, body, headers=headers) == NOBODY_READY


async def test_no_endpoints_that_carry_a_targets_labels() -> None:
    config = CONFIG.replace("{model: qwq-32b}", "{model: qwq-32b, labels: {version: v2}}")
    async with serving(config) as (_, envoy):
        assert await refusal_of(envoy, b'{"model":"qwq"}') == NOBODY_READY


async def test_saturated_refuses_sheddable_work_only() -> None:
    config = CONFIG.replace("name: qwq, pool: pool", "name: qwq, pool: pool, criticality: Sheddable")
    async with serving(config) as (service, envoy):
        service.endpoint(A).observe(EngineMetrics(waiting=5, running=1), float("inf"))
        says = "Pool `pool` is saturated and the request is sheddable; try again later."
        expected = refused("saturated", 429, "rate_limit_error", says, retry_after=1)
        assert await refusal_of(envoy, b'{"model":"qwq"}') == expected
        stream = envoy.stream()
        await stream.request_headers(CHAT)
        await stream.reply()
        await stream.request_body(b'{"model":"same"}')
        assert await stream.reply() == routed_body("same", "same")
        await stream.end()
