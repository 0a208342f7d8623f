"""What cuts an answer short, or a request that waits."""

from __future__ import annotations

from collections.abc import Iterator

from ..fields import get, seconds
from ..finding import Cure, Found, Line, Severity, check, span
from ..setup import Setup

SHORT_ANSWER_S = 60.0
LONG_ANSWER_S = 600.0
"""A minute is an everyday answer; ten hold 20,000 tokens of reasoning at 30 a second."""
THINKING_S = 600.0
"""A request that is not streamed has no byte until its whole answer is there; one in a queue neither."""
MESSAGE_S = 1.0
"""The router decides in milliseconds, but 20 MB take 100 ms, and a machine that is busy for a moment as much again."""
KEEP_ALIVE_S = 5.0
"""After which vLLM's HTTP server (uvicorn) closes an idle connection."""
NEAR = 0.9
"""Of a timeout: the rest is for our answer to get there."""


@check(
    "route-timeout",
    Severity.SERIOUS,
    "The route's timeout cuts long answers",
    "It counts from the end of the request to the end of the answer, tokens streamed or not: a client gets "
    "504, or half an answer. Absent it is 15 s, also with Envoy Gateway.",
    Cure(
        gateway=(Line("BackendTrafficPolicy", "spec.timeout.http.requestTimeout", "0s"),),
        envoy=(Line("Route", "route.timeout", "0s"),),
    ),
)
def route_timeout(setup: Setup) -> Iterator[Found]:
    for _, route in setup.served:
        if 0 < route.timeout_s < LONG_ANSWER_S:
            absent = " (none is set: Envoy's default)" if get(route.action, "timeout") is None else ""
            severity = Severity.SERIOUS if route.timeout_s < SHORT_ANSWER_S else Severity.WARNING
            yield Found(f"route {route.name}", f"timeout {span(route.timeout_s)}{absent}", severity)


@check(
    "answer-limit",
    Severity.SERIOUS,
    "A limit on streams or attempts cuts long answers",
    "max_stream_duration ends a stream whatever happens on it; a retry policy's per_try_timeout ends an "
    "attempt, and then the prompt is computed again elsewhere.",
    Cure(
        gateway=(Line("BackendTrafficPolicy", "spec.timeout.http.maxStreamDuration", "0s"),),
        envoy=(
            Line("Route", "route.max_stream_duration.max_stream_duration", "0s"),
            Line("Route", "route.retry_policy.per_try_timeout", "0s"),
        ),
        words="BackendTrafficPolicy spec.retry.perRetry.timeout and ClientTrafficPolicy "
        "spec.connection.connectionLimit.maxStreamDuration: take them out",
    ),
)
def answer_limit(setup: Setup) -> Iterator[Found]:
    def short(where: str, what: str, limit: float | None) -> Iterator[Found]:
        if limit is not None and 0 < limit < LONG_ANSWER_S:
            severity = Severity.SERIOUS if limit < SHORT_ANSWER_S else Severity.WARNING
            yield Found(where, f"{what} {span(limit)}", severity)

    limit = "max_stream_duration"
    for manager in setup.managers:
        if manager.chain:
            common = seconds(manager.settings, "common_http_protocol_options", limit)
            yield from short(manager.where, limit, common)
    for _, route in setup.served:
        where = f"route {route.name}"
        yield from short(where, limit, seconds(route.action, limit, limit))
        yield from short(where, "per_try_timeout", seconds(route.retry, "per_try_timeout"))
    for cluster in setup.pool_clusters:
        common = seconds(cluster.http, "common_http_protocol_options", limit)
        yield from short(cluster.where, limit, common)


@check(
    "stream-idle-timeout",
    Severity.WARNING,
    "A long think counts as an idle stream",
    "Without a byte in either direction for this long, Envoy answers 504 or cuts the stream. An answer that is "
    "not streamed is silent until it is complete, reasoning and queues included; Envoy's default is 5 min.",
    Cure(
        gateway=(
            Line("ClientTrafficPolicy", "spec.timeout.http.streamIdleTimeout", "1h"),
            Line("BackendTrafficPolicy", "spec.timeout.http.streamIdleTimeout", "1h"),
        ),
        envoy=(
            Line("HttpConnectionManager", "stream_idle_timeout", "3600s"),
            Line("Route", "route.idle_timeout", "3600s"),
        ),
    ),
)
def stream_idle_timeout(setup: Setup) -> Iterator[Found]:
    for manager, route in setup.served:
        idle = manager.idle_s(route)
        if 0 < idle < THINKING_S:
            whose = "its idle_timeout" if route.idle_timeout_s is not None else f"{manager.where}"
            severity = Severity.SERIOUS if idle < SHORT_ANSWER_S else None
            yield Found(f"route {route.name}", f"{span(idle)} ({whose})", severity)


@check(
    "message-timeout",
    Severity.SERIOUS,
    "ext_proc's message timeout is short",
    "The router's answer to one message has to come within it, else the client gets 504. Envoy's default of "
    "200 ms is enough until a 20 MB body or a busy machine comes along; requests that wait with the router "
    "need its queue's timeout besides. An override_message_timeout works only up to max_message_timeout, and "
    "the router sends none.",
    Cure(
        gateway=(Line("EnvoyExtensionPolicy", "spec.extProc[].messageTimeout", "10s"),),
        envoy=(Line("ExternalProcessor", "message_timeout", "10s"),),
    ),
)
def message_timeout(setup: Setup) -> Iterator[Found]:
    for _, processing in setup.processings:
        timeout = processing.message_timeout_s
        if not processing.is_duplex and 0 < timeout < MESSAGE_S:
            absent = "" if "message_timeout" in processing.settings else " (none is set: Envoy's default)"
            severity = Severity.SERIOUS if timeout <= 0.2 else Severity.WARNING
            yield Found(f"filter {processing.filter}", f"message_timeout {span(timeout)}{absent}", severity)


