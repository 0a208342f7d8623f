"""Alerts.  Each has a section in docs/monitoring.md by its name, and `cases` that show it fire and not fire."""

from __future__ import annotations

from .alert import Alert
from .catalogue import LOAD
from .promql import one_of
from .recording import MODEL, WHO, increase, requests
from .router_alerts import FILES, ROUTERS

POOL = f"{WHO}, pool"
ONE_MODEL = f"{WHO}, model"
NOBODY = 'outcome="no_endpoints"'
AGE = f"max by ({POOL}, endpoint) (extproc_endpoint_metrics_age_seconds)"
OLD_S = 30
"""Figures are old: fifteen times what they count for (`max_age_s`), and longer than a server is busy with itself."""


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

FOR_DAYS = "and extproc:requests:rate1h offset 2d"
"""Of an hour in which something went wrong the share is no share of days, where no more is known."""

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
        f"{_burns(1, '3d', '6h')}\n{ENOUGH_FOR_RATIOS}\n{FOR_DAYS}",
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
        _share(requests(ONE_MODEL, "10m", NOBODY), requests(ONE_MODEL, "10m"))
        + f" > 0.05\nand {increase(ONE_MODEL, '10m', NOBODY)} > 4",
        "2m",
        "critical",
        "No endpoint takes requests for {{ $labels.model }}",
        "{{ $value | humanizePercentage }} of its requests within ten minutes got 503 no_endpoints.",
    ),
    Alert(
        "ExtprocPoolEmpty",
        f"max by ({POOL}) ({_endpoints(f'{POOL}, instance', 'available|saturated')}) == 0",
        "2m",
        "critical",
        "Pool {{ $labels.pool }} has nobody to send to",
        "Of each router's view: no endpoint is known that neither fails nor is cordoned.",
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
        + _enough("extproc:target_first_tokens:rate15m", MODEL, 50),
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
        "It was set aside, or kept as its pool's last chance, for most of the last 15 minutes.",
    ),
    Alert(
        "ExtprocFiguresStale",
        f"{AGE} > {OLD_S}",
        "5m",
        "warning",
        "The figures of endpoint {{ $labels.endpoint }} of {{ $labels.pool }} are old",
        "Read {{ $value | humanizeDuration }} ago, or not yet for so long; we decide by what we sent there.",
    ),
    Alert(
        "ExtprocScrapesFail",
        # by endpoints: one that fails is tried less often; by scrapes: one that is read now and then is never old
        f"avg by ({POOL}) ({AGE} > bool {OLD_S}) > 0.5\nor "
        + _share(
            f'sum by ({POOL}) (rate(extproc_scrapes_total{{result!~"ok|empty"}}[5m]))',
            f"sum by ({POOL}) (rate(extproc_scrapes_total[5m])) > 0.5",
        ),
        "10m",
        "warning",
        "Endpoints of pool {{ $labels.pool }} cannot be scraped",
        "{{ $value | humanizePercentage }} of them have no figures, or so many scrapes fail.",
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
