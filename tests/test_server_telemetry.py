"""What is told of each request: metrics, one log line; and that hostile headers harm neither."""

from __future__ import annotations

import math
from typing import Any

import pytest
from envoy_peer import EnvoyPeer
from ext_proc_service import (
    CHAT,
    CONFIG,
    REQUEST_HEADERS_GO,
    RESPONSE_HEADERS_GO,
    A,
    B,
    Service,
    routed_body,
    routed_headers,
    serving,
)

from extproc.engine_metrics import EngineMetrics
from extproc.protocol.messages import BodyMode

TIMES = ("timestamp", "duration_ms", "headers_ms", "decision_us")
TWO = """
pools: [{name: pool, endpoints: ["127.0.0.1:8001", "127.0.0.1:8002"]}]
models: [{name: qwq, pool: pool, targets: [{model: a}]}]
"""
REASONS = """
pools:
- name: pool
  endpoints:
  - {address: "127.0.0.1:8001", labels: {tier: fast}}
  - {address: "127.0.0.1:8002", labels: {tier: fast}}
  - 127.0.0.1:8003
  fallback_endpoints: 1
models:
- {name: qwq, pool: pool, targets: [{model: a, weight: 1}, {model: b, weight: 999999, labels: {version: none}}]}
profiles:
- {name: default, filters: [{type: prefer-labels, labels: {tier: fast}}], scorers: [{type: queue}]}
"""


async def request(
    envoy: EnvoyPeer,
    body: bytes = b'{"model":"qwq"}',
    status: int | None = 200,
    headers: dict[str, str | bytes] | None = None,
    **answer: Any,
) -> None:
    """A whole BUFFERED request; *status* None: it ends before response headers."""
    stream = envoy.stream()
    await stream.request_headers({**CHAT, **(headers or {})})
    assert await stream.reply() == REQUEST_HEADERS_GO
    await stream.request_body(body)
    await stream.reply()
    if status is not None:
        await stream.response_headers(status, **answer)
        assert await stream.reply() == RESPONSE_HEADERS_GO
    await stream.end()


async def the_line(service: Service) -> dict[str, Any]:
    """The only log line; its times are checked and taken out."""
    (line,) = await service.log_lines()
    times = {name: line.pop(name) for name in TIMES if name in line}
    assert times.pop("timestamp").endswith("Z")
    assert all(value >= 0 for value in times.values())
    return {**line, "times": sorted(times)}


# -- the log line -------------------------------------------------------------------------------------------


async def test_the_log_line_of_a_routed_request_says_what_was_decided_and_why() -> None:
    async with serving(TWO) as (service, envoy):
        hint = {"envoy.lb.subset_hint": {"x-gateway-destination-endpoint-subset": "127.0.0.1:8001"}}
        stream = envoy.stream()
        headers = {":path": "/v1/chat/completions?key=secret#x", "authorization": "Bearer secret"}
        await stream.request_headers(
            {**CHAT, **headers, "x-request-id": "r-1", "cookie": "secret"}, metadata=hint
        )
        await stream.reply()
        await stream.request_body(b'{"model":"qwq","secret":1}')
        await stream.reply()
        await stream.response_headers(200, attributes={"upstream.address": B})
        await stream.reply()
        await stream.end()
        lines = await service.log_lines()
        assert "secret" not in str(lines)
        (line,) = lines
        times = {name: line.pop(name) for name in TIMES}
        assert line == {
            "level": "info",
            "event": "request",
            "outcome": "completed",
            "method": "POST",
            "path": "/v1/chat/completions",
            "request_id": "r-1",
            "model": "qwq",
            "target_model": "a",
            "pool": "pool",
            "endpoint": A,
            "candidates": 1,
            "scores": {},
            "status": 200,
            "served": B,
        }
        assert times["duration_ms"] >= times["headers_ms"] >= 0


