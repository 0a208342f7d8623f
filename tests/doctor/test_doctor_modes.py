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
    values,
)
from doctor_pages import Pages, Spoil, any_of


def reads_answers(pages: Pages) -> None:
    values(pages)["responses"] = {"percent": 5, "restore_model": False}


def sends_answers(mode: str) -> Spoil:
    return lambda pages: pages.mode.update(response_body_mode=mode)


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
    *(
        Fine("response-body", also(reads_answers, duplex, sends_answers(mode)))
        for mode in ("STREAMED", "FULL_DUPLEX_STREAMED")
    ),
    Trap(
        "response-body",
        also(reads_answers, sends_answers("BUFFERED")),
        SERIOUS,
        EXT_PROC,
        "response_body_mode BUFFERED",
    ),
    Trap(
        "answers-unseen",
        reads_answers,
        WARNING,
        EXT_PROC,
        "request_body_mode BUFFERED, response_body_mode NONE, override not allowed",
    ),
    Trap(
        "answers-unseen",
        also(reads_answers, duplex, lambda p: p.ext_proc.update(allow_mode_override=True)),
        WARNING,
        EXT_PROC,
        "request_body_mode FULL_DUPLEX_STREAMED, response_body_mode NONE, override allowed",
    ),
    Trap(
        "answers-unseen",
        also(
            reads_answers,
            lambda p: p.mode.update(response_header_mode="SKIP", response_body_mode="STREAMED"),
        ),
        WARNING,
        EXT_PROC,
        "response_header_mode SKIP, request_body_mode BUFFERED, response_body_mode STREAMED, override not allowed",
    ),
    Fine("answers-unseen", lambda p: values(p).update(responses=None)),
    Fine("answers-unseen", also(reads_answers, lambda p: p.ext_proc.update(allow_mode_override=True))),
    *(
        Fine("answers-unseen", also(reads_answers, sends_answers(mode)))
        for mode in ("STREAMED", "BUFFERED", "BUFFERED_PARTIAL")
    ),
    Fine("answers-unseen", also(reads_answers, duplex, sends_answers("FULL_DUPLEX_STREAMED"))),
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
