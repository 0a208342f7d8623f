"""The ext_proc conversation about one HTTP request, without any I/O.

Feed it what Envoy sent (`receive`), tell it what was decided (`route` or `respond`), take what must go back
(`replies`).  It imports neither grpc nor asyncio nor protobuf, and knows nothing of routing.

Source of the rules: envoy/service/ext_proc/v3/external_processor.proto, and what Envoy 1.36 to 1.40 do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from .answer_half import AnswerHalf
from .chunks import streamed
from .messages import (
    NO_MUTATION,
    BodyMode,
    BodyReply,
    Event,
    Headers,
    HeadersReply,
    ImmediateReply,
    Message,
    Metadata,
    ModeOverride,
    Mutation,
    Pairs,
    Phase,
    Piece,
    ProtocolError,
    Reply,
    RequestBody,
    RequestChunk,
    RequestEmpty,
    RequestHeaders,
    RequestReady,
    RequestStarted,
    RequestTrailers,
    RequestTruncated,
    ResponseBody,
    TrailersReply,
)
from .steps import REQUEST_MESSAGES, REQUEST_STEPS, RESPONSE_STEPS, WHOLE_AT_ONCE, Half

PARKED_PREFIX = "extproc:waits-for-its-body:"
PARKED_PATH_MAX = 1024
"""Characters of a client's path that are kept in a parked one: enough for a log, and no request's headers outgrow
Envoy's limit (60 KiB) for it."""


def parked_path(path: str) -> str:
    """What *path* is until the body is answered, where else a request could go somewhere before: no slash, no route.

    Where the request is refused this stays in Envoy's access log, whatever its format: so the client's path is in it.
    (Dynamic metadata need a format of ours; `x-envoy-original-path` may not be set by default.)
    """
    return PARKED_PREFIX + path[:PARKED_PATH_MAX].replace("/", "%2F")


def is_upgrade(headers: Headers) -> bool:
    """Whether the body is an endless two-way stream (WebSocket, CONNECT) that can't be waited for."""
    return "upgrade" in headers or headers.get(":method") == "CONNECT"


