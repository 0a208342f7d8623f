"""The protocol machine as a specification: what Envoy sends, what it gets back, what is impossible."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.protocol.messages import (
    BodyMode,
    BodyReply,
    Event,
    HeadersReply,
    ImmediateReply,
    Message,
    Mutation,
    Phase,
    ProtocolError,
    Reply,
    RequestBody,
    RequestChunk,
    RequestHeaders,
    RequestReady,
    RequestStarted,
    RequestTrailers,
    RequestTruncated,
    ResponseBody,
    ResponseEnded,
    ResponseHeaders,
    ResponseStarted,
    ResponseTrailers,
    TrailersReply,
)
from extproc.protocol.stream import MAX_CHUNK_BYTES, ExtProcStream, Half

REQUEST, RESPONSE = Phase.REQUEST, Phase.RESPONSE
NONE, STREAMED, BUFFERED = BodyMode.NONE, BodyMode.STREAMED, BodyMode.BUFFERED
PARTIAL, DUPLEX = BodyMode.BUFFERED_PARTIAL, BodyMode.FULL_DUPLEX_STREAMED

H = {":method": "POST", ":path": "/v1/chat/completions"}
OK = {":status": "200"}
WEBSOCKET = {":method": "GET", ":path": "/v1/realtime", "connection": "upgrade", "upgrade": "websocket"}
CONNECT = {":method": "CONNECT", ":authority": "example.com:443"}
PIN = Mutation(set_headers=(("x-gateway-destination-endpoint", "10.0.0.1:8000"),), clear_route_cache=True)


def talk(
    stream: ExtProcStream, messages: Iterable[Message], body: Sequence[bytes] | None = None
) -> list[list[Reply]]:
    """Play Envoy, and route (with *body*, if given) when asked; the replies to each message."""
    return [_answer(stream, message, body) for message in messages]


def _answer(stream: ExtProcStream, message: Message, body: Sequence[bytes] | None) -> list[Reply]:
    if isinstance(stream.receive(message), RequestReady):
        stream.route(PIN, body)
    return list(stream.replies())


def events(stream: ExtProcStream, messages: Iterable[Message]) -> list[Event | None]:
    """What the driver is told of each message; it routes when asked."""
    told = []
    for message in messages:
        told.append(stream.receive(message))
        if isinstance(told[-1], RequestReady):
            stream.route(PIN)
    return told


def streamed(*pieces: bytes, phase: Phase = REQUEST, end: bool = True) -> list[Reply]:
    """The replies that pass on *pieces*; the last one ends the body if *end*."""
    last = len(pieces) - 1
    return [
        BodyReply(phase, streamed=piece, end_of_stream=end and index == last)
        for index, piece in enumerate(pieces)
    ]


# -- BUFFERED -----------------------------------------------------------------------------------------------


def test_buffered_lets_headers_go_and_routes_in_the_answer_to_the_body() -> None:
    assert talk(ExtProcStream(BUFFERED, NONE), [RequestHeaders(H), RequestBody(b"{}", True)]) == [
        [HeadersReply(REQUEST)],
        [BodyReply(REQUEST, PIN)],
    ]


def test_buffered_replaces_the_whole_body_by_the_pieces_of_another() -> None:
    stream = ExtProcStream(BUFFERED, NONE)
    replies = talk(stream, [RequestHeaders(H), RequestBody(b"old", True)], [b"the ", b"new ", b"one"])
    assert replies[-1] == [BodyReply(REQUEST, PIN, replace=b"the new one")]


def test_buffered_does_not_copy_a_body_that_is_one_piece() -> None:
    stream, body = ExtProcStream(BUFFERED, NONE), bytes(1000)
    (reply,) = talk(stream, [RequestHeaders(H), RequestBody(b"old", True)], [body])[-1]
    assert isinstance(reply, BodyReply)
    assert reply.replace is body


def test_buffered_body_is_whole_even_where_it_does_not_end_the_stream_because_trailers_follow() -> None:
    stream = ExtProcStream(BUFFERED, NONE)
    assert talk(stream, [RequestHeaders(H), RequestBody(b"{}", False), RequestTrailers()]) == [
        [HeadersReply(REQUEST)],
        [BodyReply(REQUEST, PIN)],
        [TrailersReply(REQUEST)],
    ]


def test_buffered_trailers_after_the_end_of_the_body_are_answered() -> None:
    stream = ExtProcStream(BUFFERED, NONE)
    replies = talk(stream, [RequestHeaders(H), RequestBody(b"{}", True), RequestTrailers()])
    assert replies[-1] == [TrailersReply(REQUEST)]


@pytest.mark.parametrize("mode", [BUFFERED, PARTIAL])
def test_a_buffered_request_that_could_not_be_pinned_any_more_is_impossible(mode: BodyMode) -> None:
    """An answer to trailers can't change request headers."""
    stream = ExtProcStream(mode, NONE)
    talk(stream, [RequestHeaders(H)])
    with pytest.raises(ProtocolError, match=r"^RequestTrailers while BODY$"):
        stream.receive(RequestTrailers())
    assert stream.closed


