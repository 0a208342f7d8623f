"""The answer's direction of a conversation: what of its body the driver is told, and what goes on instead."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from .chunks import streamed
from .messages import (
    BodyMode,
    BodyReply,
    Event,
    HeadersReply,
    Metadata,
    ModeOverride,
    Mutation,
    Phase,
    Piece,
    Reply,
    ResponseBody,
    ResponseChunk,
    ResponseEnded,
    ResponseHeaders,
    ResponseStarted,
    ResponseTrailers,
    TrailersReply,
)
from .steps import WHOLE_AT_ONCE, Half

RESPONSE = Phase.RESPONSE


class AnswerHalf:
    """What Envoy sends of an answer goes on as it came, unless the driver says otherwise right after it was told."""

    def __init__(self, mode: BodyMode) -> None:
        self.half = Half.IDLE
        self.mode = mode
        """How Envoy is configured to send the body."""
        self._told = False
        self._replies: list[Reply] = []

    def receive(self, message: ResponseHeaders | ResponseBody | ResponseTrailers) -> Event | None:
        """Take a message whose step was found legal."""
        match message:
            case ResponseHeaders(headers, end):
                self._replies.append(HeadersReply(RESPONSE))
                return ResponseStarted(headers, end)
            case ResponseBody(data, end):
                return self._body(data, end)
            case ResponseTrailers():
                self._replies.append(TrailersReply(RESPONSE))
                return ResponseEnded()

    def _body(self, data: Piece, end: bool) -> Event | None:
        if self.mode is BodyMode.FULL_DUPLEX_STREAMED:
            self._replies.append(BodyReply(RESPONSE, streamed=data, end_of_stream=end))
        else:
            self._replies.append(BodyReply(RESPONSE))
        if self._told:
            return ResponseChunk(data, end or self.mode in WHOLE_AT_ONCE)
        return ResponseEnded() if end else None

    def read(self) -> None:
        """Tell the body that Envoy sends."""
        self._told = True

    def ask(self, request_mode: BodyMode) -> None:
        """Have Envoy send the body as STREAMED, and tell it; *request_mode* is the request's, which stays.

        Whether Envoy honours that will be seen.
        """
        self._told = True
        self._replies[-1] = replace(self._headers, override=ModeOverride(request_mode, BodyMode.STREAMED))

    def strip(self, names: tuple[str, ...]) -> None:
        """Remove headers."""
        reply = self._headers
        removed = reply.mutation.remove_headers + names
        self._replies[-1] = replace(reply, mutation=replace(reply.mutation, remove_headers=removed))

    @property
    def _headers(self) -> HeadersReply:
        reply = self._replies[-1]
        assert isinstance(reply, HeadersReply), reply
        return reply

    def go_on_with(self, pieces: Sequence[Piece]) -> None:
        """Instead of the piece that was told last; after a `ResponseEnded`: before the trailers.

        Before trailers nothing can be put in but in FULL_DUPLEX_STREAMED: elsewhere it is dropped.
        """
        is_duplex = self.mode is BodyMode.FULL_DUPLEX_STREAMED
        reply = self._replies.pop()
        if isinstance(reply, TrailersReply):
            if is_duplex:
                self._replies += streamed(RESPONSE, pieces, end=False)
            self._replies.append(reply)
        elif isinstance(reply, BodyReply) and is_duplex:
            # Never nothing: what is to be told beside it needs a reply.
            self._replies += streamed(RESPONSE, pieces or (b"",), end=reply.end_of_stream)
        else:
            self._replies.append(BodyReply(RESPONSE, replace=tuple(pieces)))

    def tell(self, metadata: Metadata) -> None:
        """Dynamic metadata, beside the last reply."""
        reply = self._replies[-1]
        if isinstance(reply, TrailersReply):
            self._replies[-1] = replace(reply, metadata=metadata)
        elif isinstance(reply, BodyReply):
            self._replies[-1] = replace(reply, mutation=Mutation(metadata=metadata))

    def take_replies(self) -> list[Reply]:
        """What to send now; it is gone then."""
        replies, self._replies = self._replies, []
        return replies
