"""The simulated server over HTTP: its APIs, its faults, its command."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import io
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec
import pytest
from click.testing import CliRunner

from extproc.sim.command import sim as command
from extproc.sim.config import SimConfig
from extproc.sim.faults import METRICS_FAULTS, REQUEST_FAULTS, Faults
from extproc.sim.server import SimServer

FAST = 200.0
"""Tokens in a tenth of a millisecond; 1.0 where a test must come in between."""
MESSAGES = [{"role": "user", "content": "twelve chars"}]
"""Seven tokens: four a message, one for every four characters."""


@contextlib.asynccontextmanager
async def served(**config: Any) -> AsyncIterator[tuple[SimServer, aiohttp.ClientSession]]:
    settings = {"speed": FAST, "name": "pod-1", **config}
    async with SimServer(SimConfig(**settings)) as sim, aiohttp.ClientSession(sim.url) as client:
        yield sim, client


async def events(response: aiohttp.ClientResponse) -> list[Any]:
    """Data of a whole stream of server-sent events; [DONE] stays text."""
    body = (await response.read()).decode()
    assert body.endswith("\n\n")
    data = [re.sub(r"^(event: .*\n)?data: ", "", event) for event in body.removesuffix("\n\n").split("\n\n")]
    return [entry if entry == "[DONE]" else msgspec.json.decode(entry) for entry in data]


def values(page: str, name: str) -> list[float]:
    return [float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith((f"{name}{{",))]


async def until(sim: SimServer, running: int) -> None:
    """Wait until so many requests run."""
    while sim.engine.num_running != running:  # noqa: ASYNC110
        await asyncio.sleep(0.001)


# -- the model APIs ------------------------------------------------------------------------------------------


async def test_a_chat_is_answered_whole_with_its_usage() -> None:
    async with served(models=("m",)) as (_, client):
        body = {"model": "m", "messages": MESSAGES, "max_tokens": 4}
        response = await client.post("/v1/chat/completions", json=body)
        answer = await response.json()
        assert (response.status, response.headers["x-sim-server"]) == (200, "pod-1")
        assert (answer.pop("id")[:9], type(answer.pop("created"))) == ("chatcmpl-", int)
        assert answer == {
            "object": "chat.completion",
            "model": "m",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": "This is pod-1, a", "tool_calls": []},
                    "logprobs": None,
                    "finish_reason": "length",
                }
            ],
            "usage": {
                "prompt_tokens": 7,
                "total_tokens": 11,
                "completion_tokens": 4,
                "prompt_tokens_details": None,
            },
        }


@pytest.mark.parametrize(
    ("path", "body", "text"),
    [
        ("/v1/chat/completions", {"messages": MESSAGES}, lambda choice: choice["delta"]["content"]),
        ("/v1/completions", {"prompt": "x"}, lambda choice: choice["text"]),
    ],
)
async def test_a_stream_says_word_by_word_what_a_whole_answer_says(
    path: str, body: dict[str, Any], text: Any
) -> None:
    async with served(speed=1.0) as (_, client):
        response = await client.post(path, json={**body, "stream": True, "max_tokens": 8})
        chunks = await events(response)
        assert response.content_type == "text/event-stream"
        assert chunks.pop() == "[DONE]"
        choices = [chunk["choices"][0] for chunk in chunks]
        assert "".join(map(text, choices)) == "This is pod-1, a simulated model server. This"
        assert [choice["finish_reason"] for choice in choices] == [None] * (len(chunks) - 1) + ["length"]
        assert len({(chunk["id"], chunk["model"], chunk["object"]) for chunk in chunks}) == 1
        assert not any("usage" in chunk for chunk in chunks)


async def test_a_stream_ends_with_its_usage_where_that_is_asked_for() -> None:
    async with served() as (_, client):
        body = {
            "messages": MESSAGES,
            "max_tokens": 3,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        *chunks, last, done = await events(await client.post("/v1/chat/completions", json=body))
        assert done == "[DONE]"
        assert (last["choices"], last["usage"]["completion_tokens"], last["usage"]["prompt_tokens"]) == (
            [],
            3,
            7,
        )
        assert not any("usage" in chunk for chunk in chunks)


async def test_every_chunk_has_the_usage_so_far_where_that_is_asked_for() -> None:
    async with served(speed=1.0) as (_, client):
        options = {"include_usage": True, "continuous_usage_stats": True}
        body = {"messages": MESSAGES, "max_tokens": 3, "stream": True, "stream_options": options}
        chunks = await events(await client.post("/v1/chat/completions", json=body))
        assert [chunk["usage"]["completion_tokens"] for chunk in chunks[:-1]] == [0, 1, 2, 3, 3]


@pytest.mark.parametrize("stream", [False, True])
async def test_anthropics_messages_are_answered(stream: bool) -> None:
    async with served(models=("m",)) as (_, client):
        body = {"model": "m", "system": "be", "messages": MESSAGES, "max_tokens": 2, "stream": stream}
        response = await client.post("/v1/messages", json=body)
        if not stream:
            answer = await response.json()
            assert answer.pop("id")[:4] == "msg_"
            assert answer == {
                "type": "message",
                "role": "assistant",
                "model": "m",
                "content": [{"type": "text", "text": "This is"}],
                "stop_reason": "max_tokens",
                "usage": {"input_tokens": 8, "output_tokens": 2},
            }
            return
        start, *deltas, stop, change, end = await events(response)
        assert start["message"]["usage"] == {"input_tokens": 8, "output_tokens": 0}
        assert deltas.pop(0)["type"] == "content_block_start"
        assert "".join(delta["delta"]["text"] for delta in deltas) == "This is"
        assert stop == {"type": "content_block_stop", "index": 0}
        assert (change["delta"], change["usage"]) == ({"stop_reason": "max_tokens"}, {"output_tokens": 2})
        assert end == {"type": "message_stop"}


async def test_embeddings_are_the_same_for_the_same_text() -> None:
    async with served() as (sim, client):
        response = await client.post(
            "/v1/embeddings", json={"model": "sim-model", "input": ["a", "bcdef", "a"]}
        )
        answer = await response.json()
        one, two, three = (entry["embedding"] for entry in answer["data"])
        assert (one == three, one == two, len(one)) == (True, False, 16)
        assert answer["usage"] == {"prompt_tokens": 4, "total_tokens": 4, "completion_tokens": 0}
        assert sim.engine.stats.success["stop"] == 1


@pytest.mark.parametrize(
    ("path", "body", "answer"),
    [
        (
            "/tokenize",
            {"prompt": "nine char"},
            {"count": 3, "max_model_len": 32768, "tokens": [0, 1, 2], "token_strs": None},
        ),
        ("/v1/messages/count_tokens", {"messages": MESSAGES}, {"input_tokens": 7}),
    ],
)
async def test_tokens_are_counted(path: str, body: dict[str, Any], answer: dict[str, Any]) -> None:
    async with served() as (_, client):
        assert await (await client.post(path, json=body)).json() == answer


@pytest.mark.parametrize(
    ("content", "tokens"),
    [
        ("", 4),
        ("1234", 5),
        ("12345", 6),
        ([{"type": "text", "text": "1234"}, {"type": "image_url", "image_url": {}}], 5),
        (None, 4),
    ],
)
async def test_a_prompt_has_a_token_for_four_characters_and_four_a_message(content: Any, tokens: int) -> None:
    async with served() as (_, client):
        body = {"messages": [{"role": "user", "content": content}]}
        assert (await (await client.post("/tokenize", json=body)).json())["count"] == tokens


@pytest.mark.parametrize("prompt", ["12345678", [1, 2], ["12345678"], [[1, 2]]])
async def test_a_prompt_may_be_text_or_tokens(prompt: Any) -> None:
    async with served() as (_, client):
        answer = await (await client.post("/v1/completions", json={"prompt": prompt, "max_tokens": 1})).json()
        assert answer["usage"]["prompt_tokens"] == 2


async def test_without_a_limit_lengths_are_drawn_by_the_seed() -> None:
    async def lengths(seed: int) -> list[int]:
        async with served(seed=seed, speed=5000.0) as (_, client):
            answers = [
                await (await client.post("/v1/completions", json={"prompt": "x"})).json() for _ in range(4)
            ]
            assert {answer["choices"][0]["finish_reason"] for answer in answers} == {"stop"}
            return [answer["usage"]["completion_tokens"] for answer in answers]

    first = await lengths(1)
    assert first == await lengths(1)
    assert first != await lengths(2)
    assert len(set(first)) == 4


async def test_max_completion_tokens_counts_before_max_tokens() -> None:
    async with served() as (_, client):
        body = {"messages": MESSAGES, "max_tokens": 9, "max_completion_tokens": 2}
        answer = await (await client.post("/v1/chat/completions", json=body)).json()
        assert answer["usage"]["completion_tokens"] == 2


async def test_an_adapter_is_a_model_and_the_answer_names_what_was_asked() -> None:
    async with served(models=("m", "alias"), loras=("ad",)) as (sim, client):
        for name in ("m", "alias", "ad"):
            body = {"model": name, "prompt": "x", "max_tokens": 2}
            assert (await (await client.post("/v1/completions", json=body)).json())["model"] == name
        cards = (await (await client.get("/v1/models")).json())["data"]
        assert [(card["id"], card["root"], card["parent"], card["max_model_len"]) for card in cards] == [
            ("m", "m", None, 32768),
            ("alias", "m", None, 32768),
            ("ad", "ad", "m", None),
        ]
        assert list(sim.engine.lora_requests) == ["", "ad"]


@pytest.mark.parametrize(
    ("path", "body", "status", "error"),
    [
        ("/v1/completions", b'{"prompt":"x"', 400, {"type": "BadRequestError", "param": None}),
        ("/v1/completions", b'"text"', 400, {"type": "BadRequestError", "param": None}),
        ("/v1/completions", b"[" * 100_000, 400, {"type": "BadRequestError", "param": None}),
        ("/v1/completions", b'{"prompt":"\xff"}', 400, {"type": "BadRequestError", "param": None}),
        ("/v1/completions", b"{}", 400, {"type": "BadRequestError", "param": None}),
        ("/v1/completions", b'{"prompt":["x","y"]}', 400, {"type": "BadRequestError", "param": "prompt"}),
        ("/v1/completions", b'{"prompt":"x","n":2}', 400, {"type": "BadRequestError", "param": "n"}),
        (
            "/v1/completions",
            b'{"prompt":"x","max_tokens":0}',
            400,
            {"type": "BadRequestError", "param": "max_tokens"},
        ),
        (
            "/v1/completions",
            b'{"prompt":"x","max_tokens":32768}',
            400,
            {"type": "BadRequestError", "param": "input_tokens"},
        ),
        (
            "/v1/embeddings",
            b'{"input":"%s"}' % (b"x" * 132_000),
            400,
            {"type": "BadRequestError", "param": "input"},
        ),
        ("/v1/chat/completions", b'{"model":"other"}', 404, {"type": "NotFoundError", "param": "model"}),
        ("/tokenize", b'{"model":"other"}', 404, {"type": "NotFoundError", "param": "model"}),
    ],
)
async def test_what_cannot_be_served_is_refused_in_vllms_shape(
    path: str, body: bytes, status: int, error: dict[str, Any]
) -> None:
    async with served() as (_, client):
        response = await client.post(path, data=body)
        answer = (await response.json())["error"]
        assert (response.status, response.headers["x-sim-server"]) == (status, "pod-1")
        assert {key: answer[key] for key in ("code", "type", "param")} == {**error, "code": status}
        assert answer["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nowhere", 404), ("GET", "/v1/completions", 405)]
)
async def test_other_paths_and_methods_are_refused_as_fastapi_does(
    method: str, path: str, status: int
) -> None:
    async with served() as (_, client):
        response = await client.request(method, path)
        assert (response.status, list(await response.json())) == (status, ["detail"])


async def test_health_and_version_are_told() -> None:
    async with served() as (_, client):
        health = await client.get("/health")
        assert (health.status, await health.read()) == (200, b"")
        assert await (await client.get("/version")).json() == {"version": "0.32.0"}


async def test_a_body_of_32_mib_is_read() -> None:
    async with served(max_model_len=100) as (sim, client):
        body = b'{"prompt":"%s"}' % (b"x" * 2**25)
        response = await client.post("/v1/completions", data=io.BytesIO(body))
        assert response.status == 400
        assert sim.record.requests[-1].body_sha256 == hashlib.sha256(body).hexdigest()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_ends_its_request_in_the_engine(stream: bool) -> None:
    async with served(speed=1.0) as (sim, client):
        body = {"messages": MESSAGES, "max_tokens": 10_000, "stream": stream}
        post = asyncio.create_task(client.post("/v1/chat/completions", json=body))
        await until(sim, running=1)
        if stream:
            (await post).close()
        else:
            post.cancel()
        await until(sim, running=0)
        assert sim.engine.stats.aborted == 1
        assert sim.engine.free_blocks == sim.engine.config.num_blocks


async def test_requests_over_max_num_seqs_wait_and_the_page_shows_it() -> None:
    async with served(speed=1.0, max_num_seqs=1) as (sim, client):
        body = {"messages": MESSAGES, "max_tokens": 10_000}
        posts = [asyncio.create_task(client.post("/v1/chat/completions", json=body)) for _ in range(3)]
        while sim.engine.gauges.waiting != 2:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        page = await (await client.get("/metrics")).text()
        assert values(page, "vllm:num_requests_running") == [1.0]
        assert values(page, "vllm:num_requests_waiting") == [2.0]
        for post in posts:
            post.cancel()
        await until(sim, running=0)


async def test_a_websocket_echoes() -> None:
    async with served() as (sim, client), client.ws_connect("/v1/realtime?model=m") as websocket:
        await websocket.send_str("text")
        await websocket.send_bytes(b"\0")
        assert (await websocket.receive_str(), await websocket.receive_bytes()) == ("text", b"\0")
        assert [request.path for request in sim.record.requests] == ["/v1/realtime?model=m"]


async def test_without_an_upgrade_there_is_no_websocket() -> None:
    async with served() as (_, client):
        assert (await client.get("/v1/realtime")).status == 426


# -- metrics and the record ----------------------------------------------------------------------------------


async def test_the_page_counts_what_was_served() -> None:
    async with served(models=("m",)) as (_, client):
        for _ in range(2):
            await (await client.post("/v1/completions", json={"prompt": "x", "max_tokens": 3})).read()
        response = await client.get("/metrics")
        page = await response.text()
        assert response.headers["content-type"].startswith("text/plain; version=")
        assert values(page, "vllm:generation_tokens_total") == [6.0]
        assert values(page, "vllm:request_success_total") == [0.0, 2.0, 0.0, 0.0, 0.0]
        assert values(page, "http_requests_total") == [2.0]
        assert 'handler="/v1/completions"' in page


async def test_names_restrict_the_page_only_where_a_real_server_looks_at_them() -> None:
    async with served() as (_, client):
        names = {"name[]": "vllm:num_requests_running"}
        restricted = await (await client.get("/metrics/", params=names)).text()
        assert (
            restricted.splitlines()[2] == 'vllm:num_requests_running{engine="0",model_name="sim-model"} 0.0'
        )
        assert len(restricted.splitlines()) == 3
        assert len((await (await client.get("/metrics", params=names)).text()).splitlines()) > 500


@pytest.mark.parametrize("bodies", [False, True])
async def test_requests_are_recorded_until_they_are_cleared(bodies: bool) -> None:
    async with served(record_bodies=bodies) as (_, client):
        body = b'{"prompt":"x","max_tokens":1}'
        await client.post("/v1/completions?a=1", data=body, headers=[("X-Two", "1"), ("X-Two", "2")])
        await client.get("/metrics")
        (recorded,) = await (await client.get("/sim/requests")).json()
        assert [pair for pair in recorded.pop("headers") if pair[0] == "X-Two"] == [
            ["X-Two", "1"],
            ["X-Two", "2"],
        ]
        assert recorded == {
            "method": "POST",
            "path": "/v1/completions?a=1",
            "body_bytes": len(body),
            "body_sha256": hashlib.sha256(body).hexdigest(),
            "body": base64.b64encode(body).decode() if bodies else None,
        }
        assert (await client.delete("/sim/requests")).status == 204
        assert await (await client.get("/sim/requests")).json() == []


# -- faults --------------------------------------------------------------------------------------------------


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
    async with served(faults=Faults(requests="reset-mid-stream:5"), speed=1.0) as (sim, _):
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


# -- several servers, and the command ------------------------------------------------------------------------


async def test_several_servers_live_in_one_process() -> None:
    async with served(name="a") as (one, first), served(name="b") as (two, second):
        assert one.address != two.address
        for client, name in ((first, "a"), (second, "b")):
            assert (await client.get("/health")).headers["x-sim-server"] == name


async def test_a_port_that_is_taken_is_an_error() -> None:
    async with served() as (sim, _):
        with pytest.raises(OSError):
            await SimServer(SimConfig(port=int(sim.address.rpartition(":")[2]))).__aenter__()


async def test_an_ipv6_address_is_in_brackets() -> None:
    async with served(host="::1") as (sim, client):
        assert re.fullmatch(r"\[::1\]:\d+", sim.address)
        assert (await client.get("/health")).status == 200


@contextlib.asynccontextmanager
async def started(*flags: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """The command in a process of its own, with the line it says."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "extproc.sim", *flags, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield process, (await process.stdout.readline()).decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_command_tells_its_address_and_ends_at_once_on_a_signal(number: signal.Signals) -> None:
    flags = ["--port", "0", "--name", "pod-9", "--model", "m", "--lora", "ad", "--request-fault", "stall"]
    async with started(*flags) as (process, line), aiohttp.ClientSession(line.split()[-1]) as client:
        assert re.fullmatch(r"listening on http://127\.0\.0\.1:\d+\n", line)
        assert (await client.get("/metrics")).headers["x-sim-server"] == "pod-9"
        stalled = asyncio.create_task(client.get("/v1/models"))
        while not (await (await client.get("/sim/requests")).json()):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        process.send_signal(number)
        assert await process.communicate() == (b"", None)
        assert process.returncode == 0
        with pytest.raises(aiohttp.ClientError):
            await stalled


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "Missing option '--port'"),
        (["--port", "0", "--gpu", "abacus"], "'abacus' is not one of 'a100-llama-3-8b'"),
        (["--port", "0", "--speed", "0"], "speed, max_num_seqs, block_size and num_blocks must be positive"),
        (["--port", "0", "--max-num-seqs", "5000"], "max_num_seqs must be at most 2048"),
        (["--port", "0", "--lora", "sim-model"], "every name only once"),
        (["--port", "0", "--lora", "a", "--max-loras", "0"], "max_loras must be at least 1"),
        (["--port", "0", "--metrics-fault", "odd"], "'odd': must be one of ok, slow"),
        (["--port", "0", "--latency", "-1"], "latency_s must be from 0 to 3600"),
    ],
)
def test_the_command_refuses_what_cannot_work(flags: list[str], message: str) -> None:
    result = CliRunner().invoke(command, flags)
    assert result.exit_code == 2
    assert message in result.output


def test_the_command_names_an_address_it_cannot_have() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = CliRunner().invoke(command, ["--port", str(port)])
        assert (result.exit_code, result.output) == (1, f"Error: 127.0.0.1:{port}: Address already in use\n")
