"""The spans of a request, as a collector gets them, and the `traceparent` that its model server gets."""

from __future__ import annotations

import asyncio
import time

import pytest
from collector import attributes
from ext_proc_service import CHAT, CONFIG, A, refused
from opentelemetry.proto.trace.v1.trace_pb2 import (
    SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK,
    SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK,
    Span,
    Status,
)
from otlp_talk import SAMPLED, SPAN_ID, TRACE_ID, UNSAMPLED, answered, ids, named, routed, told, traced
from queue_talk import config as queueing
from queue_talk import hold, scrape

from extproc.otlp import genai
from extproc.protocol.messages import BodyMode

REQUEST, DECIDE, QUEUE = "extproc.request", "extproc.decide", "extproc.queue"
ALWAYS = {"OTEL_TRACES_SAMPLER": "always_on"}
RATIO_0 = {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}
PARENT_RATIO_0 = {**RATIO_0, "OTEL_TRACES_SAMPLER": "parentbased_traceidratio"}

DETAILED = """
pools:
- name: pool
  profile: p
  fallback_endpoints: 1
  metrics: {engine: sglang, max_age_s: 3600}
  endpoints:
  - {address: "127.0.0.1:8001", labels: {tier: idc}}
  - {address: "127.0.0.1:8002", labels: {tier: idc}}
  tiers: [{name: idc, labels: {tier: idc}}]
profiles: [{name: p, scorers: [{type: queue, weight: 1}]}]
models: [{name: m, pool: pool, criticality: Critical}]
responses: {percent: 100}
"""


# -- what is told -------------------------------------------------------------------------------------------------


async def test_a_request_is_a_span_with_its_decision_below_it() -> None:
    begun = time.time_ns()
    async with traced() as (_, envoy, collector):
        headers = {
            "traceparent": SAMPLED,
            "tracestate": "a=1,b=2",
            "x-request-id": "r-1",
            ":path": "/v1/chat/completions?key=secret",
        }
        stream, _, _ = await routed(envoy, headers)
        await answered(stream)
    request, decide = named(collector.spans, REQUEST), named(collector.spans, DECIDE)
    assert len(collector.spans) == 2
    assert told(request) == {
        "http.request.method": "POST",
        "url.path": "/v1/chat/completions",
        "http.response.status_code": 200,
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": "qwq",
        "gen_ai.response.model": "qwq-32b",
        "server.address": "127.0.0.1",
        "server.port": 8001,
        "extproc.candidates": 1,
        "extproc.criticality": "Standard",
        "extproc.outcome": "completed",
        "extproc.pool": "pool",
        "extproc.request_id": "r-1",
        "extproc.served": A,
    }
    assert told(decide) == {"extproc.candidates": 1, "extproc.profile": "default"}
    assert (request.kind, decide.kind) == (Span.SPAN_KIND_SERVER, Span.SPAN_KIND_INTERNAL)
    assert (request.status, request.trace_state) == (Status(), "a=1,b=2")
    (event,) = request.events
    assert (event.name, attributes(event.attributes)) == (
        "response headers",
        {"http.response.status_code": 200},
    )
    times = [
        begun,
        request.start_time_unix_nano,
        decide.start_time_unix_nano,
        decide.end_time_unix_nano,
        event.time_unix_nano,
        request.end_time_unix_nano,
        time.time_ns(),
    ]
    assert times == sorted(times)


