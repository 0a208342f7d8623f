"""What has gone wrong with ext_proc since this Envoy started."""

from __future__ import annotations

from collections.abc import Iterator

from ..fields import text
from ..finding import Cure, Found, Line, Severity, check
from ..setup import Setup


def _counted(setup: Setup, *names: str) -> Iterator[Found]:
    """One of these counters is above 0."""
    prefixes: dict[str, str] = {}
    for manager, processing in setup.processings:
        own = text(processing.settings, "stat_prefix")
        prefix = f"http.{manager.stat_prefix}.ext_proc.{own + '.' if own else ''}"
        prefixes.setdefault(prefix, manager.where)
    for prefix, where in prefixes.items():
        counts = {name: setup.count(prefix + name) for name in names}
        if told := ", ".join(f"{name} {count:,}" for name, count in counts.items() if count):
            started = setup.count(f"{prefix}streams_started")
            yield Found(where, f"{told}; streams_started {started:,}")


@check(
    "streams-failed",
    Severity.WARNING,
    "ext_proc streams have failed",
    "Each was an error for a client, or an unrouted request where ext_proc fails open: a router that was away, "
    "a circuit breaker, a connection that broke.",
    Cure(words="the other findings on the ext_proc cluster; the router's log at that time"),
)
def streams_failed(setup: Setup) -> Iterator[Found]:
    yield from _counted(setup, "streams_failed", "http_not_ok_resp_received")


@check(
    "message-timeouts",
    Severity.WARNING,
    "The router was too late for Envoy",
    "Each was a 504. A message timeout that is short, a queue that waits longer than that, or a router that "
    "hangs or has no CPU (extproc_event_loop_lag_seconds shows it).",
    Cure(
        gateway=(Line("EnvoyExtensionPolicy", "spec.extProc[].messageTimeout", "10s"),),
        envoy=(Line("ExternalProcessor", "message_timeout", "10s"),),
    ),
)
def message_timeouts(setup: Setup) -> Iterator[Found]:
    yield from _counted(setup, "message_timeouts")


@check(
    "failed-open",
    Severity.WARNING,
    "Requests went on unrouted",
    "ext_proc failed open: unpinned, and with the client's model name.",
    Cure(
        gateway=(Line("EnvoyExtensionPolicy", "spec.extProc[].failOpen", "false"),),
        envoy=(Line("ExternalProcessor", "failure_mode_allow", "false"),),
    ),
)
def failed_open(setup: Setup) -> Iterator[Found]:
    yield from _counted(setup, "failure_mode_allowed")


@check(
    "mutations-refused",
    Severity.WARNING,
    "Envoy did not take what the router said",
    "Header mutations that the rules or the header limits exclude, route caches that it may not clear, and "
    "messages out of order: a pin may be lost, or a request failed with 500.",
    Cure(words="mutation_rules and header limits of the filter and the connection manager; Envoy's log"),
)
def mutations_refused(setup: Setup) -> Iterator[Found]:
    yield from _counted(
        setup, "rejected_header_mutations", "clear_route_cache_disabled", "spurious_msgs_received"
    )


CHECKS = (streams_failed, message_timeouts, failed_open, mutations_refused)
