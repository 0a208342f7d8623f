"""Plays Envoy to the service where answers are read."""

from __future__ import annotations

from typing import Any

from envoy.extensions.filters.http.ext_proc.v3.processing_mode_pb2 import ProcessingMode
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from envoy_peer import EnvoyPeer, EnvoyStream
from ext_proc_service import CHAT, Service

from extproc.protocol.messages import BodyMode

POOLS = """
pools: [{name: pool, endpoints: ["127.0.0.1:8001"]}]
models: [{name: qwq, pool: pool, targets: [{model: qwq-32b}]}, {name: same, pool: pool}]
default_pool: pool
"""
READS = POOLS + "responses: {}\n"
RESTORES = POOLS + "responses: {restore_model: true}\n"
NONE, STREAMED, DUPLEX = BodyMode.NONE, BodyMode.STREAMED, BodyMode.FULL_DUPLEX_STREAMED
WHOLE, PARTIAL = BodyMode.BUFFERED, BodyMode.BUFFERED_PARTIAL
EVENTS, JSON = {"content-type": "text/event-stream; charset=utf-8"}, {"content-type": "application/json"}
SERVED = {"model": "qwq", "target_model": "qwq-32b", "pool": "pool"}

ONE = b'data: {"model":"qwq-32b","choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
TWO = (
    b'data: {"model":"qwq-32b","choices":[{"index":0,"delta":{"content":"b"},"finish_reason":"length"}]}\n\n'
)
USAGE = (
    b'data: {"model":"qwq-32b","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9,'
    b'"prompt_tokens_details":{"cached_tokens":4}}}\n\n'
)
DONE = b"data: [DONE]\n\n"
WHOLE_ANSWER = (
    b'{"model":"qwq-32b","choices":[{"index":0,"message":{"content":"ab"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9}}'
)
GO_ON = pb.ProcessingResponse(response_body=pb.BodyResponse())
TRAILERS_GO = pb.ProcessingResponse(response_trailers=pb.TrailersResponse())


def renamed(body: bytes) -> bytes:
    return body.replace(b'"qwq-32b"', b'"qwq"')


def replaced(body: bytes) -> pb.ProcessingResponse:
    common = pb.CommonResponse(body_mutation=pb.BodyMutation(body=body))
    return pb.ProcessingResponse(response_body=pb.BodyResponse(response=common))


def asked(*removed: str, request_mode: BodyMode = BodyMode.BUFFERED) -> pb.ProcessingResponse:
    """The answer to response headers that has Envoy send their body."""
    reply = pb.ProcessingResponse(response_headers=pb.HeadersResponse(response=pb.CommonResponse()))
    if removed:
        reply.response_headers.response.header_mutation.remove_headers.extend(removed)
    mode = reply.mode_override
    mode.request_body_mode, mode.response_body_mode = int(request_mode), ProcessingMode.STREAMED
    mode.response_header_mode = mode.request_trailer_mode = mode.response_trailer_mode = ProcessingMode.SEND
    return reply


async def routed(
    envoy: EnvoyPeer, mode: BodyMode = NONE, model: str = "qwq", **headers: str
) -> tuple[EnvoyStream, pb.ProcessingResponse]:
    """(a stream whose request was sent on, the answer that did it)."""
    stream = envoy.stream(BodyMode.BUFFERED, mode)
    await stream.request_headers({**CHAT, **{name.replace("_", "-"): v for name, v in headers.items()}})
    await stream.reply()
    await stream.request_body(b'{"model":"%b"}' % model.encode())
    return stream, await stream.reply()


async def begun(envoy: EnvoyPeer, mode: BodyMode = NONE, model: str = "qwq") -> EnvoyStream:
    """A stream whose answer, events, is read."""
    stream, _ = await routed(envoy, mode, model)
    await stream.response_headers(200, EVENTS)
    reply = await stream.reply()
    assert reply.WhichOneof("response") == "response_headers"
    return stream


async def told(stream: EnvoyStream) -> tuple[pb.ProcessingResponse, dict[str, Any]]:
    """(the next answer without its metadata, that metadata of ours)."""
    reply = await stream.reply()
    facts = {
        key: value.string_value or value.number_value
        for key, value in reply.dynamic_metadata.fields["extproc"].struct_value.fields.items()
    }
    reply.ClearField("dynamic_metadata")
    if reply.HasField("response_body") and reply.response_body.response == pb.CommonResponse():
        reply.response_body.ClearField("response")
    return reply, facts


async def line_of(service: Service) -> dict[str, Any]:
    """The only log line: what it says of the answer."""
    (line,) = await service.log_lines()
    names = ("answer", "prompt_tokens", "cached_tokens", "completion_tokens", "finish_reason")
    times = {name for name in ("ttft_ms", "time_per_token_ms") if line.get(name, -1) >= 0}
    return {name: line[name] for name in names if name in line} | ({"times": times} if times else {})


def read(service: Service) -> dict[str, float]:
    """extproc_answers_read_total by result."""
    (family,) = service.metrics.answers.read.collect()
    return {s.labels["result"]: s.value for s in family.samples if s.name.endswith("_total")}
