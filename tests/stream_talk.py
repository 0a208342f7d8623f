"""Plays Envoy to the protocol machine, and the driver that routes when it is asked to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from extproc.protocol.messages import (
    BodyMode,
    BodyReply,
    Event,
    HeadersReply,
    Message,
    ModeOverride,
    Mutation,
    Phase,
    Reply,
    RequestReady,
)
from extproc.protocol.stream import ExtProcStream

REQUEST, RESPONSE = Phase.REQUEST, Phase.RESPONSE
NONE, STREAMED, BUFFERED = BodyMode.NONE, BodyMode.STREAMED, BodyMode.BUFFERED
PARTIAL, DUPLEX = BodyMode.BUFFERED_PARTIAL, BodyMode.FULL_DUPLEX_STREAMED

H = {":method": "POST", ":path": "/v1/chat/completions"}
OK = {":status": "200"}
WEBSOCKET = {":method": "GET", ":path": "/v1/realtime", "connection": "upgrade", "upgrade": "websocket"}
CONNECT = {":method": "CONNECT", ":authority": "example.com:443"}
PIN = Mutation(set_headers=(("x-gateway-destination-endpoint", "10.0.0.1:8000"),), clear_route_cache=True)
PARKED = Mutation(path="extproc:waits-for-its-body:%2Fv1%2Fchat%2Fcompletions", clear_route_cache=True)
"""What the headers of a request get that waits for its body where it could go on without it."""
UNPARKED = replace(PIN, path=H[":path"])
OVERRIDE = ModeOverride(PARTIAL, NONE)
WAITS = {
    BUFFERED: HeadersReply(REQUEST),
    PARTIAL: HeadersReply(REQUEST, PARKED),
    STREAMED: HeadersReply(REQUEST, PARKED, OVERRIDE),
}
"""The answer to headers whose body is wanted first."""


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
