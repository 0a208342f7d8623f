"""Responses and refusals through the protocol machine, and what is impossible."""

from __future__ import annotations

import pytest
from stream_talk import (
    BUFFERED,
    DUPLEX,
    NONE,
    OK,
    PARTIAL,
    PIN,
    REQUEST,
    RESPONSE,
    STREAMED,
    H,
    events,
    streamed,
    talk,
)

from extproc.protocol.messages import (
    BodyMode,
    BodyReply,
    HeadersReply,
    ImmediateReply,
    Message,
    ProtocolError,
    RequestBody,
    RequestHeaders,
    RequestReady,
    RequestTrailers,
    ResponseBody,
    ResponseEnded,
    ResponseHeaders,
    ResponseStarted,
    ResponseTrailers,
    TrailersReply,
)
from extproc.protocol.steps import Half
from extproc.protocol.stream import ExtProcStream

# -- responses --------------------------------------------------------------------------------------------

BEFORE_A_RESPONSE: list[list[Message]] = [
    [],
    [RequestHeaders(H)],
    [RequestHeaders(H, True)],
    [RequestHeaders(H), RequestBody(b"{}", True)],
]


@pytest.mark.parametrize("mode", [BUFFERED, DUPLEX])
@pytest.mark.parametrize("before", BEFORE_A_RESPONSE)
def test_a_response_passes_whatever_of_the_request_came_before_it(
    mode: BodyMode, before: list[Message]
) -> None:
    """Envoy, or another filter, may answer before the request is whole; request phases may be skipped."""
    stream = ExtProcStream(mode, DUPLEX)
    talk(stream, before)
    assert talk(stream, [ResponseHeaders(OK), ResponseBody(b"a"), ResponseBody(b"b", True)]) == [
        [HeadersReply(RESPONSE)],
        streamed(b"a", phase=RESPONSE, end=False),
        streamed(b"b", phase=RESPONSE),
    ]


@pytest.mark.parametrize("end", [ResponseTrailers(), ResponseHeaders(OK, True)])
def test_a_response_may_be_headers_only_or_trailers_only(end: Message) -> None:
    stream = ExtProcStream(BUFFERED, NONE)
    assert len(talk(stream, [end])[0]) == 1
    assert stream.response is Half.DONE


def test_a_request_may_still_be_answered_after_its_response_began() -> None:
    stream = ExtProcStream(DUPLEX, DUPLEX)
    messages = [RequestHeaders(H), ResponseHeaders(OK), RequestBody(b"a", True), ResponseBody(b"b", True)]
    assert talk(stream, messages) == [
        [],
        [HeadersReply(RESPONSE)],
        [HeadersReply(REQUEST, PIN), *streamed(b"a")],
        streamed(b"b", phase=RESPONSE),
    ]


@pytest.mark.parametrize("mode", [STREAMED, BUFFERED, PARTIAL])
def test_response_bodies_that_need_no_echo_are_let_go_unchanged(mode: BodyMode) -> None:
    stream = ExtProcStream(BUFFERED, mode)
    assert talk(stream, [ResponseHeaders(OK), ResponseBody(b"a"), ResponseBody(b"b", True)]) == [
        [HeadersReply(RESPONSE)],
        [BodyReply(RESPONSE)],
        [BodyReply(RESPONSE)],
    ]


def test_response_trailers_end_a_response_with_and_without_its_body() -> None:
    for before in ([ResponseHeaders(OK)], [ResponseHeaders(OK), ResponseBody(b"a")]):
        stream = ExtProcStream(BUFFERED, DUPLEX)
        talk(stream, before)
        assert events(stream, [ResponseTrailers()]) == [ResponseEnded()]
        assert list(stream.replies()) == [TrailersReply(RESPONSE)]


def test_the_driver_is_told_of_a_response_once_and_of_its_end_once() -> None:
    messages = [ResponseHeaders(OK), ResponseBody(b"a"), ResponseBody(b"", True)]
    assert events(ExtProcStream(NONE, DUPLEX), messages) == [
        ResponseStarted(OK, False),
        None,
        ResponseEnded(),
    ]


# -- refusals ---------------------------------------------------------------------------------------------

BEFORE_A_REFUSAL: list[tuple[BodyMode, list[Message]]] = [
    (BUFFERED, [RequestHeaders(H)]),
    (BUFFERED, [RequestHeaders(H, True)]),
    (BUFFERED, [RequestHeaders(H), RequestBody(b"{", True)]),
    (DUPLEX, [RequestHeaders(H), RequestBody(b"{")]),
    (DUPLEX, [RequestHeaders(H), RequestBody(b"{"), RequestTrailers()]),
]