async def test_the_log_line_names_fallbacks_and_what_was_dropped() -> None:
    async with serving(REASONS) as (service, envoy):
        for address, waiting in ((A, 7), (B, 1), ("127.0.0.1:8003", 0)):
            service.endpoint(address).observe(EngineMetrics(waiting=waiting, running=0), float("inf"))
        await request(envoy, b'{"model":"qwq"}', None)
        assert await the_line(service) == {
            "level": "info",
            "event": "request",
            "outcome": "aborted",
            "method": "POST",
            "path": "/v1/chat/completions",
            "model": "qwq",
            "target_model": "a",
            "pool": "pool",
            "endpoint": B,
            "fallbacks": [A],
            "candidates": 3,
            "dropped": {"prefer-labels": 1},
            "scores": {"queue": 1.0},
            "target_fallback": True,
            "times": ["decision_us", "duration_ms"],
        }


async def test_the_log_line_of_a_refused_request_says_why() -> None:
    async with serving() as (service, envoy):
        stream = envoy.stream()
        await stream.request_headers({**CHAT, "content-encoding": "compress", "x-request-id": "r-1"})
        await stream.reply()
        await stream.closed()
        assert await the_line(service) == {
            "level": "info",
            "event": "request",
            "outcome": "unsupported_encoding",
            "method": "POST",
            "path": "/v1/chat/completions",
            "request_id": "r-1",
            "status": 415,
            "message": "The body's content-encoding cannot be read; "
            "send it plain, or in one of gzip, deflate, br, zstd.",
            "times": ["duration_ms"],
        }


async def test_the_log_line_of_a_list_of_models_that_we_told_has_its_status() -> None:
    async with serving() as (service, envoy):
        stream = envoy.stream()
        await stream.request_headers({":method": "GET", ":path": "/v1/models"}, end=True)
        await stream.reply()
        await stream.closed()
        line = await the_line(service)
        assert (line["outcome"], line["path"], line["status"]) == ("completed", "/v1/models", 200)


async def test_the_log_line_of_a_refused_request_names_the_model_that_was_asked_for() -> None:
    async with serving("pools: [{name: pool, endpoints: []}]\nmodels: [{name: qwq, pool: pool}]\n") as (
        service,
        envoy,
    ):
        stream = envoy.stream()
        await stream.request_headers(CHAT)
        await stream.reply()
        await stream.request_body(b'{"model":"qwq"}')
        await stream.reply()
        await stream.closed()
        line = await the_line(service)
    assert (line["outcome"], line["model"], line["status"]) == ("no_endpoints", "qwq", 503)


async def test_a_pin_miss_and_an_endpoint_that_is_set_aside_are_told_too() -> None:
    hint = {"envoy.lb.subset_hint": {"x-gateway-destination-endpoint-subset": A}}
    async with serving(TWO) as (service, envoy):
        for address in ("10.9.9.9:1", A, A, A):
            stream = envoy.stream()
            await stream.request_headers({":method": "GET", ":path": "/"}, end=True, metadata=hint)
            await stream.reply()
            await stream.response_headers(503, attributes={"upstream.address": address})
            await stream.reply()
            await stream.end()
        lines = await service.log_lines()
        for line in lines:
            del line["timestamp"]
        assert [line for line in lines if line["event"] != "request"] == [
            {"level": "warning", "event": "pin_miss", "pool": "pool", "served": "10.9.9.9:1"},
            {
                "level": "warning",
                "event": "endpoint_set_aside",
                "pool": "pool",
                "endpoint": A,
                "cause": "answered",
                "failures": 3,
                "pause_s": 5.0,
            },
        ]
        assert service.requests == {"none none pool upstream_error": 4}
        assert service.sample("extproc_pin_misses_total", pool="pool") == 1
        assert service.sample("extproc_endpoints_set_aside_total", pool="pool", cause="answered") == 1
        assert service.sample("extproc_endpoint_ready", pool="pool", endpoint=A) == 0
        assert service.sample("extproc_endpoint_ready", pool="pool", endpoint=B) == 1


TIERED = """
pools:
- name: pool
  endpoints: [{address: "127.0.0.1:8001", labels: {tier: idc}}, {address: "127.0.0.1:8002", labels: {tier: cloud}}]
  tiers: [{name: idc, labels: {tier: idc}}, {name: cloud, labels: {tier: cloud}}]
  profile_header: x-profile
profiles: [{name: batch, scorers: [{type: kv-cache}]}]
trusted_headers: [x-profile]
"""


