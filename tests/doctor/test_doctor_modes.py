"""What ext_proc sends and takes: every trap is found, what is near it is not."""

import pytest
from doctor_cases import (
    EXT_PROC,
    NOTE,
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
    route_level,
)
from doctor_pages import any_of

CASES: list[Trap | Fine] = [
    Trap(
        "request-body-mode",
        lambda p: drop(p.mode, "request_body_mode"),
        SERIOUS,
        EXT_PROC,
        "request_body_mode NONE",
    ),
    Trap(
        "request-body-mode",
        lambda p: p.mode.update(request_body_mode="STREAMED"),
        SERIOUS,
        EXT_PROC,
        "request_body_mode STREAMED",
    ),
    Trap(
        "request-body-mode",
        lambda p: (p.mode.update(request_body_mode="STREAMED"), p.ext_proc.update(allow_mode_override=True)),
        WARNING,
        EXT_PROC,
        "request_body_mode STREAMED",
    ),
    Trap(
        "request-body-mode",
        lambda p: p.mode.update(request_body_mode="BUFFERED_PARTIAL"),
        WARNING,
        EXT_PROC,
        "request_body_mode BUFFERED_PARTIAL",
    ),
    Fine("request-body-mode", duplex),
    Fine(
        "request-body-mode",
        lambda p: (
            p.mode.clear(),
            route_level(
                p,
                **any_of("ExtProcPerRoute", overrides={"processing_mode": {"request_body_mode": "BUFFERED"}}),
            ),
        ),
    ),
    Trap(
        "request-headers-skipped",
        lambda p: p.mode.update(request_header_mode="SKIP"),
        SERIOUS,
        EXT_PROC,
        "request_header_mode SKIP",
    ),
    Fine("request-headers-skipped", lambda p: p.mode.update(request_header_mode="DEFAULT")),
    Trap(
        "response-headers-skipped",
        lambda p: p.mode.update(response_header_mode="SKIP"),
        WARNING,
        EXT_PROC,
        "response_header_mode SKIP",
    ),
    Fine("response-headers-skipped", lambda p: p.mode.update(response_header_mode="SEND")),
    Trap(
        "response-body",
        lambda p: p.mode.update(response_body_mode="STREAMED"),
        WARNING,
        EXT_PROC,
        "response_body_mode STREAMED",
    ),
    Trap(
        "response-body",
        lambda p: p.mode.update(response_body_mode="BUFFERED"),
        SERIOUS,
        EXT_PROC,
        "response_body_mode BUFFERED",
    ),
    Trap(
        "response-body",
        also(duplex, lambda p: p.mode.update(response_body_mode="FULL_DUPLEX_STREAMED")),
        NOTE,
        EXT_PROC,
        "response_body_mode FULL_DUPLEX_STREAMED",
    ),
    Fine("response-body", lambda p: p.mode.update(response_body_mode="NONE")),
    Trap(
        "in-flight-counts",
        lambda p: p.info.update(version="abc/1.38.2/Clean/RELEASE/BoringSSL"),
        WARNING,
        EXT_PROC,
        "Envoy 1.38 with BUFFERED, response trailers skipped",
    ),
    Trap(
        "in-flight-counts",
        lambda p: p.mode.update(request_body_mode="FULL_DUPLEX_STREAMED"),
        WARNING,
        EXT_PROC,
        "Envoy 1.40 with FULL_DUPLEX_STREAMED, response trailers skipped",
    ),
    Trap(
        "in-flight-counts",
        lambda p: p.state.update(in_flight_counts="approximate") if p.state else None,
        WARNING,
        "router",
        "in_flight_counts approximate",
    ),
    Fine("in-flight-counts", lambda p: p.info.update(version="abc/1.36.4/Clean/RELEASE/BoringSSL")),
    Fine("in-flight-counts", lambda p: p.info.update(version="abc/1.39.0/Clean/RELEASE/BoringSSL")),
    Fine("in-flight-counts", also(duplex, lambda p: p.info.update(version="abc/1.38.0/Clean"))),
    Trap(
        "duplex-retry",
        also(duplex, lambda p: p.manager.update(http_protocol_options={"enable_trailers": True})),
        WARNING,
        ROUTE,
        "listener llm: enable_trailers true; the route retries",
    ),
    Fine("duplex-retry", duplex),
    Fine("duplex-retry", lambda p: p.manager.update(http_protocol_options={"enable_trailers": True})),
    Trap(
        "immediate-response",
        lambda p: p.ext_proc.update(disable_immediate_response=True),
        SERIOUS,
        EXT_PROC,
        "disable_immediate_response true",
    ),
    Fine("immediate-response", lambda p: p.ext_proc.update(disable_immediate_response=False)),
    Trap(
        "mutation-rules",
        lambda p: p.ext_proc.update(mutation_rules={"disallow_all": True}),
        SERIOUS,
        EXT_PROC,
        "mutation_rules.disallow_all true",
    ),
    Trap(
        "mutation-rules",
        lambda p: p.ext_proc.update(mutation_rules={"disallow_expression": {"regex": "x-.*"}}),
        WARNING,
        EXT_PROC,
        "mutation_rules.disallow_expression x-.*",
    ),
    Fine("mutation-rules", lambda p: p.ext_proc.update(mutation_rules={"allow_all_routing": True})),
]


@pytest.mark.parametrize("case", CASES, ids=label)
def test_the_check_says_where_and_how_much(case: Trap | Fine) -> None:
    assert_told(case)