def test_buffered_partial_routes_a_whole_body_like_buffered() -> None:
    stream = ExtProcStream(PARTIAL, NONE)
    assert talk(stream, [RequestHeaders(H), RequestBody(b"{}", True)], [b"[", b"]"]) == [
        [HeadersReply(REQUEST)],
        [BodyReply(REQUEST, PIN, replace=b"[]")],
    ]


def test_buffered_partial_tells_that_envoy_cut_the_body() -> None:
    stream = ExtProcStream(PARTIAL, NONE)
    assert events(stream, [RequestHeaders(H), RequestBody(b'{"mod', False)]) == [
        RequestStarted(H),
        RequestTruncated(),
    ]
    stream.respond(413)
    assert list(stream.replies()) == [ImmediateReply(413)]


# -- FULL_DUPLEX_STREAMED -----------------------------------------------------------------------------------


def test_duplex_holds_everything_back_until_the_body_is_whole() -> None:
    stream = ExtProcStream(DUPLEX, NONE)
    assert talk(stream, [RequestHeaders(H), RequestBody(b"ab"), RequestBody(b"c", True)]) == [
        [],
        [],
        [HeadersReply(REQUEST, PIN), *streamed(b"ab", b"c")],
    ]


def test_duplex_tells_each_piece_once() -> None:
    messages = [RequestHeaders(H), RequestBody(b"ab"), RequestBody(b"c", True)]
    assert events(ExtProcStream(DUPLEX, NONE), messages) == [
        RequestStarted(H),
        RequestChunk(b"ab"),
        RequestReady(H, [b"ab", b"c"], last=b"c"),
    ]


def test_duplex_passes_on_the_empty_piece_that_ends_a_body() -> None:
    stream = ExtProcStream(DUPLEX, NONE)
    replies = talk(stream, [RequestHeaders(H), RequestBody(b"ab"), RequestBody(b"", True)])
    assert replies[-1] == [HeadersReply(REQUEST, PIN), *streamed(b"ab", b"")]


def test_duplex_body_may_be_ended_by_trailers() -> None:
    stream = ExtProcStream(DUPLEX, NONE)
    assert talk(stream, [RequestHeaders(H), RequestBody(b"ab"), RequestTrailers()]) == [
        [],
        [],
        [HeadersReply(REQUEST, PIN), *streamed(b"ab", end=False), TrailersReply(REQUEST)],
    ]


def test_duplex_request_may_be_headers_and_trailers_only() -> None:
    stream = ExtProcStream(DUPLEX, NONE)
    told = events(stream, [RequestHeaders(H), RequestTrailers()])
    assert told == [RequestStarted(H), RequestReady(H, [], last=b"")]
    assert list(stream.replies()) == [HeadersReply(REQUEST, PIN), TrailersReply(REQUEST)]


def test_duplex_trailers_after_the_end_of_the_body_are_answered() -> None:
    stream = ExtProcStream(DUPLEX, NONE)
    replies = talk(stream, [RequestHeaders(H), RequestBody(b"a", True), RequestTrailers()])
    assert replies[-1] == [TrailersReply(REQUEST)]


def test_duplex_tolerates_a_second_end_of_the_request() -> None:
    stream = ExtProcStream(DUPLEX, NONE)
    replies = talk(stream, [RequestHeaders(H), RequestBody(b"a", True), RequestBody(b"a", True)])
    assert replies[-1] == []
    assert not stream.closed
    assert talk(stream, [ResponseHeaders(OK)]) == [[HeadersReply(RESPONSE)]]


