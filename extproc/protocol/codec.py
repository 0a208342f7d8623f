"""Envoy's protobuf messages to protocol messages, and replies back to bytes.

The only module of the hot path that knows protobuf.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from envoy.config.core.v3 import base_pb2 as core
from envoy.extensions.filters.http.ext_proc.v3.processing_mode_pb2 import ProcessingMode
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Struct as ProtoStruct
from msgspec import Struct

from . import wire
from .messages import (
    BodyMode,
    BodyReply,
    Headers,
    HeadersReply,
    ImmediateReply,
    Message,
    Metadata,
    ModeOverride,
    Mutation,
    Pairs,
    Phase,
    Piece,
    ProtocolError,
    Reply,
    RequestBody,
    RequestHeaders,
    RequestTrailers,
    ResponseBody,
    ResponseHeaders,
    ResponseTrailers,
    TrailersReply,
)

ATTRIBUTES_KEY = "envoy.filters.http.ext_proc"
"""Attributes come under this key whatever the filter is called in the chain."""


class Request(Struct, frozen=True):
    """A ProcessingRequest; a large body is beside the protobuf message and not in it."""

    message: pb.ProcessingRequest
    large: wire.LargeBody | None = None


def parse(data: bytes) -> Request:
    """One ProcessingRequest; raises ProtocolError where *data* is none."""
    large = wire.take_body(data) if len(data) > wire.LARGE_BYTES else None
    try:
        return Request(pb.ProcessingRequest.FromString(data if large is None else large.rest), large)
    except DecodeError:
        raise ProtocolError("not a ProcessingRequest") from None


def body_modes(first: Request) -> tuple[BodyMode, BodyMode]:
    """(request, response) body modes, which Envoy tells in the first message only."""
    if not first.message.HasField("protocol_config"):
        return BodyMode.BUFFERED, BodyMode.NONE  # Envoys before 1.34 do not tell
    config = first.message.protocol_config
    try:
        return BodyMode(config.request_body_mode), BodyMode(config.response_body_mode)
    except ValueError as error:
        raise ProtocolError(f"unknown body mode: {error}") from None


def is_observed(first: Request) -> bool:
    """Observability mode: Envoy waits for no answer, and reads none.  It tells no body modes then."""
    return bool(first.message.observability_mode)


def sends_ahead(first: Request) -> bool:
    """Whether bodies are sent before their headers are answered; Envoy honours no mode override then."""
    return bool(first.message.protocol_config.send_body_without_waiting_for_header_response)


def decode(request: Request) -> Message:
    """The protocol message in *request*; raises ProtocolError where it holds none that is known."""
    large, message = request.large, request.message
    if large is not None:
        kind_of_body = RequestBody if large.phase is Phase.REQUEST else ResponseBody
        return kind_of_body(large.data, large.end_of_stream)
    kind = message.WhichOneof("request")
    match kind:
        case "request_headers":
            part = message.request_headers
            return RequestHeaders(_headers(part.headers), part.end_of_stream)
        case "request_body":
            return RequestBody(message.request_body.body, message.request_body.end_of_stream)
        case "response_headers":
            part = message.response_headers
            return ResponseHeaders(_headers(part.headers), part.end_of_stream)
        case "response_body":
            return ResponseBody(message.response_body.body, message.response_body.end_of_stream)
        case "request_trailers":
            return RequestTrailers()
        case "response_trailers":
            return ResponseTrailers()
        case _:
            raise ProtocolError("a ProcessingRequest without a request")


def _headers(header_map: core.HeaderMap) -> Headers:
    headers: dict[str, str] = {}
    for header in header_map.headers:
        raw = header.raw_value
        value = raw.decode("latin-1") if raw else header.value
        name = header.key
        if name in headers:
            joint = "; " if name == "cookie" else ", "  # RFC 9113, section 8.2.3
            value = f"{headers[name]}{joint}{value}"
        headers[name] = value
    return headers


def metadata_value(request: Request, namespace: str, key: str) -> str | list[str] | None:
    """One value of the dynamic metadata that Envoy forwarded with *request*; None where it is absent.

    A list keeps its strings; values of another kind are no addresses and count as an empty list.
    """
    if not request.message.HasField("metadata_context"):
        return None
    namespaces = request.message.metadata_context.filter_metadata
    if namespace not in namespaces or key not in namespaces[namespace].fields:
        return None
    value = namespaces[namespace].fields[key]
    if value.HasField("string_value"):
        return str(value.string_value)
    return [item.string_value for item in value.list_value.values if item.HasField("string_value")]


def attribute(request: Request, name: str) -> str | None:
    """One attribute that the filter's `response_attributes` or `request_attributes` asks for."""
    attributes = request.message.attributes
    if ATTRIBUTES_KEY not in attributes:
        return None
    fields = attributes[ATTRIBUTES_KEY].fields
    if name not in fields:
        return None
    value = fields[name]
    return value.string_value if value.HasField("string_value") else f"{value.number_value:.0f}"


