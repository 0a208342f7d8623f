"""Between protobuf and protocol messages, against the real protobuf classes."""

from __future__ import annotations

from typing import Any

import pytest
from codec_trips import decoded, headers, parsed, raw
from envoy.config.core.v3 import base_pb2 as core
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from google.protobuf import struct_pb2
from hypothesis import given
from hypothesis import strategies as st

from extproc.protocol import codec
from extproc.protocol.messages import (
    BodyMode,
    Message,
    Phase,
    ProtocolError,
    RequestBody,
    RequestHeaders,
    RequestTrailers,
    ResponseBody,
    ResponseHeaders,
    ResponseTrailers,
)

REQUEST, RESPONSE = Phase.REQUEST, Phase.RESPONSE
OVERWRITE = core.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD


# -- messages ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [False, True])
def test_every_message_of_envoys_is_read(end: bool) -> None:
    map_ = headers(raw(":path", b"/v1"), end=end)
    body = pb.HttpBody(body=b"\0\xff", end_of_stream=end)
    cases: list[tuple[pb.ProcessingRequest, Message]] = [
        (pb.ProcessingRequest(request_headers=map_), RequestHeaders({":path": "/v1"}, end)),
        (pb.ProcessingRequest(request_body=body), RequestBody(b"\0\xff", end)),
        (pb.ProcessingRequest(request_trailers=pb.HttpTrailers()), RequestTrailers()),
        (pb.ProcessingRequest(response_headers=map_), ResponseHeaders({":path": "/v1"}, end)),
        (pb.ProcessingRequest(response_body=body), ResponseBody(b"\0\xff", end)),
        (pb.ProcessingRequest(response_trailers=pb.HttpTrailers()), ResponseTrailers()),
    ]
    assert [decoded(message) for message, _ in cases] == [expected for _, expected in cases]


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 1_000_003])
@pytest.mark.parametrize("end", [False, True])
def test_bodies_of_any_size_come_through_with_what_stands_beside_them(size: int, end: bool) -> None:
    body = bytes(range(256)) * (size // 256 + 1)
    message = parsed(
        request_body=pb.HttpBody(body=body[:size], end_of_stream=end),
        metadata_context=metadata("ns", {"key": "value"}),
    )
    assert codec.decode(message) == RequestBody(body[:size], end)
    assert codec.metadata_value(message, "ns", "key") == "value"


def test_header_values_come_raw_or_as_text() -> None:
    message = pb.ProcessingRequest(
        request_headers=headers(
            raw("raw", b"bytes"),
            core.HeaderValue(key="text", value="caf\N{LATIN SMALL LETTER E WITH ACUTE}"),
            core.HeaderValue(key="both", value="text", raw_value=b"bytes"),
            core.HeaderValue(key="neither"),
        )
    )
    assert decoded(message) == RequestHeaders(
        {"raw": "bytes", "text": "café", "both": "bytes", "neither": ""}
    )


def test_repeated_headers_are_joined_in_order() -> None:
    message = pb.ProcessingRequest(
        request_headers=headers(raw("a", b"1"), raw("b", b"x"), raw("a", b""), raw("a", b"3"))
    )
    assert decoded(message) == RequestHeaders({"a": "1, , 3", "b": "x"})


def test_cookies_that_came_in_several_headers_are_joined_as_one_cookie_header_has_them() -> None:
    message = pb.ProcessingRequest(
        request_headers=headers(raw("cookie", b"a=1"), raw("cookie", b"b=2; c=3"), raw("cookies", b"x"))
    )
    assert decoded(message) == RequestHeaders({"cookie": "a=1; b=2; c=3", "cookies": "x"})


def test_header_bytes_that_are_no_utf8_are_kept_apart_one_by_one() -> None:
    """Two different keys stay different, as sticky keys must."""
    message = pb.ProcessingRequest(request_headers=headers(raw("a", b"\xff\x00\n"), raw("b", b"\xfe")))
    assert decoded(message) == RequestHeaders({"a": "\xff\x00\n", "b": "\xfe"})


def test_a_message_that_holds_nothing_is_a_protocol_error() -> None:
    with pytest.raises(ProtocolError, match=r"^a ProcessingRequest without a request$"):
        decoded(pb.ProcessingRequest(observability_mode=True))


@pytest.mark.parametrize(
    "data",
    [
        b"\xff",  # a tag that never ends
        b"\x12\x05ab",  # shorter than it says
        b"\x0b",  # a group that never ends
        pb.ProcessingRequest(request_headers=headers(raw("name", b"1"))).SerializeToString()[:-1],
        pb.ProcessingRequest(request_headers=headers(raw("name", b"1")))
        .SerializeToString()
        .replace(b"name", b"\xff\xff\xff\xff"),
        pb.ProcessingRequest(request_body=pb.HttpBody(body=bytes(100_000))).SerializeToString()[:-1],
    ],
)
def test_bytes_that_are_no_message_are_a_protocol_error(data: bytes) -> None:
    with pytest.raises(ProtocolError, match=r"^not a ProcessingRequest$"):
        codec.decode(codec.parse(data))


@given(st.binary(max_size=200))
def test_garbage_is_read_or_is_a_protocol_error(data: bytes) -> None:
    try:
        message = codec.parse(data)
        codec.body_modes(message)
        codec.metadata_value(message, "ns", "key")
        codec.attribute(message, "upstream.address")
        codec.decode(message)
    except ProtocolError:
        pass


# -- protocol_config --------------------------------------------------------------------------------------


def test_body_modes_are_read_from_the_first_message() -> None:
    for request_mode in range(5):
        for response_mode in range(5):
            config = pb.ProtocolConfiguration(
                request_body_mode=request_mode,
                response_body_mode=response_mode,
            )
            message = parsed(request_headers=headers(), protocol_config=config)
            assert codec.body_modes(message) == (BodyMode(request_mode), BodyMode(response_mode))


def test_an_empty_protocol_config_says_that_no_body_comes() -> None:
    message = parsed(request_headers=headers(), protocol_config=pb.ProtocolConfiguration())
    assert codec.body_modes(message) == (BodyMode.NONE, BodyMode.NONE)


def test_an_envoy_that_tells_no_modes_is_taken_to_buffer() -> None:
    assert codec.body_modes(parsed(request_headers=headers())) == (BodyMode.BUFFERED, BodyMode.NONE)


@pytest.mark.parametrize("field", ["request_body_mode", "response_body_mode"])
def test_a_body_mode_that_nobody_knows_is_a_protocol_error(field: str) -> None:
    config = pb.ProtocolConfiguration(**{field: 99})
    with pytest.raises(ProtocolError, match=r"^unknown body mode: 99 is not a valid BodyMode$"):
        codec.body_modes(parsed(request_headers=headers(), protocol_config=config))


@pytest.mark.parametrize("observed", [False, True])
def test_observability_mode_is_said_by_each_message(observed: bool) -> None:
    assert codec.is_observed(parsed(request_headers=headers(), observability_mode=observed)) is observed


@pytest.mark.parametrize("ahead", [False, True])
def test_whether_bodies_come_unasked_is_read_from_the_first_message(ahead: bool) -> None:
    config = pb.ProtocolConfiguration(
        request_body_mode=1, send_body_without_waiting_for_header_response=ahead
    )
    assert codec.sends_ahead(parsed(request_headers=headers(), protocol_config=config)) is ahead
    assert not codec.sends_ahead(parsed(request_headers=headers()))


# -- metadata and attributes ------------------------------------------------------------------------------


def metadata(namespace: str, values: dict[str, Any]) -> core.Metadata:
    struct = struct_pb2.Struct()
    struct.update(values)
    return core.Metadata(filter_metadata={namespace: struct})


HINT = "x-gateway-destination-endpoint-subset"


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("10.0.0.1:8000,10.0.0.2", "10.0.0.1:8000,10.0.0.2"),
        ("", ""),
        (["10.0.0.1:8000", "10.0.0.2"], ["10.0.0.1:8000", "10.0.0.2"]),
        ([], []),
        (["10.0.0.1", 5, None, ["10.0.0.2"]], ["10.0.0.1"]),
        (5, []),
        (True, []),
        (None, []),
        ({"a": "b"}, []),
    ],
)
def test_a_metadata_value_is_a_string_or_a_list_of_strings(value: Any, read: str | list[str]) -> None:
    message = parsed(
        request_headers=headers(), metadata_context=metadata("envoy.lb.subset_hint", {HINT: value})
    )
    assert codec.metadata_value(message, "envoy.lb.subset_hint", HINT) == read


def test_metadata_that_is_not_there_is_none() -> None:
    message = parsed(request_headers=headers(), metadata_context=metadata("other", {HINT: "10.0.0.1"}))
    assert codec.metadata_value(message, "envoy.lb.subset_hint", HINT) is None
    assert codec.metadata_value(message, "other", "another") is None
    assert codec.metadata_value(parsed(request_headers=headers()), "other", HINT) is None


def attributes(values: dict[str, Any], key: str = "envoy.filters.http.ext_proc") -> codec.Request:
    struct = struct_pb2.Struct()
    struct.update(values)
    return parsed(response_headers=headers(), attributes={key: struct})


def test_attributes_are_read_as_text() -> None:
    message = attributes({"upstream.address": "10.0.0.1:8000", "response.code": 503.0})
    assert codec.attribute(message, "upstream.address") == "10.0.0.1:8000"
    assert codec.attribute(message, "response.code") == "503"


def test_attributes_that_are_not_there_are_none() -> None:
    assert codec.attribute(attributes({"a": "b"}), "upstream.address") is None
    assert (
        codec.attribute(attributes({"upstream.address": "b"}, "another.filter"), "upstream.address") is None
    )
    assert codec.attribute(parsed(response_headers=headers()), "upstream.address") is None
