"""What holds for any conversation, whatever its order and its pieces."""

from __future__ import annotations

import itertools
import tracemalloc

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
    UNPARKED,
    WAITS,
    WEBSOCKET,
    H,
    streamed,
    talk,
)

from extproc.protocol.chunks import MAX_CHUNK_BYTES
from extproc.protocol.messages import (
    BodyMode,
    BodyReply,
    HeadersReply,
    ImmediateReply,
    Message,
    Piece,
    ProtocolError,
    RequestBody,
    RequestChunk,
    RequestEmpty,
    RequestHeaders,
    RequestReady,
    RequestTrailers,
    RequestTruncated,
    ResponseBody,
    ResponseEnded,
    ResponseHeaders,
    ResponseStarted,
    ResponseTrailers,
    TrailersReply,
)
from extproc.protocol.observed import ObservedStream
from extproc.protocol.steps import Half
from extproc.protocol.stream import ExtProcStream

SIZES = st.one_of(
    st.integers(0, 300), st.sampled_from([MAX_CHUNK_BYTES - 1, MAX_CHUNK_BYTES, 2 * MAX_CHUNK_BYTES])
)
PIECES = st.lists(SIZES.map(lambda size: bytes(itertools.islice(itertools.cycle(b"abc"), size))), max_size=5)
DATA = st.binary(max_size=9)
MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(RequestHeaders, st.sampled_from([H, WEBSOCKET]), st.booleans()),
    st.builds(RequestBody, DATA, st.booleans()),
    st.builds(RequestTrailers),
    st.builds(ResponseHeaders, st.just(OK), st.booleans()),
    st.builds(ResponseBody, DATA, st.booleans()),
    st.builds(ResponseTrailers),
)


def request_of(pieces: list[bytes], trailers: bool) -> list[Message]:
    """What Envoy sends of a request whose body comes in *pieces*."""
    if not pieces and not trailers:
        return [RequestHeaders(H, True)]
    bodies = [RequestBody(piece) for piece in pieces]
    if not trailers:
        bodies[-1] = RequestBody(pieces[-1], True)
    return [RequestHeaders(H), *bodies, *([RequestTrailers()] if trailers else [])]


@given(PIECES, st.booleans(), st.none() | PIECES.filter(bool))
def test_duplex_passes_on_every_byte_in_order(
    sent: list[bytes], trailers: bool, other: list[bytes] | None
) -> None:
    stream = ExtProcStream(DUPLEX, NONE)
    messages = request_of(sent, trailers)
    *before, replies = talk(stream, messages, other)
    assert [reply for answer in before for reply in answer] == []
    assert replies[0] == HeadersReply(REQUEST, PIN)
    middle = replies[1:-1] if trailers else replies[1:]
    chunks = [reply for reply in middle if isinstance(reply, BodyReply)]
    has_body = len(messages) > 1
    expected = b"".join(sent if other is None else other) if has_body else b""
    assert len(chunks) == len(middle)
    assert b"".join(chunk.streamed or b"" for chunk in chunks) == expected
    assert all(len(chunk.streamed or b"") <= MAX_CHUNK_BYTES for chunk in chunks)
    assert [chunk.end_of_stream for chunk in chunks] == [
        has_body and not trailers and index == len(chunks) - 1 for index in range(len(chunks))
    ]
    assert (replies[-1] == TrailersReply(REQUEST)) is trailers


@given(PIECES)
def test_duplex_response_bodies_are_echoed_unchanged_piece_by_piece(pieces: list[bytes]) -> None:
    stream = ExtProcStream(BUFFERED, DUPLEX)
    talk(stream, [ResponseHeaders(OK)])
    assert talk(stream, [ResponseBody(piece) for piece in pieces]) == [
        streamed(piece, phase=RESPONSE, end=False) for piece in pieces
    ]


@given(
    st.sampled_from([BUFFERED, PARTIAL, STREAMED]),
    st.sampled_from([NONE, STREAMED, BUFFERED]),
    DATA,
    st.booleans(),
)
def test_buffered_conversations_have_one_reply_for_each_message(
    request_mode: BodyMode, response_mode: BodyMode, body: bytes, trailers: bool
) -> None:
    messages: list[Message] = [RequestHeaders(H), RequestBody(body, True)]
    messages += [RequestTrailers()] if trailers else []
    messages += [ResponseHeaders(OK), ResponseBody(body), ResponseTrailers()]
    stream = ExtProcStream(request_mode, response_mode)
    assert [len(replies) for replies in talk(stream, messages)] == [1] * len(messages)
    assert (stream.request, stream.response) == (Half.DONE, Half.DONE)


