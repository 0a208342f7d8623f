"""Bodies out of serialised messages without a copy and into them with one; protobuf makes three each way.

At 32 MiB a copy stalls the event loop for about 10 ms.  Only the wire format's framing is known here:
https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from .messages import Phase, Piece, ProtocolError

LARGE_BYTES = 64 * 1024
"""Above this a message is taken apart by hand; below, protobuf is faster than Python."""

_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5
MAX_VARINT_BYTES = 10

# Field numbers of envoy/service/ext_proc/v3/external_processor.proto.
REQUEST_BODY_FIELDS = {4: Phase.REQUEST, 5: Phase.RESPONSE}
"""ProcessingRequest.request_body and response_body, both HttpBody {bytes body = 1; bool end_of_stream = 2;}."""
RESPONSE_BODY_FIELDS = {Phase.REQUEST: 3, Phase.RESPONSE: 4}
"""ProcessingResponse.request_body and response_body, both BodyResponse {CommonResponse response = 1;}."""
RESPONSE, BODY_MUTATION, BODY, STREAMED_RESPONSE = 1, 3, 1, 3
"""BodyResponse.response, CommonResponse.body_mutation, BodyMutation.body and .streamed_response."""


class LargeBody(Struct, frozen=True):
    """A body taken out of a serialised ProcessingRequest."""

    phase: Phase
    data: memoryview
    """A window on the message: not even one copy is made here."""
    end_of_stream: bool
    rest: bytes
    """The message without the body: metadata, attributes, protocol config."""


def take_body(message: bytes) -> LargeBody | None:
    """The body in *message*, None where it holds none; raises ProtocolError where it is no protobuf."""
    view = memoryview(message)
    for number, kind, start, value, end in _fields(message, 0, len(message)):
        if kind == _LENGTH_DELIMITED and number in REQUEST_BODY_FIELDS:
            data, end_of_stream = _http_body(message, value, end)
            rest = b"".join((view[:start], view[end:]))
            return LargeBody(REQUEST_BODY_FIELDS[number], data, end_of_stream, rest)
    return None


def _http_body(message: bytes, start: int, end: int) -> tuple[memoryview, bool]:
    data, end_of_stream = memoryview(b""), False
    for number, kind, _, value, after in _fields(message, start, end):
        if number == 1 and kind == _LENGTH_DELIMITED:
            data = memoryview(message)[value:after]
        elif number == 2 and kind == _VARINT:
            end_of_stream = _varint(message, value, end)[0] != 0
    return data, end_of_stream


def _fields(message: bytes, at: int, end: int) -> Iterable[tuple[int, int, int, int, int]]:
    """(number, wire type, start of the tag, start of the value, end) of each field in message[at:end]."""
    while at < end:
        start = at
        tag, at = _varint(message, at, end)
        kind = tag & 7
        if kind == _LENGTH_DELIMITED:
            length, at = _varint(message, at, end)
            after = at + length
        elif kind == _VARINT:
            _, after = _varint(message, at, end)
        elif kind in (_FIXED64, _FIXED32):
            after = at + (8 if kind == _FIXED64 else 4)
        else:
            raise ProtocolError("not a ProcessingRequest")
        if after > end:
            raise ProtocolError("not a ProcessingRequest")
        yield tag >> 3, kind, start, at, after
        at = after


def _varint(message: bytes, at: int, end: int) -> tuple[int, int]:
    """(value, where it ends)."""
    value = 0
    for shift, position in enumerate(range(at, min(end, at + MAX_VARINT_BYTES))):
        byte = message[position]
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return value, position + 1
    raise ProtocolError("not a ProcessingRequest")


def _encode_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _nested(size: int, *numbers: int) -> bytes:
    """The framing before a field of *size* bytes that lies in the fields *numbers*, outermost first."""
    framing = b""
    for number in reversed(numbers):
        framing = bytes((number << 3 | _LENGTH_DELIMITED,)) + _encode_varint(size + len(framing)) + framing
    return framing


def with_body(response: bytes, phase: Phase, pieces: Iterable[Piece]) -> bytes:
    """The serialised ProcessingResponse *response* with *pieces* as its new body.

    Appending is enough: a parser merges what comes twice of an embedded message.
    """
    pieces = tuple(pieces)
    size = sum(map(len, pieces))
    framing = _nested(size, RESPONSE_BODY_FIELDS[phase], RESPONSE, BODY_MUTATION, BODY)
    return b"".join((response, framing, *pieces))


def streamed(phase: Phase, data: Piece, end_of_stream: bool) -> bytes:
    """A serialised ProcessingResponse that streams *data* on."""
    end = (
        b"\x10\x01" if end_of_stream else b""
    )  # StreamedBodyResponse {bytes body = 1; bool end_of_stream = 2;}
    body = b"\x0a" + _encode_varint(len(data)) if data else b""
    size = len(body) + len(data) + len(end)
    framing = _nested(size, RESPONSE_BODY_FIELDS[phase], RESPONSE, BODY_MUTATION, STREAMED_RESPONSE)
    return b"".join((framing, body, data, end))
