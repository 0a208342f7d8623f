"""Answers that the driver reads, through the protocol machine: what it is told, and what goes on instead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
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
    streamed,
    talk,
)

from extproc.protocol.chunks import MAX_CHUNK_BYTES
from extproc.protocol.messages import (
    BodyMode,
    BodyReply,
    Event,
    HeadersReply,
    ImmediateReply,
    Message,
    ModeOverride,
    Mutation,
    Piece,
    Reply,
    RequestBody,
    RequestHeaders,
    ResponseBody,
    ResponseChunk,
    ResponseEnded,
    ResponseHeaders,
    ResponseStarted,
    ResponseTrailers,
    TrailersReply,
)
from extproc.protocol.stream import ExtProcStream

FIGURES = {"extproc": {"total_tokens": 17, "finish_reason": "stop", "ttft_ms": 12.5}}
TOLD = Mutation(metadata=FIGURES)


def routed(response_mode: BodyMode, request_mode: BodyMode = BUFFERED) -> ExtProcStream:
    stream = ExtProcStream(request_mode, response_mode)
    talk(stream, [RequestHeaders(H), RequestBody(b"{}", True)])
    return stream


def reading(response_mode: BodyMode) -> ExtProcStream:
    """A stream whose answer has begun, and is read."""
    stream = routed(response_mode)
    assert stream.receive(ResponseHeaders(OK)) == ResponseStarted(OK, False)
    stream.read_answer()
    assert list(stream.replies()) == [HeadersReply(RESPONSE)]
    return stream


def changed(stream: ExtProcStream, message: Message, pieces: Sequence[Piece]) -> list[Reply]:
    stream.receive(message)
    stream.go_on_with(pieces)
    return list(stream.replies())


def answers(stream: ExtProcStream, messages: Sequence[Message]) -> list[tuple[Event | None, list[Reply]]]:
    return [(stream.receive(message), list(stream.replies())) for message in messages]


# -- what the driver is told ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [STREAMED, DUPLEX])
def test_each_piece_is_told_and_goes_on_as_it_came(mode: BodyMode) -> None:
    one, end = (
        (streamed(b"a", phase=RESPONSE, end=False), streamed(b"", phase=RESPONSE))
        if mode is DUPLEX
        else ([BodyReply(RESPONSE)], [BodyReply(RESPONSE)])
    )
    assert answers(reading(mode), [ResponseBody(b"a"), ResponseBody(b"", True)]) == [
        (ResponseChunk(b"a", False), one),
        (ResponseChunk(b"", True), end),
    ]


@pytest.mark.parametrize("mode", [BUFFERED, PARTIAL])
@pytest.mark.parametrize("end", [True, False])
def test_where_the_body_comes_at_once_it_is_the_last_piece_whatever_follows(
    mode: BodyMode, end: bool
) -> None:
    """Trailers, or what Envoy's buffer had no room for."""
    stream = reading(mode)
    assert answers(stream, [ResponseBody(b"all", end)]) == [
        (ResponseChunk(b"all", True), [BodyReply(RESPONSE)])
    ]
    if not end:
        assert answers(stream, [ResponseTrailers()]) == [(ResponseEnded(), [TrailersReply(RESPONSE)])]


def test_an_answer_that_is_not_read_is_not_told() -> None:
    stream = routed(STREAMED)
    told = answers(stream, [ResponseHeaders(OK), ResponseBody(b"a"), ResponseBody(b"", True)])
    assert [event for event, _ in told] == [ResponseStarted(OK, False), None, ResponseEnded()]


def test_trailers_end_an_answer_that_is_read() -> None:
    assert answers(reading(STREAMED), [ResponseBody(b"a"), ResponseTrailers()]) == [
        (ResponseChunk(b"a", False), [BodyReply(RESPONSE)]),
        (ResponseEnded(), [TrailersReply(RESPONSE)]),
    ]


def test_the_end_that_envoy_repeats_in_full_duplex_is_told_once() -> None:
    told = answers(reading(DUPLEX), [ResponseBody(b"a", True), ResponseBody(b"a", True)])
    assert told == [(ResponseChunk(b"a", True), streamed(b"a", phase=RESPONSE)), (None, [])]


# -- asking for it ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_mode", [BUFFERED, NONE])
def test_asked_for_it_comes_streamed_and_the_requests_mode_stays(request_mode: BodyMode) -> None:
    stream = ExtProcStream(request_mode, NONE)
    talk(stream, [RequestHeaders(H), *([RequestBody(b"{}", True)] if request_mode else [])])
    stream.receive(ResponseHeaders(OK))
    stream.strip_response(("x-load",))
    stream.strip_response(("content-length",))
    stream.ask_for_answer()
    stripped = Mutation(remove_headers=("x-load", "content-length"))
    assert list(stream.replies()) == [HeadersReply(RESPONSE, stripped, ModeOverride(request_mode, STREAMED))]
    assert answers(stream, [ResponseBody(b"a"), ResponseTrailers()]) == [
        (ResponseChunk(b"a", False), [BodyReply(RESPONSE)]),
        (ResponseEnded(), [TrailersReply(RESPONSE)]),
    ]


def test_asked_for_after_the_requests_mode_was_overridden_it_names_the_mode_that_holds() -> None:
    stream = routed(NONE, STREAMED)
    stream.receive(ResponseHeaders(OK))
    stream.ask_for_answer()
    assert list(stream.replies()) == [HeadersReply(RESPONSE, override=ModeOverride(PARTIAL, STREAMED))]


