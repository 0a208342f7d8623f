"""What each alert is shown by: a world in which it fires, and one beside it in which it does not."""

from __future__ import annotations

from msgspec import Struct

from .worlds import (
    BUILD,
    BUSY,
    DROPPED,
    EXPIRY,
    FDS,
    FOLLOWED,
    GROWS,
    HEALTHY,
    HELD,
    INTERNAL,
    MEMORY,
    MISSES,
    MOVED,
    NOT_SENT,
    OTHER,
    PAIR,
    READY,
    READY_POD,
    RELOADED,
    SCRAPED,
    SPANS,
    STARTED,
    TIMEOUTS,
    UNUSED,
    Series,
    age,
    counts,
    endpoints,
    first_tokens,
    lag,
    level,
    read_answers,
    refused,
    requests,
    second,
    slow,
    until,
    without,
)


class Case(Struct, frozen=True):
    title: str
    series: Series
    """Beside those of `HEALTHY`, or in place of them."""
    firing: tuple[str, ...] = ()
    """Exactly these alerts, at `at`; of none at any step."""
    at: str = "30m"
    step_minutes: int = 1
    """Between samples, and between evaluations: those that take hours go in larger ones."""


DOWN = (
    Case("all is well", {}),
    Case("no router is scraped", without(*(series.split("{")[0] for series in HEALTHY)), ("ExtprocDown",)),
    Case("it was away for a minute", {BUILD: "1+0x10 _x6 1+0x200"}),
    Case(
        "one of two routers does not answer",
        {f'extproc_build_info{{{OTHER},version="1"}}': "1+0x10 stale", **second("up", until(10, 1, 0))},
        ("ExtprocInstanceDown",),
    ),
    Case("another program does not answer", {'up{job="vllm",instance="c:8000"}': level(0)}),
    Case("a router left for good", {f'extproc_build_info{{{OTHER},version="1"}}': "1+0x10 stale"}),
    Case("none is ready", {READY: level(0)}, ("ExtprocNotReady",), at="10m"),
    Case("none was ready for a minute", {READY: "1+0x8 0+0x1 1+0x200"}),
    Case("one of two is not ready", second("extproc_ready", level(0)), ("ExtprocInstanceNotReady",)),
    Case("one of two drains, and is gone", second("extproc_ready", "1+0x20 0+0x10 stale")),
    Case("it restarts again and again", {STARTED: "0+120x200"}, ("ExtprocRestarts",)),
    Case(
        "one of two crashes a minute after each start, and is kept away for five",
        {
            f"up{{{OTHER}}}": "1 0 0 0 0 0 " * 33,
            f'extproc_build_info{{{OTHER},version="1"}}': "1 stale _ _ _ _ " * 33,
            f"process_start_time_seconds{{{OTHER}}}": " ".join(f"{360 * n} stale _ _ _ _" for n in range(33)),
        },
        ("ExtprocInstanceDown", "ExtprocRestarts"),
        at="34m",
    ),
    Case("it was restarted twice", {STARTED: "0+0x5 300+0x5 600+0x200"}),
    Case("another program restarts", {'process_start_time_seconds{job="x",instance="y"}': "0+120x200"}),
)
FAULTS = (
    Case("a fault of ours", {INTERNAL: until(25, 0, 1)}, ("ExtprocInternalErrors",)),
    Case("faults of ours, all of another day", {INTERNAL: level(5)}),
    Case("Envoy breaks the protocol", {refused("protocol_error"): counts(0.6)}, ("ExtprocProtocolErrors",)),
    Case("Envoy broke it twice", {refused("protocol_error"): until(5, 0, 2)}),
    Case(
        "the event loop is late", {lag("0.01"): level(0), lag("0.1"): counts(290)}, ("ExtprocEventLoopLag",)
    ),
    Case("it is late now and then", {lag("0.01"): counts(298), lag("0.1"): counts(299)}),
    Case("bodies fill the memory", {HELD: level(9e8)}, ("ExtprocBodiesHeld",)),
    Case("bodies fill three quarters of it", {HELD: level(7.5e8)}),
    Case("file descriptors run out", {FDS: level(900)}, ("ExtprocFileDescriptors",)),
    Case("many are in use", {FDS: level(700)}),
    Case("log lines are lost", {DROPPED: counts(1)}, ("ExtprocLogLinesDropped",), at="40m"),
    Case("some log lines were lost", {DROPPED: until(5, 0, 9)}),
    Case("spans are lost", {SPANS: counts(1)}, ("ExtprocOtlpDropped",), at="40m"),
    Case("some spans were lost", {SPANS: until(5, 0, 9)}),
    Case("memory grows", {MEMORY: "200e6+5e6x200"}, ("ExtprocMemoryGrows",), at="15h", step_minutes=5),
    Case("memory goes up and down", {MEMORY: " ".join(["200e6+0x6 900e6+0x4"] * 18)}, step_minutes=5),
    Case(
        "another program grows",
        {'process_resident_memory_bytes{job="x",instance="y"}': "1e6+5e6x200"},
        step_minutes=5,
    ),
)
FILES = (
    Case("a config with a fault", {RELOADED: until(10, 1, 0)}, ("ExtprocConfigFaulty",)),
    Case("a config with a fault that was soon mended", {RELOADED: "1+0x10 0+0x3 1+0x200"}),
    Case("certificate files with a fault", {PAIR: until(10, 1, 0)}, ("ExtprocCertificateFaulty",)),
    Case("certificate files, one written before the other", {PAIR: "1+0x10 0+0x1 1+0x200"}),
    Case("the certificate ends", {EXPIRY: level(7 * 86400)}, ("ExtprocCertificateExpires",), at="90m"),
    Case("the certificate ends next week", {EXPIRY: level(8 * 86400)}),
)
SERVICE = (
    Case(
        "a third fails, of no pool",
        {refused("internal_error"): counts(60)},
        ("ExtprocErrorBudgetFast",),
        at="20m",
    ),
    Case(
        "a third failed for twenty minutes, after hours in which nothing did",
        {refused("internal_error"): "0+0x180 0+90x10 900+0x200"},
        ("ExtprocErrorBudgetFast",),
        at="380m",
        step_minutes=2,
    ),
    Case(
        "one in twenty fails",
        {refused("internal_error"): counts(9.5)},
        ("ExtprocErrorBudgetFast",),
        at="40m",
    ),
    Case(
        "a quarter failed for five minutes, after an hour in which nothing did",
        {refused("internal_error"): "0+0x60 0+60x5 300+0x200"},
    ),
    Case(
        "one in a hundred fails, for days",
        {refused("internal_error"): counts(1.5)},
        ("ExtprocErrorBudgetSlow",),
        at="90h",
        step_minutes=30,
    ),
    Case(
        "one in a hundred failed, for half of a day",
        {refused("internal_error"): "0+0x100 0+1.5x24 36+0x200"},
        step_minutes=30,
    ),
    Case(
        "three requests in an hour, one of which failed",
        {
            **without("extproc_requests_total"),
            requests("completed"): counts(0.02),
            refused("internal_error"): counts(0.02),
        },
    ),
    Case(
        "a pool's servers answer 5xx",
        BUSY | {requests("upstream_error", target): counts(4) for target in ("v1", "v2")},
        ("ExtprocPoolErrors",),
        at="21m",
    ),
    Case(
        "no endpoint for one request of a model in ten",
        BUSY | {refused("no_endpoints"): counts(21)},
        ("ExtprocNoEndpoints",),
    ),
    Case(
        "no endpoint for a model that few ask for",
        BUSY | {refused("no_endpoints", "small"): counts(1)},
        ("ExtprocNoEndpoints",),
    ),
    Case("a few requests found no endpoint", {refused("no_endpoints"): until(28, 0, 4)}),
    Case(
        "so did three of a model that few ask for", BUSY | {refused("no_endpoints", "small"): until(28, 0, 3)}
    ),
    Case(
        "all endpoints are set aside or cordoned",
        {endpoints("available"): level(0), endpoints("set_aside"): level(2), endpoints("cordoned"): level(1)},
        ("ExtprocPoolEmpty",),
    ),
    Case(
        "all endpoints are dead, and one is kept as the last chance",
        {endpoints("available"): level(0), endpoints("failing"): level(1), endpoints("set_aside"): level(2)},
        ("ExtprocPoolEmpty",),
    ),
    Case("one of three lives", {endpoints("available"): level(1), endpoints("set_aside"): level(2)}),
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
        "the new version fails, and few ask for it",
        BUSY | {requests("completed", "v2"): counts(4), requests("upstream_error", "v2"): counts(1)},
        ("ExtprocTargetFails",),
    ),
    Case(
        "both fail alike",
        BUSY | {requests("upstream_error", target): counts(3) for target in ("v1", "v2")},
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
    ),
    Case(
        "the new version is slow",
        {first_tokens("v2", "0.25"): level(0)},
        ("ExtprocTargetSlow",),
        at="60m",
    ),
    Case(
        "the new version is slow, and few ask for it",
        slow(5),
        ("ExtprocTargetSlow",),
        at="60m",
    ),
    Case(
        "two slow answers of the few of the new version that are read",
        {
            **{first_tokens("v2", bound): counts(0.25) for bound in ("1", "+Inf")},
            first_tokens("v2", "0.25"): "0+0.25x32 8+0x8 8.25+0.25x160",
            read_answers("v2"): counts(0.25),
        },
    ),
    Case("both are slow", {first_tokens(target, "0.25"): level(0) for target in ("v1", "v2")}),
    Case(
        "a slow version with few requests",
        slow(1) | {requests("upstream_error", "v2"): None},
    ),
    Case("a target lost its pods", {MOVED: counts(6)}, ("ExtprocTargetMoved",)),
    Case("a request moved", {MOVED: until(10, 0, 1)}),
)
INSIDE = (
    Case("an endpoint fails", {READY_POD: "1+0x2 " + "0+0x9 1+0x0 " * 15}, ("ExtprocEndpointSetAside",)),
    Case("an endpoint failed", {READY_POD: "1+0x10 0+0x4 1+0x200"}),
    Case("one dead pod of many", {READY_POD: level(0)}, ("ExtprocEndpointSetAside",)),
    Case("figures are old", {age(1): GROWS}, ("ExtprocFiguresStale",)),
    Case("figures were old", {age(1): "0.2+0x10 20+60x4 0.2+0x200"}),
    Case("scrapes time out", {SCRAPED: counts(10), TIMEOUTS: counts(60)}, ("ExtprocScrapesFail",)),
    Case(
        "one endpoint of three is not known",
        {age(1): GROWS, SCRAPED: counts(600), TIMEOUTS: counts(13)},
        ("ExtprocFiguresStale",),
    ),
    Case(
        "two endpoints of three were never read, and are tried less often than the one that is",
        {age(1): GROWS, age(2): GROWS, SCRAPED: counts(300), TIMEOUTS: counts(26)},
        ("ExtprocFiguresStale", "ExtprocScrapesFail"),
    ),
    Case(
        "servers that have had no request",
        {**{age(n): None for n in (1, 2, 3)}, SCRAPED: None, UNUSED: counts(36)},
    ),
    Case("Envoy goes elsewhere", {MISSES: counts(3)}, ("ExtprocPinMisses",)),
    Case("a pod went", {MISSES: until(10, 0, 5)}),
    Case("Envoy sends no bodies", {NOT_SENT: counts(200)}, ("ExtprocAnswersNotSent",), at="40m"),
    Case("a few answers had no body", {NOT_SENT: counts(1)}),
    Case("the Kubernetes API is lost", {FOLLOWED: until(10, 1, 0)}, ("ExtprocKubernetesLost",)),
    Case("the Kubernetes API was lost", {FOLLOWED: "1+0x10 0+0x5 1+0x200"}),
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