async def test_the_decision_and_the_answer_in_detail() -> None:
    async with traced(DETAILED, ALWAYS) as (service, envoy, collector):
        for address in (A, "127.0.0.1:8002"):
            scrape(service, 0 if address == A else 1, address)
        stream = envoy.stream(BodyMode.BUFFERED, BodyMode.STREAMED)
        await stream.request_headers(CHAT)
        await stream.reply()
        await stream.request_body(b'{"model":"m"}')
        await stream.reply()
        await stream.response_headers(200, {"content-type": "text/event-stream"})
        await stream.reply()
        text = (
            b'data: {"choices":[{"delta":{"content":"Hi"},"finish_reason":"stop"}],'
            b'"usage":{"prompt_tokens":7,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":4}}}\n\n'
            b"data: [DONE]\n\n"
        )
        await stream.response_body(text, end=True)
        await stream.reply()
        await stream.end()
    request, decide = named(collector.spans, REQUEST), named(collector.spans, DECIDE)
    found = told(request)
    ttft_s = found.pop("gen_ai.response.time_to_first_chunk")
    assert [event.name for event in request.events] == ["response headers", "first token"]
    since_ns = request.events[1].time_unix_nano - request.start_time_unix_nano
    assert abs(since_ns - ttft_s * 1e9) < 10_000
    assert found == {
        "http.request.method": "POST",
        "url.path": "/v1/chat/completions",
        "http.response.status_code": 200,
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "sglang",
        "gen_ai.request.model": "m",
        "gen_ai.response.model": "m",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.usage.cache_read.input_tokens": 4,
        "server.address": "127.0.0.1",
        "server.port": 8001,
        "extproc.candidates": 2,
        "extproc.criticality": "Critical",
        "extproc.fallbacks": ["127.0.0.1:8002"],
        "extproc.outcome": "completed",
        "extproc.pool": "pool",
        "extproc.profile": "p",
        "extproc.tier": "idc",
    }
    assert told(decide) == {"extproc.candidates": 2, "extproc.profile": "p", "extproc.score.queue": 1.0}


async def test_a_held_request_has_a_span_of_its_wait() -> None:
    async with traced(queueing(), ALWAYS) as (service, envoy, collector):
        scrape(service, 1)
        stream = await hold(service, envoy)
        scrape(service, 0)
        await stream.reply()
        await answered(stream)
    request, decide, queue = (named(collector.spans, name) for name in (REQUEST, DECIDE, QUEUE))
    assert told(queue) == {"extproc.queue.result": "dispatched"}
    assert {decide.parent_span_id, queue.parent_span_id} == {request.span_id}
    assert decide.end_time_unix_nano == queue.start_time_unix_nano < queue.end_time_unix_nano


async def test_a_client_that_left_while_it_was_held_is_told_so() -> None:
    async with traced(queueing(), ALWAYS) as (service, envoy, collector):
        scrape(service, 1)
        stream = await hold(service, envoy)
        stream.cancel()
        await service.idle()
    assert told(named(collector.spans, QUEUE)) == {"extproc.queue.result": "gone"}
    assert told(named(collector.spans, REQUEST))["extproc.outcome"] == "aborted"


async def test_a_refusal_for_the_clients_fault_is_no_error() -> None:
    async with traced(env=ALWAYS) as (_, envoy, collector):
        stream = envoy.stream()
        await stream.request_headers(CHAT)
        await stream.reply()
        await stream.request_body(b"{")
        await stream.reply()
        await stream.closed()
    (request,) = collector.spans
    assert request.status == Status()
    assert told(request) == {
        "http.request.method": "POST",
        "url.path": "/v1/chat/completions",
        "http.response.status_code": 400,
        "gen_ai.operation.name": "chat",
        "extproc.outcome": "invalid_json",
    }


async def test_a_refusal_for_our_fault_is_an_error() -> None:
    async with traced("pools: [{name: pool, endpoints: []}]", ALWAYS) as (_, envoy, collector):
        stream = envoy.stream()
        await stream.request_headers(CHAT)
        await stream.reply()
        await stream.request_body(b'{"model":"m"}')
        message = "No endpoint of pool `pool` is ready to take the request."
        assert await stream.reply() == refused("no_endpoints", 503, "service_unavailable_error", message)
        await stream.closed()
    (request,) = collector.spans
    assert request.status == Status(code=Status.STATUS_CODE_ERROR, message="no_endpoints")
    assert told(request)["error.type"] == told(request)["extproc.outcome"] == "no_endpoints"


async def test_a_5xx_of_the_model_server_is_an_error() -> None:
    async with traced(env=ALWAYS) as (_, envoy, collector):
        stream, _, _ = await routed(envoy)
        await answered(stream, 503)
    request = named(collector.spans, REQUEST)
    assert request.status == Status(code=Status.STATUS_CODE_ERROR, message="503")
    assert (told(request)["error.type"], told(request)["extproc.outcome"]) == ("503", "upstream_error")


async def test_what_envoy_must_not_send_is_an_error() -> None:
    async with traced(env=ALWAYS) as (_, envoy, collector):
        stream, _, _ = await routed(envoy)
        await stream.request_body(b"{}")
        await stream.failure()
    found = told(named(collector.spans, REQUEST))
    assert (found["error.type"], found["extproc.outcome"]) == ("protocol_error", "protocol_error")