def test_asked_for_in_vain_the_answer_ends_all_the_same() -> None:
    stream = routed(NONE)
    stream.receive(ResponseHeaders(OK))
    stream.ask_for_answer()
    list(stream.replies())
    assert answers(stream, [ResponseTrailers()]) == [(ResponseEnded(), [TrailersReply(RESPONSE)])]


# -- something else goes on -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [STREAMED, BUFFERED, PARTIAL])
@pytest.mark.parametrize("pieces", [(b"x", b"y"), ()])
def test_one_message_gets_one_reply_with_all_that_goes_on(mode: BodyMode, pieces: tuple[bytes, ...]) -> None:
    """Nothing goes on instead of what is wholly held back."""
    assert changed(reading(mode), ResponseBody(b"a"), pieces) == [BodyReply(RESPONSE, replace=pieces)]


@pytest.mark.parametrize("end", [True, False])
@pytest.mark.parametrize(
    ("pieces", "sent"),
    [
        ((), (b"",)),
        ((b"x",), (b"x",)),
        ((b"x", b"y"), (b"x", b"y")),
        ((bytes(MAX_CHUNK_BYTES + 1), b"y"), (bytes(MAX_CHUNK_BYTES), bytes(1), b"y")),
    ],
)
def test_in_full_duplex_the_last_piece_ends_the_body_as_the_one_that_came(
    pieces: tuple[bytes, ...], sent: tuple[bytes, ...], end: bool
) -> None:
    replies = changed(reading(DUPLEX), ResponseBody(b"a", end), pieces)
    assert replies == streamed(*sent, phase=RESPONSE, end=end)


def test_in_full_duplex_what_was_held_goes_before_the_trailers() -> None:
    replies = changed(reading(DUPLEX), ResponseTrailers(), (b"held", b"back"))
    assert replies == [*streamed(b"held", b"back", phase=RESPONSE, end=False), TrailersReply(RESPONSE)]


@pytest.mark.parametrize("mode", [STREAMED, BUFFERED])
def test_elsewhere_nothing_can_go_before_the_trailers(mode: BodyMode) -> None:
    assert changed(reading(mode), ResponseTrailers(), (b"held",)) == [TrailersReply(RESPONSE)]


@given(st.lists(st.tuples(st.binary(max_size=5), st.none() | st.lists(st.binary(max_size=5))), min_size=1))
def test_in_full_duplex_what_goes_on_is_what_was_said_in_order(
    talk: list[tuple[bytes, list[bytes] | None]],
) -> None:
    stream = reading(DUPLEX)
    sent, wanted = bytearray(), bytearray()
    for index, (data, pieces) in enumerate(talk):
        last = index == len(talk) - 1
        stream.receive(ResponseBody(data, last))
        if pieces is not None:
            stream.go_on_with(pieces)
        wanted += data if pieces is None else b"".join(pieces)
        replies: list[Any] = list(stream.replies())
        sent += b"".join(reply.streamed for reply in replies)
        assert [reply.end_of_stream for reply in replies] == [False] * (len(replies) - 1) + [last]
    assert sent == wanted


# -- metadata ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [STREAMED, BUFFERED, PARTIAL])
def test_figures_go_beside_the_reply_changed_or_not(mode: BodyMode) -> None:
    stream = reading(mode)
    stream.receive(ResponseBody(b"a", True))
    stream.tell(FIGURES)
    assert list(stream.replies()) == [BodyReply(RESPONSE, TOLD)]

    stream = reading(mode)
    stream.receive(ResponseBody(b"a", True))
    stream.go_on_with((b"b",))
    stream.tell(FIGURES)
    assert list(stream.replies()) == [BodyReply(RESPONSE, TOLD, replace=(b"b",))]


@pytest.mark.parametrize("pieces", [(b"x", b"y"), (b"y",)])
def test_in_full_duplex_they_go_beside_the_last_piece(pieces: tuple[bytes, ...]) -> None:
    stream = reading(DUPLEX)
    stream.receive(ResponseBody(b"a", True))
    stream.go_on_with(pieces)
    stream.tell(FIGURES)
    *_, last = stream.replies()
    assert last == BodyReply(RESPONSE, TOLD, streamed=b"y", end_of_stream=True)


def test_they_go_beside_the_trailers_where_these_end_the_answer() -> None:
    stream = reading(STREAMED)
    stream.receive(ResponseTrailers())
    stream.tell(FIGURES)
    assert list(stream.replies()) == [TrailersReply(RESPONSE, FIGURES)]


# -- refusals ---------------------------------------------------------------------------------------------------


def test_a_refusal_leaves_nothing_else_to_send() -> None:
    stream = reading(STREAMED)
    stream.receive(ResponseBody(b"a"))
    stream.respond(500)
    assert list(stream.replies()) == [ImmediateReply(500)]


def test_an_answer_that_overtakes_its_request_can_be_read() -> None:
    stream = ExtProcStream(DUPLEX, DUPLEX)
    talk(stream, [RequestHeaders(H)])
    stream.receive(ResponseHeaders(OK))
    stream.read_answer()
    assert list(stream.replies()) == [HeadersReply(RESPONSE)]
    assert talk(stream, [RequestBody(b"a", True)]) == [[HeadersReply(REQUEST, PIN), *streamed(b"a")]]
    assert changed(stream, ResponseBody(b"x", True), (b"y",)) == streamed(b"y", phase=RESPONSE)
