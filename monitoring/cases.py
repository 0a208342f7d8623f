"""What each alert is shown by: a world in which it fires, and one beside it in which it does not."""

from __future__ import annotations

from msgspec import Struct

STEPS = 200
"""Of each series; a minute each, or what `Case.step` says."""
ROUTER = 'job="extproc",namespace="llm",instance="a:9090"'
OTHER = 'job="extproc",namespace="llm",instance="b:9090"'
SERVED = f'{ROUTER},pool="p",model="m"'

Series = dict[str, str | None]
"""Values in promtool's notation by series; None: there is no such series."""


class Case(Struct, frozen=True):
    title: str
    series: Series
    """Beside those of `HEALTHY`, or in place of them."""
    firing: tuple[str, ...] = ()
    """Exactly these alerts."""
    at: str = "30m"
    step: str = "1m"
    """Between samples, and between evaluations: those that take hours go in larger ones."""


def level(value: float) -> str:
    return f"{value:g}+0x{STEPS}"


def counts(per_step: float) -> str:
    """A counter."""
    return f"0+{per_step:g}x{STEPS}"


def until(step: int, before: float, after: float) -> str:
    """One value for so many steps, then another."""
    return f"{before:g}+0x{step - 1} {after:g}+0x{STEPS}"


def requests(outcome: str, target: str = "v1", names: str = SERVED) -> str:
    return f'extproc_requests_total{{{names},target_model="{target}",outcome="{outcome}"}}'


def refused(outcome: str) -> str:
    """Before a pool was chosen."""
    return requests(outcome, "none", f'{ROUTER},pool="none",model="m"')


def of(name: str, labels: str = "") -> str:
    """A series of the router."""
    return f"{name}{{{ROUTER}{',' if labels else ''}{labels}}}"


def endpoints(state: str) -> str:
    return of("extproc_pool_endpoints", f'pool="p",state="{state}"')


def first_tokens(target: str, bound: str) -> str:
    return f'extproc_time_to_first_token_seconds_bucket{{{SERVED},target_model="{target}",le="{bound}"}}'


def lag(bound: str) -> str:
    return of("extproc_event_loop_lag_seconds_bucket", f'le="{bound}"')


BUILD, UP, READY = of("extproc_build_info", 'version="1"'), of("up"), of("extproc_ready")
STARTED, MEMORY = of("process_start_time_seconds"), of("process_resident_memory_bytes")
INTERNAL, DROPPED = of("extproc_internal_errors_total"), of("extproc_log_lines_dropped_total")
HELD = of("extproc_buffered_bytes")
FDS = of("process_open_fds")
RELOADED, PAIR = of("extproc_config_last_reload_successful"), of("extproc_tls_last_reload_successful")
EXPIRY = of("extproc_tls_certificate_expiry_timestamp_seconds")
READY_POD = of("extproc_endpoint_ready", 'pool="p",endpoint="10.0.0.1:8000"')
AGE = of("extproc_endpoint_metrics_age_seconds", 'pool="p",endpoint="10.0.0.1:8000"')
SCRAPED = of("extproc_scrapes_total", 'pool="p",result="ok"')
TIMEOUTS = of("extproc_scrapes_total", 'pool="p",result="timeout"')
MISSES, MOVED = (
    of("extproc_pin_misses_total", 'pool="p"'),
    of("extproc_target_fallbacks_total", 'model="m",pool="p"'),
)
READ = of("extproc_answers_read_total", 'pool="p",result="ok"')
NOT_SENT = of("extproc_answers_read_total", 'pool="p",result="not_sent"')
FOLLOWED = of("extproc_kubernetes_synced", 'resource="pods"')
SPANS = of("extproc_otlp_dropped_total", 'signal="traces"')

HEALTHY: Series = {
    **{series: level(1) for series in (BUILD, UP, READY, RELOADED, PAIR, READY_POD, FOLLOWED)},
    STARTED: level(0),
    MEMORY: level(200e6),
    FDS: level(100),
    of("process_max_fds"): level(1000),
    HELD: level(1e8),
    of("extproc_buffered_limit_bytes"): level(1e9),
    EXPIRY: level(30 * 86400),
    AGE: level(0.2),
    endpoints("available"): level(3),
    **{endpoints(state): level(0) for state in ("saturated", "set_aside", "cordoned")},
    **{series: level(0) for series in (INTERNAL, DROPPED, MOVED, SPANS)},
    **{series: counts(300) for series in (SCRAPED, lag("0.01"), lag("0.1"), lag("1"), lag("+Inf"))},
    **{requests("completed", target): counts(60) for target in ("v1", "v2")},
    **{requests("upstream_error", target): counts(0.06) for target in ("v1", "v2")},
    requests("aborted"): counts(30),
    refused("model_not_found"): counts(30),
    **{first_tokens(target, bound): counts(60) for target in ("v1", "v2") for bound in ("0.25", "1", "+Inf")},
    READ: counts(60),
}
"""One router with two versions of a model; clients that leave and that mistype are no fault of ours."""


