"""Over real gRPC: subset hints, fallbacks, the endpoint that serves, and /v1/models."""

from __future__ import annotations

import json

import pytest
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from envoy_peer import EnvoyPeer, EnvoyStream
from ext_proc_service import (
    CHAT,
    LOADED_AT,
    REQUEST_TRAILERS_GO,
    RESPONSE_HEADERS_GO,
    A,
    B,
    option,
    routed_body,
    routed_headers,
    serving,
)

from extproc.protocol.messages import BodyMode

BUFFERED, DUPLEX = BodyMode.BUFFERED, BodyMode.FULL_DUPLEX_STREAMED
SUBSET = ("envoy.lb.subset_hint", "x-gateway-destination-endpoint-subset")
TWO = """
pools: [{name: pool, endpoints: ["127.0.0.1:8001", "127.0.0.1:8002"], fallback_endpoints: 1}]
"""


def hint(value: object) -> dict[str, dict[str, object]]:
    return {SUBSET[0]: {SUBSET[1]: value}}


async def routed(envoy: EnvoyPeer) -> EnvoyStream:
    """A stream whose request was sent on."""
    stream = envoy.stream()
    await stream.request_headers(CHAT)
    await stream.reply()
    await stream.request_body(b'{"model":"m"}')
    await stream.reply()
    return stream


async def test_what_a_model_server_says_in_our_name_goes_no_further() -> None:
    async with serving() as (_, envoy):
        stream = await routed(envoy)
        await stream.response_headers(
            503, {"x-extproc-reason": "overloaded", "x-other": "1", "x-extproc-pool": "a"}
        )
        reply = await stream.reply()
        removed = reply.response_headers.response.header_mutation.remove_headers
        assert list(removed) == ["x-extproc-reason", "x-extproc-pool"]
        await stream.end()


async def test_what_envoy_says_in_our_name_stays_as_the_printed_404_for_a_pool_without_a_route_does() -> None:
    async with serving() as (_, envoy):
        stream = await routed(envoy)
        details = {"response.code_details": "direct_response"}
        await stream.response_headers(404, {"x-extproc-reason": "no_route"}, attributes=details)
        assert await stream.reply() == RESPONSE_HEADERS_GO
        await stream.end()


# -- subset hints, fallbacks, the endpoint that serves ----------------------------------------------------


@pytest.mark.parametrize("value", [B, [B], "127.0.0.9, " + B, [f"127.0.0.9,{B}"]])
async def test_a_subset_hint_on_the_headers_is_obeyed(value: object) -> None:
    async with serving(TWO) as (_, envoy):
        stream = envoy.stream()
        await stream.request_headers(CHAT, metadata=hint(value))
        await stream.reply()
        await stream.request_body(b'{"model":"m"}')
        assert await stream.reply() == routed_body("m", "m", address=B)
        await stream.end()


SELECTION = "test-epp-endpoint-selection"


@pytest.mark.parametrize(
    ("value", "subset", "address"),
    [(A, None, A), (B, None, B), ("", A, A), ("127.0.0.1", B, B), (f"{A},{B}", A, A)],
)
async def test_the_header_of_conformance_tests_is_obeyed_within_a_subset_hint_where_it_is_trusted(
    value: str, subset: str | None, address: str
) -> None:
    config = TWO.replace(", fallback_endpoints: 1", "") + f"trusted_headers: [{SELECTION.title()}]"
    async with serving(config) as (_, envoy):
        stream = envoy.stream(DUPLEX)
        await stream.request_headers(CHAT | {SELECTION: value}, metadata=hint(subset) if subset else None)
        await stream.request_body(b'{"model":"m"}')
        assert await stream.reply() == routed_headers("m", "m", address=address, removed=(SELECTION,))
        await stream.reply()
        await stream.end()


async def test_a_selection_and_a_subset_hint_that_have_nothing_in_common_leave_nobody() -> None:
    async with serving(TWO + f"trusted_headers: [{SELECTION}]") as (_, envoy):
        stream = envoy.stream(DUPLEX)
        await stream.request_headers(CHAT | {SELECTION: A}, metadata=hint(B))
        await stream.request_body(b'{"model":"m"}')
        assert (await stream.reply()).immediate_response.details == "extproc_no_endpoints"
        await stream.end()


