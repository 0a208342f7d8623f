"""The conversation with Envoy, in any mode and any order: replies are legal, and no byte of a body is lost."""

from __future__ import annotations

from collections.abc import Sequence

from extproc.protocol import codec
from extproc.protocol.chunks import MAX_CHUNK_BYTES
from extproc.protocol.messages import (
    BodyMode,
    BodyReply,
    Event,
    HeadersReply,
    ImmediateReply,
    Message,
    Mutation,
    Phase,
    Piece,
    ProtocolError,
    Reply,
    RequestBody,
    RequestEmpty,
    RequestHeaders,
    RequestReady,
    RequestStarted,
    RequestTrailers,
    RequestTruncated,
    ResponseBody,
    ResponseChunk,
    ResponseEnded,
    ResponseHeaders,
    ResponseStarted,
    ResponseTrailers,
    TrailersReply,
)
from extproc.protocol.stream import ExtProcStream

from ..choices import Choices
from ..target import Target

DUPLEX = BodyMode.FULL_DUPLEX_STREAMED
MODES = list(BodyMode)
MAX_MESSAGES = 40
PIN = Mutation(
    set_headers=(("x-gateway-destination-endpoint", "10.0.0.1:80"),), metadata={"extproc": {"pool": "p"}}
)
HEADERS: tuple[dict[str, str], ...] = (
    {":method": "POST", ":path": "/v1/chat/completions", "x-extproc-pool": "mine"},
    {":method": "GET", ":path": "/v1/realtime", "connection": "upgrade", "upgrade": "websocket"},
    {":method": "CONNECT", ":authority": "example.com:443"},
    {},
)
LARGE = bytes(2 * MAX_CHUNK_BYTES + 1)
KINDS = (RequestHeaders, RequestBody, RequestTrailers, ResponseHeaders, ResponseBody, ResponseTrailers)
REQUESTS = KINDS[:3]
REPLY_TO = {
    RequestHeaders: (HeadersReply, Phase.REQUEST),
    RequestBody: (BodyReply, Phase.REQUEST),
    RequestTrailers: (TrailersReply, Phase.REQUEST),
    ResponseHeaders: (HeadersReply, Phase.RESPONSE),
    ResponseBody: (BodyReply, Phase.RESPONSE),
    ResponseTrailers: (TrailersReply, Phase.RESPONSE),
}


def run(data: bytes) -> None:
    choices = Choices(data)
    talk = Talk(choices)
    for _ in range(MAX_MESSAGES):
        if not choices.left or not talk.go_on(_message(choices)):
            break
    talk.check()


def _message(choices: Choices) -> Message:
    what = choices.byte()
    kind, end = KINDS[what % len(KINDS)], bool(what & 64)
    if kind in (RequestTrailers, ResponseTrailers):
        return kind()
    if kind is RequestHeaders:
        return RequestHeaders(choices.of(HEADERS), end)
    if kind is ResponseHeaders:
        return ResponseHeaders({":status": "200"}, end)
    body = LARGE if what & 128 else choices.some()
    return RequestBody(body, end) if kind is RequestBody else ResponseBody(body, end)


class Side:
    """What came in and went out of one direction's body, of bodies that are streamed."""

    def __init__(self) -> None:
        self.given: list[Piece] = []
        self.went_on: list[Piece] = []
        self.ended = False
        self.headers_only = False
        self.replies: list[type] = []

    def reply(self, reply: HeadersReply | BodyReply | TrailersReply) -> None:
        assert not self.ended or isinstance(reply, TrailersReply), f"{reply} after the body's end"
        assert not (isinstance(reply, HeadersReply) and self.replies), "headers after something else"
        self.replies.append(type(reply))
        if isinstance(reply, BodyReply):
            self.ended = reply.end_of_stream
            if reply.streamed is not None:
                self.went_on.append(reply.streamed)


