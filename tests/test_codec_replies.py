"""Replies as protobuf, against the real protobuf classes."""

from __future__ import annotations

from typing import Any

import pytest
from codec_trips import encoded
from envoy.config.core.v3 import base_pb2 as core
from envoy.extensions.filters.http.ext_proc.v3.processing_mode_pb2 import ProcessingMode
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from google.protobuf import struct_pb2

from extproc.protocol import chunks, codec
from extproc.protocol.messages import (
    BodyMode,
    BodyReply,
    HeadersReply,
    ImmediateReply,
    ModeOverride,
    Mutation,
    Phase,
    Reply,
    TrailersReply,
)

REQUEST, RESPONSE = Phase.REQUEST, Phase.RESPONSE
OVERWRITE = core.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD


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
    assert encoded(BodyReply(REQUEST, PIN, replace=(b"{}",))) == pinned(request_body=part)


@pytest.mark.parametrize("size", [0, 1, 62_000, 65_535, 65_536, 65_537, 1_000_003])
def test_bodies_of_any_size_are_replaced_and_streamed(size: int) -> None:
    body = (bytes(range(256)) * (size // 256 + 1))[:size]
    mutation = pb.BodyMutation(body=body)
    part = pb.BodyResponse(response=pb.CommonResponse(body_mutation=mutation))
    assert encoded(BodyReply(REQUEST, replace=(body,))) == pb.ProcessingResponse(request_body=part)
    with_pin = pb.BodyResponse(response=common())
    with_pin.response.body_mutation.body = body
    assert encoded(BodyReply(REQUEST, PIN, replace=(body,))) == pinned(request_body=with_pin)
    for end in (False, True):
        streamed = pb.BodyMutation(streamed_response=pb.StreamedBodyResponse(body=body, end_of_stream=end))
        part = pb.BodyResponse(response=pb.CommonResponse(body_mutation=streamed))
        reply = BodyReply(REQUEST, streamed=body, end_of_stream=end)
        assert encoded(reply) == pb.ProcessingResponse(request_body=part)
        reply = BodyReply(RESPONSE, streamed=body, end_of_stream=end)
        assert encoded(reply) == pb.ProcessingResponse(response_body=part)


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize(
    ("mutation", "common"),
    [
        (Mutation(clear_route_cache=True), pb.CommonResponse(clear_route_cache=True)),
        (
            Mutation(remove_headers=("a",)),
            pb.CommonResponse(header_mutation=pb.HeaderMutation(remove_headers=["a"])),
        ),
        (
            Mutation(set_headers=(("a", "b"),)),
            pb.CommonResponse(header_mutation=pb.HeaderMutation(set_headers=[option("a", b"b")])),
        ),
        (
            Mutation(path="/caf\xe9"),
            pb.CommonResponse(header_mutation=pb.HeaderMutation(set_headers=[option(":path", b"/caf\xe9")])),
        ),
    ],
    ids=["route cache", "removed", "set", "path"],
)
def test_a_mutation_of_one_thing_is_written_too(
    phase: Phase, mutation: Mutation, common: pb.CommonResponse
) -> None:
    part = {f"{phase.value}_headers": pb.HeadersResponse(response=common)}
    assert encoded(HeadersReply(phase, mutation)) == pb.ProcessingResponse(**part)
    body = {f"{phase.value}_body": pb.BodyResponse(response=common)}
    assert encoded(BodyReply(phase, mutation)) == pb.ProcessingResponse(**body)


def test_no_streamed_piece_is_more_than_64_kib_framing_included() -> None:
    for phase in Phase:
        replies = list(chunks.streamed(phase, [bytes(200_000)], end=True))
        assert sum(len(reply.streamed or b"") for reply in replies) == 200_000
        assert max(len(codec.encode(reply)) for reply in replies) <= 64 * 1024


def test_header_values_that_are_set_overwrite_what_a_client_sent() -> None:
    """append_action 0 means append in newer Envoys: a client's pin would stand first."""
    set_headers = encoded(HeadersReply(REQUEST, PIN)).request_headers.response.header_mutation.set_headers
    assert [header.append_action for header in set_headers] == [OVERWRITE, OVERWRITE]


def test_an_immediate_reply_is_written_whole() -> None:
    reply = ImmediateReply(429, (("retry-after", "1"),), b'{"error":{}}', "extproc_saturated")
    expected = pb.ProcessingResponse()
    expected.immediate_response.status.code = 429
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
        for replace, streamed in (
            (None, None),
            ((b"",), None),
            ((b"x", b"y"), None),
            (None, b""),
            (None, b"x"),
        )
        for end in (False, True)
    ),
    (ImmediateReply(200), "immediate_response"),
]


