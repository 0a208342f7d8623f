"""What Envoy takes from clients besides bodies."""

from __future__ import annotations

from collections.abc import Iterator

from ..fields import text, whole
from ..finding import Cure, Found, Line, Severity, check
from ..setup import Setup

HEADERS_KIB = 60
HEADERS = 100
"""Envoy's defaults of `max_request_headers_kb` and `max_headers_count`."""
STREAMS = 100
"""Envoy Gateway's default of an HTTP/2 connection."""


@check(
    "header-limits",
    Severity.NOTE,
    "Request headers are near Envoy's limit",
    "Above it a client gets 431. The headers that the router adds (the pin with its fallbacks, the pool, the "
    "model) count too: a request that they lift over the limit gets 500 (tried with Envoy 1.40).",
    Cure(
        gateway=(Line("ClientTrafficPolicy", "spec.headers.maxRequestHeaderLimit", "96Ki"),),
        envoy=(
            Line("HttpConnectionManager", "max_request_headers_kb", "96"),
            Line("HttpConnectionManager", "common_http_protocol_options.max_headers_count", "200"),
        ),
    ),
)
def header_limits(setup: Setup) -> Iterator[Found]:
    for manager in setup.managers:
        kib = whole(manager.settings, "max_request_headers_kb")
        count = whole(manager.settings, "common_http_protocol_options", "max_headers_count")
        kib, count = HEADERS_KIB if kib is None else kib, HEADERS if count is None else count
        tight = kib < HEADERS_KIB or count < HEADERS
        if manager.chain and (
            tight or kib == HEADERS_KIB
        ):  # Envoy Gateway cannot set the count: its default passes
            severity = Severity.WARNING if tight else None
            yield Found(manager.where, f"{kib} KiB, {count} headers at most", severity)


@check(
    "underscore-headers",
    Severity.SERIOUS,
    "Headers that the router goes by are taken off or refused for their underscore",
    "Envoy Gateway refuses requests with an underscore in a header's name by default (400); with the other "
    "setting the header is dropped, and stickiness or trust quietly does not happen.",
    Cure(
        gateway=(Line("ClientTrafficPolicy", "spec.headers.withUnderscoresAction", "Allow"),),
        envoy=(
            Line(
                "HttpConnectionManager",
                "common_http_protocol_options.headers_with_underscores_action",
                "ALLOW",
            ),
        ),
        words="or a header without underscore in the router's config",
    ),
    needs_router=True,
)
def underscore_headers(setup: Setup) -> Iterator[Found]:
    names = sorted(name for name in (setup.router.client_headers if setup.router else ()) if "_" in name)
    for manager in setup.managers:
        action = text(manager.settings, "common_http_protocol_options", "headers_with_underscores_action")
        if names and manager.chain and action in ("REJECT_REQUEST", "DROP_HEADER"):
            yield Found(manager.where, f"{action}; the router goes by {', '.join(names)}")


@check(
    "client-streams",
    Severity.NOTE,
    "Few answers at once over one HTTP/2 connection",
    "Another gateway in front, or one client with many requests, has them wait in its own queue above this "
    "number: the router never sees that load, and cannot order it.",
    Cure(
        gateway=(Line("ClientTrafficPolicy", "spec.http2.maxConcurrentStreams", "1000"),),
        envoy=(Line("HttpConnectionManager", "http2_protocol_options.max_concurrent_streams", "1000"),),
    ),
)
def client_streams(setup: Setup) -> Iterator[Found]:
    for manager in setup.managers:
        streams = whole(manager.settings, "http2_protocol_options", "max_concurrent_streams")
        if manager.chain and streams is not None and streams <= STREAMS:
            yield Found(manager.where, f"max_concurrent_streams {streams}")


CHECKS = (header_limits, underscore_headers, client_streams)
