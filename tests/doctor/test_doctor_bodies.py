"""What Envoy buffers of a request: every trap is found, what is near it is not."""

import pytest
from doctor_cases import (
    IN,
    LISTENER,
    ROUTE,
    SERIOUS,
    WARNING,
    Fine,
    Trap,
    also,
    assert_told,
    drop,
    duplex,
    label,
)
from doctor_pages import any_of

CASES: list[Trap | Fine] = [
    Trap(
        "buffer-limit",
        lambda p: p.listener.update(per_connection_buffer_limit_bytes=32768),
        SERIOUS,
        LISTENER,
        "32 KiB for route all/entry; the router takes bodies of 32 MiB",
    ),
    Trap(
        "buffer-limit",
        lambda p: p.listener.clear(),
        SERIOUS,
        LISTENER,
        "1 MiB for route all/entry; the router takes bodies of 32 MiB",
    ),
    Trap(
        "buffer-limit",
        lambda p: p.listener.update(per_connection_buffer_limit_bytes=8 << 20),
        WARNING,
        LISTENER,
        "8 MiB for route all/entry; the router takes bodies of 32 MiB",
    ),
    Trap(
        "buffer-limit",
        lambda p: (
            p.listener.update(per_connection_buffer_limit_bytes=32768),
            p.rule.update(request_body_buffer_limit=67_108_864),
        ),
        SERIOUS,
        LISTENER,
        "32 KiB for route all/entry; the router takes bodies of 32 MiB",
    ),
    Fine(
        "buffer-limit",
        lambda p: (
            p.listener.update(per_connection_buffer_limit_bytes=32768),
            p.entry.update(request_body_buffer_limit="67108864"),
        ),
    ),
    Fine(
        "buffer-limit",
        lambda p: (
            p.listener.update(per_connection_buffer_limit_bytes=32768),
            p.entry.update(
                typed_per_filter_config={
                    "envoy.filters.http.buffer": any_of(
                        "BufferPerRoute", buffer={"max_request_bytes": 67_108_864}
                    )
                }
            ),
        ),
    ),
    Fine(
        "buffer-limit",
        also(duplex, lambda p: p.listener.update(per_connection_buffer_limit_bytes=32768)),
    ),
    Trap(
        "buffer-limit",
        lambda p: p.listener.update(per_connection_buffer_limit_bytes=4 << 20),
        WARNING,
        LISTENER,
        "4 MiB for route all/entry; the router takes bodies of 32 MiB",
    ),
    Trap(
        "buffer-limit",
        lambda p: (
            p.listener.update(per_connection_buffer_limit_bytes=(4 << 20) - 1024),
            p.more_routes.append({"name": "direct", "route": {"cluster": "pods"}}),
        ),
        SERIOUS,
        LISTENER,
        "3.999 MiB for route all/direct and 1 more; the router takes bodies of 32 MiB",
    ),
    Fine("buffer-limit", lambda p: p.listener.update(per_connection_buffer_limit_bytes=32 << 20)),
    Trap(
        "http2-window",
        lambda p: (
            p.manager.update(http2_protocol_options={"initial_stream_window_size": 65536}),
            p.more_routes.append({"name": "direct", "route": {"cluster": "pods"}}),
            p.entry.update(request_body_buffer_limit=67_108_864),
        ),
        WARNING,
        LISTENER,
        "initial_stream_window_size 64 KiB; 0 HTTP/2 requests so far",
    ),
    Fine(
        "http2-window",
        lambda p: (
            p.manager.update(http2_protocol_options={"initial_stream_window_size": 65536}),
            p.entry.update(request_body_buffer_limit=67_108_864),
        ),
    ),
    Fine(
        "http2-window",
        lambda p: p.manager.update(http2_protocol_options={"initial_stream_window_size": 4 << 20}),
    ),
    Trap(
        "http2-window",
        lambda p: p.manager.update(http2_protocol_options={"initial_stream_window_size": 65536}),
        WARNING,
        LISTENER,
        "initial_stream_window_size 64 KiB; 0 HTTP/2 requests so far",
    ),
    Trap(
        "http2-window",
        lambda p: (
            p.manager.update(http2_protocol_options={"initial_stream_window_size": 65536}),
            p.stats.update({IN + "downstream_rq_http2_total": 7}),
        ),
        SERIOUS,
        LISTENER,
        "initial_stream_window_size 64 KiB; 7 HTTP/2 requests so far",
    ),
    Fine(
        "http2-window",
        also(
            duplex,
            lambda p: p.manager.update(http2_protocol_options={"initial_stream_window_size": 65536}),
        ),
    ),
    Trap(
        "retry-buffer",
        also(duplex, lambda p: p.listener.update(per_connection_buffer_limit_bytes=32768)),
        WARNING,
        ROUTE,
        "listener llm buffers 32 KiB",
    ),
    Fine(
        "retry-buffer",
        also(
            duplex,
            lambda p: p.listener.update(per_connection_buffer_limit_bytes=32768),
            lambda p: drop(p.rule["route"], "retry_policy"),
        ),
    ),
    Trap(
        "bodies-refused",
        lambda p: p.stats.update({IN + "downstream_rq_too_large": 1234}),
        WARNING,
        LISTENER,
        "downstream_rq_too_large 1,234",
    ),
    Fine("bodies-refused", lambda p: p.stats.update({"http.admin.downstream_rq_too_large": 1})),
]


@pytest.mark.parametrize("case", CASES, ids=label)
def test_the_check_says_where_and_how_much(case: Trap | Fine) -> None:
    assert_told(case)