@pytest.mark.parametrize(
    ("path", "operation"),
    [
        ("/v1/chat/completions", "chat"),
        ("/v1/chat/completions/", "chat"),
        ("/v1/chat/completions?x=/v1/embeddings", "chat"),
        ("/v1/completions", "text_completion"),
        ("/v1/embeddings", "embeddings"),
        ("/v1/models", None),
    ],
)
def test_an_operation_is_named_by_the_end_of_the_path(path: str, operation: str | None) -> None:
    assert genai.operation(path) == operation


async def test_what_clients_write_is_bounded() -> None:
    async with traced(env=ALWAYS) as (_, envoy, collector):
        headers = {
            "x-request-id": "i" * 5000,
            ":path": f"/{'p' * 5000}/v1/chat/completions",
            "content-type": "application/json",
        }
        stream = envoy.stream()
        await stream.request_headers({**CHAT, **headers})
        await stream.reply()
        await stream.request_body(b'{"model":"qwq"}')
        await stream.reply()
        await stream.end()
    found = told(named(collector.spans, REQUEST))
    assert (len(found["extproc.request_id"]), len(found["url.path"])) == (256, 256)


@pytest.mark.parametrize(("members", "told_of"), [(15, 15), (25, 0)])
async def test_so_is_what_tracers_before_us_wrote(members: int, told_of: int) -> None:
    state = ",".join(f"k{number:02}={'1' * 200}" for number in range(members))
    async with traced() as (_, envoy, collector):
        stream, _, _ = await routed(envoy, {"traceparent": SAMPLED, "tracestate": state})
        await answered(stream)
    assert named(collector.spans, REQUEST).trace_state.count("=") == told_of


async def test_a_status_that_is_none_is_not_told() -> None:
    async with traced(env=ALWAYS) as (_, envoy, collector):
        stream, _, _ = await routed(envoy)
        await stream.response_headers(200, {":status": "abc"})
        await stream.reply()
        await stream.end()
    assert "http.response.status_code" not in told(named(collector.spans, REQUEST))


async def test_the_address_of_an_ipv6_server_has_no_brackets() -> None:
    config = CONFIG.replace(A, "[::1]:8001")
    async with traced(config, env=ALWAYS) as (_, envoy, collector):
        stream, _, _ = await routed(envoy)
        await answered(stream)
    found = told(named(collector.spans, REQUEST))
    assert (found["server.address"], found["server.port"]) == ("::1", 8001)


async def test_an_observed_request_ends_when_it_was_answered() -> None:
    """Envoy closes its stream some seconds late, and does nothing that we tell it."""
    async with traced(env=ALWAYS) as (_, envoy, collector):
        stream = envoy.observed()
        await stream.request_headers(CHAT)
        await stream.request_body(b'{"model":"qwq"}')
        await stream.response_headers(200, attributes={"upstream.address": A})
        await asyncio.sleep(0.05)
        await stream.end()
    request = named(collector.spans, REQUEST)
    assert request.end_time_unix_nano == request.events[0].time_unix_nano
    assert told(request)["extproc.outcome"] == "observed"
    assert ids(request)[1] == ""


async def test_an_observed_request_of_which_no_body_comes_has_the_model_of_its_headers() -> None:
    trusting = CONFIG + "trusted_headers: [x-gateway-model-name]\n"
    async with traced(trusting, env=ALWAYS) as (_, envoy, collector):
        stream = envoy.observed()
        await stream.request_headers({**CHAT, "x-gateway-model-name": "qwq"})
        await stream.response_headers(200)
        await stream.end()
    assert told(named(collector.spans, REQUEST))["gen_ai.request.model"] == "qwq"


# -- whose trace it is --------------------------------------------------------------------------------------------


PARENT_IS_REMOTE = SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK | SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK


