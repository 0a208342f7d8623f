"""Envoy's messages: any bytes are one or a ProtocolError; what is taken apart by hand is what protobuf reads."""

from __future__ import annotations

from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from google.protobuf.message import DecodeError

from extproc.protocol import codec, wire
from extproc.protocol.messages import Message, Phase, ProtocolError, RequestBody, ResponseBody

from ..choices import pieces
from ..target import Target

BODIES = {"request_body": Phase.REQUEST, "response_body": Phase.RESPONSE}
PADDING = b"\x7a\x81\x80\x04" + bytes(wire.LARGE_BYTES + 1)
"""An unknown field that makes any message a large one."""


def run(data: bytes) -> None:
    _take(data)
    small = _read(data)
    try:
        message = pb.ProcessingRequest.FromString(data)
    except DecodeError:
        assert small is None, "protobuf does not read it"
        return
    message.DiscardUnknownFields()
    canonical = message.SerializeToString(deterministic=True)
    _compare(message, canonical)
    assert small == _read(canonical) == _read(canonical + PADDING), "large messages are read differently"
    _reply(data)


def _take(data: bytes) -> None:
    try:
        large = wire.take_body(data)
    except ProtocolError:
        return
    assert large is None or len(large.data) + len(large.rest) <= len(data)


def _read(data: bytes) -> tuple[Message, object] | None:
    """What a message says, and what is beside it; None: nothing."""
    try:
        request = codec.parse(data)
        modes = codec.body_modes(request)
        message = codec.decode(request)
    except ProtocolError:
        return None
    beside = (
        modes,
        codec.is_observed(request),
        codec.sends_ahead(request),
        codec.metadata_value(request, "envoy.lb", "x"),
        codec.attribute(request, "upstream.address"),
    )
    if isinstance(message, RequestBody | ResponseBody):
        return type(message)(bytes(message.data), message.end_of_stream), beside
    return message, beside


def _compare(message: pb.ProcessingRequest, canonical: bytes) -> None:
    """What *canonical*, as protobuf itself writes *message*, is by hand."""
    large = wire.take_body(canonical)
    kind = message.WhichOneof("request")
    if kind not in BODIES:
        assert large is None
        return
    assert large is not None
    body = getattr(message, kind)
    assert (large.phase, bytes(large.data), large.end_of_stream) == (
        BODIES[kind],
        body.body,
        body.end_of_stream,
    )
    message.ClearField(kind)
    assert pb.ProcessingRequest.FromString(large.rest) == message


def _reply(data: bytes) -> None:
    """Bodies written by hand are what protobuf reads."""
    for phase, field in ((Phase.REQUEST, "request_body"), (Phase.RESPONSE, "response_body")):
        with_body = pb.ProcessingResponse.FromString(wire.with_body(b"", phase, pieces(data, 5)))
        assert getattr(with_body, field).response.body_mutation.body == data
        streamed = pb.ProcessingResponse.FromString(wire.streamed(phase, data, end_of_stream=True))
        piece = getattr(streamed, field).response.body_mutation.streamed_response
        assert (piece.body, piece.end_of_stream) == (data, True)


def _seeds() -> list[bytes]:
    headers = pb.HttpHeaders(end_of_stream=True)
    for name, value in (
        (":method", b"POST"),
        (":path", b"/v1/completions"),
        ("cookie", b"a=b"),
        ("cookie", b"c"),
    ):
        header = headers.headers.headers.add()
        header.key, header.raw_value = name, value
    messages = [
        pb.ProcessingRequest(request_headers=headers),
        pb.ProcessingRequest(response_headers=headers),
        pb.ProcessingRequest(request_body=pb.HttpBody(body=b'{"model":"qwq"}', end_of_stream=True)),
        pb.ProcessingRequest(response_body=pb.HttpBody(body=b"x" * 300)),
        pb.ProcessingRequest(request_trailers=pb.HttpTrailers()),
        pb.ProcessingRequest(response_trailers=pb.HttpTrailers()),
        pb.ProcessingRequest(observability_mode=True),
    ]
    for message in list(messages):
        full = pb.ProcessingRequest()
        full.CopyFrom(message)
        full.metadata_context.filter_metadata["envoy.lb"].fields[
            "x"
        ].list_value.values.add().string_value = "y"
        full.attributes[codec.ATTRIBUTES_KEY].fields["upstream.address"].string_value = "10.0.0.1:80"
        full.protocol_config.request_body_mode = 4
        full.protocol_config.send_body_without_waiting_for_header_response = True
        messages.append(full)
    return [message.SerializeToString() for message in messages] + [b"\x22\x02\x0a\x05", b"\x23\x24"]


TARGET = Target(
    run,
    _seeds,
    (
        b"\x22",
        b"\x2a",
        b"\x0a",
        b"\x10\x01",
        b"\x12",
        b"\xff\xff\xff\xff\x0f",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
        b"\x23",
        b"\x24",
        b"envoy.lb",
        b"upstream.address",
        codec.ATTRIBUTES_KEY.encode(),
    ),
    max_bytes=1024,
)
