"""Observability mode: everything is decided, counted and logged, and nothing answered."""

from __future__ import annotations

from typing import Any

import pytest
from envoy_peer import EnvoyPeer, EnvoyStream
from ext_proc_service import CHAT, CONFIG, A, B, Service, serving

from extproc.pool import Pool

BODY = b'{"model":"qwq","messages":[{"role":"user","content":"Hi"}]}'
TRUSTING = CONFIG + "trusted_headers: [x-gateway-model-name]\n"
LISTED_ONLY = CONFIG.replace("default_pool: pool", "default_pool: null")

TWO = CONFIG.replace("labels: {version: v1}}]", 'labels: {version: v1}}, "127.0.0.1:8002"]')


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


async def test_a_body_that_comes_in_one_message_is_decided_once_by_what_it_says() -> None:
    async with serving(TRUSTING) as (service, envoy):
        stream = envoy.observed()
        await stream.request_headers({**CHAT, "x-gateway-model-name": "same"})
        await stream.request_body(BODY, end=True)
        await stream.end()
        await service.idle()
        assert service.requests == {"qwq qwq-32b pool observed": 1}
        (told,) = service.processor.recent.describe(0.0)
        assert (told["model"], told["target_model"]) == ("qwq", "qwq-32b")


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


async def observe(service: Service, envoy: EnvoyPeer, status: int, served: str | None) -> dict[str, Any]:
    """What was decided on a long prompt, and how many of its tokens each endpoint had then."""
    content = " ".join(map(str, range(500)))
    stream = await tell(
        envoy, b'{"model":"qwq","messages":[{"role":"user","content":"%b"}]}' % content.encode()
    )
    await stream.response_headers(status, attributes={"upstream.address": served} if served else None)
    await stream.end()
    await service.idle()
    told = service.processor.recent.describe(0.0)[0]
    return told | {"cached": {each["address"]: each["cached_tokens"] for each in told["endpoints"]}}


async def test_who_answered_has_the_prompt_in_its_cache_whoever_was_chosen() -> None:
    async with serving(TWO) as (service, envoy):
        assert (await observe(service, envoy, 200, B))["cached"] == {A: 0, B: 0}
        then = await observe(service, envoy, 200, A)
        assert then["cached"][B] > then["cached"][A] == 0
        assert (then["endpoint"], then["new_tokens"]) == (B, then["prompt_tokens"])
        assert min((await observe(service, envoy, 200, None))["cached"].values()) > 0


async def test_who_answered_what_no_body_was_seen_of_computed_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[str] = []
    monkeypatch.setattr(Pool, "computes", lambda _, work, endpoint, now: computed.append(endpoint.address))
    async with serving() as (service, envoy):
        stream = await tell(envoy)
        await stream.response_headers(200, attributes={"upstream.address": A})
        await stream.end()
        await service.idle()
    assert computed == [A]


@pytest.mark.parametrize(
    ("status", "served"), [(400, B), (503, B), (200, "10.0.0.9:1"), (200, None)], ids=str
)
async def test_who_computed_nothing_or_is_not_ours_has_nothing_in_its_cache(
    status: int, served: str | None
) -> None:
    async with serving(TWO) as (service, envoy):
        await observe(service, envoy, status, served)
        assert (await observe(service, envoy, 200, None))["cached"] == {A: 0, B: 0}


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
        assert (service.sample("extproc_decision_duration_seconds_sum") or 0) > 0
        assert await the_line(service) == {**DECIDED, "status": 200}


@pytest.mark.parametrize("pieces", [[], [BODY]], ids=["by its headers", "by its body"])
async def test_a_subset_hint_leaves_an_observed_request_nobody_either(pieces: list[bytes]) -> None:
    hint = {"envoy.lb.subset_hint": {"x-gateway-destination-endpoint-subset": "127.0.0.1:9001"}}
    async with serving() as (service, envoy):
        stream = envoy.observed()
        await stream.request_headers(CHAT, metadata=hint)
        for piece in pieces:
            await stream.request_body(piece, end=True)
        await stream.end()
        line = await the_line(service)
        assert (line["outcome"], line["refusal"]) == ("observed", "no_endpoints")


async def test_what_we_would_have_refused_by_the_headers_is_told_where_no_body_comes() -> None:
    async with serving(LISTED_ONLY) as (service, envoy):
        stream = await tell(envoy)
        await stream.response_headers(200)
        await stream.end()
        line = await the_line(service)
        assert (line["outcome"], line["refusal"], line["status"]) == ("observed", "model_not_found", 200)


async def test_an_observed_stream_that_breaks_the_protocol_is_counted_as_that() -> None:
    async with serving() as (service, envoy):
        stream = await tell(envoy, BODY)
        await stream.request_headers(CHAT)
        assert (await stream.failure())[1] == "RequestHeaders while DONE"
        await service.idle()
        assert service.requests == {"qwq qwq-32b pool protocol_error": 1}


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
        decided = "none" if pieces else "pool"
        assert set(service.requests) <= {f"none none {decided} observed"}


async def test_a_drain_that_ends_lets_observed_requests_go() -> None:
    async with serving() as (service, envoy):
        stream = envoy.observed()
        await stream.request_headers(CHAT)
        await service.until(lambda: service.begun == 1)
        service.processor.end_drain()
        await stream.closed()
        await service.idle()
        assert service.requests == {"none none pool observed": 1}