class ExtProcStream:
    """One HTTP request's conversation.

    `receive(message)` says what Envoy sent and answers the event, if any, that asks for a decision.
    `route` or `respond` follow a `RequestReady`; `respond` may come at any earlier event too.
    `replies()` is what to send now, in order; it is lazy, so that a big body is cut up as it is sent.
    *ahead*: Envoy sends bodies before their headers are answered.
    """

    def __init__(self, request_mode: BodyMode, response_mode: BodyMode, *, ahead: bool = False) -> None:
        self.request = Half.IDLE
        self.closed = False
        """After a rejection or an error nothing may follow."""
        self.finished = False
        """Nothing more is wanted from Envoy: the driver closes the stream once the replies are sent."""
        self.request_mode = request_mode
        """How the body comes: BUFFERED_PARTIAL once STREAMED was overridden."""
        self.overridden = False
        """The body's mode was overridden; whether Envoy honours that will be seen."""
        self._answer = AnswerHalf(response_mode)
        self._ahead = ahead
        self._headers: Headers = {}
        self._body: list[Piece] = []
        self._bodiless = False
        self.upgrade = False
        """The request asks for an endless two-way stream."""
        self._trailers = False
        self._replies: list[Reply] = []
        self._pieces: Sequence[Piece] | None = None

    def receive(self, message: Message) -> Event | None:
        """Take one message of Envoy's; raises ProtocolError where it is impossible here."""
        if not self._step(message):
            return None
        match message:
            case RequestHeaders(headers, end):
                return self._request_headers(headers, end)
            case RequestBody(data, end):
                return self._request_body(data, end)
            case RequestTrailers():
                return self._request_trailers()
            case _:
                return self._answer.receive(message)

    def _step(self, message: Message) -> bool:
        """Move one direction on; False for a message to be ignored."""
        kind, end = type(message), message.end_of_stream
        is_request = kind in REQUEST_MESSAGES
        half, steps = (self.request, REQUEST_STEPS) if is_request else (self._answer.half, RESPONSE_STEPS)
        after = None if self.closed else steps.get((half, kind, end))
        if after is None:
            if not self.closed and half is Half.DONE and self._is_second_end(message):
                return False
            was, self.closed = ("CLOSED" if self.closed else half.name), True
            raise ProtocolError(f"{kind.__name__} while {was}")
        if is_request:
            self.request = after
        else:
            self._answer.half = after
        return True

    def _is_second_end(self, message: Message) -> bool:
        """Envoy 1.35+ may repeat the last piece of a big full-duplex body (envoyproxy/envoy#46237)."""
        match message:
            case RequestBody(_, True):
                had_body = self.upgrade or not self._bodiless
                return self.request_mode is BodyMode.FULL_DUPLEX_STREAMED and had_body
            case ResponseBody(_, True):
                return self._answer.mode is BodyMode.FULL_DUPLEX_STREAMED
            case _:
                return False

    def _request_headers(self, headers: Headers, end: bool) -> Event:
        self._headers = headers
        self.upgrade = not end and is_upgrade(headers)
        if end or self.upgrade or self.request_mode is BodyMode.NONE:
            self._bodiless, self.request = True, Half.WHOLE
            return RequestReady(headers, None)
        if self.request_mode is BodyMode.BUFFERED:
            self._replies.append(HeadersReply(Phase.REQUEST))  # until then Envoy holds the body back
        elif self.request_mode is BodyMode.BUFFERED_PARTIAL or self._is_overridable():
            self._park()
        return RequestStarted(headers)

    def _is_overridable(self) -> bool:
        return self.request_mode is BodyMode.STREAMED and not self._ahead and ":path" in self._headers

    def _park(self) -> None:
        """Let the headers go, but nowhere: without a route, until `route` gives the path back.

        - STREAMED is overridden by BUFFERED_PARTIAL: with BUFFERED Envoy 1.40 waits for ever for a body above its
          buffer limit, of which it had read some.  Where the override is not honoured, the headers go on now, and
          without a route no pod gets them.
        - In BUFFERED_PARTIAL Envoy 1.40 does not choose the route anew at the answer to a body that came after the
          answer to its headers, but for a request that has none.
        """
        override = None
        if self.request_mode is BodyMode.STREAMED:
            self.request_mode, self.overridden = BodyMode.BUFFERED_PARTIAL, True
            override = ModeOverride(BodyMode.BUFFERED_PARTIAL, self._answer.mode)
        parked = Mutation(path=parked_path(self._headers.get(":path", "")), clear_route_cache=True)
        self._replies.append(HeadersReply(Phase.REQUEST, parked, override))

    def _request_body(self, data: Piece, end: bool) -> Event | None:
        if self.upgrade:
            self._replies.append(BodyReply(Phase.REQUEST, streamed=data, end_of_stream=end))
            return None
        if self.request_mode is BodyMode.BUFFERED_PARTIAL and not end:
            self.request = Half.WHOLE
            return RequestTruncated()
        self._body.append(data)
        if self.request_mode is BodyMode.BUFFERED:
            self.request = Half.WHOLE  # one message is the whole body, even where trailers follow
        return self._ready(data) if self.request is Half.WHOLE else RequestChunk(data)

    def _request_trailers(self) -> Event | None:
        if self.request is Half.DONE:
            self._replies.append(TrailersReply(Phase.REQUEST))
            return None
        if self.request_mode in WHOLE_AT_ONCE:
            return RequestEmpty()  # the answer to trailers can't change the request's headers
        self._trailers = True
        return self._ready()

    def _ready(self, last: Piece = b"") -> RequestReady:
        return RequestReady(self._headers, self._body, last)

    def strip(self, names: tuple[str, ...]) -> None:
        """Remove headers in the answer to the headers, where that goes out before the body is seen.

        If the body then turns out to be empty and trailers follow that Envoy does not send, Envoy asks nothing
        more: the request goes on with the headers as they were left here.
        """
        for index, reply in enumerate(self._replies if names else ()):
            if isinstance(reply, HeadersReply):
                removed = reply.mutation.remove_headers + names
                mutation = replace(reply.mutation, remove_headers=removed, clear_route_cache=True)
                self._replies[index] = replace(reply, mutation=mutation)

    # -- the answer, right after its `ResponseStarted` --

    @property
    def response(self) -> Half:
        return self._answer.half

    @property
    def response_mode(self) -> BodyMode:
        """How Envoy is configured to send the answer's body."""
        return self._answer.mode

    @property
    def is_dispensable(self) -> bool:
        """Envoy can go on alone: the request was routed, and but in full duplex it keeps what of the answer we owe."""
        return self.request is Half.DONE and self.response_mode is not BodyMode.FULL_DUPLEX_STREAMED

    def strip_response(self, names: tuple[str, ...]) -> None:
        """Remove headers of the answer."""
        self._answer.strip(names)

    def read_answer(self) -> None:
        """The body, which Envoy sends, is wanted in `ResponseChunk`s."""
        self._answer.read()

    def ask_for_answer(self) -> None:
        """The same where Envoy sends no body: it is told to, and does so where the operator allowed that."""
        self._answer.ask(self.request_mode)

    def go_on_with(self, pieces: Sequence[Piece]) -> None:
        """Instead of the `ResponseChunk` told last; after `ResponseEnded`: before the trailers.

        There, nothing can be put in but in FULL_DUPLEX_STREAMED: elsewhere it is dropped.
        """
        self._answer.go_on_with(pieces)

    def tell(self, metadata: Metadata) -> None:
        """Dynamic metadata beside the reply to the `ResponseChunk` or `ResponseEnded` told last."""
        self._answer.tell(metadata)

    def route(self, mutation: Mutation = NO_MUTATION, body: Sequence[Piece] | None = None) -> None:
        """Send the request on with *mutation* and, if given, another *body* (its pieces, in order)."""
        assert self.request is Half.WHOLE, self.request
        self.request = Half.DONE
        if self._bodiless:
            self._replies.append(HeadersReply(Phase.REQUEST, mutation))
            self._open_upgrade()
            return
        pieces, self._body = (self._body if body is None else body), []
        if self.request_mode is BodyMode.BUFFERED_PARTIAL:
            mutation = replace(mutation, path=self._headers.get(":path"))
        if self.request_mode in WHOLE_AT_ONCE:
            new = None if body is None else tuple(body)
            self._replies.append(BodyReply(Phase.REQUEST, mutation, replace=new))
            return
        self._replies.append(HeadersReply(Phase.REQUEST, mutation))
        self._pieces = pieces

    def _open_upgrade(self) -> None:
        if not self.upgrade:
            return
        if self.request_mode is BodyMode.FULL_DUPLEX_STREAMED:
            self.request = Half.ECHO
        elif self.request_mode is not BodyMode.NONE:
            # A buffered body that never ends would never reach the upstream.  A mode override is only honoured
            # where the operator allowed it; a clean close lets this request through everywhere.
            self.finished = True

    def respond(self, status: int, headers: Pairs = (), body: bytes = b"", details: str = "") -> None:
        """Answer the client ourselves with HTTP *status*; ends the conversation."""
        self.closed = self.finished = True
        self.request, self._body, self._pieces = Half.DONE, [], None
        self._answer.take_replies()
        self._replies = [ImmediateReply(status, headers, body, details)]

    def replies(self) -> Iterator[Reply]:
        """What to send now, in order; what is taken is gone."""
        replies, self._replies = self._replies, []
        yield from replies
        yield from self._answer.take_replies()
        if self._pieces is not None:
            pieces, self._pieces = self._pieces, None
            yield from streamed(Phase.REQUEST, pieces, end=not self._trailers)
            if self._trailers:
                yield TrailersReply(Phase.REQUEST)
