"""Plays Envoy's ext_proc filter against a real port, with a real gRPC client."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

import grpc
from envoy.config.core.v3 import base_pb2 as core
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from google.protobuf import struct_pb2
from grpc import aio
from grpc.aio import EOF  # type: ignore[attr-defined]

from extproc.protocol.messages import BodyMode

BOUND_S = 20.0
"""How long a test waits for what must happen."""
PROCESS = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
# A 32 MiB body is one message, as it is between a real Envoy and us.
OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
ATTRIBUTES = "envoy.filters.http.ext_proc"

Values = Mapping[str, Any]


class EnvoyPeer:
    """An Envoy: one HTTP/2 connection, a stream for each HTTP request.  `async with` closes it."""

    def __init__(self, port: int) -> None:
        self._channel: Any = aio.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS)
        self._process: Any = self._channel.stream_stream(
            PROCESS, request_serializer=_serialise, response_deserializer=pb.ProcessingResponse.FromString
        )

    async def __aenter__(self) -> EnvoyPeer:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.vanish()

    def stream(
        self,
        mode: BodyMode | int = BodyMode.BUFFERED,
        response_mode: BodyMode | int = BodyMode.NONE,
        *,
        ahead: bool = False,
        metadata: Mapping[str, str] | None = None,
    ) -> EnvoyStream:
        """The conversation about one HTTP request, with the body modes that Envoy was configured with.

        *metadata*: of the gRPC call.
        """
        config = pb.ProtocolConfiguration(
            request_body_mode=int(mode),
            response_body_mode=int(response_mode),
            send_body_without_waiting_for_header_response=ahead,
        )
        return EnvoyStream(self._process(metadata=tuple((metadata or {}).items())), config)

    def observed(self) -> EnvoyStream:
        """The same in observability mode, in which Envoy 1.40 tells no body modes."""
        return EnvoyStream(self._process(), None, observed=True)

    async def vanish(self) -> None:
        """The connection is gone, with all its streams."""
        await self._channel.close()


def _serialise(message: pb.ProcessingRequest | bytes) -> bytes:
    return message if isinstance(message, bytes) else message.SerializeToString()


class EnvoyStream:
    """Methods that send answer nothing; `reply` takes the next answer."""

    def __init__(self, call: Any, config: pb.ProtocolConfiguration | None, *, observed: bool = False) -> None:
        self._call = call
        self._config = config
        self._observed = observed

    async def request_headers(
        self, headers: Mapping[str, str | bytes], *, end: bool = False, **beside: Any
    ) -> None:
        await self._send(pb.ProcessingRequest(request_headers=_headers(headers, end)), **beside)

    async def request_body(self, body: bytes, *, end: bool = True, **beside: Any) -> None:
        message = pb.ProcessingRequest(request_body=pb.HttpBody(body=body, end_of_stream=end))
        await self._send(message, **beside)

    async def request_trailers(self, **beside: Any) -> None:
        await self._send(pb.ProcessingRequest(request_trailers=pb.HttpTrailers()), **beside)

    async def response_headers(
        self,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        *,
        end: bool = False,
        **beside: Values,
    ) -> None:
        map_ = _headers({":status": str(status), **(headers or {})}, end)
        await self._send(pb.ProcessingRequest(response_headers=map_), **beside)

    async def response_body(self, body: bytes, *, end: bool = False) -> None:
        await self._send(pb.ProcessingRequest(response_body=pb.HttpBody(body=body, end_of_stream=end)))

    async def response_trailers(self) -> None:
        await self._send(pb.ProcessingRequest(response_trailers=pb.HttpTrailers()))

    async def raw(self, data: bytes) -> None:
        """Send bytes that need not be a message."""
        await self._call.write(data)

    async def _send(
        self,
        message: pb.ProcessingRequest,
        metadata: Mapping[str, Values] | None = None,
        attributes: Values | None = None,
    ) -> None:
        if self._config is not None:  # Envoy tells its modes in the first message only
            message.protocol_config.CopyFrom(self._config)
            self._config = None
        message.observability_mode = self._observed
        for namespace, values in (metadata or {}).items():
            message.metadata_context.filter_metadata[namespace].CopyFrom(_struct(values))
        if attributes is not None:
            message.attributes[ATTRIBUTES].CopyFrom(_struct(attributes))
        await self._call.write(message)

    async def reply(self) -> pb.ProcessingResponse:
        """The next answer; fails where the stream ended instead."""
        async with asyncio.timeout(BOUND_S):
            reply = await self._call.read()
        assert reply is not EOF, "the stream ended instead of an answer"
        answer: pb.ProcessingResponse = reply
        return answer

    async def half_close(self) -> None:
        """Envoy says nothing more, and waits for nothing."""
        await self._call.done_writing()

    async def end(self) -> None:
        """The HTTP exchange is over; asserts that nothing more comes, and that the stream ends well."""
        await self._call.done_writing()
        await self.closed()

    async def closed(self) -> None:
        """Asserts that the service ended the stream well, and sent nothing more."""
        async with asyncio.timeout(BOUND_S):
            assert await self._call.read() is EOF
            assert await self._call.code() is grpc.StatusCode.OK

    async def failure(self) -> tuple[grpc.StatusCode, str]:
        """The gRPC error that the stream ends with, whatever it answered before."""
        async with asyncio.timeout(BOUND_S):
            with contextlib.suppress(aio.AioRpcError):
                while await self._call.read() is not EOF:
                    pass
            return await self._call.code(), await self._call.details()

    def cancel(self) -> None:
        """The client is gone: Envoy resets the stream."""
        self._call.cancel()


def _headers(values: Mapping[str, str | bytes], end: bool) -> pb.HttpHeaders:
    headers = [
        core.HeaderValue(key=key, raw_value=value.encode() if isinstance(value, str) else value)
        for key, value in values.items()
    ]
    return pb.HttpHeaders(headers=core.HeaderMap(headers=headers), end_of_stream=end)


def _struct(values: Values) -> struct_pb2.Struct:
    struct = struct_pb2.Struct()
    struct.update(values)
    return struct
