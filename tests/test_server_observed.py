"""Observability mode: everything is decided, counted and logged, and nothing answered."""

from __future__ import annotations

from typing import Any

import pytest
from envoy_peer import EnvoyPeer, EnvoyStream
from ext_proc_service import CHAT, CONFIG, A, B, Service, serving

BODY = b'{"model":"qwq","messages":[{"role":"user","content":"Hi"}]}'
TRUSTING = CONFIG + "trusted_headers: [x-gateway-model-name]\n"
LISTED_ONLY = CONFIG.replace("default_pool: pool", "default_pool: null")


async def tell(envoy: EnvoyPeer, *pieces: bytes, headers: dict[str, str] | None = None) -> EnvoyStream:
    """A request as Envoy tells of it: its body's end is a piece of its own, and without *pieces* nothing comes."""
    stream = envoy.observed()
    await stream.request_headers({**CHAT, "x-request-id": "r", **(headers or {})})
    for piece in pieces:
        await stream.request_body(piece, end=False)
    if pieces:
        await stream.request_body(b"")
    return stream


async def the_line(service: Service) -> dict[str, Any]:
    (line,) = await service.log_lines()
    for name in ("timestamp", "decision_us", "headers_ms"):
        line.pop(name, None)
    return line


DECIDED = {
    "level": "info",
    "event": "request",
    "outcome": "observed",
    "method": "POST",
    "path": "/v1/chat/completions",
    "request_id": "r",
    "model": "qwq",
    "target_model": "qwq-32b",
    "pool": "pool",
    "endpoint": A,
    "candidates": 1,
    "scores": {},
}


@pytest.mark.parametrize("pieces", [[BODY], [BODY[:20], BODY[20:]]])
async def test_a_streamed_body_is_read_and_what_we_would_have_done_is_logged(pieces: list[bytes]) -> None:
    async with serving() as (service, envoy):
        stream = await tell(envoy, *pieces)
        await stream.response_headers(200, attributes={"upstream.address": B})
        await stream.end()
        await service.idle()
        assert service.requests == {"qwq qwq-32b pool observed": 1}
        assert service.sample("extproc_decision_duration_seconds_count") == 1
        assert await the_line(service) == {**DECIDED, "status": 200, "served": B}


async def test_what_others_do_says_nothing_of_our_endpoints() -> None:
    async with serving() as (service, envoy):
        stream = await tell(envoy, BODY)
        await stream.response_headers(503, attributes={"upstream.address": A})
        await stream.end()
        await service.idle()
        assert service.in_flight == {}
        assert service.endpoint(A).requests == 0
        assert service.endpoint(A).health.failures == 0
        labels = {"model": "qwq", "target_model": "qwq-32b", "pool": "pool"}
        for name in ("request_duration_seconds", "time_to_response_headers_seconds"):
            assert not service.sample(f"extproc_{name}_count", **labels)


async def test_nothing_is_in_flight_while_an_observed_request_is() -> None:
    async with serving() as (service, envoy):
        stream = await tell(envoy, BODY)
        await stream.response_headers(200, attributes={"upstream.address": A})
        await service.until(lambda: service.held_bytes == 0)
        assert service.in_flight == {}
        await stream.end()


async def test_where_no_body_comes_the_headers_decide() -> None:
    """Envoy does not say whether it will send any."""
    async with serving(TRUSTING) as (service, envoy):
        stream = await tell(envoy, headers={"x-gateway-model-name": "qwq"})
        await stream.response_headers(200)
        await stream.end()
        await service.idle()
        assert service.requests == {"qwq qwq-32b pool observed": 1}
        assert await the_line(service) == {**DECIDED, "status": 200}


async def test_a_request_without_a_body_is_observed_too() -> None:
    async with serving() as (service, envoy):
        stream = envoy.observed()
        await stream.request_headers({":method": "GET", ":path": "/version"}, end=True)
        await stream.response_headers(200)
        await stream.end()
        await service.idle()
        assert service.requests == {"none none pool observed": 1}


@pytest.mark.parametrize(
    ("body", "refusal", "message"),
    [
        (b"{", "invalid_json", "The body is not JSON: unexpected end of JSON at byte 1."),
        (b"{}", "missing_model", "The request names no model: the top-level `model` is missing."),
        (b'{"model":"x"}', "model_not_found", "The model `x` does not exist."),
    ],
)
async def test_what_we_would_have_refused_is_told_to_the_end(body: bytes, refusal: str, message: str) -> None:
    async with serving(LISTED_ONLY) as (service, envoy):
        stream = await tell(envoy, body)
        await stream.response_headers(200)
        await stream.response_body(b"x", end=True)
        await stream.end()
        line = await the_line(service)
        assert service.requests == {"none none none observed": 1} or refusal == "model_not_found"
        assert (line["outcome"], line["refusal"], line["message"], line["status"]) == (
            "observed",
            refusal,
            message,
            200,
        )


@pytest.mark.parametrize("body", [b"[1", b"{}", b'{"model":"x"}'])
async def test_a_body_is_let_go_of_when_it_was_read_whatever_came_of_it(body: bytes) -> None:
    async with serving(LISTED_ONLY) as (service, envoy):
        stream = envoy.observed()
        await stream.request_headers(CHAT)
        await stream.request_body(body[:1], end=False)
        await service.until(lambda: service.held_bytes == 1)
        await stream.request_body(body[1:], end=False)
        await stream.request_body(b"")
        await service.until(lambda: service.held_bytes == 0)
        assert service.processor.open_streams == 1
        await stream.end()


async def test_a_refusal_at_the_headers_does_not_end_the_stream() -> None:
    async with serving(CONFIG + "limits: {max_body_bytes: 10}\n") as (service, envoy):
        stream = await tell(envoy, BODY, headers={"content-length": str(len(BODY))})
        await stream.response_headers(200)
        await stream.end()
        line = await the_line(service)
        assert (line["refusal"], line["status"]) == ("body_too_large", 200)


async def test_a_full_pool_holds_no_observed_request_up() -> None:
    queue = CONFIG.replace("{name: other,", "{name: other, queue: {},").replace(
        "{name: pool,", "{name: pool, queue: {waiting: 1},"
    )
    async with serving(queue) as (service, envoy):
        service.endpoint(A).waiting, service.endpoint(A).fresh_until = 9, float("inf")
        stream = await tell(envoy, BODY)
        await stream.response_headers(200)
        await stream.end()
        await service.idle()
        assert service.requests == {"qwq qwq-32b pool observed": 1}


@pytest.mark.parametrize("pieces", [[], [BODY[:20]]])
async def test_a_client_that_leaves_leaves_nothing_behind(pieces: list[bytes]) -> None:
    async with serving() as (service, envoy):
        stream = envoy.observed()
        await stream.request_headers(CHAT)
        for piece in pieces:
            await stream.request_body(piece, end=False)
        await service.until(lambda: service.held_bytes == sum(map(len, pieces)))
        stream.cancel()
        await service.idle()
        assert set(service.requests) <= {"none none pool observed", "none none none observed"}


async def test_a_drain_that_ends_lets_observed_requests_go() -> None:
    async with serving() as (service, envoy):
        stream = envoy.observed()
        await stream.request_headers(CHAT)
        await service.until(lambda: service.begun == 1)
        service.processor.refuse_undecided()
        await stream.closed()
        await service.idle()
        assert service.requests == {"none none pool observed": 1}