@given(st.data(), DATA, PIECES)
def test_request_and_response_interleave_without_touching_each_other(
    data: st.DataObject, body: bytes, answer: list[bytes]
) -> None:
    """Each direction's replies are the same whatever the other direction does in between."""
    request = request_of([body], False)
    response: list[Message] = [ResponseHeaders(OK), *(ResponseBody(piece) for piece in answer)]
    alone = {
        REQUEST: [reply for replies in talk(ExtProcStream(DUPLEX, DUPLEX), request) for reply in replies],
        RESPONSE: [reply for replies in talk(ExtProcStream(DUPLEX, DUPLEX), response) for reply in replies],
    }
    turns = data.draw(st.permutations([REQUEST] * len(request) + [RESPONSE] * len(response)))
    sides = {REQUEST: iter(request), RESPONSE: iter(response)}
    stream = ExtProcStream(DUPLEX, DUPLEX)
    got = [reply for turn in turns for replies in talk(stream, [next(sides[turn])]) for reply in replies]
    for phase, expected in alone.items():
        assert [r for r in got if not isinstance(r, ImmediateReply) and r.phase is phase] == expected


@given(
    st.sampled_from(BodyMode),
    st.sampled_from(BodyMode),
    st.lists(MESSAGES, max_size=8),
    st.sampled_from("rx-"),
)
def test_any_sequence_is_handled_or_is_a_protocol_error(
    request_mode: BodyMode, response_mode: BodyMode, messages: list[Message], then: str
) -> None:
    """Whether the driver routes (r), refuses (x) or has failed to answer (-)."""
    stream = ExtProcStream(request_mode, response_mode)
    for message in messages:
        try:
            event = stream.receive(message)
        except ProtocolError:
            assert stream.closed
            return
        if isinstance(event, RequestReady | RequestTruncated | RequestEmpty) and then != "-":
            _decide(stream, event, then)
        for reply in stream.replies():
            assert isinstance(reply, HeadersReply | BodyReply | TrailersReply | ImmediateReply)
        if stream.finished:
            return


def _decide(stream: ExtProcStream, event: RequestReady | RequestTruncated | RequestEmpty, then: str) -> None:
    if then == "x" or not isinstance(event, RequestReady):
        stream.respond(400)
    else:
        stream.route(PIN)


@given(st.sampled_from([BUFFERED, PARTIAL, STREAMED, DUPLEX]), st.lists(MESSAGES, max_size=8))
def test_no_request_goes_on_before_it_was_routed(mode: BodyMode, messages: list[Message]) -> None:
    """Nothing of a request with a body leaves before `route`, but headers that Envoy holds, or that have no route."""
    stream = ExtProcStream(mode, NONE)
    routed = False
    for message in messages:
        try:
            event = stream.receive(message)
        except ProtocolError:
            return
        if isinstance(event, RequestReady):
            stream.route(PIN)
            routed = True
        requests = [
            reply
            for reply in stream.replies()
            if not isinstance(reply, ImmediateReply) and reply.phase is REQUEST
        ]
        if not routed:
            assert requests in ([], [WAITS[mode]] if mode in WAITS else [])


@given(st.sampled_from([PARTIAL, STREAMED]), DATA, st.booleans(), st.none() | PIECES.filter(bool))
def test_what_had_no_route_gets_its_path_back_with_the_answer_to_its_body(
    mode: BodyMode, body: bytes, trailers: bool, other: list[bytes] | None
) -> None:
    stream = ExtProcStream(mode, NONE)
    messages: list[Message] = [RequestHeaders(H), RequestBody(body, True)]
    messages += [RequestTrailers()] if trailers else []
    new = None if other is None else tuple(other)
    expected = [[WAITS[mode]], [BodyReply(REQUEST, UNPARKED, replace=new)]]
    assert talk(stream, messages, other)[:2] == expected


@given(PIECES, st.booleans(), st.sampled_from("rx"))
def test_an_observed_request_is_told_in_its_pieces_and_never_answered(
    pieces: list[bytes], trailers: bool, then: str
) -> None:
    stream = ObservedStream()
    told: list[Piece] = []
    response: list[Message] = [ResponseHeaders(OK), ResponseBody(b"x"), ResponseBody(b"", True)]
    for message in request_of(pieces, trailers) + response:
        event = stream.receive(message)
        match event:
            case RequestChunk(data):
                told.append(data)
            case RequestReady(_, body, last):
                told += [last] if body is not None else []
                _decide(stream, event, then)
        assert list(stream.replies()) == []
    assert b"".join(told) == b"".join(pieces)
    assert (stream.finished, stream.response) == (False, Half.DONE)


def test_nothing_of_an_observed_answer_is_kept() -> None:
    stream = ObservedStream()
    stream.receive(ResponseHeaders(OK))
    tracemalloc.start()
    try:
        for _ in range(100):
            stream.receive(ResponseBody(bytes(1000)))
            assert list(stream.replies()) == []
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 10_000


@given(PIECES, st.booleans(), st.data())
def test_what_is_observed_after_we_would_have_answered_is_of_the_response_only(
    pieces: list[bytes], trailers: bool, data: st.DataObject
) -> None:
    stream = ObservedStream()
    request = request_of(pieces, trailers)
    answered_at = data.draw(st.integers(0, len(request) - 1))
    for index, message in enumerate(request):
        event = stream.receive(message)
        assert (event is None) is (index > answered_at)
        if index == answered_at:
            stream.respond(429)
    assert stream.receive(ResponseHeaders(OK)) == ResponseStarted(OK, False)
    assert stream.receive(ResponseBody(b"", True)) == ResponseEnded()
    assert list(stream.replies()) == []
    assert not stream.finished
