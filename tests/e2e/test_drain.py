"""SIGTERM: not ready at once, still accepting for a while, open streams finish, exit 0."""

from __future__ import annotations

import asyncio

import aiohttp
import grpc
import pytest
from conftest import StartStack
from grpc_health.v1 import health_pb2, health_pb2_grpc
from stack import BUFFERED, DUPLEX, Stack, Way, eventually

pytestmark = pytest.mark.envoy

BOTH = pytest.mark.parametrize("way", [BUFFERED, DUPLEX], ids=lambda way: way.bootstrap)


async def probe(stack: Stack, path: str) -> int:
    async with stack.client.get(stack.service.http + path) as response:
        await response.read()
        return response.status


async def health(stack: Stack, service: str) -> str:
    async with grpc.aio.insecure_channel(stack.service.grpc) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


@BOTH
async def test_a_terminated_service_is_not_ready_but_goes_on_and_ends_when_all_is_done(
    start_stack: StartStack, way: Way
) -> None:
    stack = await start_stack(way, flags=("--drain-delay", "2", "--drain-timeout", "30"))
    assert (await probe(stack, "/readyz"), await health(stack, "readiness")) == (200, "SERVING")

    async with stack.client.post("/v1/completions?sse_s=4", json={"model": "m"}) as response:
        await response.content.readuntil(b"\n\n")
        stack.service.terminate()
        await eventually(stack.state, lambda state: state["not_ready"] == ["shutting down"])

        assert (await probe(stack, "/readyz"), await probe(stack, "/livez")) == (503, 200)
        assert await stack.metric("ready") == 0
        services = ("", "readiness", "envoy.service.ext_proc.v3.ExternalProcessor", "liveness")
        assert [await health(stack, service) for service in services] == ["NOT_SERVING"] * 3 + ["SERVING"]
        assert (await stack.chat())["served_by"]  # still accepting
        rest = await response.content.read()

    assert rest.endswith(b"data: [DONE]\n\n")
    assert await asyncio.to_thread(stack.service.wait, 20) == 0
    events = [line["event"] for line in stack.service.log()]
    assert "stopped" in events
    assert "drain_timeout" not in events
    outcomes = [line["outcome"] for line in stack.service.log() if line["event"] == "request"]
    assert outcomes == ["completed", "completed"]


@BOTH
async def test_answers_that_run_when_the_drain_ends_do_not_keep_the_service(
    start_stack: StartStack, way: Way
) -> None:
    stack = await start_stack(way, flags=("--drain-delay", "0", "--drain-timeout", "0.5"))

    async with stack.client.post("/v1/completions?gated", json={"model": "m"}) as response:
        await response.content.readuntil(b"\n\n")
        stack.service.terminate()

        assert await asyncio.to_thread(stack.service.wait, 20) == 0
        stack.open_gates()
        if way.mode == "buffered":  # the answer does not pass through the service
            assert await response.content.read() == b"data: [DONE]\n\n"
        else:
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.content.read()


async def test_an_idle_service_ends_with_its_drain_delay(start_stack: StartStack) -> None:
    stack = await start_stack(BUFFERED, flags=("--drain-delay", "0.2", "--drain-timeout", "600"))
    await stack.chat()
    await stack.idle()

    stack.service.terminate()

    assert await asyncio.to_thread(stack.service.wait, 20) == 0
