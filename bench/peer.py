"""Plays Envoy on gRPC: whole conversations as fast as they are answered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import grpc
from envoy.config.core.v3 import base_pb2 as core
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from grpc import aio

from extproc.server import SERVICE_NAME

BUFFERED = 2
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


def chat(size_bytes: int) -> bytes:
    """A chat request of about this size: one long user message, as agents send them."""
    request = {
        "model": "qwq",
        "messages": [{"role": "system", "content": "You are helpful."}, {"role": "user", "content": ""}],
        "stream": True,
        "temperature": 0.7,
    }
    request["messages"][1]["content"] = "x" * (size_bytes - len(json.dumps(request)))  # type: ignore[index]
    return json.dumps(request).encode()


def conversation(body: bytes) -> list[bytes]:
    """What Envoy sends for one buffered request with *body*, serialised."""
    headers = {**REQUEST_HEADERS, "content-length": str(len(body))}
    begin = pb.ProcessingRequest(request_headers=_headers(headers))
    begin.protocol_config.request_body_mode = BUFFERED
    whole = pb.ProcessingRequest(request_body=pb.HttpBody(body=body, end_of_stream=True))
    answer = pb.ProcessingRequest(response_headers=_headers(RESPONSE_HEADERS))
    served = answer.attributes["envoy.filters.http.ext_proc"].fields["upstream.address"]
    served.string_value = "127.0.0.1:8001"
    return [message.SerializeToString() for message in (begin, whole, answer)]


def _headers(values: dict[str, str]) -> pb.HttpHeaders:
    headers = [core.HeaderValue(key=name, raw_value=value.encode()) for name, value in values.items()]
    return pb.HttpHeaders(headers=core.HeaderMap(headers=headers))


def channel(port: int) -> aio.Channel:
    return aio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.max_send_message_length", -1)])


def open_stream(peer: aio.Channel) -> aio.StreamStreamCall[bytes, bytes]:
    """One ext_proc stream; messages are bytes both ways."""
    return peer.stream_stream(f"/{SERVICE_NAME}/Process")()


async def converse(peer: aio.Channel, messages: Sequence[bytes]) -> None:
    """One request from its headers to its end."""
    stream = open_stream(peer)
    for message in messages:
        await stream.write(message)
        if await stream.read() is grpc.aio.EOF:
            raise RuntimeError("the server closed the stream")
    await stream.done_writing()
    await stream.read()


async def drive(port: int, messages: Sequence[bytes], count: int) -> None:
    """*count* conversations, AT_ONCE at a time."""
    async with channel(port) as peer:
        todo = iter(range(count))

        async def worker() -> None:
            for _ in todo:
                await converse(peer, messages)

        await asyncio.gather(*[worker() for _ in range(AT_ONCE)])
