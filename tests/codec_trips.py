"""Messages through the codec and back, as they come and go on the wire."""

from __future__ import annotations

from typing import Any

from envoy.config.core.v3 import base_pb2 as core
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb

from extproc.protocol import codec
from extproc.protocol.messages import Message, Reply


def headers(*values: core.HeaderValue, end: bool = False) -> pb.HttpHeaders:
    return pb.HttpHeaders(headers=core.HeaderMap(headers=values), end_of_stream=end)


def raw(key: str, value: bytes) -> core.HeaderValue:
    return core.HeaderValue(key=key, raw_value=value)


def decoded(message: pb.ProcessingRequest) -> Message:
    """*message* after a trip over the wire."""
    return codec.decode(codec.parse(message.SerializeToString()))


def encoded(reply: Reply) -> pb.ProcessingResponse:
    return pb.ProcessingResponse.FromString(codec.encode(reply))


def parsed(**fields: Any) -> codec.Request:
    return codec.parse(pb.ProcessingRequest(**fields).SerializeToString())
