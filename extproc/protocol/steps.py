"""Where a conversation stands, and every step that is legal from there."""

from __future__ import annotations

import enum

from .messages import (
    BodyMode,
    RequestBody,
    RequestHeaders,
    RequestTrailers,
    ResponseBody,
    ResponseHeaders,
    ResponseTrailers,
)


class Half(enum.Enum):
    """Where one direction (request or response) of the conversation stands."""

    IDLE = enum.auto()
    """Nothing seen."""
    BODY = enum.auto()
    """Headers seen, more to come."""
    WHOLE = enum.auto()
    """Request only: complete, waiting for `route` or `respond`."""
    ECHO = enum.auto()
    """Request only: routed at its headers, its body passes through (an upgrade in full duplex)."""
    DONE = enum.auto()


Steps = dict[tuple[Half, type, bool], Half]

# Every legal step, one table a direction: {(half, message, end_of_stream): half}; trailers always end their
# half.  A pair that is not here is a ProtocolError.
REQUEST_STEPS: Steps = {
    (Half.IDLE, RequestHeaders, False): Half.BODY,
    (Half.IDLE, RequestHeaders, True): Half.WHOLE,
    (Half.BODY, RequestBody, False): Half.BODY,
    (Half.BODY, RequestBody, True): Half.WHOLE,
    (Half.BODY, RequestTrailers, True): Half.WHOLE,
    (Half.ECHO, RequestBody, False): Half.ECHO,
    (Half.ECHO, RequestBody, True): Half.DONE,
    (Half.ECHO, RequestTrailers, True): Half.DONE,
    (Half.DONE, RequestTrailers, True): Half.DONE,
}
# The response half may start at any time: another filter, or Envoy itself, may answer before the request is
# whole or routed, or without a request phase at all.
RESPONSE_STEPS: Steps = {
    (Half.IDLE, ResponseHeaders, False): Half.BODY,
    (Half.IDLE, ResponseHeaders, True): Half.DONE,
    (Half.IDLE, ResponseTrailers, True): Half.DONE,  # response headers SKIP, trailers SEND
    (Half.BODY, ResponseBody, False): Half.BODY,
    (Half.BODY, ResponseBody, True): Half.DONE,
    (Half.BODY, ResponseTrailers, True): Half.DONE,
    (Half.DONE, ResponseTrailers, True): Half.DONE,
}
REQUEST_MESSAGES = frozenset((RequestHeaders, RequestBody, RequestTrailers))
WHOLE_AT_ONCE = frozenset((BodyMode.BUFFERED, BodyMode.BUFFERED_PARTIAL))
"""Modes in which the body comes as one message, and its answer as one."""
