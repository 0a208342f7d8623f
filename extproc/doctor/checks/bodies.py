"""What Envoy buffers of a request: bodies that are too large for it get 413 before the router sees them."""

from __future__ import annotations

from collections.abc import Iterator

from ..finding import Cure, Found, Line, Severity, check, size
from ..routes import Manager, Route
from ..setup import Setup

SMALL_BYTES = 4 * 1024 * 1024
"""A million tokens of context; below that, everyday prompts are refused, above it only those with many images."""
HEADROOM = 2
"""Limits are advised as the power of two above the largest body times this: headers and copies count too."""


def _advised(setup: Setup) -> int:
    return max(64 * 1024 * 1024, 1 << (HEADROOM * setup.max_body_bytes - 1).bit_length())


def _buffers(route: Route) -> bool:
    return any(p.request_body in ("BUFFERED", "BUFFERED_PARTIAL") for p in route.processings)


def _buffered(setup: Setup) -> Iterator[tuple[Manager, Route, int]]:
    """Routes on which ext_proc has Envoy buffer, with the limit that counts for HTTP/1.

    It is that of the route matched first: where there is an entry rule, the pools' own do not count.
    """
    for manager in setup.managers:
        for routes in manager.hosts:
            buffering = [route for route in routes if _buffers(route)]
            for route in [route for route in buffering if route.pool is None] or buffering:
                yield manager, route, max(manager.buffer_bytes, route.buffer_bytes or 0)


@check(
    "buffer-limit",
    Severity.SERIOUS,
    "Envoy buffers less than the router takes",
    "With request bodies BUFFERED, Envoy answers 413 by itself to every body above this limit (fail-open or "
    "not): long prompts and images never reach the router. Envoy Gateway's default of 32 KiB is about 8,000 "
    "tokens.",
    Cure(
        gateway=(Line("ClientTrafficPolicy", "spec.connection.bufferLimit", "64Mi"),),
        envoy=(Line("Listener", "per_connection_buffer_limit_bytes", "67108864"),),
    ),
)
def buffer_limit(setup: Setup) -> Iterator[Found]:
    seen: dict[tuple[str, int], list[str]] = {}
    for manager, route, limit in _buffered(setup):
        if limit < setup.max_body_bytes:
            seen.setdefault((manager.where, limit), []).append(route.name)
    for (where, limit), routes in seen.items():
        advised = _advised(setup)
        yield Found(
            where,
            f"{size(limit)} for {_named(routes)}; the router takes bodies of {size(setup.max_body_bytes)}",
            Severity.SERIOUS if limit < SMALL_BYTES else Severity.WARNING,
            Cure(
                gateway=(Line("ClientTrafficPolicy", "spec.connection.bufferLimit", f"{advised >> 20}Mi"),),
                envoy=(Line("Listener", "per_connection_buffer_limit_bytes", str(advised)),),
                words="or limits.max_body_bytes of the router's config below it",
            ),
        )


def _named(routes: list[str]) -> str:
    return f"route {routes[0]}" + (f" and {len(routes) - 1} more" if len(routes) > 1 else "")


@check(
    "http2-window",
    Severity.WARNING,
    "HTTP/2 clients get 413 for bodies above the stream window",
    "For HTTP/2 it is the stream's window, not the listener's limit, that says how much Envoy buffers (Envoy "
    "1.40: a 1 MB body got 413 with a window of 64 KiB and a listener limit of 64 MiB). Envoy Gateway's "
    "default is 64 KiB.",
    Cure(
        gateway=(
            Line("ClientTrafficPolicy", "spec.http2.initialStreamWindowSize", "64Mi"),
            Line("ClientTrafficPolicy", "spec.http2.initialConnectionWindowSize", "64Mi"),
        ),
        envoy=(
            Line("HttpConnectionManager", "http2_protocol_options.initial_stream_window_size", "67108864"),
            Line(
                "HttpConnectionManager", "http2_protocol_options.initial_connection_window_size", "67108864"
            ),
        ),
    ),
)
def http2_window(setup: Setup) -> Iterator[Found]:
    for manager in setup.managers:
        own = [route.buffer_bytes or 0 for of, route, _ in _buffered(setup) if of is manager]
        limit = max(manager.window_bytes, min(own, default=0))
        if not own or limit >= SMALL_BYTES:
            continue
        http2 = setup.count(f"http.{manager.stat_prefix}.downstream_rq_http2_total")
        yield Found(
            manager.where,
            f"initial_stream_window_size {size(limit)}; {http2:,} HTTP/2 requests so far",
            Severity.SERIOUS if http2 else None,
        )


@check(
    "retry-buffer",
    Severity.WARNING,
    "Large bodies are not sent again",
    "Envoy keeps a body for a retry only up to this limit: a 3 MB body with a limit of 32 KiB was not retried "
    "(tried with Envoy 1.40), so that the fallback pods of a large prompt are never asked.",
    Cure(
        gateway=(Line("ClientTrafficPolicy", "spec.connection.bufferLimit", "64Mi"),),
        envoy=(Line("Listener", "per_connection_buffer_limit_bytes", "67108864"),),
    ),
)
def retry_buffer(setup: Setup) -> Iterator[Found]:
    for manager, route in setup.served:
        limit = max(manager.buffer_bytes, route.buffer_bytes or 0)
        if route.retry and not _buffers(route) and limit < min(SMALL_BYTES, setup.max_body_bytes):
            yield Found(f"route {route.name}", f"{manager.where} buffers {size(limit)}")


@check(
    "bodies-refused",
    Severity.WARNING,
    "Envoy has refused bodies as too large",
    "Each was a client's 413 that the router never saw, since this Envoy started.",
    Cure(
        gateway=(Line("ClientTrafficPolicy", "spec.connection.bufferLimit", "64Mi"),),
        envoy=(Line("Listener", "per_connection_buffer_limit_bytes", "67108864"),),
        words="unless they were larger than anybody should send",
    ),
)
def bodies_refused(setup: Setup) -> Iterator[Found]:
    for manager in setup.managers:
        refused = setup.count(f"http.{manager.stat_prefix}.downstream_rq_too_large")
        if manager.chain and refused:
            yield Found(manager.where, f"downstream_rq_too_large {refused:,}")


CHECKS = (buffer_limit, http2_window, retry_buffer, bodies_refused)