class Talk:
    """Plays the server to a stream: decides when it is asked to."""

    def __init__(self, choices: Choices) -> None:
        self._choices = choices
        self._modes = choices.of(MODES), choices.of(MODES)
        self._stream = ExtProcStream(*self._modes, ahead=choices.flag())
        self._then = choices.of("rrrbx-")
        """Route, route with another body, refuse, or leave it undecided."""
        self._reads = choices.of("-rar")
        """The answer's body: is not wanted, is read, is asked for."""
        self._sides = {Phase.REQUEST: Side(), Phase.RESPONSE: Side()}
        self._reading = self._restored = False

    def go_on(self, message: Message) -> bool:
        """False where the conversation is over."""
        stream = self._stream
        try:
            event = stream.receive(message)
        except ProtocolError:
            assert stream.closed
            self._check_closed(message)
            return False
        self._note(message, event)
        self._decide(event)
        replies = list(stream.replies())
        self._check_replies(message, event, replies)
        assert list(stream.replies()) == [], "a reply twice"
        if stream.closed:
            assert [type(reply) for reply in replies] == [ImmediateReply]
            self._check_closed(message)
        return not stream.finished

    def _note(self, message: Message, event: Event | None) -> None:
        if isinstance(message, ResponseHeaders):
            self._sides[Phase.RESPONSE].headers_only = message.end_of_stream
        if isinstance(message, RequestBody | ResponseBody) and not self._is_repeated(message, event):
            phase = Phase.REQUEST if isinstance(message, RequestBody) else Phase.RESPONSE
            self._sides[phase].given.append(message.data)

    def _is_repeated(self, message: Message, event: Event | None) -> bool:
        """A second end of a body, which is ignored: Envoys send one."""
        side = self._sides[Phase.REQUEST if isinstance(message, RequestBody) else Phase.RESPONSE]
        ended = side.ended or side.headers_only or TrailersReply in side.replies
        return event is None and message.end_of_stream and ended

    def _decide(self, event: Event | None) -> None:
        stream = self._stream
        match event:
            case RequestStarted():
                if stream.request_mode in (BodyMode.STREAMED, BodyMode.GRPC) or self._then == "x":
                    stream.respond(500, (("content-type", "application/json"),), b"{}", "refused")
                else:
                    stream.strip(("x-extproc-pool",))
            case RequestTruncated() | RequestEmpty():
                stream.respond(413)
            case RequestReady(_, body, _):
                self._answer(body)
            case ResponseStarted(_, end):
                self._want(end)
            case ResponseChunk(data, last):
                assert self._reading
                self._restore(data, last)
            case ResponseEnded():
                if self._reading:
                    stream.tell({"extproc": {"total_tokens": 3.0}})

    def _answer(self, body: Sequence[Piece] | None) -> None:
        stream = self._stream
        if self._then == "b" and body is not None:
            other = [self._choices.some(), b"{}"]
            self._sides[Phase.REQUEST].given = list(other)
            stream.route(PIN, other)
        elif self._then != "-":
            stream.route(PIN)
        else:
            stream.respond(503)

    def _want(self, ended: bool) -> None:
        if ended or self._reads == "-":
            return
        if self._modes[1] is BodyMode.NONE:
            if self._reads == "a" and self._stream.request_mode is not DUPLEX:
                self._stream.ask_for_answer()
                self._reading = True
        elif self._modes[1] is not BodyMode.GRPC:
            self._stream.read_answer()
            self._reading = True

    def _restore(self, data: Piece, last: bool) -> None:
        """Every second piece is swallowed, every third doubled."""
        given = self._sides[Phase.RESPONSE].given
        if len(given) % 2 == 0:
            self._stream.go_on_with(() if len(given) % 3 else (data, data))
            given[-1:] = [] if len(given) % 3 else [data, data]
        if last:
            self._stream.tell({"extproc": {"total_tokens": 3.0}})

    def _check_replies(self, message: Message, event: Event | None, replies: Sequence[Reply]) -> None:
        for reply in replies:
            assert codec.encode(reply) or (isinstance(reply, BodyReply) and reply.streamed == b"")
            if isinstance(reply, ImmediateReply):
                assert len(replies) == 1
                return
            self._sides[reply.phase].reply(reply)
            self._check_mode(reply, message)
        is_request = isinstance(message, REQUESTS)
        mode = self._stream.request_mode if is_request else self._stream.response_mode
        phase = Phase.REQUEST if is_request else Phase.RESPONSE
        assert all(not isinstance(reply, ImmediateReply) and reply.phase is phase for reply in replies)
        if mode is not DUPLEX:
            assert len(replies) == 1, f"{len(replies)} replies where Envoy waits for one"
            kind, phase = REPLY_TO[type(message)]
            assert isinstance(replies[0], kind)

    def _check_mode(self, reply: Reply, message: Message) -> None:
        if not isinstance(reply, BodyReply):
            return
        is_request = reply.phase is Phase.REQUEST
        mode = self._stream.request_mode if is_request else self._stream.response_mode
        if mode is DUPLEX:
            assert reply.streamed is not None
            assert reply.replace is None
            echoed = isinstance(message, RequestBody | ResponseBody) and reply.streamed == message.data
            assert len(reply.streamed) <= MAX_CHUNK_BYTES or echoed
        else:
            assert reply.streamed is None, "a streamed piece where bodies are not streamed"

    def _check_closed(self, message: Message) -> None:
        """Nothing follows."""
        try:
            self._stream.receive(message)
        except ProtocolError:
            return
        raise AssertionError("a closed stream went on")

    def check(self) -> None:
        """What was given went on, where bodies are streamed: of the request once it was routed."""
        for phase, side in self._sides.items():
            mode = self._stream.request_mode if phase is Phase.REQUEST else self._stream.response_mode
            if mode is not DUPLEX or self._stream.closed or (phase is Phase.REQUEST and not side.replies):
                continue
            assert b"".join(side.went_on) == b"".join(side.given), (
                f"bytes of the {phase.value}'s body are lost"
            )


def _seeds() -> list[bytes]:
    """Modes, then messages: 0 to 5 as in KINDS, 64 more for the last one, 128 more for a large body."""
    request = bytes((0, 0, 1, 3, 97, 98, 99, 65, 2, 120, 121))
    empty = bytes((64, 0))
    trailers = bytes((0, 0, 1, 1, 97, 2))
    upgrade = bytes((0, 1, 1, 1, 97, 65, 1, 98))
    answer = bytes((3, 4, 2, 100, 101, 68, 1, 102))
    with_trailers = bytes((3, 4, 1, 100, 4, 0, 4, 1, 101, 5))
    large = bytes((0, 0, 129, 193, 3, 132, 196))
    talks = [
        request + answer,
        empty + with_trailers,
        trailers + with_trailers,
        upgrade + answer,
        large,
        answer,
    ]
    seeds = []
    for mode in range(len(MODES)):
        for number, talk in enumerate(talks):
            seeds.append(bytes((mode, (mode + number) % 5, number & 1, number, number)) + talk)
            seeds.append(bytes((4, mode, 0, 0, number)) + talk)
    return seeds


TARGET = Target(
    run,
    _seeds,
    (
        bytes((0, 0)),
        bytes((65, 1, 97)),
        bytes((64, 0)),
        b"\x02",
        b"\x03",
        bytes((4, 1, 98)),
        bytes((68, 0)),
        b"\x05",
    ),
    max_bytes=256,
)
