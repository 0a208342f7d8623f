"""A routed request as the upstream sees it: where it went, which bytes it carries, and under which headers."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from stack import SHARED, Stack, eventually, request_id_of, stack_fixture

from extproc.demo.bootstrap import POOL

pytestmark = SHARED

CHAT = "/v1/chat/completions"
JSON = {"content-type": "application/json"}


def config(addresses: list[str]) -> dict[str, Any]:
    targets = [{"model": "real-v2"}]
    return {
        "pools": [{"name": POOL, "endpoints": addresses}],
        "models": [
            {"name": "alias", "pool": POOL, "targets": targets, "sticky": {"header": "x-user-id"}},
            {"name": "ünï 模型", "pool": POOL, "targets": [{"model": 'été"\\模型'}]},
        ],
    }


shared_stack = stack_fixture(config)


async def test_each_request_of_a_burst_is_served_where_the_service_said_and_each_endpoint_gets_its_share(
    stack: Stack,
) -> None:
    answers = await asyncio.gather(*(stack.chat("alias", "?hold_s=0.4") for _ in range(6)))

    lines = [await stack.log_of(answer) for answer in answers]
    assert [line["endpoint"] for line in lines] == [answer["served_by"] for answer in answers]
    assert [line["served"] for line in lines] == [answer["served_by"] for answer in answers]
    served = [answer["served_by"] for answer in answers]
    assert {address: served.count(address) for address in served} == {
        upstream.address: 2 for upstream in stack.upstreams
    }


async def test_a_streamed_answer_arrives_event_by_event_as_the_model_server_sent_it(stack: Stack) -> None:
    body = {"model": "alias", "stream": True, "messages": []}
    stack.close_gates()
    async with stack.client.post(CHAT + "?gated", json=body) as response:
        first = await response.content.readuntil(b"\n\n")
        served_by = response.headers["x-served-by"]
        in_flight_meanwhile = await stack.in_flight()
        stack.open_gates()
        rest = await response.content.read()

    assert (first, rest) == (b'data: {"number": 0}\n\n', b"data: [DONE]\n\n")
    assert response.headers["content-type"] == "text/event-stream"
    assert in_flight_meanwhile == {served_by: 1}
    assert [request.values("x-gateway-destination-endpoint") for request in stack.received()] == [[served_by]]


async def test_the_upstream_sees_the_clients_headers_and_those_of_the_contract_and_no_others(
    stack: Stack,
) -> None:
    body = b'{"model": "alias"}'
    headers = {"x-user-id": "anna", "x-mine": "kept", "authorization": "Bearer t", "user-agent": "test"}
    skipped = ("accept", "accept-encoding")
    await stack.client.post(CHAT, data=body, headers=headers | JSON, skip_auto_headers=skipped)

    (request,) = stack.received()
    seen = {name.lower(): value for name, value in request.headers}
    assert len(seen) == len(request.headers)
    for name in ("x-request-id", "x-forwarded-for", "x-envoy-external-address"):  # Envoy's, of this machine
        assert seen.pop(name)
    assert seen.pop("x-gateway-destination-endpoint") in [upstream.address for upstream in stack.upstreams]
    length = {"content-length": "20"} if stack.way.mode == "buffered" else {"transfer-encoding": "chunked"}
    assert seen == {
        "host": stack.envoy.listen.removeprefix("http://"),
        "content-type": "application/json",
        "x-user-id": "anna",
        "x-mine": "kept",
        "authorization": "Bearer t",
        "user-agent": "test",
        "x-forwarded-proto": "http",
        "x-extproc-pool": POOL,
        "x-gateway-model-name": "alias",
        **length,
    }
    assert request.body == b'{"model": "real-v2"}'


BODIES = {
    "number spelling": (
        b'{"a": 1.0, "b": 1e400, "c": 9007199254740993, "d": -0.0, "model": "alias", "seed": 1E+2}',
        b'{"a": 1.0, "b": 1e400, "c": 9007199254740993, "d": -0.0, "model": "real-v2", "seed": 1E+2}',
    ),
    "key order and white space": (
        b'\r\n\t {"z" :1 ,\n"model"\t:  "alias"\r\n,"a":[ ] }  \n',
        b'\r\n\t {"z" :1 ,\n"model"\t:  "real-v2"\r\n,"a":[ ] }  \n',
    ),
    "escapes": (
        rb'{"messages": "\u003c\/\ud83d\ude00\u00e9\ud800", "\u006dodel": "\u0061lias"}',
        rb'{"messages": "\u003c\/\ud83d\ude00\u00e9\ud800", "\u006dodel": "real-v2"}',
    ),
    "duplicate keys: the last decides, both are rewritten": (
        b'{"model": "nobody", "n": 1, "n": 2, "model": "alias"}',
        b'{"model": "real-v2", "n": 1, "n": 2, "model": "real-v2"}',
    ),
    "only the top level": (
        b'{"x": {"model": "alias"}, "model": "alias", "y": [{"model": "alias"}], "s": "\\"model\\": \\"alias\\""}',
        b'{"x": {"model": "alias"}, "model": "real-v2", "y": [{"model": "alias"}], "s": "\\"model\\": \\"alias\\""}',
    ),
    "unicode": (
        '{"model": "ünï 模型", "messages": "🦜 ﷽ é"}'.encode(),
        '{"model": "été\\"\\\\模型", "messages": "🦜 ﷽ é"}'.encode(),
    ),
    "deep nesting": (
        b'{"x": ' + b"[" * 50_000 + b"]" * 50_000 + b', "model": "alias"}',
        b'{"x": ' + b"[" * 50_000 + b"]" * 50_000 + b', "model": "real-v2"}',
    ),
    "a model that stays as it is": (
        b' {"n": 1.50, "model" : "\\u0072eal-v2" } ',
        b' {"n": 1.50, "model" : "\\u0072eal-v2" } ',
    ),
}


@pytest.mark.parametrize("name", BODIES)
async def test_only_the_model_changes_in_the_body(stack: Stack, name: str) -> None:
    sent, expected = BODIES[name]

    async with stack.client.post(CHAT, data=sent, headers=JSON) as response:
        answer = await response.json()

    (request,) = stack.received()
    assert response.status == 200
    assert request.body == expected
    assert answer["served_by"] == request.values("x-gateway-destination-endpoint")[0]
    length = [str(len(expected))] if stack.way.mode == "buffered" else []
    assert request.values("content-length") == length


async def test_a_name_that_is_no_plain_ascii_reaches_upstream_logs_as_utf_8(stack: Stack) -> None:
    await stack.client.post(CHAT, data=BODIES["unicode"][0], headers=JSON)

    (request,) = stack.received()
    assert [value.encode("latin-1").decode() for value in request.values("x-gateway-model-name")] == [
        "ünï 模型"
    ]


async def test_a_body_that_is_not_ours_to_read_passes_untouched(stack: Stack) -> None:
    body = bytes(range(256)) * 300
    form = {"content-type": "application/octet-stream", "content-encoding": "rot13"}

    async with stack.client.put("/files/x?name=a", data=body, headers=form) as response:
        answer = await response.json()

    (request,) = stack.received()
    assert (response.status, answer["path"], request.body) == (200, "/files/x?name=a", body)
    assert request.values("x-gateway-model-name") == []
    assert request.values("content-encoding") == ["rot13"]


CLIENT_HEADERS = [
    ("X-Gateway-Destination-Endpoint", "10.9.8.7:1"),
    ("x-gateway-DESTINATION-endpoint", "10.9.8.7:2"),
    ("x-gateway-destination-endpoint-subset", "10.9.8.7:3"),
    ("x-gateway-destination-endpoint-served", "10.9.8.7:4"),
    ("X-ExtProc-Pool", "forged"),
    ("x-extproc-pool", "forged"),
    ("x-extproc-anything", "forged"),
    ("X-Gateway-Model-Name", "forged"),
    ("x-gateway-model-name", "forged"),
    ("x-gateway-model-name-rewrite", "forged"),
    ("x-gateway-inference-objective", "forged"),
    ("X-Gateway-Inference-Fairness-Id", "forged"),
    ("x-llm-d-inference-objective", "forged"),
    ("x-prefiller-host-port", "10.9.8.7:5"),
    ("X-Prefiller-Host-Port", "10.9.8.7:6"),
    ("x-data-parallel-host-port", "10.9.8.7:7"),
    ("x-user-id", "anna"),
    ("x-kept", "yes"),
]


@pytest.mark.parametrize(
    ("method", "path", "body", "model"),
    [
        ("POST", CHAT, b'{"model": "alias"}', ["alias"]),
        ("POST", CHAT, b'{"model": "real-v2"}', ["real-v2"]),
        ("GET", "/version", None, []),
        ("DELETE", "/files/1", None, []),
    ],
    ids=["rewritten", "as it is", "without a body", "another method"],
)
async def test_no_control_header_of_a_client_survives_and_its_sticky_key_does(
    stack: Stack, method: str, path: str, body: bytes | None, model: list[str]
) -> None:
    async with stack.client.request(
        method, path, data=body, headers=CLIENT_HEADERS + list(JSON.items())
    ) as response:
        answer = await response.json()

    (request,) = stack.received()
    controls = {
        name.lower(): request.values(name.lower())
        for name, _ in CLIENT_HEADERS
        if request.values(name.lower())
    }
    expected = {
        "x-gateway-destination-endpoint": [answer["served_by"]],
        "x-extproc-pool": [POOL],
        "x-user-id": ["anna"],
        "x-kept": ["yes"],
    }
    assert controls == expected | ({"x-gateway-model-name": model} if model else {})
    assert b"10.9.8.7" not in json.dumps(request.headers).encode()


async def test_the_decision_is_in_envoys_access_log(stack: Stack) -> None:
    answer = await stack.chat("alias")

    request_id = request_id_of(answer)
    lines = await eventually(
        lambda: [line for line in stack.envoy.access_log() if line["request_id"] == request_id], bool
    )
    facts = {
        name: lines[0][name] for name in ("model", "target_model", "pool", "endpoint", "upstream", "status")
    }
    assert facts == {
        "model": "alias",
        "target_model": "real-v2",
        "pool": POOL,
        "endpoint": answer["served_by"],
        "upstream": answer["served_by"],
        "status": 200,
    }
