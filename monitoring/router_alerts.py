"""Alerts of the routers themselves, and of the files that they read."""

from __future__ import annotations

from .alert import Alert
from .recording import WHO, increase

OURS = "and on (job, instance) extproc_build_info"
"""Behind what every process has: only our own."""

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
        # the last hour's, as one that crashes at once is mostly not there, and never for long
        "changes(process_start_time_seconds[1h]) > 3\nand on (job, instance) last_over_time(extproc_build_info[1h])",
        "0m",
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
        increase(WHO, "10m", 'outcome="protocol_error"') + " > 3",
        "5m",
        "warning",
        "Envoy and the routers of {{ $labels.job }} do not understand each other",
        "{{ $value | humanize }} streams within ten minutes broke the ext_proc protocol; the router's log says how.",
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
        "15m",
        "warning",
        "Router {{ $labels.instance }} loses log lines",
        "{{ $value | humanize }} within 15 minutes, and before: nobody reads its stderr fast enough.",
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