@pytest.mark.parametrize(("reply", "says"), REPLIES)
def test_a_reply_always_says_what_it_answers(reply: Reply, says: str) -> None:
    """A ProcessingResponse without its oneof is a "spurious response message", which costs the client a 500."""
    assert encoded(reply).WhichOneof("response") == says


@pytest.mark.parametrize(
    ("replace", "streamed", "says"),
    [((b"",), None, "body"), ((), None, "body"), (None, b"", "streamed_response")],
)
def test_an_empty_body_is_a_body(
    replace: tuple[bytes, ...] | None, streamed: bytes | None, says: str
) -> None:
    reply = encoded(BodyReply(REQUEST, Mutation(), replace, streamed))
    assert reply.request_body.response.body_mutation.WhichOneof("mutation") == says


def test_a_reply_that_changes_nothing_is_empty() -> None:
    assert encoded(HeadersReply(REQUEST)) == pb.ProcessingResponse(request_headers=pb.HeadersResponse())
    assert encoded(BodyReply(RESPONSE)) == pb.ProcessingResponse(response_body=pb.BodyResponse())


def test_a_mode_override_says_all_modes_as_it_replaces_all() -> None:
    override = ModeOverride(BodyMode.BUFFERED_PARTIAL, BodyMode.STREAMED)
    assert encoded(HeadersReply(REQUEST, Mutation(), override)) == pb.ProcessingResponse(
        request_headers=pb.HeadersResponse(response=pb.CommonResponse()),
        mode_override=ProcessingMode(
            request_body_mode=ProcessingMode.BUFFERED_PARTIAL,
            request_trailer_mode=ProcessingMode.SEND,
            response_header_mode=ProcessingMode.SEND,
            response_body_mode=ProcessingMode.STREAMED,
            response_trailer_mode=ProcessingMode.SEND,
        ),
    )


def test_a_path_keeps_its_bytes() -> None:
    path = b"/v1/caf\xe9?\xc3\xa9"
    reply = encoded(HeadersReply(REQUEST, Mutation(path=path.decode("latin-1"))))
    mutation = pb.HeaderMutation(set_headers=[option(":path", path)])
    assert reply.request_headers.response == pb.CommonResponse(header_mutation=mutation)


def test_a_lone_surrogate_in_a_header_is_replaced() -> None:
    reply = encoded(HeadersReply(REQUEST, Mutation(set_headers=(("a", "x\ud800y"),))))
    (header,) = reply.request_headers.response.header_mutation.set_headers
    assert header.header.raw_value == b"x?y"


# -- figures of an answer ---------------------------------------------------------------------------------------

FIGURES = {"extproc": {"total_tokens": 17, "finish_reason": "stop", "ttft_ms": 12.5}}


def told(**fields: Any) -> pb.ProcessingResponse:
    response = pb.ProcessingResponse(**fields)
    response.dynamic_metadata.update(FIGURES)
    return response


def body(**mutation: Any) -> pb.BodyResponse:
    return pb.BodyResponse(response=pb.CommonResponse(body_mutation=pb.BodyMutation(**mutation)))


@pytest.mark.parametrize(
    ("reply", "wanted"),
    [
        (
            BodyReply(RESPONSE, Mutation(metadata=FIGURES)),
            told(response_body=pb.BodyResponse(response=pb.CommonResponse())),
        ),
        (
            BodyReply(RESPONSE, Mutation(metadata=FIGURES), replace=(b"a", b"b")),
            told(response_body=body(body=b"ab")),
        ),
        (
            BodyReply(RESPONSE, Mutation(metadata=FIGURES), streamed=b"a", end_of_stream=True),
            told(
                response_body=body(streamed_response=pb.StreamedBodyResponse(body=b"a", end_of_stream=True))
            ),
        ),
        (TrailersReply(RESPONSE, FIGURES), told(response_trailers=pb.TrailersResponse())),
    ],
)
def test_figures_are_metadata_beside_any_reply_and_numbers_stay_numbers(
    reply: Reply, wanted: pb.ProcessingResponse
) -> None:
    assert encoded(reply) == wanted
    fields = encoded(reply).dynamic_metadata["extproc"]
    assert isinstance(fields, struct_pb2.Struct)
    assert fields.fields["total_tokens"].WhichOneof("kind") == "number_value"


def test_nothing_instead_of_a_piece_is_an_empty_body_and_not_an_untouched_one() -> None:
    assert encoded(BodyReply(RESPONSE, replace=())) == pb.ProcessingResponse(response_body=body(body=b""))