def encode(reply: Reply) -> bytes:
    """*reply* as a serialised ProcessingResponse."""
    match reply:
        case HeadersReply(phase, mutation, override):
            return _headers_reply(phase, mutation, override)
        case BodyReply(phase, mutation, replace, streamed, end):
            return _body_reply(phase, mutation, replace, streamed, end)
        case TrailersReply(phase, metadata):
            return _TRAILERS[phase] + _metadata(metadata)
        case ImmediateReply(status, headers, body, details):
            response = pb.ProcessingResponse()
            immediate = response.immediate_response
            immediate.status.code = status
            _set_headers(immediate.headers, headers)
            immediate.body = body
            immediate.details = details
            return _serialised(response)


def _headers_reply(phase: Phase, mutation: Mutation, override: ModeOverride | None) -> bytes:
    if override is None and _is_empty(mutation):
        return _CONTINUE_HEADERS[phase]
    response = pb.ProcessingResponse()
    if override is not None:
        _override(response.mode_override, override)
    part = response.request_headers if phase is Phase.REQUEST else response.response_headers
    _mutate(response, part.response, mutation)
    return _serialised(response)


def _body_reply(
    phase: Phase, mutation: Mutation, replace: Sequence[Piece] | None, streamed: Piece | None, end: bool
) -> bytes:
    if streamed is not None:
        return wire.streamed(phase, streamed, end) + _metadata(mutation.metadata)
    response = _CONTINUE_BODY[phase] if _is_empty(mutation) else _mutated_body(phase, mutation)
    return response if replace is None else wire.with_body(response, phase, replace)


def _mutated_body(phase: Phase, mutation: Mutation) -> bytes:
    response = pb.ProcessingResponse()
    part = response.request_body if phase is Phase.REQUEST else response.response_body
    _mutate(response, part.response, mutation)
    return _serialised(response)


def _metadata(metadata: Metadata) -> bytes:
    """To put behind a serialised reply: a parser merges the two."""
    if not metadata:
        return b""
    response = pb.ProcessingResponse()
    _fill(response.dynamic_metadata, metadata)
    return _serialised(response)


def _serialised(response: pb.ProcessingResponse) -> bytes:
    data: bytes = response.SerializeToString()
    return data


def _is_empty(mutation: Mutation) -> bool:
    return not (
        mutation.set_headers
        or mutation.remove_headers
        or mutation.metadata
        or mutation.clear_route_cache
        or mutation.path is not None
    )


def _mutate(response: pb.ProcessingResponse, common: pb.CommonResponse, mutation: Mutation) -> None:
    common.clear_route_cache = mutation.clear_route_cache
    _set_headers(common.header_mutation, mutation.set_headers)
    if mutation.path is not None:
        _set_headers(common.header_mutation, ((":path", ""),))
        common.header_mutation.set_headers[-1].header.raw_value = mutation.path.encode("latin-1")
    if mutation.remove_headers:
        common.header_mutation.remove_headers.extend(mutation.remove_headers)
    if mutation.metadata:
        _fill(response.dynamic_metadata, mutation.metadata)


def _set_headers(mutation: pb.HeaderMutation, headers: Pairs) -> None:
    for name, value in headers:
        option = mutation.set_headers.add()
        option.append_action = core.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
        option.header.key = name
        option.header.raw_value = value.encode("utf-8", "replace")


def _override(mode: ProcessingMode, override: ModeOverride) -> None:
    mode.request_body_mode = override.request_body
    mode.response_body_mode = override.response_body
    mode.response_header_mode = ProcessingMode.SEND
    mode.request_trailer_mode = mode.response_trailer_mode = ProcessingMode.SEND


def _fill(struct: ProtoStruct, values: Metadata) -> None:
    """Fill in place: ProtoStruct.update costs three times as much."""
    for namespace, fields in values.items():
        inner = struct.fields[namespace].struct_value
        for key, value in fields.items():
            if isinstance(value, str):
                inner.fields[key].string_value = value
            else:
                inner.fields[key].number_value = value


def _constants(field: str, phases: Iterable[Phase] = Phase) -> dict[Phase, bytes]:
    """The reply that changes nothing, serialised once.  SetInParent: an unset oneof is a spurious message."""
    replies = {}
    for phase in phases:
        response = pb.ProcessingResponse()
        getattr(response, f"{phase.value}_{field}").SetInParent()
        replies[phase] = _serialised(response)
    return replies


_CONTINUE_HEADERS = _constants("headers")
_CONTINUE_BODY = _constants("body")
_TRAILERS = _constants("trailers")
