"""Between protobuf and protocol messages, against the real protobuf classes."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.core.v3 import base_pb2 as core
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from google.protobuf import struct_pb2
from hypothesis import given
from hypothesis import strategies as st

from extproc.protocol import codec
from extproc.protocol.messages import (
    BodyMode,
    BodyReply,
    HeadersReply,
    ImmediateReply,
    Message,
    Mutation,
    Phase,
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

REQUEST, RESPONSE = Phase.REQUEST, Phase.RESPONSE
OVERWRITE = core.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD


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


# -- messages -----------------------------------------------------------------------------------------------


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


# -- protocol_config ----------------------------------------------------------------------------------------


def test_body_modes_are_read_from_the_first_message() -> None:
    for request_mode in range(5):
        for response_mode in range(5):
            config = pb.ProtocolConfiguration(
                request_body_mode=request_mode,  # type: ignore[arg-type]
                response_body_mode=response_mode,  # type: ignore[arg-type]
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
    config = pb.ProtocolConfiguration(**{field: 99})  # type: ignore[arg-type]
    with pytest.raises(ProtocolError, match=r"^unknown body mode: 99 is not a valid BodyMode$"):
        codec.body_modes(parsed(request_headers=headers(), protocol_config=config))


# -- metadata and attributes --------------------------------------------------------------------------------


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


# -- replies ------------------------------------------------------------------------------------------------

PIN = Mutation(
    set_headers=(("x-gateway-destination-endpoint", "10.0.0.1:8000"), ("x-gateway-model-name", "caf\u00e9")),
    remove_headers=("x-extproc-debug",),
    metadata={"envoy.lb": {"x-gateway-destination-endpoint": "10.0.0.1:8000"}, "extproc": {"pool": "p"}},
    clear_route_cache=True,
)


def common() -> pb.CommonResponse:
    """PIN as protobuf."""
    return pb.CommonResponse(
        clear_route_cache=True,
        header_mutation=pb.HeaderMutation(
            set_headers=[
                option("x-gateway-destination-endpoint", b"10.0.0.1:8000"),
                option("x-gateway-model-name", b"caf\xc3\xa9"),
            ],
            remove_headers=["x-extproc-debug"],
        ),
    )


def option(key: str, value: bytes) -> core.HeaderValueOption:
    return core.HeaderValueOption(
        header=core.HeaderValue(key=key, raw_value=value),
        append_action=OVERWRITE,
    )


def pinned(**fields: Any) -> pb.ProcessingResponse:
    response = pb.ProcessingResponse(**fields)
    response.dynamic_metadata.update(
        {"envoy.lb": {"x-gateway-destination-endpoint": "10.0.0.1:8000"}, "extproc": {"pool": "p"}}
    )
    return response


def test_a_mutation_is_written_whole_into_headers_replies() -> None:
    part = pb.HeadersResponse(response=common())
    assert encoded(HeadersReply(REQUEST, PIN)) == pinned(request_headers=part)
    assert encoded(HeadersReply(RESPONSE, PIN)) == pinned(response_headers=part)


def test_a_mutation_is_written_whole_into_body_replies() -> None:
    part = pb.BodyResponse(response=common())
    assert encoded(BodyReply(REQUEST, PIN)) == pinned(request_body=part)
    assert encoded(BodyReply(RESPONSE, PIN)) == pinned(response_body=part)
    part.response.body_mutation.body = b"{}"
    assert encoded(BodyReply(REQUEST, PIN, replace=b"{}")) == pinned(request_body=part)


@pytest.mark.parametrize("size", [0, 1, 62_000, 65_535, 65_536, 65_537, 1_000_003])
def test_bodies_of_any_size_are_replaced_and_streamed(size: int) -> None:
    body = (bytes(range(256)) * (size // 256 + 1))[:size]
    mutation = pb.BodyMutation(body=body)
    part = pb.BodyResponse(response=pb.CommonResponse(body_mutation=mutation))
    assert encoded(BodyReply(REQUEST, replace=body)) == pb.ProcessingResponse(request_body=part)
    with_pin = pb.BodyResponse(response=common())
    with_pin.response.body_mutation.body = body
    assert encoded(BodyReply(REQUEST, PIN, replace=body)) == pinned(request_body=with_pin)
    for end in (False, True):
        streamed = pb.BodyMutation(streamed_response=pb.StreamedBodyResponse(body=body, end_of_stream=end))
        part = pb.BodyResponse(response=pb.CommonResponse(body_mutation=streamed))
        reply = BodyReply(REQUEST, streamed=body, end_of_stream=end)
        assert encoded(reply) == pb.ProcessingResponse(request_body=part)
        reply = BodyReply(RESPONSE, streamed=body, end_of_stream=end)
        assert encoded(reply) == pb.ProcessingResponse(response_body=part)


def test_header_values_that_are_set_overwrite_what_a_client_sent() -> None:
    """append_action 0 means append in newer Envoys: a client's pin would stand first."""
    set_headers = encoded(HeadersReply(REQUEST, PIN)).request_headers.response.header_mutation.set_headers
    assert [header.append_action for header in set_headers] == [OVERWRITE, OVERWRITE]