def test_duplex_tolerates_a_second_end_of_the_response() -> None:
    stream = ExtProcStream(NONE, DUPLEX)
    replies = talk(stream, [ResponseHeaders(OK), ResponseBody(b"a", True), ResponseBody(b"", True)])
    assert replies[-1] == []


@pytest.mark.parametrize(
    ("size", "pieces"),
    [
        (0, [0]),
        (1, [1]),
        (MAX_CHUNK_BYTES - 1, [MAX_CHUNK_BYTES - 1]),
        (MAX_CHUNK_BYTES, [MAX_CHUNK_BYTES]),
        (MAX_CHUNK_BYTES + 1, [MAX_CHUNK_BYTES, 1]),
        (2 * MAX_CHUNK_BYTES, [MAX_CHUNK_BYTES] * 2),
        (3 * MAX_CHUNK_BYTES + 7, [MAX_CHUNK_BYTES] * 3 + [7]),
    ],
)
def test_duplex_body_of_any_size_goes_on_in_pieces_and_ends_exactly_once(
    size: int, pieces: list[int]
) -> None:
    body = bytes(range(256)) * (size // 256 + 1)
    stream = ExtProcStream(DUPLEX, NONE)
    (_, (_, *replies)) = talk(stream, [RequestHeaders(H), RequestBody(body[:size], True)])
    assert [len(reply.streamed or b"") for reply in replies if isinstance(reply, BodyReply)] == pieces
    assert replies == streamed(*_cut(body[:size], pieces))


def _cut(body: bytes, sizes: list[int]) -> list[bytes]:
    ends = list(itertools.accumulate(sizes))
    return [body[end - size : end] for end, size in zip(ends, sizes, strict=True)]


def test_duplex_body_is_cut_up_only_as_it_is_sent() -> None:
    stream = ExtProcStream(DUPLEX, NONE)
    stream.receive(RequestHeaders(H))
    stream.receive(RequestBody(bytes(10 * MAX_CHUNK_BYTES), True))
    stream.route(PIN)
    replies = stream.replies()
    assert next(replies) == HeadersReply(REQUEST, PIN)
    assert next(replies) == BodyReply(REQUEST, streamed=bytes(MAX_CHUNK_BYTES))
    assert len(list(replies)) == 9


BODY = b'{"model": "qwq", "messages": [{"role": "user", "content": "hi \xc3\xa9"}]}'


@pytest.mark.parametrize("trailers", [False, True])
def test_duplex_body_split_at_every_byte_goes_on_whole(trailers: bool) -> None:
    for at in range(len(BODY) + 1):
        halves = [RequestBody(BODY[:at]), RequestBody(BODY[at:], not trailers)]
        ending = [RequestTrailers()] if trailers else []
        stream = ExtProcStream(DUPLEX, NONE)
        replies = talk(stream, [RequestHeaders(H), *halves, *ending])[-1]
        assert replies == [
            HeadersReply(REQUEST, PIN),
            *streamed(BODY[:at], BODY[at:], end=not trailers),
            *([TrailersReply(REQUEST)] if trailers else []),
        ]


# -- requests without a body, mode NONE, upgrades -----------------------------------------------------------


@pytest.mark.parametrize("mode", BodyMode)
def test_a_request_without_a_body_is_routed_in_the_answer_to_its_headers(mode: BodyMode) -> None:
    stream = ExtProcStream(mode, NONE)
    assert events(stream, [RequestHeaders(H, True)]) == [RequestReady(H, None)]
    assert list(stream.replies()) == [HeadersReply(REQUEST, PIN)]
    assert (stream.request, stream.finished) == (Half.DONE, False)


def test_mode_none_routes_at_the_headers_although_a_body_follows_unseen() -> None:
    stream = ExtProcStream(NONE, NONE)
    assert events(stream, [RequestHeaders(H)]) == [RequestReady(H, None)]
    assert list(stream.replies()) == [HeadersReply(REQUEST, PIN)]
    assert talk(stream, [RequestTrailers()]) == [[TrailersReply(REQUEST)]]


@pytest.mark.parametrize("headers", [WEBSOCKET, CONNECT])
@pytest.mark.parametrize("mode", [BUFFERED, PARTIAL])
def test_a_buffered_upgrade_is_routed_at_its_headers_and_then_left_alone(
    mode: BodyMode, headers: dict[str, str]
) -> None:
    """Its body never ends, so that Envoy would hold it back for ever."""
    stream = ExtProcStream(mode, NONE)
    assert events(stream, [RequestHeaders(headers)]) == [RequestReady(headers, None)]
    assert list(stream.replies()) == [HeadersReply(REQUEST, PIN)]
    assert stream.finished


@pytest.mark.parametrize("headers", [WEBSOCKET, CONNECT])
def test_a_duplex_upgrade_is_routed_at_its_headers_and_echoed_piece_by_piece(headers: dict[str, str]) -> None:
    stream = ExtProcStream(DUPLEX, DUPLEX)
    big = bytes(3 * MAX_CHUNK_BYTES)
    assert talk(
        stream,
        [
            RequestHeaders(headers),
            RequestBody(b"ping"),
            ResponseHeaders({":status": "101"}),
            ResponseBody(b"pong"),
            RequestBody(big),
            RequestBody(b"", True),
            RequestBody(b"", True),
            ResponseBody(b"", True),
        ],
    ) == [
        [HeadersReply(REQUEST, PIN)],
        streamed(b"ping", end=False),
        [HeadersReply(RESPONSE)],
        streamed(b"pong", phase=RESPONSE, end=False),
        streamed(big, end=False),
        streamed(b""),
        [],
        streamed(b"", phase=RESPONSE),
    ]
    assert not stream.finished


def test_a_duplex_upgrade_may_end_with_trailers() -> None:
    stream = ExtProcStream(DUPLEX, NONE)
    replies = talk(stream, [RequestHeaders(CONNECT), RequestBody(b"x"), RequestTrailers()])
    assert replies[1:] == [streamed(b"x", end=False), [TrailersReply(REQUEST)]]


def test_an_upgrade_in_mode_none_stays_open() -> None:
    stream = ExtProcStream(NONE, NONE)
    assert talk(stream, [RequestHeaders(WEBSOCKET)]) == [[HeadersReply(REQUEST, PIN)]]
    assert not stream.finished


def test_a_request_that_asks_for_an_upgrade_but_has_no_body_is_an_ordinary_one() -> None:
    stream = ExtProcStream(BUFFERED, NONE)
    talk(stream, [RequestHeaders(WEBSOCKET, True)])
    assert not stream.finished


# -- responses ----------------------------------------------------------------------------------------------

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


# -- refusals -----------------------------------------------------------------------------------------------

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
    with pytest.raises(ProtocolError, match=r"^ResponseHeaders while CLOSED$"):
        stream.receive(ResponseHeaders(OK))


def test_a_refusal_after_a_decision_takes_the_decision_back() -> None:
    """A bug of ours between deciding and sending."""
    stream = ExtProcStream(DUPLEX, NONE)
    stream.receive(RequestHeaders(H, True))
    stream.route(PIN)
    stream.respond(500)
    assert list(stream.replies()) == [ImmediateReply(500)]


# -- impossible orders --------------------------------------------------------------------------------------


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


# -- properties ---------------------------------------------------------------------------------------------

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


@given(st.sampled_from([BUFFERED, PARTIAL]), st.sampled_from([NONE, STREAMED, BUFFERED]), DATA, st.booleans())
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
        if isinstance(event, RequestReady | RequestTruncated) and then != "-":
            _decide(stream, event, then)
        for reply in stream.replies():
            assert isinstance(reply, HeadersReply | BodyReply | TrailersReply | ImmediateReply)
        if stream.finished:
            return


def _decide(stream: ExtProcStream, event: RequestReady | RequestTruncated, then: str) -> None:
    if then == "x" or isinstance(event, RequestTruncated):
        stream.respond(400)
    else:
        stream.route(PIN)


@given(st.sampled_from([BUFFERED, PARTIAL, DUPLEX]), st.lists(MESSAGES, max_size=8))
def test_no_request_goes_on_before_it_was_routed(mode: BodyMode, messages: list[Message]) -> None:
    """Nothing of a request with a body leaves before `route`, but the headers of buffered ones, which Envoy holds."""
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
            assert requests in ([], [HeadersReply(REQUEST)] if mode is not DUPLEX else [])
