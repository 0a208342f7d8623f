"""The simulated server over HTTP: its APIs."""

from __future__ import annotations

import asyncio
import hashlib
import io
from typing import Any

import pytest
from sim_client import MESSAGES, events, served, until, values

from extproc.sim.clockwork import Clockwork
from extproc.sim.config import SimConfig
from extproc.sim.engine import Engine
from extproc.sim.sequence import Request


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
        *chunks, last, _ = await events(await client.post("/v1/chat/completions", json=body))
        words = 0
        for chunk in chunks:
            words += len(chunk["choices"][0]["delta"]["content"].split())
            assert chunk["usage"]["completion_tokens"] == words
        assert (words, last["usage"]["completion_tokens"]) == (3, 3)


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


LONG = "A beginning that many prompts have. " * 40
"""360 tokens."""


@pytest.mark.parametrize(
    ("path", "one", "two", "cached"),
    [
        ("/v1/completions", {"prompt": LONG + "one"}, {"prompt": LONG + "two"}, 352),
        ("/v1/completions", {"prompt": list(range(100))}, {"prompt": [*range(50), *range(50)]}, 48),
        ("/v1/completions", {"prompt": LONG}, {"prompt": "x" + LONG}, 0),
        ("/v1/completions", {"prompt": "a" * 64 + "b" * 64 + "c"}, {"prompt": "b" * 64 + "c"}, 0),
        ("/v1/completions", {"prompt": LONG[:256]}, {"prompt": LONG[:256]}, 48),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": LONG}]},
            {"messages": [{"role": "user", "content": LONG}, {"role": "user", "content": "more"}]},
            352,
        ),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": LONG}]},
            {"messages": [{"role": "system", "content": LONG}]},
            0,
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_prompts_that_begin_alike_hit_the_prefix_cache(
    path: str, one: dict[str, Any], two: dict[str, Any], cached: int, stream: bool
) -> None:
    async with served(enable_prompt_tokens_details=True) as (sim, client):
        more = {"max_tokens": 1, "stream": stream, "stream_options": {"include_usage": True}}
        details = []
        for body in (one, two):
            response = await client.post(path, json={**body, **more})
            answer = (await events(response))[-2] if stream else await response.json()
            details.append(answer["usage"]["prompt_tokens_details"])
        assert details == [None, {"cached_tokens": cached} if cached else None]
        assert sim.engine.stats.prefix_cache_hits == cached


async def test_what_was_cached_is_told_only_where_the_server_is_to_tell() -> None:
    async with served() as (sim, client):
        for _ in range(2):
            response = await client.post("/v1/completions", json={"prompt": LONG, "max_tokens": 1})
        assert (await response.json())["usage"]["prompt_tokens_details"] is None
        assert sim.engine.stats.prefix_cache_hits == 352


async def test_adapters_share_no_prefixes() -> None:
    async with served(models=("m",), loras=("ad",)) as (sim, client):
        for model in ("m", "ad", "ad"):
            await client.post("/v1/completions", json={"model": model, "prompt": LONG, "max_tokens": 1})
        assert sim.engine.stats.prefix_cache_hits == 352


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


async def test_an_answer_ends_where_the_context_is_full() -> None:
    async with served(max_model_len=8) as (_, client):
        answer = await (await client.post("/v1/completions", json={"prompt": "x"})).json()
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["usage"]["completion_tokens"] == 7


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


async def test_a_server_without_adapters_does_not_list_any() -> None:
    async with served() as (_, client):
        await client.post("/v1/completions", json={"prompt": "x", "max_tokens": 1})
        assert "lora_requests_info" not in await (await client.get("/metrics")).text()


async def test_a_stopped_engine_stands_still() -> None:
    engine = Engine(SimConfig(speed=10.0).engine)
    clockwork = Clockwork(engine)
    tickets = [
        clockwork.submit(Request(id=str(number), prompt_tokens=1, output_tokens=9_000, stream=True))
        for number in range(3)
    ]
    for ticket in tickets:
        await ticket.news()
    clockwork.stop()
    steps = engine.stats.iteration_tokens.count
    await asyncio.sleep(0.02)
    assert engine.stats.iteration_tokens.count == steps


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