@check(
    "queue-timeout",
    Severity.SERIOUS,
    "Requests may wait with the router for longer than Envoy waits",
    "A held request is answered by Envoy (504) before the router's own refusal or the pod's answer can come. "
    "With full-duplex bodies it is the stream's idle timeout that ends the wait.",
    Cure(
        gateway=(Line("EnvoyExtensionPolicy", "spec.extProc[].messageTimeout", "30s"),),
        envoy=(Line("ExternalProcessor", "message_timeout", "30s"),),
        router=(Line("config", "pools[].queue.timeout_s", "8"),),
        words="the queue's timeout well below the message timeout",
    ),
    needs_router=True,
)
def queue_timeout(setup: Setup) -> Iterator[Found]:
    bounds = [
        (manager.stream_idle_s, "stream_idle_timeout")
        if processing.is_duplex
        else (processing.message_timeout_s, f"message_timeout of filter {processing.filter}")
        for manager, processing in setup.processings
    ]
    for pool in setup.router.values.pools if setup.router else ():
        if pool.queue is None:
            continue
        wait = pool.queue.timeout_s
        for bound, whose in dict.fromkeys(bounds):
            if bound and wait > NEAR * bound:
                severity = Severity.SERIOUS if wait >= bound else Severity.WARNING
                yield Found(
                    f"pool {pool.name}", f"queue.timeout_s {span(wait)}; {whose} {span(bound)}", severity
                )


@check(
    "upstream-idle-timeout",
    Severity.WARNING,
    "Envoy keeps connections that vLLM closes",
    "vLLM's HTTP server closes a connection that is idle for 5 s; a request that Envoy sends on it at that "
    "moment fails with 503 (flags UC). Envoy's default is an hour.",
    Cure(
        gateway=(Line("BackendTrafficPolicy", "spec.timeout.http.connectionIdleTimeout", "4s"),),
        envoy=(Line("HttpProtocolOptions", "common_http_protocol_options.idle_timeout", "4s"),),
        words="or vLLM's VLLM_HTTP_TIMEOUT_KEEP_ALIVE above Envoy's",
    ),
)
def upstream_idle_timeout(setup: Setup) -> Iterator[Found]:
    for cluster in setup.pool_clusters:
        found = seconds(cluster.http, "common_http_protocol_options", "idle_timeout")
        if cluster.http2 is None and (found is None or not 0 < found < KEEP_ALIVE_S):
            told = "none is set: Envoy's default of 1 h" if found is None else f"idle_timeout {span(found)}"
            yield Found(cluster.where, told)


@check(
    "drain-time",
    Severity.NOTE,
    "A rollout of Envoy cuts long answers",
    "A proxy that is replaced ends what is still open after this time. Envoy Gateway's default is 60 s.",
    Cure(
        gateway=(Line("EnvoyProxy", "spec.shutdown.drainTimeout", "600s"),),
        words="without Envoy Gateway: envoy --drain-time-s 600, and terminationGracePeriodSeconds above that",
    ),
)
def drain_time(setup: Setup) -> Iterator[Found]:
    if setup.drain_s is not None and setup.drain_s < THINKING_S:
        yield Found("envoy", f"drain_time {span(setup.drain_s)}")


@check(
    "answers-cut",
    Severity.WARNING,
    "Envoy has cut requests for a timeout",
    "Each was a 504 or half an answer for a client, since this Envoy started.",
    Cure(
        gateway=(
            Line("BackendTrafficPolicy", "spec.timeout.http.requestTimeout", "0s"),
            Line("ClientTrafficPolicy", "spec.timeout.http.streamIdleTimeout", "1h"),
        ),
        envoy=(
            Line("Route", "route.timeout", "0s"),
            Line("HttpConnectionManager", "stream_idle_timeout", "3600s"),
        ),
    ),
)
def answers_cut(setup: Setup) -> Iterator[Found]:
    for cluster in setup.pool_clusters:
        counts = {
            name: setup.count(cluster.stats + name)
            for name in ("upstream_rq_timeout", "upstream_rq_per_try_timeout")
        }
        if told := ", ".join(f"{name} {count:,}" for name, count in counts.items() if count):
            yield Found(cluster.where, told)
    for manager in setup.managers:
        idle = setup.count(f"http.{manager.stat_prefix}.downstream_rq_idle_timeout")
        if manager.chain and idle:
            yield Found(manager.where, f"downstream_rq_idle_timeout {idle:,}")


@check(
    "connections-closed",
    Severity.NOTE,
    "Model servers have closed connections under requests",
    "A pod that ended, or that closed an idle connection just as Envoy used it again: a 503 or half an answer each.",
    Cure(
        gateway=(Line("BackendTrafficPolicy", "spec.timeout.http.connectionIdleTimeout", "4s"),),
        envoy=(Line("HttpProtocolOptions", "common_http_protocol_options.idle_timeout", "4s"),),
    ),
)
def connections_closed(setup: Setup) -> Iterator[Found]:
    for cluster in setup.pool_clusters:
        name = "upstream_cx_destroy_remote_with_active_rq"
        count = setup.count(cluster.stats + name)
        if count:
            yield Found(cluster.where, f"{name} {count:,}")


CHECKS = (
    route_timeout,
    answer_limit,
    stream_idle_timeout,
    message_timeout,
    queue_timeout,
    upstream_idle_timeout,
    drain_time,
    answers_cut,
    connections_closed,
)
