"""As the endpoint picker of gateways that speak the Endpoint Picker Protocol: an Envoy as Envoy AI Gateway programs it,
and one as Istio does."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from stack import (
    AI_GATEWAY,
    ISTIO,
    SHARED,
    TLS,
    Stack,
    Way,
    eventually,
    request_id_of,
    running,
    running_service,
    stack_fixture,
)
from upstream import IDLE_METRICS, TrailerUpstream, exchange, noise

from extproc.demo.bootstrap import POOL
from extproc.demo.envoy import Envoy

pytestmark = SHARED

CHAT = "/v1/chat/completions"
GATEWAYS = [AI_GATEWAY, ISTIO]
MIB = 1024 * 1024


def config(addresses: list[str]) -> dict[str, Any]:
    nobody = {"model": "m", "labels": {"version": "v9"}}
    return {
        "pools": [{"name": POOL, "endpoints": addresses}],
        "models": [
            {"name": "alias", "pool": POOL, "targets": [{"model": "real-v2"}]},
            {"name": "nobodys", "pool": POOL, "targets": [nobody]},
            {"name": "cheap", "pool": POOL, "criticality": "Sheddable"},
        ],
    }


shared_stack = stack_fixture(config, GATEWAYS, flags=TLS)


async def access_log_of(stack: Stack, answer: dict[str, Any]) -> dict[str, Any]:
    request_id = request_id_of(answer)
    (line,) = await eventually(
        lambda: [line for line in stack.envoy.access_log() if line["request_id"] == request_id], bool
    )
    return line


# -- what the protocol says ----------------------------------------------------------------------------------


async def test_the_pick_is_told_in_header_and_metadata_alike_and_obeyed(stack: Stack) -> None:
    answers = await asyncio.gather(*(stack.chat("alias", "?hold_s=0.3") for _ in range(6)))

    lines = [await access_log_of(stack, answer) for answer in answers]
    served = [answer["served_by"] for answer in answers]
    told = [(line["pinned_header"], line["pinned_metadata"], line["upstream"]) for line in lines]
    metadata_counts = stack.way == ISTIO  # the other sends and takes none
    assert told == [(address, address if metadata_counts else None, address) for address in served]
    assert {served.count(upstream.address) for upstream in stack.upstreams} == {2}


async def test_where_nobody_is_ready_and_where_load_is_shed_the_client_gets_our_answer(stack: Stack) -> None:
    assert await refusal(stack, "nobodys") == (503, "no_endpoints", None)

    busy = IDLE_METRICS.replace(
        'waiting{engine="0",model_name="m"} 0.0', 'waiting{engine="0",model_name="m"} 9.0'
    )
    try:
        await every_endpoint_waits(stack, busy, 9)
        assert await refusal(stack, "cheap") == (429, "saturated", "1")
        assert (await stack.chat("alias"))["served_by"]
    finally:
        await every_endpoint_waits(stack, IDLE_METRICS, 0)


async def refusal(stack: Stack, model: str) -> tuple[int, str, str | None]:
    """(status, reason, retry-after) of a chat that is refused."""
    async with stack.client.post(CHAT, json={"model": model, "messages": []}) as response:
        error = (await response.json())["error"]
        assert response.headers["content-type"] == "application/json"
        assert response.headers["x-extproc-reason"] == error["code"]
        return response.status, error["code"], response.headers.get("retry-after")


async def every_endpoint_waits(stack: Stack, page: str, waiting: int) -> None:
    for upstream in stack.upstreams:
        upstream.metrics = page

    async def seen() -> list[Any]:
        return [endpoint["metrics"]["waiting"] for endpoint in (await stack.endpoints()).values()]

    await eventually(seen, lambda seen: seen == [waiting] * len(stack.upstreams))


async def test_the_health_services_of_the_protocol_answer_over_tls(stack: Stack) -> None:
    host, _, port = stack.service.grpc.rpartition(":")
    certificate = await asyncio.to_thread(ssl.get_server_certificate, (host, int(port)))
    credentials = grpc.ssl_channel_credentials(certificate.encode())
    known = ("liveness", "readiness", "", "envoy.service.ext_proc.v3.ExternalProcessor")
    async with grpc.aio.secure_channel(stack.service.grpc, credentials) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        ask = health_pb2.HealthCheckRequest
        answers = [(await stub.Check(ask(service=name), timeout=5)).status for name in known]
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await stub.Check(ask(service="somebody.else"), timeout=5)

    assert answers == [health_pb2.HealthCheckResponse.SERVING] * 4
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


# -- bodies that pass through us both ways -------------------------------------------------------------------


async def test_an_event_is_passed_on_before_the_next_one_exists_and_counts_as_in_flight(stack: Stack) -> None:
    stack.close_gates()
    async with stack.client.post(CHAT + "?gated", json={"model": "alias", "stream": True}) as response:
        first = await response.content.readuntil(b"\n\n")
        meanwhile = await stack.in_flight()
        stack.open_gates()
        rest = await response.content.read()

    assert (first, rest) == (b'data: {"number": 0}\n\n', b"data: [DONE]\n\n")
    assert meanwhile == {response.headers["x-served-by"]: 1}
    await stack.idle()
    assert (await stack.state())["in_flight_counts"] == "exact"


async def test_prompts_of_8_mib_and_answers_of_1_mib_arrive_byte_by_byte(stack: Stack) -> None:
    filler = noise(4 * MIB).hex()
    sent = json.dumps({"model": "alias", "messages": filler}).encode()
    async with stack.client.post(CHAT, data=io.BytesIO(sent)) as response:
        echo = await response.json()
    async with stack.client.post(f"{CHAT}?bytes={MIB}", json={"model": "alias"}) as response:
        received = await response.read()

    expected = sent.replace(b'"alias"', b'"real-v2"')
    assert echo["body_bytes"] == len(expected) > 8 * MIB
    assert echo["body_sha256"] == hashlib.sha256(expected).hexdigest()
    assert received == noise(MIB)


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/version"), ("HEAD", "/version"), ("DELETE", "/files/1")]
)
async def test_requests_without_a_body_are_pinned_at_their_headers(
    stack: Stack, method: str, path: str
) -> None:
    async with stack.client.request(method, path) as response:
        await response.read()

    (request,) = stack.received()
    assert (response.status, request.method, request.path, request.body) == (200, method, path, b"")
    assert request.values("x-gateway-destination-endpoint") == [response.headers["x-served-by"]]


async def test_the_models_are_answered_by_us(stack: Stack) -> None:
    async with stack.client.get("/v1/models/alias") as response:
        assert (response.status, (await response.json())["id"]) == (200, "alias")


async def test_a_client_that_leaves_takes_its_count_with_it(stack: Stack) -> None:
    async def half() -> AsyncIterator[bytes]:
        yield b'{"model": "alias", '
        await asyncio.sleep(30)

    upload = asyncio.create_task(stack.client.post(CHAT, data=half()))
    async with stack.client.post(CHAT + "?sse_s=30", json={"model": "alias"}) as response:
        await response.content.readuntil(b"\n\n")
        await eventually(stack.state, lambda state: state["open_streams"] == 2)
        assert await stack.in_flight() == {response.headers["x-served-by"]: 1}
        upload.cancel()
        response.close()

    await stack.idle()


async def test_an_answer_that_breaks_off_is_not_made_to_look_whole(stack: Stack) -> None:
    async with stack.client.post(CHAT + "?sse_s=30&reset=2", json={"model": "alias"}) as response:
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()

    await stack.idle()


@asynccontextmanager
async def before_trailers(directory: Path, way: Way) -> AsyncIterator[tuple[Envoy, TrailerUpstream]]:
    async with AsyncExitStack() as exits:
        upstream = await exits.enter_async_context(TrailerUpstream())
        settings = config([upstream.address]) | {
            "list_models": "forward"
        }  # so that we do not ask it for its own
        settings["pools"][0]["metrics"] = {"engine": "none"}
        service = await exits.enter_async_context(running_service(settings, directory, *TLS))
        envoy = Envoy(way.bootstrap, directory, pools={POOL: [upstream.address]}, ext_proc=service.grpc)
        yield await exits.enter_async_context(running(envoy)), upstream


@pytest.mark.asyncio(loop_scope="function")
@pytest.mark.parametrize("way", GATEWAYS, ids=lambda way: way.bootstrap)
async def test_trailers_of_the_answer_pass(tmp_path: Path, way: Way) -> None:
    body = b'{"model": "alias"}'
    head = (
        f"POST {CHAT} HTTP/1.1\r\nhost: e2e\r\nte: trailers\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    )
    async with before_trailers(tmp_path, way) as (envoy, upstream):
        answer = await exchange(envoy.listen, head + body)

    assert answer[1:] == (b"ok", b"x-answer-trailer: there\r\n")
    assert [request[1:] for request in upstream.requests] == [(b'{"model": "real-v2"}', b"")]
