"""The ways in which a simulated server misbehaves."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import aiohttp
import msgspec
import pytest
from sim_client import served, until

from extproc.sim.faults import METRICS_FAULTS, REQUEST_FAULTS, Faults


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_fault_5xx_answers_with_that_status_and_keeps_metrics(status: int) -> None:
    async with served(faults=Faults(requests=str(status))) as (_, client):
        response = await client.post("/v1/completions", json={"prompt": "x"})
        assert (response.status, (await response.json())["error"]["code"]) == (status, status)
        assert (await client.get("/health")).status == status
        assert (await client.get("/metrics")).status == 200


async def test_fault_refuse_refuses_and_ends_connections_until_it_is_taken_back() -> None:
    async with served(speed=1.0) as (sim, client):
        body = {"prompt": "x", "max_tokens": 10_000, "stream": True}
        stream = await client.post("/v1/completions", json=body)
        await until(sim, running=1)
        await sim.set_faults(Faults(requests="refuse"))
        with pytest.raises(aiohttp.ClientError):
            await stream.read()
        await until(sim, running=0)
        with pytest.raises(aiohttp.ClientConnectorError) as refused:
            await client.get("/health")
        assert isinstance(refused.value.os_error, ConnectionRefusedError)
        address = sim.address
        await sim.set_faults(Faults())
        assert (sim.address, (await client.get("/health")).status) == (address, 200)


async def test_fault_refuse_for_a_while_ends_by_itself() -> None:
    async with served() as (sim, client):
        response = await client.put("/sim/faults", json={"requests": "refuse:0.05"})
        assert (await response.json())["requests"] == "refuse:0.05"
        refused = 0
        while True:
            try:
                assert (await client.get("/health")).status == 200
                break
            except aiohttp.ClientError:
                refused += 1
                await asyncio.sleep(0.01)
        assert refused > 0
        assert sim.faults == Faults()


async def test_a_new_fault_takes_the_place_of_a_refusal_for_a_while() -> None:
    async with served(faults=Faults(requests="refuse:3600")) as (sim, _):
        await sim.set_faults(Faults(requests="refuse"))
        assert "sim-reopen" not in {task.get_name() for task in asyncio.all_tasks()}
        assert sim.faults == Faults(requests="refuse")


async def test_a_server_that_refuses_from_the_start_has_its_port() -> None:
    async with served(faults=Faults(requests="refuse")) as (sim, client):
        with pytest.raises(aiohttp.ClientConnectorError):
            await client.get("/health")
        await sim.set_faults(Faults())
        assert (await client.get("/health")).status == 200


async def test_fault_reset_resets_the_connection() -> None:
    async with served(faults=Faults(requests="reset")) as (sim, _):
        reader, writer = await asyncio.open_connection(*sim.address.split(":"))
        writer.write(b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionResetError):
            await writer.wait_closed()


@pytest.mark.parametrize(
    ("stream", "end", "cut"),
    [(True, b"\n\n", b'" simulated"'), (False, b"This is", b"finish_reason")],
)
async def test_fault_reset_mid_stream_breaks_an_answer_off(stream: bool, end: bytes, cut: bytes) -> None:
    async with served(faults=Faults(requests="reset-mid-stream:5"), speed=0.3) as (sim, _):
        body = msgspec.json.encode({"prompt": "x", "max_tokens": 9, "stream": stream})
        reader, writer = await asyncio.open_connection(*sim.address.split(":"))
        head = b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n"
        writer.write(head % len(body) + body)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
        received = b""
        try:
            while byte := await reader.read(1):
                received += byte
            ending = "closed"
        except ConnectionResetError:
            ending = "reset"
        assert ending == "reset"
        assert end in received
        assert cut not in received
        writer.close()
        with contextlib.suppress(ConnectionResetError):
            await writer.wait_closed()


@pytest.mark.parametrize(
    ("faults", "path"), [(Faults(requests="stall"), "/health"), (Faults(metrics="stall"), "/metrics")]
)
async def test_fault_stall_never_answers_and_does_not_hold_up_the_end(faults: Faults, path: str) -> None:
    async with served(faults=faults) as (_, client):
        get = asyncio.create_task(client.get(path))
        other = "/metrics" if path == "/health" else "/health"
        assert (await client.get(other)).status == 200
        assert not get.done()
    with pytest.raises(aiohttp.ClientError):
        await get


async def test_latency_comes_before_the_answer() -> None:
    async with served(faults=Faults(latency_s=3600)) as (sim, client):
        get = asyncio.create_task(client.get("/health"))
        assert (await client.get("/metrics")).status == 200
        assert not get.done()
        get.cancel()
        await sim.set_faults(Faults(latency_s=0.001))
        assert (await client.get("/health")).status == 200


async def test_fault_slow_delays_the_page() -> None:
    async with served(faults=Faults(metrics="slow:3600")) as (sim, client):
        get = asyncio.create_task(client.get("/metrics"))
        assert (await client.get("/health")).status == 200
        assert not get.done()
        get.cancel()
        await sim.set_faults(Faults(metrics="slow:0.001"))
        assert "vllm:num_requests_running{" in await (await client.get("/metrics")).text()


@pytest.mark.parametrize(
    ("fault", "status", "size"), [("error", 500, 21), ("garbage", 200, 50_194), ("huge", 200, 100_020_000)]
)
async def test_faults_of_the_page(fault: str, status: int, size: int) -> None:
    async with served(faults=Faults(metrics=fault)) as (_, client):
        response = await client.get("/metrics")
        received = 0
        async for chunk in response.content.iter_any():
            received += len(chunk)
        assert (response.status, received) == (status, size)


async def test_fault_garbage_is_no_text_but_holds_true_names() -> None:
    async with served(faults=Faults(metrics="garbage")) as (_, client):
        page = await (await client.get("/metrics")).read()
        assert b"vllm:num_requests_running" in page
        with pytest.raises(UnicodeDecodeError):
            page.decode()


async def test_fault_endless_goes_on_until_the_client_has_enough() -> None:
    async with served(faults=Faults(metrics="endless")) as (_, client):
        response = await client.get("/metrics")
        received = 0
        while received < 2**27:
            received += len(await response.content.readany())
        response.close()


async def test_faults_can_be_changed_and_seen_at_run_time() -> None:
    async with served() as (_, client):
        new = {"metrics": "error", "requests": "503", "latency_s": 0.0}
        assert await (await client.put("/sim/faults", json=new)).json() == new
        assert await (await client.get("/sim/faults")).json() == new
        assert ((await client.get("/metrics")).status, (await client.get("/health")).status) == (500, 503)
        await client.put("/sim/faults", json={})
        assert ((await client.get("/metrics")).status, (await client.get("/health")).status) == (200, 200)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"metrics": "odd"}, "'odd': must be one of " + ", ".join(METRICS_FAULTS)),
        ({"requests": "slow"}, "'slow': must be one of " + ", ".join(REQUEST_FAULTS)),
        ({"metrics": "slow:x"}, "'slow:x': the number must be from 0 to 1000000"),
        ({"metrics": "slow:-1"}, "'slow:-1': the number must be from 0 to 1000000"),
        ({"metrics": "slow:nan"}, "'slow:nan': the number must be from 0 to 1000000"),
        ({"latency_s": -1}, "latency_s must be from 0 to 3600"),
        ({"unknown": 1}, "Object contains unknown field `unknown`"),
        ([], "Expected `object`, got `array`"),
    ],
)
async def test_an_impossible_fault_is_refused_and_changes_nothing(body: Any, message: str) -> None:
    async with served() as (sim, client):
        response = await client.put("/sim/faults", json=body)
        assert response.status == 400
        assert (await response.json())["detail"].startswith(message)
        assert sim.faults == Faults()