@pytest.mark.parametrize("last", ["body", "trailers"])
async def test_a_subset_hint_on_the_last_message_of_the_request_is_obeyed(last: str) -> None:
    async with serving(TWO) as (_, envoy):
        stream = envoy.stream(DUPLEX)
        await stream.request_headers(CHAT)
        if last == "body":
            await stream.request_body(b'{"model":"m"}', metadata=hint([A]))
        else:
            await stream.request_body(b'{"model":"m"}', end=False)
            await stream.request_trailers(metadata=hint([A]))
        assert await stream.reply() == routed_headers("m", "m", address=A)
        await stream.reply()
        if last == "trailers":
            assert await stream.reply() == REQUEST_TRAILERS_GO
        await stream.end()


async def test_fallbacks_follow_the_chosen_endpoint() -> None:
    async with serving(TWO) as (service, envoy):
        stream = envoy.stream()
        await stream.request_headers({":method": "GET", ":path": "/version"}, end=True)
        reply = await stream.reply()
        (chosen,) = service.in_flight
        both = f"{chosen},{A if chosen == B else B}"
        pin = reply.request_headers.response.header_mutation.set_headers[0]
        assert pin == option("x-gateway-destination-endpoint", both)
        assert reply.dynamic_metadata["envoy.lb"]["x-gateway-destination-endpoint"] == both
        await stream.end()


SERVED = "x-gateway-destination-endpoint-served"


@pytest.mark.parametrize(
    ("metadata", "attributes", "counted_at"),
    [
        ({}, None, A),
        ({"envoy.lb": {SERVED: B}}, None, B),
        ({}, {"upstream.address": B}, B),
        ({"envoy.lb": {SERVED: B}}, {"upstream.address": A}, B),
        ({"envoy.lb": {SERVED: ""}}, {"upstream.address": B}, B),
        ({"envoy.lb": {SERVED: ["x"]}}, {"upstream.address": ""}, A),
        ({}, {"upstream.address": "10.9.9.9:1"}, None),
    ],
)
async def test_the_count_moves_to_the_endpoint_that_envoy_says_served(
    metadata: dict[str, dict[str, object]], attributes: dict[str, str] | None, counted_at: str | None
) -> None:
    async with serving(TWO) as (service, envoy):
        stream = envoy.stream()
        await stream.request_headers({":method": "GET", ":path": "/"}, end=True, metadata=hint([A]))
        await stream.reply()
        await stream.response_headers(200, metadata=metadata, attributes=attributes)
        await stream.reply()
        assert service.in_flight == ({counted_at: 1} if counted_at else {})
        assert service.sample("extproc_pin_misses_total", pool="pool") == (None if counted_at else 1)
        await stream.end()


# -- /v1/models -------------------------------------------------------------------------------------------


def model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": LOADED_AT, "owned_by": "extproc"}


@pytest.mark.parametrize("mode", [BUFFERED, DUPLEX])
@pytest.mark.parametrize("end", [True, False])
@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/v1/models", {"object": "list", "data": [model("qwq"), model("same")]}),
        ("/openai/v1/models/qwq?x=y", model("qwq")),
    ],
)
async def test_the_list_of_models_is_answered_by_us(
    path: str, answer: dict[str, object], end: bool, mode: BodyMode
) -> None:
    async with serving() as (service, envoy):
        stream = envoy.stream(mode)
        await stream.request_headers({":method": "GET", ":path": path}, end=end)
        immediate = (await stream.reply()).immediate_response
        assert json.loads(immediate.body) == answer
        immediate.body = b""
        expected = pb.ImmediateResponse(details="extproc_models")
        expected.status.code = 200
        expected.headers.set_headers.append(option("content-type", "application/json"))
        assert immediate == expected
        await stream.closed()
        await service.idle()
        assert service.requests == {"none none none completed": 1}
