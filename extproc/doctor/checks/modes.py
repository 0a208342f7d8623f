"""What ext_proc sends to the router, and what it takes from it."""

from __future__ import annotations

from collections.abc import Iterator

from ..fields import flag, record, text
from ..finding import Cure, Found, Line, Severity, check
from ..processing import Processing
from ..setup import Setup

BODY = Line("EnvoyExtensionPolicy", "spec.extProc[].processingMode.request.body", "Buffered")
RAW_BODY = Line("ExternalProcessor", "processing_mode.request_body_mode", "BUFFERED")
READABLE = ("BUFFERED", "FULL_DUPLEX_STREAMED")


@check(
    "request-body-mode",
    Severity.SERIOUS,
    "The router cannot read the model in time",
    "The model stands in the body. With NONE the router never sees it; with STREAMED Envoy chooses the pod "
    "before the body is read, unless it lets the router override the mode (allow_mode_override; else the router "
    "refuses: 500 unsupported_body_mode); BUFFERED_PARTIAL, and STREAMED overridden, cut a body at the buffer limit "
    "(413) and cost its content-length.",
    Cure(gateway=(BODY,), envoy=(RAW_BODY,)),
)
def request_body_mode(setup: Setup) -> Iterator[Found]:
    for _, processing in setup.processings:
        if (mode := processing.request_body) not in READABLE:
            held = mode == "BUFFERED_PARTIAL" or (mode == "STREAMED" and processing.allows_mode_override)
            severity = Severity.WARNING if held else None
            yield Found(f"filter {processing.filter}", f"request_body_mode {mode}", severity)


@check(
    "request-headers-skipped",
    Severity.SERIOUS,
    "Request headers go upstream before the router answers",
    "With request headers skipped, Envoy has chosen route and pod before the body reaches the router: pins set "
    "then are ignored (tried with Envoy 1.40).",
    Cure(gateway=(BODY,), envoy=(Line("ExternalProcessor", "processing_mode.request_header_mode", "SEND"),)),
)
def request_headers_skipped(setup: Setup) -> Iterator[Found]:
    for _, processing in setup.processings:
        if not processing.sends_request_headers:
            yield Found(f"filter {processing.filter}", "request_header_mode SKIP")


@check(
    "response-headers-skipped",
    Severity.WARNING,
    "The router never learns how a request went",
    "Without response headers it does not know which pod really answered, cannot set a failing pod aside, and "
    "its counts of requests in flight are estimates.",
    Cure(
        gateway=(
            Line(
                "EnvoyExtensionPolicy",
                "spec.extProc[].processingMode.response.attributes",
                "[upstream.address, response.code_details]",
            ),
        ),
        envoy=(Line("ExternalProcessor", "processing_mode.response_header_mode", "SEND"),),
    ),
)
def response_headers_skipped(setup: Setup) -> Iterator[Found]:
    for _, processing in setup.processings:
        if not processing.sends_response_headers:
            yield Found(f"filter {processing.filter}", "response_header_mode SKIP")


@check(
    "response-body",
    Severity.WARNING,
    "Every token passes through the router",
    "The router does not need response bodies, unless its config has `responses`. Streamed, they cost a message a "
    "chunk: throughput fell by 24 to 60 % (50 chunks an answer, Envoy 1.40), and a router that ends cuts answers. "
    "BUFFERED, Envoy holds a stream back until it is complete, and answers 500 above the buffer limit.",
    Cure(
        envoy=(
            Line("ExternalProcessor", "processing_mode.response_body_mode", "NONE"),
            Line("ExternalProcessor", "processing_mode.response_header_mode", "SEND"),
        ),
        words="Envoy Gateway: no `body` under EnvoyExtensionPolicy spec.extProc[].processingMode.response; "
        "Envoy AI Gateway: annotation aigateway.envoyproxy.io/processing-body-mode: buffered",
    ),
)
def response_body(setup: Setup) -> Iterator[Found]:
    for _, processing in setup.processings:
        match processing.response_body:
            case "NONE":
                continue
            case "BUFFERED" | "BUFFERED_PARTIAL":
                severity = Severity.SERIOUS
            case "FULL_DUPLEX_STREAMED" if processing.is_duplex and not setup.reads_answers:
                severity = (
                    Severity.NOTE
                )  # as AI Gateway and Istio attach a picker: theirs to choose, and counts are exact
            case _ if setup.reads_answers:
                continue
            case _:
                severity = Severity.WARNING
        yield Found(f"filter {processing.filter}", f"response_body_mode {processing.response_body}", severity)