async def test_the_tier_and_another_profile_than_the_default_are_logged_and_counted() -> None:
    async with serving(TIERED) as (service, envoy):
        for waiting, profile in ((0, "batch"), (9, "btach")):
            service.endpoint(A).observe(EngineMetrics(waiting=waiting, running=0), float("inf"))
            await request(envoy, headers={"x-profile": profile})
        lines = await service.log_lines()
        names = ("endpoint", "tier", "profile", "unknown_profile")
        assert [[line.get(name) for name in names] for line in lines] == [
            [A, "idc", "batch", None],
            [B, "cloud", None, True],
        ]
        assert [
            service.sample("extproc_tier_requests_total", pool="pool", tier=t) for t in ("idc", "cloud")
        ] == [1, 1]
        assert service.sample("extproc_unknown_profiles_total", pool="pool") == 1


async def test_an_autoscaler_sees_which_tiers_are_open_and_which_endpoints_may_go() -> None:
    async with serving(TIERED) as (service, _):
        told = []
        for waiting in (0, 9):
            service.endpoint(A).observe(EngineMetrics(waiting=waiting, running=0), float("inf"))
            service.endpoint(B).observe(EngineMetrics(waiting=0, running=0), float("inf"))
            opened = [service.sample("extproc_tier_open", pool="pool", tier=t) for t in ("idc", "cloud")]
            may_go = [service.sample("extproc_endpoint_drainable", pool="pool", endpoint=e) for e in (A, B)]
            told.append((opened, may_go))
        assert told == [([1, 0], [0, 1]), ([1, 1], [0, 0])]


async def test_pools_without_tiers_have_none_of_their_series() -> None:
    async with serving(TWO) as (service, _):
        assert service.sample("extproc_endpoint_drainable", pool="pool", endpoint=A) is None
        assert service.sample("extproc_endpoint_ready", pool="pool", endpoint=A) == 1


# -- metrics ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (b'{"model":"qwq"}', 200, "qwq qwq-32b pool completed"),
        (b'{"model":"qwq"}', 404, "qwq qwq-32b pool completed"),
        (b'{"model":"qwq"}', 500, "qwq qwq-32b pool upstream_error"),
        (b'{"model":"qwq"}', 503, "qwq qwq-32b pool upstream_error"),
        (b'{"model":"qwq"}', None, "qwq qwq-32b pool aborted"),
        (b'{"model":"invented-by-a-client"}', 200, "other other pool completed"),
    ],
)
async def test_requests_are_counted_by_model_target_pool_and_outcome(
    body: bytes, status: int | None, told: str
) -> None:
    async with serving() as (service, envoy):
        await request(envoy, body, status)
        await service.idle()
        assert service.requests == {told: 1}
        model, target, pool, _ = told.split()
        labels = {"model": model, "target_model": target, "pool": pool}
        assert service.sample("extproc_request_duration_seconds_count", **labels) == 1
        assert service.sample("extproc_decision_duration_seconds_count") == 1
        assert service.sample("extproc_decision_duration_seconds_bucket", le="1e-05") is not None
        headers = service.sample("extproc_time_to_response_headers_seconds_count", **labels)
        assert headers == (0 if status is None else 1)
        headers_s = service.sample("extproc_time_to_response_headers_seconds_sum", **labels)
        lived_s = service.sample("extproc_request_duration_seconds_sum", **labels)
        assert headers_s is not None
        assert lived_s is not None
        assert headers_s < lived_s


async def test_names_that_clients_invent_make_no_new_series() -> None:
    async with serving() as (service, envoy):
        for number in range(5):
            await request(envoy, b'{"model":"m%d"}' % number)
        await service.idle()
        assert service.requests == {"other other pool completed": 5}


async def test_open_streams_and_requests_in_flight_are_shown_while_they_last() -> None:
    async with serving() as (service, envoy):
        stream = envoy.stream()
        await stream.request_headers({":method": "GET", ":path": "/"}, end=True)
        await stream.reply()
        assert service.sample("extproc_streams_in_flight") == 1
        assert service.sample("extproc_endpoint_in_flight", pool="pool", endpoint=A) == 1
        assert service.sample("extproc_endpoint_in_flight", pool="other", endpoint=B) == 0
        await stream.end()
        await service.idle()
        assert service.sample("extproc_streams_in_flight") == 0
        assert service.sample("extproc_endpoint_in_flight", pool="pool", endpoint=A) == 0