BUSY: Series = {requests("completed", "x", f'{ROUTER},pool="q",model="x"'): counts(1000)}
"""So much else that what fails is little of all."""


def _without(*names: str) -> Series:
    return {series: None for series in HEALTHY if series.split("{")[0] in names}


def _second(name: str, values: str) -> Series:
    """The same of another router."""
    return {f"{name}{{{OTHER}}}": values}


DOWN = (
    Case("all is well", {}, at="90m"),
    Case("no router is scraped", _without(*(series.split("{")[0] for series in HEALTHY)), ("ExtprocDown",)),
    Case("it was away for a minute", {BUILD: "1+0x10 _x6 1+0x200"}, at="17m"),
    Case(
        "one of two routers does not answer",
        {f'extproc_build_info{{{OTHER},version="1"}}': "1+0x10 stale", **_second("up", until(10, 1, 0))},
        ("ExtprocInstanceDown",),
    ),
    Case("another program does not answer", {'up{job="vllm",instance="c:8000"}': level(0)}),
    Case("a router left for good", {f'extproc_build_info{{{OTHER},version="1"}}': "1+0x10 stale"}),
    Case("none is ready", {READY: level(0)}, ("ExtprocNotReady",), at="10m"),
    Case("none was ready for a minute", {READY: "1+0x8 0+0x1 1+0x200"}, at="10m"),
    Case("one of two is not ready", _second("extproc_ready", level(0)), ("ExtprocInstanceNotReady",)),
    Case("one of two drains", _second("extproc_ready", until(20, 1, 0)), at="30m"),
    Case("it restarts again and again", {STARTED: "0+120x200"}, ("ExtprocRestarts",)),
    Case("it was restarted twice", {STARTED: "0+0x5 300+0x5 600+0x200"}),
)
FAULTS = (
    Case("a fault of ours", {INTERNAL: until(25, 0, 1)}, ("ExtprocInternalErrors",)),
    Case("a fault of ours, an hour ago", {INTERNAL: until(25, 0, 1)}, at="90m"),
    Case("Envoy breaks the protocol", {refused("protocol_error"): counts(0.3)}, ("ExtprocProtocolErrors",)),
    Case("Envoy broke it once", {refused("protocol_error"): until(5, 0, 1)}, at="30m"),
    Case(
        "the event loop is late", {lag("0.01"): level(0), lag("0.1"): counts(290)}, ("ExtprocEventLoopLag",)
    ),
    Case("it is late now and then", {lag("0.01"): counts(298), lag("0.1"): counts(299)}),
    Case("bodies fill the memory", {HELD: level(9e8)}, ("ExtprocBodiesHeld",)),
    Case("bodies fill three quarters of it", {HELD: level(7.5e8)}),
    Case("file descriptors run out", {FDS: level(900)}, ("ExtprocFileDescriptors",)),
    Case("many are in use", {FDS: level(700)}),
    Case("log lines are lost", {DROPPED: counts(1)}, ("ExtprocLogLinesDropped",)),
    Case("some were lost an hour ago", {DROPPED: until(5, 0, 9)}, at="60m"),
    Case("spans are lost", {SPANS: counts(1)}, ("ExtprocOtlpDropped",), at="40m"),
    Case("some spans were lost", {SPANS: until(5, 0, 9)}, at="40m"),
    Case("memory grows", {MEMORY: "200e6+5e6x200"}, ("ExtprocMemoryGrows",), at="15h", step="5m"),
    Case("memory goes up and down", {MEMORY: " ".join(["200e6+0x6 900e6+0x4"] * 18)}, at="15h", step="5m"),
    Case(
        "another program grows",
        {'process_resident_memory_bytes{job="x",instance="y"}': "1e6+5e6x200"},
        at="15h",
        step="5m",
    ),
)
FILES = (
    Case("a config with a fault", {RELOADED: until(10, 1, 0)}, ("ExtprocConfigFaulty",)),
    Case("a config with a fault that was soon mended", {RELOADED: "1+0x10 0+0x3 1+0x200"}, at="14m"),
    Case("certificate files with a fault", {PAIR: until(10, 1, 0)}, ("ExtprocCertificateFaulty",)),
    Case("certificate files, one written before the other", {PAIR: "1+0x10 0+0x1 1+0x200"}, at="12m"),
    Case("the certificate ends", {EXPIRY: level(7 * 86400)}, ("ExtprocCertificateExpires",), at="90m"),
    Case("the certificate ends next week", {EXPIRY: level(8 * 86400)}, at="90m"),
)
SERVICE = (
    Case(
        "a third fails, of no pool",
        {refused("internal_error"): counts(60)},
        ("ExtprocErrorBudgetFast",),
        at="20m",
    ),
    Case(
        "a third failed for five minutes, an hour ago",
        {refused("internal_error"): "0+300x5 1500+0x200"},
        at="55m",
    ),
    Case(
        "one in a hundred fails, for hours",
        {refused("internal_error"): counts(1.5)},
        ("ExtprocErrorBudgetSlow",),
        at="8h",
        step="5m",
    ),
    Case(
        "three requests in an hour, one of which failed",
        {
            **_without("extproc_requests_total"),
            requests("completed"): counts(0.02),
            refused("internal_error"): counts(0.02),
        },
        at="90m",
    ),
    Case(
        "a pool's servers answer 5xx",
        BUSY | {requests("upstream_error", target): counts(4) for target in ("v1", "v2")},
        ("ExtprocPoolErrors",),
        at="21m",
    ),
    Case(
        "no endpoint for a model",
        {refused("no_endpoints"): counts(3)},
        ("ExtprocNoEndpoints",),
    ),
    Case("one request found no endpoint", {refused("no_endpoints"): until(28, 0, 1)}),
    Case(
        "all endpoints are set aside or cordoned",
        {endpoints("available"): level(0), endpoints("set_aside"): level(2), endpoints("cordoned"): level(1)},
        ("ExtprocPoolEmpty",),
    ),
    Case("a pool has no endpoints", {endpoints("available"): level(0)}, ("ExtprocPoolEmpty",)),
    Case(
        "one router of two sees none",
        {f'extproc_pool_endpoints{{{OTHER},pool="p",state="available"}}': level(0)},
    ),
    Case(
        "a pool is saturated",
        {endpoints("available"): level(0), endpoints("saturated"): level(3)},
        ("ExtprocPoolSaturated",),
    ),
    Case("one endpoint has room", {endpoints("available"): level(1), endpoints("saturated"): level(2)}),
    Case("one in ten is shed", {refused("saturated"): counts(21)}, ("ExtprocRefusedForLoad",)),
    Case("one in fifty is shed", {refused("saturated"): counts(4)}),
)
VERSIONS = (
    Case(
        "the new version fails more often",
        BUSY | {requests("upstream_error", "v2"): counts(6)},
        ("ExtprocTargetFails",),
        at="24m",
    ),
    Case(
        "both fail alike",
        BUSY | {requests("upstream_error", target): counts(3) for target in ("v1", "v2")},
        at="14m",
    ),
    Case(
        "the new version failed once, of few",
        {requests("completed", "v2"): counts(1), requests("upstream_error", "v2"): counts(0.1)},
    ),
    Case(
        "a model with one version fails",
        {
            **BUSY,
            requests("completed", "v2"): None,
            requests("upstream_error", "v2"): None,
            requests("upstream_error", "v1"): counts(4),
        },
        at="8m",
    ),
    Case(
        "the new version is slow",
        {first_tokens("v2", "0.25"): level(0)},
        ("ExtprocTargetSlow",),
        at="60m",
    ),
    Case("both are slow", {first_tokens(target, "0.25"): level(0) for target in ("v1", "v2")}, at="60m"),
    Case(
        "a slow version with few requests",
        {
            first_tokens("v2", "0.25"): level(0),
            requests("completed", "v2"): counts(1),
            requests("upstream_error", "v2"): None,
        },
        at="60m",
    ),
    Case("a target lost its pods", {MOVED: counts(6)}, ("ExtprocTargetMoved",)),
    Case("a request moved", {MOVED: until(10, 0, 1)}),
)
INSIDE = (
    Case("an endpoint fails", {READY_POD: "1+0x2 " + "0+0x9 1+0x0 " * 15}, ("ExtprocEndpointSetAside",)),
    Case("an endpoint failed", {READY_POD: "1+0x10 0+0x4 1+0x200"}),
    Case("figures are old", {AGE: "0+60x200"}, ("ExtprocFiguresStale",)),
    Case("figures were old", {AGE: "0.2+0x10 20+0x5 0.2+0x200"}),
    Case("scrapes time out", {SCRAPED: counts(10), TIMEOUTS: counts(60)}, ("ExtprocScrapesFail",)),
    Case("one endpoint of three cannot be scraped", {SCRAPED: counts(200), TIMEOUTS: counts(100)}),
    Case("Envoy goes elsewhere", {MISSES: counts(3)}, ("ExtprocPinMisses",)),
    Case("a pod went", {MISSES: until(10, 0, 5)}, at="28m"),
    Case("Envoy sends no bodies", {NOT_SENT: counts(200)}, ("ExtprocAnswersNotSent",), at="40m"),
    Case("a few answers had no body", {NOT_SENT: counts(1)}, at="40m"),
    Case("the Kubernetes API is lost", {FOLLOWED: until(10, 1, 0)}, ("ExtprocKubernetesLost",)),
    Case("the Kubernetes API was lost", {FOLLOWED: "1+0x10 0+0x5 1+0x200"}, at="17m"),
)
GROUPS = {
    "down": DOWN,
    "faults": FAULTS,
    "files": FILES,
    "service": SERVICE,
    "versions": VERSIONS,
    "inside": INSIDE,
}
CASES = tuple(case for group in GROUPS.values() for case in group)
