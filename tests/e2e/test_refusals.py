"""What a refused client gets; a request that is not decided never reaches an upstream."""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import aiohttp
import pytest
from stack import SHARED, Stack, eventually, stack_fixture

from extproc.demo.bootstrap import POOL

pytestmark = SHARED

CHAT = "/v1/chat/completions"
LIMIT = 1024 * 1024
BUSY_METRICS = """\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 8.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="m"} 9.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.5
"""


def config(addresses: list[str]) -> dict[str, Any]:
    idle, busy = addresses
    labelled = {"address": busy, "labels": {"state": "busy"}}
    return {
        "pools": [{"name": POOL, "endpoints": [idle, labelled]}],
        "models": [
            {"name": "known", "pool": POOL},
            {"name": "nowhere", "pool": POOL, "targets": [{"model": "x", "labels": {"state": "gone"}}]},
            sheddable("sheddable", "Sheddable"),
            sheddable("standard", "Standard"),
        ],
        "default_pool": None,
        "limits": {"max_body_bytes": LIMIT},
    }


def sheddable(name: str, criticality: str) -> dict[str, Any]:
    targets = [{"model": name, "labels": {"state": "busy"}}]
    return {"name": name, "pool": POOL, "criticality": criticality, "targets": targets}


shared_stack = stack_fixture(config, upstreams=2)


class Refusal(NamedTuple):
    status: int
    reason: str
    message: str
    type: str = "invalid_request_error"
    param: str | None = None
    retry_after: str | None = None


NOT_USABLE = "The model name is not usable: it has 1 to 256 bytes and no control characters."
NO_MODEL = Refusal(
    400, "missing_model", "The request names no model: the top-level `model` is missing.", param="model"
)
REFUSALS: dict[str, tuple[str, dict[str, str], bytes, Refusal]] = {
    "not JSON": (CHAT, {}, b'{"model": "known"', Refusal(400, "invalid_json", "The body is not JSON: …")),
    "invalid UTF-8": (
        CHAT,
        {},
        b'{"model": "known", "x": "\xff"}',
        Refusal(400, "invalid_json", "The body is not JSON: …"),
    ),
    "not an object": (CHAT, {}, b'["known"]', NO_MODEL),
    "no model": (
        "/openai/v1/completions?x=1",
        {},
        b'{"x": {"model": "known"}}',
        NO_MODEL,
    ),
    "the model is no string": (
        "/v1/messages/count_tokens",
        {},
        b'{"model": 7}',
        Refusal(400, "missing_model", "The request names no model: `model` is not a string.", param="model"),
    ),
    "unknown model": (
        CHAT,
        {},
        b'{"model": "unknown"}',
        Refusal(404, "model_not_found", "The model `unknown` does not exist.", param="model"),
    ),
    "a name with a line feed": (
        CHAT,
        {},
        b'{"model": "a\\nb"}',
        Refusal(404, "model_not_found", NOT_USABLE, param="model"),
    ),
    "a name with NUL": (
        CHAT,
        {},
        b'{"model": "\\u0000"}',
        Refusal(404, "model_not_found", NOT_USABLE, param="model"),
    ),
    "a name of 70 KB": (
        CHAT,
        {},
        b'{"model": "' + b"x" * 70_000 + b'"}',
        Refusal(404, "model_not_found", NOT_USABLE, param="model"),
    ),
    "no model where one is not needed, and no default pool": (
        "/tokenize",
        {},
        b"{}",
        Refusal(404, "model_not_found", "The request names no model.", param="model"),
    ),
    "too large": (
        CHAT,
        {},
        b'{"model": "known", "x": "' + b"y" * LIMIT + b'"}',
        Refusal(413, "body_too_large", f"The body is larger than {LIMIT} bytes."),
    ),
    "compressed": (
        CHAT,
        {"content-encoding": "compress"},
        b"\x1f\x9d\x90",
        Refusal(
            415,
            "unsupported_encoding",
            "The body's content-encoding cannot be read; send it plain, or in one of gzip, deflate, br, zstd.",
        ),
    ),
    "no endpoint for its labels": (
        CHAT,
        {},
        b'{"model": "nowhere"}',
        Refusal(
            503,
            "no_endpoints",
            f"No endpoint of pool `{POOL}` is ready to take the request.",
            "service_unavailable_error",
        ),
    ),
    "sheddable while saturated": (
        CHAT,
        {},
        b'{"model": "sheddable"}',
        Refusal(
            429,
            "saturated",
            f"Pool `{POOL}` is saturated and the request is sheddable; try again later.",
            "rate_limit_error",
            retry_after="1",
        ),
    ),
}


async def refusal_of(response: aiohttp.ClientResponse) -> Refusal:
    """What the client got, whole: an error that says more, or other headers, would fail to parse here."""
    assert response.headers["content-type"] == "application/json"
    body = await response.json()
    assert list(body) == ["error"]
    error = body["error"]
    assert sorted(error) == ["code", "message", "param", "type"]
    assert error["code"] == response.headers["x-extproc-reason"]
    return Refusal(
        response.status,
        error["code"],
        error["message"],
        error["type"],
        error["param"],
        response.headers.get("retry-after"),
    )


@pytest.mark.parametrize("name", REFUSALS)
async def test_a_refused_request_says_why_as_openai_clients_expect_it(stack: Stack, name: str) -> None:
    path, headers, body, expected = REFUSALS[name]
    stack.upstreams[1].metrics = BUSY_METRICS
    busy = stack.upstreams[1].address
    await eventually(stack.endpoints, lambda endpoints: endpoints[busy]["metrics"]["waiting"] == 9)

    async with stack.client.post(path, data=io.BytesIO(body), headers=headers) as response:
        refusal = await refusal_of(response)

    if expected.message.endswith("…"):
        assert refusal.message.startswith(expected.message[:-1])
        refusal = refusal._replace(message=expected.message)
    assert refusal == expected
    assert stack.received() == []


async def test_what_is_not_sheddable_is_served_by_a_saturated_pool(stack: Stack) -> None:
    stack.upstreams[1].metrics = BUSY_METRICS
    busy = stack.upstreams[1].address
    await eventually(stack.endpoints, lambda endpoints: endpoints[busy]["metrics"]["waiting"] == 9)

    assert (await stack.chat("standard"))["served_by"] == busy


async def test_a_model_that_is_not_listed_is_not_found_by_name(stack: Stack) -> None:
    async with stack.client.get("/v1/models/unknown") as response:
        refusal = await refusal_of(response)

    assert refusal == Refusal(404, "model_not_found", "The model `unknown` does not exist.", param="model")


async def test_a_request_without_a_body_is_refused_where_there_is_no_default_pool(stack: Stack) -> None:
    async with stack.client.get("/version") as response:
        refusal = await refusal_of(response)

    assert refusal == Refusal(404, "model_not_found", "The request names no model.", param="model")
