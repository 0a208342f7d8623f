"""Bodies cut out of and put into serialised messages by hand, held against protobuf."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st

from extproc.protocol import codec, wire
from extproc.protocol.messages import Phase, ProtocolError, RequestBody, ResponseBody

LARGE = wire.LARGE_BYTES + 1


def message(field: str, body: bytes, *, end: bool) -> pb.ProcessingRequest:
    """A body message with all that can come beside it."""
    request = pb.ProcessingRequest(**{field: pb.HttpBody(body=body, end_of_stream=end)})
    request.metadata_context.filter_metadata["envoy.lb"].fields["key"].string_value = "value"
    request.attributes["filter"].fields["upstream.address"].string_value = "10.0.0.1:8000"
    request.protocol_config.request_body_mode = 4
    return request


@pytest.mark.parametrize(
    ("field", "phase"), [("request_body", Phase.REQUEST), ("response_body", Phase.RESPONSE)]
)
@pytest.mark.parametrize("end", [False, True])
@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 3_000_000])
def test_a_body_is_taken_out_and_the_rest_stays(field: str, phase: Phase, end: bool, size: int) -> None:
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    original = message(field, body, end=end)
    large = wire.take_body(original.SerializeToString())
    assert large is not None
    assert (large.phase, bytes(large.data), large.end_of_stream) == (phase, body, end)
    original.ClearField(field)  # type: ignore[arg-type]
    assert pb.ProcessingRequest.FromString(large.rest) == original


def test_a_large_body_is_a_window_on_the_message_and_no_copy() -> None:
    data = message("request_body", b"x" * LARGE, end=True).SerializeToString()
    large = wire.take_body(data)
    assert large is not None
    assert large.data.obj is data


def test_a_message_without_a_body_is_left_alone() -> None:
    headers = pb.ProcessingRequest(request_headers=pb.HttpHeaders(end_of_stream=True))
    assert wire.take_body(headers.SerializeToString()) is None
    assert wire.take_body(b"") is None


@pytest.mark.parametrize(("field", "kind"), [("request_body", RequestBody), ("response_body", ResponseBody)])
@pytest.mark.parametrize("size", [LARGE - 200, LARGE])
def test_the_codec_decodes_large_and_small_bodies_alike(field: str, kind: Any, size: int) -> None:
    request = codec.parse(message(field, b"x" * size, end=True).SerializeToString())
    assert codec.decode(request) == kind(b"x" * size, True)
    assert codec.metadata_value(request, "envoy.lb", "key") == "value"


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 11,  # a varint that never ends
        b"\x22\x05abc",  # a body that is longer than the message
        b"\x22\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # absurdly longer
        b"\x23",  # a group, which proto3 does not have
        b"\x22\x02\x0a\x05",  # inside the body: bytes beyond its end
        b"\x22\x80",  # a length that is cut off
        b"\xa2" + b"\x80" * 9 + b"\x00" + b"\x00",  # the number of a body, in a byte too many
    ],
)
def test_what_is_no_message_is_a_protocol_error(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="not a ProcessingRequest"):
        wire.take_body(data)


HTTP_BODY = b"\x0a\x03abc\x10\x01"


@pytest.mark.parametrize(
    ("data", "body", "end"),
    [
        (b"\x20\x05", None, False),  # a number under a body's field number
        (b"\x22\x09\x08\x05" + HTTP_BODY, b"abc", True),  # a number under that of its bytes, before them
        (b"\x22\x09" + HTTP_BODY + b"\x08\x05", b"abc", True),
        (b"\x22\x08\x0a\x03abc\x12\x01\x01", b"abc", False),  # bytes under the number of its end
        (b"\x22\x07\x0a\x03abc\x10\x00", b"abc", False),
        (b"\x78" + b"\xff" * 9 + b"\x01" + b"\x22\x07" + HTTP_BODY, b"abc", True),  # -1, the longest number
        (b"\x79" + b"\x22" * 8 + b"\x7d" + b"\x22" * 4 + b"\x22\x07" + HTTP_BODY, b"abc", True),
    ],
)
def test_fields_of_other_types_are_passed_over_as_protobuf_does(
    data: bytes, body: bytes | None, end: bool
) -> None:
    read = pb.ProcessingRequest.FromString(data)
    assert (read.request_body.body, read.request_body.end_of_stream) == (body or b"", end)
    large = wire.take_body(data)
    assert (large and (bytes(large.data), large.end_of_stream)) == (None if body is None else (body, end))


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_a_protocol_error(data: bytes) -> None:
    try:
        large = wire.take_body(data)
    except ProtocolError:
        return
    assert large is None or len(large.data) + len(large.rest) <= len(data)


@given(st.binary(max_size=100), st.integers(0, 400), st.data())
def test_a_cut_message_is_a_protocol_error_or_has_less(
    body: bytes, padding: int, data: st.DataObject
) -> None:
    whole = message("request_body", body + b"x" * padding, end=True).SerializeToString()
    cut = data.draw(st.integers(0, len(whole)))
    try:
        large = wire.take_body(whole[:cut])
    except ProtocolError:
        return
    assert large is None or (body + b"x" * padding).startswith(bytes(large.data))


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize(
    "pieces",
    [(), (b"",), (b"c" * 127,), (b"c" * 128,), (b"ab", b"c" * 300), (memoryview(b"abc")[1:], b"x" * 70_000)],
)
def test_pieces_become_the_body_of_a_response_that_keeps_its_mutation(phase: Phase, pieces: Any) -> None:
    expected = pb.ProcessingResponse()
    part = expected.request_body if phase is Phase.REQUEST else expected.response_body
    part.response.clear_route_cache = True
    part.response.header_mutation.remove_headers.append("x-extproc-pool")
    response = expected.SerializeToString()
    part.response.body_mutation.body = b"".join(pieces)
    assert pb.ProcessingResponse.FromString(wire.with_body(response, phase, pieces)) == expected


@given(st.sampled_from(Phase), st.binary(max_size=40), st.sampled_from([0, 100, 62_000]), st.booleans())
def test_a_streamed_piece_is_what_protobuf_makes_of_it(
    phase: Phase, data: bytes, more: int, end: bool
) -> None:
    data += b"x" * more
    expected = pb.ProcessingResponse()
    part = expected.request_body if phase is Phase.REQUEST else expected.response_body
    part.response.body_mutation.streamed_response.SetInParent()
    part.response.body_mutation.streamed_response.body = data
    part.response.body_mutation.streamed_response.end_of_stream = end
    assert pb.ProcessingResponse.FromString(wire.streamed(phase, data, end)) == expected