def test_an_immediate_reply_is_written_whole() -> None:
    reply = ImmediateReply(429, (("retry-after", "1"),), b'{"error":{}}', "extproc_saturated")
    expected = pb.ProcessingResponse()
    expected.immediate_response.status.code = 429  # type: ignore[assignment]
    expected.immediate_response.headers.set_headers.append(option("retry-after", b"1"))
    expected.immediate_response.body = b'{"error":{}}'
    expected.immediate_response.details = "extproc_saturated"
    assert encoded(reply) == expected


CLEAR_ONLY = Mutation(clear_route_cache=True)
METADATA_ONLY = Mutation(metadata={"extproc": {"pool": "p"}})
REPLIES: list[tuple[Reply, str]] = [
    *(
        (HeadersReply(phase, mutation), f"{phase.value}_headers")
        for phase in Phase
        for mutation in (Mutation(), PIN)
    ),
    *((TrailersReply(phase), f"{phase.value}_trailers") for phase in Phase),
    *(
        (BodyReply(phase, mutation, replace, streamed, end), f"{phase.value}_body")
        for phase in Phase
        for mutation in (Mutation(), PIN, CLEAR_ONLY, METADATA_ONLY)
        for replace, streamed in ((None, None), (b"", None), (b"x", None), (None, b""), (None, b"x"))
        for end in (False, True)
    ),
    (ImmediateReply(200), "immediate_response"),
]


@pytest.mark.parametrize(("reply", "says"), REPLIES)
def test_a_reply_always_says_what_it_answers(reply: Reply, says: str) -> None:
    """A ProcessingResponse without its oneof is a "spurious response message", which costs the client a 500."""
    assert encoded(reply).WhichOneof("response") == says


@pytest.mark.parametrize(
    ("replace", "streamed", "says"), [(b"", None, "body"), (None, b"", "streamed_response")]
)
def test_an_empty_body_is_a_body(replace: bytes | None, streamed: bytes | None, says: str) -> None:
    reply = encoded(BodyReply(REQUEST, Mutation(), replace, streamed))
    assert reply.request_body.response.body_mutation.WhichOneof("mutation") == says


def test_a_reply_that_changes_nothing_is_empty() -> None:
    assert encoded(HeadersReply(REQUEST)) == pb.ProcessingResponse(request_headers=pb.HeadersResponse())
    assert encoded(BodyReply(RESPONSE)) == pb.ProcessingResponse(response_body=pb.BodyResponse())


def test_a_lone_surrogate_in_a_header_is_replaced() -> None:
    reply = encoded(HeadersReply(REQUEST, Mutation(set_headers=(("a", "x\ud800y"),))))
    (header,) = reply.request_headers.response.header_mutation.set_headers
    assert header.header.raw_value == b"x?y"
