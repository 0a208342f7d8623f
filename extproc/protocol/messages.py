"""The values of an ext_proc conversation, free of protobuf.

Names follow envoy/service/ext_proc/v3/external_processor.proto.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence

from msgspec import Struct

Headers = Mapping[str, str]
"""Lower-case names to values; a repeated header's values are joined with ", " (RFC 9110 §5.3)."""

Pairs = tuple[tuple[str, str], ...]
Piece = bytes | memoryview
"""Bytes of a body; a memoryview where they lie in a larger message that is not copied."""


class BodyMode(enum.IntEnum):
    """ProcessingMode.BodySendMode: how Envoy sends a body."""

    NONE = 0
    STREAMED = 1
    BUFFERED = 2
    BUFFERED_PARTIAL = 3
    FULL_DUPLEX_STREAMED = 4
    GRPC = 5


class Phase(enum.Enum):
    REQUEST = "request"
    RESPONSE = "response"


# -- what Envoy sends ---------------------------------------------------------------------------------------


class RequestHeaders(Struct, frozen=True, gc=False):
    headers: Headers
    end_of_stream: bool = False


class RequestBody(Struct, frozen=True, gc=False):
    data: Piece
    end_of_stream: bool = False


class RequestTrailers(Struct, frozen=True, gc=False):
    end_of_stream: bool = True


class ResponseHeaders(Struct, frozen=True, gc=False):
    headers: Headers
    end_of_stream: bool = False


class ResponseBody(Struct, frozen=True, gc=False):
    data: Piece
    end_of_stream: bool = False


class ResponseTrailers(Struct, frozen=True, gc=False):
    end_of_stream: bool = True


Message = RequestHeaders | RequestBody | RequestTrailers | ResponseHeaders | ResponseBody | ResponseTrailers


# -- what goes back -----------------------------------------------------------------------------------------


Metadata = Mapping[str, Mapping[str, str | float]]
"""Dynamic metadata: namespace to keys to values."""


class Mutation(Struct, frozen=True):
    """What a decision does to the request besides its body."""

    set_headers: Pairs = ()
    remove_headers: tuple[str, ...] = ()
    metadata: Metadata = {}
    clear_route_cache: bool = False
    path: str | None = None
    """A new `:path`, spelled as Envoy's headers are: one character a byte."""


NO_MUTATION = Mutation()


class ModeOverride(Struct, frozen=True):
    """Body modes for the rest of this request; headers and trailers are sent both ways.

    It replaces the whole of Envoy's processing mode, so that nothing may be left out.
    """

    request_body: BodyMode
    response_body: BodyMode


class HeadersReply(Struct, frozen=True):
    phase: Phase
    mutation: Mutation = NO_MUTATION
    override: ModeOverride | None = None
    """Honoured where the operator allowed it, which Envoy does not tell."""


class BodyReply(Struct, frozen=True):
    """The answer to a body message."""

    phase: Phase
    mutation: Mutation = NO_MUTATION
    replace: Sequence[Piece] | None = None
    """BUFFERED: the whole new body in pieces; None leaves it as it came."""
    streamed: Piece | None = None
    """FULL_DUPLEX_STREAMED: the next piece of the body that goes on; beside it there is at most metadata."""
    end_of_stream: bool = False


class TrailersReply(Struct, frozen=True):
    phase: Phase
    metadata: Metadata = {}


class ImmediateReply(Struct, frozen=True):
    """Answers the client at once and ends the conversation."""

    status: int
    headers: Pairs = ()
    body: bytes = b""
    details: str = ""
    """Becomes Envoy's response code details (access log)."""


Reply = HeadersReply | BodyReply | TrailersReply | ImmediateReply


# -- what the driver is told --------------------------------------------------------------------------------


class RequestStarted(Struct, frozen=True):
    """Request headers are here and a body is to come."""

    headers: Headers


class RequestChunk(Struct, frozen=True):
    """A piece of a body that is not complete yet."""

    data: Piece


class RequestReady(Struct, frozen=True):
    """The request is whole: `route` or `respond` must follow."""

    headers: Headers
    body: Sequence[Piece] | None
    """The body's pieces in order; None where Envoy sends none (no body, an upgrade, mode NONE)."""
    last: Piece = b""
    """The piece of the body that was not told as a RequestChunk; b"" where trailers ended it."""


class RequestTruncated(Struct, frozen=True):
    """BUFFERED_PARTIAL: Envoy cut the body at its buffer limit, or trailers follow it; that can't be told apart.

    Only `respond` may follow.
    """


class RequestEmpty(Struct, frozen=True):
    """BUFFERED: trailers follow a body that never came.  Only `respond` may follow: it is too late to pin."""


class ResponseStarted(Struct, frozen=True):
    headers: Headers
    end_of_stream: bool


class ResponseChunk(Struct, frozen=True):
    """A piece of an answer's body, where that was wanted."""

    data: Piece
    last: bool
    """No other follows; trailers may."""


class ResponseEnded(Struct, frozen=True):
    """The response's last byte or its trailers passed through here."""


RequestEvent = RequestStarted | RequestChunk | RequestReady | RequestTruncated | RequestEmpty
Event = RequestEvent | ResponseStarted | ResponseChunk | ResponseEnded


class ProtocolError(Exception):
    """The peer sent what the ext_proc protocol does not allow here."""
