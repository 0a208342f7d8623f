"""Plays Envoy on gRPC: whole conversations as fast as they are answered."""

from __future__ import annotations

import asyncio
import json
from typing import NamedTuple

from envoy.config.core.v3 import base_pb2 as core
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from grpc import aio

from extproc.server import SERVICE_NAME

BUFFERED = 2
ENDPOINTS = [f"127.0.0.1:{8001 + index}" for index in range(5)]
AT_ONCE = 16
"""Streams at a time: enough to keep one process busy."""
REQUEST_HEADERS = {
    ":method": "POST",
    ":path": "/v1/chat/completions",
    ":authority": "llm.example.com",
    ":scheme": "http",
    "content-type": "application/json",
    "accept": "text/event-stream",
    "user-agent": "OpenAI/Python 1.99.1",
    "authorization": "Bearer " + "x" * 40,
    "x-forwarded-for": "10.1.2.3",
    "x-forwarded-proto": "http",
    "x-envoy-external-address": "10.1.2.3",
    "x-request-id": "7b1e2d3c-89ab-4cde-8f01-23456789abcd",
}
RESPONSE_HEADERS = {
    ":status": "200",
    "content-type": "text/event-stream; charset=utf-8",
    "server": "uvicorn",
    "date": "Sun, 22 Nov 2026 00:00:00 GMT",
}
LINE = (
    '    if route is None or not route.mirrors:  # "nobody" gets a copy\n        return None, {"model": 1}\n'
)
"""What prompts are made of: a line in nine has something that JSON escapes."""


def chat(size_bytes: int) -> bytes:
    """A chat request of this size: one long user message, as agents send them, in words and lines."""
    request = {
        "model": "qwq",
        "messages": [{"role": "system", "content": "You are helpful."}, {"role": "user", "content": ""}],
        "stream": True,
        "temperature": 0.7,
    }
    left = size_bytes - len(json.dumps(request))
    text = (LINE * (left // len(LINE) + 1))[: left * len(LINE) // len(json.dumps(LINE)[1:-1])]
    request["messages"][1]["content"] = text  # type: ignore[index]
    return json.dumps(request).encode()


class Conversation(NamedTuple):
    """What Envoy sends for one buffered request, serialised."""

    headers: bytes
    body: bytes
    answers: dict[bytes, bytes]
    """The response headers, by the address that they say served: the one the request was pinned to."""


def conversation(body: bytes) -> Conversation:
    """A chat request with *body*, and its answer by any of ENDPOINTS."""
    headers = {**REQUEST_HEADERS, "content-length": str(len(body))}
    begin = pb.ProcessingRequest(request_headers=_headers(headers))
    begin.protocol_config.request_body_mode = BUFFERED
    whole = pb.ProcessingRequest(request_body=pb.HttpBody(body=body, end_of_stream=True))
    answers = {endpoint.encode(): _answer(endpoint) for endpoint in ENDPOINTS}
    return Conversation(begin.SerializeToString(), whole.SerializeToString(), answers)


def _answer(endpoint: str) -> bytes:
    answer = pb.ProcessingRequest(response_headers=_headers(RESPONSE_HEADERS))
    served = answer.attributes["envoy.filters.http.ext_proc"].fields["upstream.address"]
    served.string_value = endpoint
    return bytes(answer.SerializeToString())


def _headers(values: dict[str, str]) -> pb.HttpHeaders:
    headers = [core.HeaderValue(key=name, raw_value=value.encode()) for name, value in values.items()]
    return pb.HttpHeaders(headers=core.HeaderMap(headers=headers))


def channel(port: int) -> aio.Channel:
    return aio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.max_send_message_length", -1)])


def open_stream(peer: aio.Channel) -> aio.StreamStreamCall[bytes, bytes]:
    """One ext_proc stream; messages are bytes both ways."""
    return peer.stream_stream(f"/{SERVICE_NAME}/Process")()


async def converse(peer: aio.Channel, conversation: Conversation) -> None:
    """One request from its headers to its end."""
    stream = open_stream(peer)
    await begin(stream, conversation)
    await stream.done_writing()
    await stream.read()


async def begin(stream: aio.StreamStreamCall[bytes, bytes], conversation: Conversation) -> None:
    """One request until its answer runs."""
    await _ask(stream, conversation.headers)
    pinned = await _ask(stream, conversation.body)
    served = next(answer for endpoint, answer in conversation.answers.items() if endpoint in pinned)
    await _ask(stream, served)


async def _ask(stream: aio.StreamStreamCall[bytes, bytes], message: bytes) -> bytes:
    await stream.write(message)
    reply = await stream.read()
    if not isinstance(reply, bytes):
        raise RuntimeError(f"the server closed the stream: {await stream.code()}")
    return reply


async def drive(port: int, conversation: Conversation, count: int) -> None:
    """*count* conversations, AT_ONCE at a time."""
    async with channel(port) as peer:
        todo = iter(range(count))

        async def worker() -> None:
            for _ in todo:
                await converse(peer, conversation)

        await asyncio.gather(*[worker() for _ in range(AT_ONCE)])