TRIES = 50
"""One of so many streams ends within 10 ms, however the machine stutters."""


async def test_counts_are_exact_until_envoy_closes_streams_of_answers_that_go_on() -> None:
    async with serving() as (service, envoy):
        assert service.telemetry.counts_are_exact()
        for _ in range(TRIES):
            stream = envoy.stream()
            await stream.request_headers({":method": "GET", ":path": "/"}, end=True)
            await stream.reply()
            await stream.response_headers(200, {"content-type": "text/event-stream"})
            await stream.reply()
            await stream.end()
            await service.idle()
            for _, endpoint in service.fleet.endpoints():
                endpoint.expire(math.inf)  # as a scrape would have it
            if not service.telemetry.counts_are_exact():
                return
        pytest.fail("no stream counts as closed early")


async def test_a_target_without_endpoints_gives_its_share_away_and_that_is_counted() -> None:
    config = CONFIG.replace(
        "[{model: qwq-32b}]",
        "[{model: gone, weight: 9999, labels: {version: v9}}, {model: qwq-32b, weight: 1}]",
    )
    async with serving(config) as (service, envoy):
        await request(envoy)
        await service.idle()
        assert service.requests == {"qwq qwq-32b pool completed": 1}
        assert service.sample("extproc_target_fallbacks_total", model="qwq", pool="pool") == 1


# -- hostile headers ----------------------------------------------------------------------------------------

BOMB = {f"x-{number}": "v" * 100 for number in range(20_000)}
HOSTILE: list[dict[str, str | bytes]] = [
    {"x-request-id": b"\x00\xff\n\x1b[31m", "x-user-id": b"\xff\xfe"},
    {"x-request-id": "r" * 100_000},
    {"x-user-id": "u" * 100_000},
    {**BOMB},
    {"content-length": "-5"},
    {"content-type": b"\xff\x00"},
    {"": "", " ": " ", ":status": "200"},
]


@pytest.mark.parametrize("headers", HOSTILE, ids=range(len(HOSTILE)))
async def test_hostile_headers_are_passed_on_unharmed(headers: dict[str, str | bytes]) -> None:
    async with serving() as (service, envoy):
        await request(envoy, headers=headers)
        assert service.sample("extproc_internal_errors_total") == 0
        line = await the_line(service)
        assert line["outcome"] == "completed"
        assert len(str(line)) < 1000


HOSTILE_PATHS = [
    b"/v1/chat/completions\x00",
    b"/\xff\xfe",
    b"",
    b"/" * 100_000,
    b"/v1/x?" + b"a" * 50_000,
]


@pytest.mark.parametrize("path", HOSTILE_PATHS, ids=range(len(HOSTILE_PATHS)))
async def test_hostile_paths_are_passed_on_and_cut_in_the_log(path: bytes) -> None:
    async with serving() as (service, envoy):
        stream = envoy.stream()
        await stream.request_headers({":method": b"\x00" * 1000, ":path": path}, end=True)
        assert await stream.reply() == routed_headers()
        await stream.end()
        line = await the_line(service)
        assert line["path"] == path.partition(b"?")[0].decode("latin-1")[:256]
        assert len(str(line)) < 3000


@pytest.mark.parametrize("status", ["", "abc", "20", "2000", "-20", "²00"])
async def test_a_status_that_is_none_is_no_crash(status: str) -> None:
    async with serving() as (service, envoy):
        stream = envoy.stream()
        await stream.request_headers({":method": "GET", ":path": "/"}, end=True)
        await stream.reply()
        await stream.response_headers(200, {":status": status})
        assert await stream.reply() == RESPONSE_HEADERS_GO
        await stream.end()
        await service.idle()
        assert service.requests == {"none none pool completed": 1}


async def test_a_deeply_nested_body_is_read_without_recursion() -> None:
    body = b'{"x":' + b"[" * 200_000 + b"]" * 200_000 + b',"model":"qwq"}'
    async with serving() as (_, envoy):
        stream = envoy.stream(BodyMode.BUFFERED)
        await stream.request_headers(CHAT)
        await stream.reply()
        await stream.request_body(body)
        expected = body.replace(b"qwq", b"qwq-32b")
        assert await stream.reply() == routed_body("qwq", "qwq-32b", body=expected)
        await stream.end()