async def test_the_clients_context_is_the_parent_and_goes_on_as_it_came() -> None:
    async with traced() as (_, envoy, collector):
        stream, headers, removed = await routed(envoy, {"traceparent": SAMPLED, "tracestate": "a=1"})
        await answered(stream)
    assert ids(named(collector.spans, REQUEST)) == (TRACE_ID, SPAN_ID)
    assert named(collector.spans, REQUEST).flags & PARENT_IS_REMOTE == PARENT_IS_REMOTE
    assert ids(named(collector.spans, DECIDE)) == (TRACE_ID, named(collector.spans, REQUEST).span_id.hex())
    assert ("traceparent" in headers, removed) == (False, [])


@pytest.mark.parametrize("sent", [None, "00-nonsense", f"{SAMPLED},{SAMPLED}"])
async def test_where_a_trace_begins_the_model_server_gets_ours(sent: str | None) -> None:
    async with traced() as (_, envoy, collector):
        came = {"traceparent": sent, "tracestate": "another=1"} if sent else {}
        stream, headers, removed = await routed(envoy, came)
        await answered(stream)
    request = named(collector.spans, REQUEST)
    assert headers["traceparent"] == f"00-{request.trace_id.hex()}-{request.span_id.hex()}-01"
    assert (request.parent_span_id, request.trace_state) == (b"", "")
    assert removed == (["tracestate"] if sent else [])


async def test_what_envoy_says_of_its_own_span_comes_before_what_the_client_says() -> None:
    """Envoy calls us below a span of its own where it traces; that call's metadata names it."""
    ours = f"00-{TRACE_ID}-00000000000000aa-01"
    async with traced() as (_, envoy, collector):
        stream = envoy.stream(metadata={"traceparent": ours})
        await stream.request_headers({**CHAT, "traceparent": SAMPLED})
        await stream.reply()
        await stream.request_body(b'{"model":"qwq"}')
        mutation = (await stream.reply()).request_body.response.header_mutation
        await answered(stream)
    assert ids(named(collector.spans, REQUEST)) == (TRACE_ID, "00000000000000aa")
    assert "traceparent" not in {option.header.key for option in mutation.set_headers}


async def test_below_envoys_span_a_model_server_whose_client_traces_nothing_gets_ours() -> None:
    async with traced() as (_, envoy, collector):
        stream = envoy.stream(metadata={"traceparent": SAMPLED})
        await stream.request_headers(CHAT)
        await stream.reply()
        await stream.request_body(b'{"model":"qwq"}')
        mutation = (await stream.reply()).request_body.response.header_mutation
        await answered(stream)
    request = named(collector.spans, REQUEST)
    told_on = {option.header.key: option.header.raw_value.decode() for option in mutation.set_headers}
    assert told_on["traceparent"] == f"00-{TRACE_ID}-{request.span_id.hex()}-01"


async def test_ids_are_drawn_of_128_and_64_bits() -> None:
    async with traced() as (_, envoy, collector):
        stream, _, _ = await routed(envoy)
        await answered(stream)
    request = named(collector.spans, REQUEST)
    assert (len(request.trace_id), len(request.span_id)) == (16, 8)
    assert request.trace_id[:8] != bytes(8)


@pytest.mark.parametrize(
    ("env", "sent", "is_told"),
    [
        ({}, None, True),
        ({}, SAMPLED, True),
        ({}, UNSAMPLED, False),
        ({"OTEL_TRACES_SAMPLER": "always_off"}, SAMPLED, False),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, None, False),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, SAMPLED, True),
        (ALWAYS, UNSAMPLED, True),
        (PARENT_RATIO_0, None, False),
        (PARENT_RATIO_0, SAMPLED, True),
        (RATIO_0, SAMPLED, False),
    ],
)
async def test_who_is_traced(env: dict[str, str], sent: str | None, is_told: bool) -> None:
    async with traced(env=env) as (_, envoy, collector):
        stream, headers, _ = await routed(envoy, {"traceparent": sent} if sent else {})
        await answered(stream)
    assert bool(collector.spans) is is_told
    assert ("traceparent" in headers) is (is_told and sent is None)


async def test_a_share_of_the_requests_is_traced() -> None:
    env = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.5"}
    async with traced(env=env) as (_, envoy, collector):
        with_header = 0
        for _ in range(60):
            stream, headers, _ = await routed(envoy)
            with_header += "traceparent" in headers
            await answered(stream)
    assert with_header == sum(span.name == REQUEST for span in collector.spans)
    assert 5 < with_header < 55  # by chance 1 in 10¹¹ outside
