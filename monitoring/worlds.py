"""Series of a router that is well, and how others are written."""

from __future__ import annotations

STEPS = 200
"""Of each series; a minute each, or what a case says."""
ROUTER = 'job="extproc",namespace="llm",instance="a:9090"'
OTHER = 'job="extproc",namespace="llm",instance="b:9090"'
SERVED = f'{ROUTER},pool="p",model="m"'

Series = dict[str, str | None]
"""Values in promtool's notation by series; None: there is no such series."""


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


def refused(outcome: str, model: str = "m") -> str:
    """Before a pool was chosen."""
    return requests(outcome, "none", f'{ROUTER},pool="none",model="{model}"')


def of(name: str, labels: str = "") -> str:
    """A series of the router."""
    return f"{name}{{{ROUTER}{',' if labels else ''}{labels}}}"


def endpoints(state: str) -> str:
    return of("extproc_pool_endpoints", f'pool="p",state="{state}"')


def first_tokens(target: str, bound: str) -> str:
    return f'extproc_time_to_first_token_seconds_bucket{{{SERVED},target_model="{target}",le="{bound}"}}'


def read_answers(target: str) -> str:
    """Streamed ones."""
    return f'extproc_time_to_first_token_seconds_count{{{SERVED},target_model="{target}"}}'


def slow(per_step: float) -> Series:
    """So many answers of the second version, none of them quick."""
    return {
        **{first_tokens("v2", bound): counts(per_step) for bound in ("1", "+Inf")},
        first_tokens("v2", "0.25"): level(0),
        read_answers("v2"): counts(per_step),
        requests("completed", "v2"): counts(per_step),
    }


def age(pod: int) -> str:
    return of("extproc_endpoint_metrics_age_seconds", f'pool="p",endpoint="10.0.0.{pod}:8000"')


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
SCRAPED = of("extproc_scrapes_total", 'pool="p",result="ok"')
UNUSED = of("extproc_scrapes_total", 'pool="p",result="empty"')
GROWS = "0+60x200"
"""The age of what nobody tells any more."""
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
    **{age(pod): level(0.2) for pod in (1, 2, 3)},
    endpoints("available"): level(3),
    **{endpoints(state): level(0) for state in ("saturated", "failing", "set_aside", "cordoned")},
    **{series: level(0) for series in (INTERNAL, DROPPED, MOVED, SPANS)},
    **{series: counts(300) for series in (SCRAPED, lag("0.01"), lag("0.1"), lag("1"), lag("+Inf"))},
    **{requests("completed", target): counts(60) for target in ("v1", "v2")},
    **{requests("upstream_error", target): counts(0.06) for target in ("v1", "v2")},
    requests("aborted"): counts(30),
    refused("model_not_found"): counts(30),
    **{first_tokens(target, bound): counts(60) for target in ("v1", "v2") for bound in ("0.25", "1", "+Inf")},
    **{read_answers(target): counts(60) for target in ("v1", "v2")},
    READ: counts(60),
}
"""One router with two versions of a model; clients that leave and that mistype are no fault of ours."""


BUSY: Series = {requests("completed", "x", f'{ROUTER},pool="q",model="x"'): counts(1000)}
"""So much else that what fails is little of all."""


def without(*names: str) -> Series:
    return {series: None for series in HEALTHY if series.split("{")[0] in names}


def second(name: str, values: str) -> Series:
    """The same of another router."""
    return {f"{name}{{{OTHER}}}": values}