@check(
    "answers-unseen",
    Severity.WARNING,
    "The router is to read answers, and gets none",
    "Its config has `responses`: it asks for the body of an answer by overriding the mode at the answer's headers. "
    "Envoy neither sends bodies nor allows that here (with full duplex requests it never does): no token counts, no "
    "client's model names in answers.",
    Cure(
        gateway=(Line("EnvoyExtensionPolicy", "spec.extProc[].processingMode.allowModeOverride", "true"),),
        envoy=(Line("ExternalProcessor", "allow_mode_override", "true"),),
        words="where requests are FullDuplexStreamed: the same for responses",
    ),
    needs_router=True,
)
def answers_unseen(setup: Setup) -> Iterator[Found]:
    for _, processing in setup.processings:
        if setup.reads_answers and not processing.shows_answers:
            allowed = "allowed" if processing.allows_mode_override else "not allowed"
            headers = "" if processing.sends_response_headers else "response_header_mode SKIP, "
            modes = (
                f"request_body_mode {processing.request_body}, response_body_mode {processing.response_body}"
            )
            yield Found(f"filter {processing.filter}", f"{headers}{modes}, override {allowed}")


@check(
    "in-flight-counts",
    Severity.WARNING,
    "Requests in flight are estimated, not counted",
    "Envoy closes the ext_proc stream at the response headers here, so that the router cannot see an answer's "
    "end: it goes by scrapes and expected durations. Counts are exact with BUFFERED and Envoy 1.36 or from "
    "1.39, or with response trailers sent.",
    Cure(
        gateway=(BODY,),
        envoy=(Line("ExternalProcessor", "processing_mode.response_trailer_mode", "SEND"),),
        words="Envoy 1.39 or later",
    ),
)
def in_flight_counts(setup: Setup) -> Iterator[Found]:
    found = False
    for _, processing in setup.processings:
        if setup.version and processing.sends_response_headers and not _stays_open(setup.version, processing):
            found = True
            version = ".".join(map(str, setup.version))
            mode = f"{processing.request_body}, response trailers skipped"
            yield Found(f"filter {processing.filter}", f"Envoy {version} with {mode}")
    if not found and setup.router and setup.router.in_flight_counts != "exact":
        yield Found("router", f"in_flight_counts {setup.router.in_flight_counts}")


def _stays_open(version: tuple[int, int], processing: Processing) -> bool:
    """Whether the stream lasts as long as the answer, as tried with 1.36 to 1.40."""
    if processing.sends_response_trailers or processing.response_body != "NONE" or version <= (1, 36):
        return True
    return version >= (1, 39) and not processing.is_duplex


@check(
    "duplex-retry",
    Severity.WARNING,
    "Bodies of requests with trailers may be sent twice",
    "Envoy 1.40 sends the body upstream twice where bodies are full duplex, the route has a retry policy and "
    "the request has trailers. HTTP/1 trailers are off unless enabled; clients rarely send any.",
    Cure(
        gateway=(Line("ClientTrafficPolicy", "spec.http1.enableTrailers", "false"),),
        envoy=(Line("HttpConnectionManager", "http_protocol_options.enable_trailers", "false"),),
        words="or no retry policy on that route",
    ),
)
def duplex_retry(setup: Setup) -> Iterator[Found]:
    for manager, route in setup.served:
        enabled = flag(manager.settings, "http_protocol_options", "enable_trailers")
        if enabled and route.retry and any(p.is_duplex for p in manager.processings):
            yield Found(f"route {route.name}", f"{manager.where}: enable_trailers true; the route retries")


@check(
    "immediate-response",
    Severity.SERIOUS,
    "The router's refusals become 500",
    "Shedding (429), unknown models (404), no pod (503) and /v1/models are immediate responses.",
    Cure(envoy=(Line("ExternalProcessor", "disable_immediate_response", "false"),)),
)
def immediate_response(setup: Setup) -> Iterator[Found]:
    for _, processing in setup.processings:
        if flag(processing.settings, "disable_immediate_response"):
            yield Found(f"filter {processing.filter}", "disable_immediate_response true")


@check(
    "mutation-rules",
    Severity.SERIOUS,
    "Envoy does not let the router set headers",
    "The pin and x-extproc-pool are header mutations: what the rules exclude is dropped quietly.",
    Cure(envoy=(Line("ExternalProcessor", "mutation_rules.disallow_all", "false"),)),
)
def mutation_rules(setup: Setup) -> Iterator[Found]:
    for _, processing in setup.processings:
        rules = record(processing.settings, "mutation_rules")
        if flag(rules, "disallow_all"):
            yield Found(f"filter {processing.filter}", "mutation_rules.disallow_all true")
        elif regex := text(rules, "disallow_expression", "regex"):
            severity = Severity.WARNING
            yield Found(
                f"filter {processing.filter}", f"mutation_rules.disallow_expression {regex}", severity
            )


CHECKS = (
    request_body_mode,
    request_headers_skipped,
    response_headers_skipped,
    response_body,
    answers_unseen,
    in_flight_counts,
    duplex_retry,
    immediate_response,
    mutation_rules,
)
