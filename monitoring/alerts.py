"""Alerts.  Each has a section in docs/monitoring.md by its name, and `cases` that show it fire and not fire."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from .catalogue import LOAD
from .promql import one_of
from .recording import MODEL, WHO, requests

OURS = "and on (job, instance) extproc_build_info"
"""Behind what every process has: only our own."""
POOL = f"{WHO}, pool"


class Alert(Struct, frozen=True):
    name: str
    expression: str
    wait: str
    """How long it must hold."""
    severity: Literal["critical", "warning"]
    """critical: clients are hurt now, wake somebody.  warning: in working hours."""
    summary: str
    description: str


def _share(part: str, whole: str) -> str:
    return f"{part}\n/ {whole}"


def _endpoints(by: str, states: str) -> str:
    return f'sum by ({by}) (extproc_pool_endpoints{{state=~"{states}"}})'


def _others(series: str, by: str) -> str:
    """Of each target what the other targets of its model have together."""
    return f"(sum by ({by}) ({series}) - on ({by}) group_right () {series})"


def _enough(series: str, by: str, count: int) -> str:
    """Both sides of a comparison have so many in 15 minutes; fewer say nothing."""
    return f"and {series} * 900 >= {count}\nand {_others(series, by)} * 900 >= {count}"


def _burns(rate: float, long: str, short: str) -> str:
    """The budget is used so many times as fast as it lasts."""
    limit = f"{rate:g} * scalar(extproc:error_budget:ratio)"
    ratios = (f"extproc:request_errors:ratio_rate{window} > {limit}" for window in (long, short))
    return "(" + "\n  and ".join(ratios) + ")"


ENOUGH_FOR_RATIOS = "and extproc:requests:rate1h * 3600 >= 100"
"""Of three requests in an hour one that fails is no rate."""

ROUTERS = (
    Alert(
        "ExtprocDown",
        "absent(extproc_build_info)",
        "2m",
        "critical",
        "No router is there",
        "Prometheus gets metrics from no extproc at all.",
    ),
    Alert(
        "ExtprocInstanceDown",
        "up == 0 and on (job, instance) last_over_time(extproc_build_info[1h])",
        "3m",
        "warning",
        "Router {{ $labels.instance }} does not answer",
        "It was there within the last hour, and Prometheus cannot scrape it now.",
    ),
    Alert(
        "ExtprocNotReady",
        f"max by ({WHO}) (extproc_ready) == 0",
        "2m",
        "critical",
        "No router of {{ $labels.job }} is ready",
        "Routers run, and none takes requests: Envoy answers 503, or goes on without us where it fails open.",
    ),
    Alert(
        "ExtprocInstanceNotReady",
        "extproc_ready == 0",
        "15m",
        "warning",
        "Router {{ $labels.instance }} is not ready",
        "Longer than a drain takes. /readyz says what it waits for.",
    ),
    Alert(
        "ExtprocRestarts",
        f"changes(process_start_time_seconds[1h]) > 3\n{OURS}",
        "1m",
        "warning",
        "Router {{ $labels.instance }} restarts",
        "{{ $value }} times within an hour. Each takes with it the answers that it counts.",
    ),
    Alert(
        "ExtprocInternalErrors",
        "increase(extproc_internal_errors_total[10m]) > 0",
        "1m",
        "warning",
        "A fault of ours in router {{ $labels.instance }}",
        "{{ $value | humanize }} within ten minutes, each with a traceback in its log.",
    ),
    Alert(
        "ExtprocProtocolErrors",
        requests(WHO, "10m", 'outcome="protocol_error"') + " > 0",
        "5m",
        "warning",
        "Envoy and the routers of {{ $labels.job }} do not understand each other",
        "{{ $value | humanize }} streams a second broke the ext_proc protocol; the router's log says how.",
    ),
    Alert(
        "ExtprocEventLoopLag",
        f"histogram_quantile(0.99, sum by ({WHO}, instance, le) "
        "(rate(extproc_event_loop_lag_seconds_bucket[5m]))) > 0.1",
        "10m",
        "warning",
        "Router {{ $labels.instance }} is late",
        "P99 of its event loop's lag is {{ $value | humanizeDuration }}; every request is that much later.",
    ),
    Alert(
        "ExtprocBodiesHeld",
        "extproc_buffered_bytes / extproc_buffered_limit_bytes > 0.8",
        "5m",
        "warning",
        "Router {{ $labels.instance }} holds many bodies",
        "{{ $value | humanizePercentage }} of limits.max_buffered_bytes; at 100 % requests get 503 overloaded.",
    ),
    Alert(
        "ExtprocMemoryGrows",
        "min_over_time(process_resident_memory_bytes[1h])\n"
        "> 1.5 * min_over_time(process_resident_memory_bytes[1h] offset 12h) + 128 * 1024 * 1024\n" + OURS,
        "1h",
        "warning",
        "Router {{ $labels.instance }} grows",
        "{{ $value | humanize1024 }}B at least for an hour: over one and a half of what it was twelve hours ago.",
    ),
    Alert(
        "ExtprocFileDescriptors",
        f"process_open_fds / process_max_fds > 0.8\n{OURS}",
        "10m",
        "warning",
        "Router {{ $labels.instance }} runs out of file descriptors",
        "{{ $value | humanizePercentage }} are in use; without one no endpoint can be scraped, no stream accepted.",
    ),
    Alert(
        "ExtprocLogLinesDropped",
        "increase(extproc_log_lines_dropped_total[15m]) > 0",
        "5m",
        "warning",
        "Router {{ $labels.instance }} loses log lines",
        "{{ $value | humanize }} within 15 minutes: nobody reads its stderr fast enough.",
    ),
    Alert(
        "ExtprocOtlpDropped",
        f"sum by ({WHO}, instance, signal) (increase(extproc_otlp_dropped_total[15m])) > 0",
        "15m",
        "warning",
        "Router {{ $labels.instance }} loses {{ $labels.signal }}",
        "{{ $value | humanize }} within 15 minutes: the OpenTelemetry collector is away or slow.",
    ),
)
FILES = (
    Alert(
        "ExtprocConfigFaulty",
        "extproc_config_last_reload_successful == 0",
        "5m",
        "warning",
        "Router {{ $labels.instance }} goes on with an old config",
        "The file in place is faulty; config_reload_failed in its log says where.",
    ),
    Alert(
        "ExtprocCertificateFaulty",
        "extproc_tls_last_reload_successful == 0",
        "5m",
        "warning",
        "Router {{ $labels.instance }} goes on with an old certificate",
        "The files in place are faulty; certificate_reload_failed in its log says why.",
    ),
    Alert(
        "ExtprocCertificateExpires",
        "extproc_tls_certificate_expiry_timestamp_seconds - time() < 7 * 86400",
        "1h",
        "warning",
        "The certificate of router {{ $labels.instance }} ends",
        "In {{ $value | humanizeDuration }}; then Envoy cannot reach it, unless it checks nothing.",
    ),
)
SERVICE = (
    Alert(
        "ExtprocErrorBudgetFast",
        f"({_burns(14.4, '1h', '5m')}\nor {_burns(6, '6h', '30m')})\n{ENOUGH_FOR_RATIOS}",
        "2m",
        "critical",
        "Many requests of {{ $labels.job }} fail",
        "{{ $value | humanizePercentage }} failed: the error budget of a month is gone within days.",
    ),
    Alert(
        "ExtprocErrorBudgetSlow",
        f"{_burns(1, '3d', '6h')}\n{ENOUGH_FOR_RATIOS}",
        "1h",
        "warning",
        "Some requests of {{ $labels.job }} fail, for days",
        "{{ $value | humanizePercentage }} over three days: more than the error budget.",
    ),
    Alert(
        "ExtprocPoolErrors",
        _share(requests(POOL, "10m", 'outcome="upstream_error"'), requests(POOL, "10m")) + " > 0.05",
        "10m",
        "warning",
        "Model servers of pool {{ $labels.pool }} answer 5xx",
        "{{ $value | humanizePercentage }} of its requests.",
    ),
    Alert(
        "ExtprocNoEndpoints",
        requests(f"{WHO}, model", "5m", 'outcome="no_endpoints"')
        + f"\n> on ({WHO}) group_left () (0.01 * {requests(WHO, '5m')})",
        "2m",
        "critical",
        "No endpoint takes requests for {{ $labels.model }}",
        "{{ $value | humanize }} requests a second get 503 no_endpoints.",
    ),
    Alert(
        "ExtprocPoolEmpty",
        f"max by ({POOL}) ({_endpoints(f'{POOL}, instance', 'available|saturated')}) == 0",
        "2m",
        "critical",
        "Pool {{ $labels.pool }} has nobody to send to",
        "Of each router's view: no endpoint is known that is neither set aside nor cordoned.",
    ),
    Alert(
        "ExtprocPoolSaturated",
        f"{_endpoints(POOL, 'available')} == 0\nand {_endpoints(POOL, 'saturated')} > 0",
        "10m",
        "warning",
        "Pool {{ $labels.pool }} is saturated",
        "Every endpoint that takes requests is at a limit; sheddable work is refused, the rest waits.",
    ),
    Alert(
        "ExtprocRefusedForLoad",
        _share(requests(WHO, "10m", one_of("outcome", LOAD)), requests(WHO, "10m")) + " > 0.05",
        "10m",
        "warning",
        "{{ $labels.job }} refuses requests for load",
        "{{ $value | humanizePercentage }}: saturated, queue_timeout or overloaded.",
    ),
)
VERSIONS = (
    Alert(
        "ExtprocTargetFails",
        "extproc:target_errors:rate15m / extproc:target_requests:rate15m\n"
        f"> 0.05 + 2 * {_others('extproc:target_errors:rate15m', MODEL)}\n"
        f"  / {_others('extproc:target_requests:rate15m', MODEL)}\n"
        + _enough("extproc:target_requests:rate15m", MODEL, 50),
        "5m",
        "warning",
        "{{ $labels.target_model }} fails more often than the other versions of {{ $labels.model }}",
        "{{ $value | humanizePercentage }} of its requests within 15 minutes, over twice as many as the others'.",
    ),
    Alert(
        "ExtprocTargetSlow",
        "histogram_quantile(0.95, extproc:target_first_token_bucket:rate15m)\n"
        f"> 0.1 + 1.5 * histogram_quantile(0.95,\n"
        f"  {_others('extproc:target_first_token_bucket:rate15m', f'{MODEL}, le')})\n"
        + _enough("extproc:target_requests:rate15m", MODEL, 50),
        "15m",
        "warning",
        "{{ $labels.target_model }} is slower than the other versions of {{ $labels.model }}",
        "P95 of the time to its first token is {{ $value | humanizeDuration }}, over one and a half of the others'.",
    ),
    Alert(
        "ExtprocTargetMoved",
        _share(f"sum by ({MODEL}) (rate(extproc_target_fallbacks_total[10m]))", requests(MODEL, "10m"))
        + " > 0.02",
        "10m",
        "warning",
        "A target of {{ $labels.model }} has no endpoints",
        "{{ $value | humanizePercentage }} of the model's requests went to another target than they were drawn for.",
    ),
)
INSIDE = (
    Alert(
        "ExtprocEndpointSetAside",
        f"avg by ({POOL}, endpoint) (avg_over_time(extproc_endpoint_ready[15m])) < 0.5",
        "5m",
        "warning",
        "Endpoint {{ $labels.endpoint }} of {{ $labels.pool }} fails",
        "It was set aside for most of the last 15 minutes.",
    ),
    Alert(
        "ExtprocFiguresStale",
        f"max by ({POOL}, endpoint) (extproc_endpoint_metrics_age_seconds) > 30",
        "5m",
        "warning",
        "The figures of endpoint {{ $labels.endpoint }} of {{ $labels.pool }} are old",
        "Last scraped {{ $value | humanizeDuration }} ago; we decide by what we sent there.",
    ),
    Alert(
        "ExtprocScrapesFail",
        _share(
            f'sum by ({POOL}) (rate(extproc_scrapes_total{{result!="ok"}}[5m]))',
            f"sum by ({POOL}) (rate(extproc_scrapes_total[5m])) > 0.5",
        ),
        "10m",
        "warning",
        "Endpoints of pool {{ $labels.pool }} cannot be scraped",
        "{{ $value | humanizePercentage }} of the scrapes fail.",
    ),
    Alert(
        "ExtprocPinMisses",
        _share(f"sum by ({POOL}) (rate(extproc_pin_misses_total[10m]))", requests(POOL, "10m")) + " > 0.01",
        "15m",
        "warning",
        "Envoy sends requests of pool {{ $labels.pool }} elsewhere",
        "{{ $value | humanizePercentage }} went to an address that is no endpoint of ours.",
    ),
    Alert(
        "ExtprocAnswersNotSent",
        _share(
            f'sum by ({POOL}) (rate(extproc_answers_read_total{{result="not_sent"}}[15m]))',
            f"sum by ({POOL}) (rate(extproc_answers_read_total[15m])) > 0.5",
        ),
        "15m",
        "warning",
        "Answers of pool {{ $labels.pool }} cannot be read",
        "Envoy does not send the bodies that `responses:` asks for, so there are no token counts.",
    ),
    Alert(
        "ExtprocKubernetesLost",
        "min by (job, instance, resource) (extproc_kubernetes_synced) == 0",
        "10m",
        "warning",
        "Router {{ $labels.instance }} does not follow {{ $labels.resource }}",
        "No contact with the Kubernetes API, or a right is missing; what was last known holds.",
    ),
)
ALERTS = (*ROUTERS, *FILES, *SERVICE, *VERSIONS, *INSIDE)
