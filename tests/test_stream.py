"""Requests through the protocol machine: what Envoy sends, and what it gets back."""

from __future__ import annotations

import itertools

import pytest
from msgspec.structs import replace
from stream_talk import (
    BUFFERED,
    CONNECT,
    DUPLEX,
    NONE,
    OK,
    PARKED,
    PARTIAL,
    PIN,
    REQUEST,
    RESPONSE,
    STREAMED,
    UNPARKED,
    WAITS,
    WEBSOCKET,
    H,
    events,
    streamed,
    talk,
)

from extproc.protocol.chunks import MAX_CHUNK_BYTES
from extproc.protocol.messages import (
    BodyMode,
    BodyReply,
    HeadersReply,
    ImmediateReply,
    ModeOverride,
    RequestBody,
    RequestChunk,
    RequestEmpty,
    RequestHeaders,
    RequestReady,
    RequestStarted,
    RequestTrailers,
    RequestTruncated,
    ResponseBody,
    ResponseHeaders,
    TrailersReply,
)
from extproc.protocol.steps import Half
from extproc.protocol.stream import ExtProcStream, parked_path

# -- BUFFERED ---------------------------------------------------------------------------------------------


def test_buffered_lets_headers_go_and_routes_in_the_answer_to_the_body() -> None:
    assert talk(ExtProcStream(BUFFERED, NONE), [RequestHeaders(H), RequestBody(b"{}", True)]) == [
        [HeadersReply(REQUEST)],
        [BodyReply(REQUEST, PIN)],
    ]


def test_buffered_replaces_the_whole_body_by_the_pieces_of_another() -> None:
    stream = ExtProcStream(BUFFERED, NONE)
    replies = talk(stream, [RequestHeaders(H), RequestBody(b"old", True)], [b"the ", b"new ", b"one"])
    assert replies[-1] == [BodyReply(REQUEST, PIN, replace=(b"the ", b"new ", b"one"))]


def test_buffered_does_not_copy_the_pieces_of_a_body() -> None:
    stream, body = ExtProcStream(BUFFERED, NONE), bytes(1000)
    (reply,) = talk(stream, [RequestHeaders(H), RequestBody(b"old", True)], [body])[-1]
    assert isinstance(reply, BodyReply)
    assert reply.replace is not None
    assert reply.replace[0] is body


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


@pytest.mark.parametrize("mode", [BUFFERED, PARTIAL, STREAMED])
def test_buffered_trailers_without_a_body_come_too_late_to_route(mode: BodyMode) -> None:
    """Envoy sends no body message then, and an answer to trailers can't pin the request."""
    stream = ExtProcStream(mode, NONE)
    assert events(stream, [RequestHeaders(H), RequestTrailers()]) == [RequestStarted(H), RequestEmpty()]
    stream.respond(400)
    assert list(stream.replies()) == [ImmediateReply(400)]


@pytest.mark.parametrize("mode", [BUFFERED, PARTIAL, STREAMED])
def test_headers_may_lose_some_of_them_before_the_body_is_seen(mode: BodyMode) -> None:
    stream = ExtProcStream(mode, NONE)
    stream.receive(RequestHeaders(H))
    stream.strip(("x-extproc-pool",))
    waits = WAITS[mode]
    stripped = replace(waits.mutation, remove_headers=("x-extproc-pool",), clear_route_cache=True)
    assert list(stream.replies()) == [HeadersReply(REQUEST, stripped, waits.override)]


def test_headers_that_lose_nothing_go_as_they_are() -> None:
    stream = ExtProcStream(BUFFERED, NONE)
    stream.receive(RequestHeaders(H))
    stream.strip(())
    assert list(stream.replies()) == [HeadersReply(REQUEST)]


@pytest.mark.parametrize("mode", [PARTIAL, STREAMED])
def test_partial_and_streamed_give_a_request_no_route_before_its_body_is_answered(mode: BodyMode) -> None:
    """Envoy 1.40 would choose it before the body, or not choose it anew."""
    stream = ExtProcStream(mode, NONE)
    assert talk(stream, [RequestHeaders(H), RequestBody(b"{}", True)], [b"[", b"]"]) == [
        [WAITS[mode]],
        [BodyReply(REQUEST, UNPARKED, replace=(b"[", b"]"))],
    ]


@pytest.mark.parametrize(
    ("path", "parked"),
    [
        ("/v1/chat/completions?user=a/b", "%2Fv1%2Fchat%2Fcompletions?user=a%2Fb"),
        ("//v1", "%2F%2Fv1"),
        ("*", "*"),
        ("", ""),
        ("/" + "x" * 5000, "%2F" + "x" * 1023),
    ],
)
def test_a_path_without_a_route_shows_the_clients_in_access_logs(path: str, parked: str) -> None:
    """No slash is in it, so that no route matches which does not match anything; and it is not much longer."""
    assert parked_path(path) == "extproc:waits-for-its-body:" + parked


def test_streamed_is_overridden_and_the_response_stays_as_it_is_configured() -> None:
    stream = ExtProcStream(STREAMED, BUFFERED)
    assert talk(stream, [RequestHeaders(H)]) == [
        [HeadersReply(REQUEST, PARKED, ModeOverride(PARTIAL, BUFFERED))]
    ]
    assert (stream.request_mode, stream.overridden) == (PARTIAL, True)


@pytest.mark.parametrize(
    ("mode", "headers", "ahead"),
    [(STREAMED, H, True), (STREAMED, {":method": "POST"}, False), (BodyMode.GRPC, H, False)],
)
def test_a_mode_that_cannot_be_overridden_is_left_for_the_driver_to_refuse(
    mode: BodyMode, headers: dict[str, str], ahead: bool
) -> None:
    """*ahead*: Envoy sends bodies before their headers are answered, and honours no override then."""
    stream = ExtProcStream(mode, NONE, ahead=ahead)
    assert talk(stream, [RequestHeaders(headers)]) == [[]]
    assert (stream.request_mode, stream.overridden) == (mode, False)


@pytest.mark.parametrize("mode", [PARTIAL, STREAMED])
def test_partial_tells_that_envoy_cut_the_body(mode: BodyMode) -> None:
    stream = ExtProcStream(mode, NONE)
    assert events(stream, [RequestHeaders(H), RequestBody(b'{"mod', False)]) == [
        RequestStarted(H),
        RequestTruncated(),
    ]
    stream.respond(413)
    assert list(stream.replies()) == [ImmediateReply(413)]


# -- FULL_DUPLEX_STREAMED ---------------------------------------------------------------------------------


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


# -- requests without a body, mode NONE, upgrades ---------------------------------------------------------


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