@pytest.mark.parametrize(("mode", "messages"), BEFORE_A_REFUSAL)
def test_a_refusal_is_the_only_reply_and_nothing_may_follow(mode: BodyMode, messages: list[Message]) -> None:
    stream = ExtProcStream(mode, NONE)
    for message in messages[:-1]:
        stream.receive(message)
        list(stream.replies())
    stream.receive(messages[-1])
    stream.respond(400, (("content-type", "application/json"),), b"{}", "extproc_invalid_json")
    refusal = ImmediateReply(400, (("content-type", "application/json"),), b"{}", "extproc_invalid_json")
    assert list(stream.replies()) == [refusal]
    assert (stream.closed, stream.finished) == (True, True)
    for message in (ResponseHeaders(OK), RequestBody(b"", True)):
        with pytest.raises(ProtocolError, match=f"^{type(message).__name__} while CLOSED$"):
            stream.receive(message)


@pytest.mark.parametrize(
    "messages",
    [[RequestHeaders(H, True)], [RequestHeaders(H), RequestBody(b"{}", True)]],
    ids=["bodiless", "body"],
)
def test_a_refusal_after_a_decision_takes_the_decision_back(messages: list[Message]) -> None:
    """A bug of ours between deciding and sending."""
    stream = ExtProcStream(DUPLEX, NONE)
    for message in messages:
        stream.receive(message)
    stream.route(PIN)
    stream.respond(500)
    assert list(stream.replies()) == [ImmediateReply(500)]


# -- impossible orders ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "messages", "says"),
    [
        (BUFFERED, [RequestBody(b"", True)], "RequestBody while IDLE"),
        (BUFFERED, [RequestTrailers()], "RequestTrailers while IDLE"),
        (BUFFERED, [ResponseBody(b"", True)], "ResponseBody while IDLE"),
        (BUFFERED, [RequestHeaders(H), RequestHeaders(H)], "RequestHeaders while BODY"),
        (DUPLEX, [RequestHeaders(H, True), RequestHeaders(H, True)], "RequestHeaders while DONE"),
        (BUFFERED, [RequestHeaders(H, True), RequestBody(b"", True)], "RequestBody while DONE"),
        (DUPLEX, [RequestHeaders(H, True), RequestBody(b"", True)], "RequestBody while DONE"),
        (
            BUFFERED,
            [RequestHeaders(H), RequestBody(b"", True), RequestBody(b"", True)],
            "RequestBody while DONE",
        ),
        (DUPLEX, [RequestHeaders(H), RequestBody(b"", True), RequestBody(b"")], "RequestBody while DONE"),
        (NONE, [RequestHeaders(H), RequestBody(b"", True)], "RequestBody while DONE"),
        (NONE, [ResponseHeaders(OK), ResponseHeaders(OK)], "ResponseHeaders while BODY"),
        (NONE, [ResponseHeaders(OK, True), ResponseBody(b"", True)], "ResponseBody while DONE"),
        (NONE, [ResponseTrailers(), ResponseHeaders(OK)], "ResponseHeaders while DONE"),
    ],
)
def test_an_impossible_order_is_a_protocol_error(mode: BodyMode, messages: list[Message], says: str) -> None:
    stream = ExtProcStream(mode, NONE)
    talk(stream, messages[:-1])
    with pytest.raises(ProtocolError, match=f"^{says}$"):
        stream.receive(messages[-1])
    assert stream.closed


def test_trailers_may_follow_a_body_that_said_it_was_the_end() -> None:
    stream = ExtProcStream(BUFFERED, BUFFERED)
    stream.receive(ResponseHeaders(OK))
    assert stream.receive(ResponseBody(b"x", True)) == ResponseEnded()
    list(stream.replies())
    stream.receive(ResponseTrailers())
    assert list(stream.replies()) == [TrailersReply(RESPONSE)]


def test_only_the_end_of_an_answer_may_be_repeated() -> None:
    stream = ExtProcStream(BUFFERED, DUPLEX)
    stream.receive(ResponseHeaders(OK))
    stream.receive(ResponseBody(b"x", True))
    assert stream.receive(ResponseBody(b"", True)) is None
    with pytest.raises(ProtocolError, match=r"^ResponseBody while DONE$"):
        stream.receive(ResponseBody(b"y"))


@pytest.mark.parametrize("mode", [BUFFERED, PARTIAL, DUPLEX])
def test_a_whole_request_that_is_not_decided_yet_has_nothing_to_add(mode: BodyMode) -> None:
    stream = ExtProcStream(mode, NONE)
    stream.receive(RequestHeaders(H))
    assert isinstance(stream.receive(RequestBody(b"x", True)), RequestReady)
    with pytest.raises(ProtocolError, match=r"^RequestBody while WHOLE$"):
        stream.receive(RequestBody(b"", True))
