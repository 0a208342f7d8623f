"""Brings a conversation with the service to a stage of its life."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from envoy_peer import EnvoyStream
from ext_proc_service import (
    CHAT,
    REQUEST_HEADERS_GO,
    RESPONSE_HEADERS_GO,
    A,
    Service,
    refused,
    routed_body,
    routed_headers,
    streamed,
)

from extproc.protocol.messages import BodyMode

NONE, BUFFERED, DUPLEX = BodyMode.NONE, BodyMode.BUFFERED, BodyMode.FULL_DUPLEX_STREAMED
TWO = 'pools: [{name: pool, endpoints: ["127.0.0.1:8001", "127.0.0.1:8002"]}]\n'
BODY = b'{"model":"same"}'
SHUTTING_DOWN = refused("shutting_down", 503, "service_unavailable_error", "The router is shutting down.")
INTERNAL_ERROR = refused("internal_error", 500, "server_error", "The router failed on this request.")

Stage = Callable[[Service, EnvoyStream], Awaitable[None]]


async def headers_seen(service: Service, stream: EnvoyStream) -> None:
    await stream.request_headers(CHAT)
    assert await stream.reply() == REQUEST_HEADERS_GO


async def decided(service: Service, stream: EnvoyStream) -> None:
    await headers_seen(service, stream)
    await stream.request_body(BODY)
    assert await stream.reply() == routed_body("same", "same")
    assert service.in_flight == {A: 1}


async def answered(service: Service, stream: EnvoyStream) -> None:
    await decided(service, stream)
    await stream.response_headers(200)
    assert await stream.reply() == RESPONSE_HEADERS_GO
    assert service.in_flight == {A: 1}


async def duplex_headers_seen(service: Service, stream: EnvoyStream) -> None:
    await stream.request_headers(CHAT)
    await service.until(lambda: service.begun == 1)


async def duplex_body_half_seen(service: Service, stream: EnvoyStream) -> None:
    await duplex_headers_seen(service, stream)
    await stream.request_body(BODY[:7], end=False)
    await service.until(lambda: service.held_bytes == 7)


async def duplex_decided(service: Service, stream: EnvoyStream) -> None:
    await duplex_body_half_seen(service, stream)
    await stream.request_body(BODY[7:])
    assert await stream.reply() == routed_headers("same", "same")
    assert service.in_flight == {A: 1}


async def duplex_answering(service: Service, stream: EnvoyStream) -> None:
    await duplex_decided(service, stream)
    await stream.reply()
    await stream.reply()
    await stream.response_headers(200)
    assert await stream.reply() == RESPONSE_HEADERS_GO
    await stream.response_body(b"data")
    assert await stream.reply() == streamed(b"data", end=False, response=True)


async def duplex_body_not_taken(service: Service, stream: EnvoyStream) -> None:
    """Our answer is far bigger than what HTTP/2 lets us send before Envoy reads."""
    await stream.request_headers(CHAT)
    await stream.request_body(b'{"model":"same","pad":"' + b"x" * 20_000_000 + b'"}')
    await service.until(lambda: service.in_flight == {A: 1})


STAGES: list[tuple[Stage, BodyMode, str]] = [
    (headers_seen, BUFFERED, "none none none aborted"),
    (decided, BUFFERED, "same same pool aborted"),
    (answered, BUFFERED, "same same pool completed"),
    (duplex_headers_seen, DUPLEX, "none none none aborted"),
    (duplex_body_half_seen, DUPLEX, "none none none aborted"),
    (duplex_decided, DUPLEX, "same same pool aborted"),
    (duplex_body_not_taken, DUPLEX, "same same pool aborted"),
    (duplex_answering, DUPLEX, "same same pool completed"),
]
