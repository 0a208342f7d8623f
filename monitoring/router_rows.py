"""Tokens, the router's own process, and what it hears of the Kubernetes API."""

from __future__ import annotations

from .panels import GREEN, RED, YELLOW, Panel, Query, Row
from .promql import chosen, gauge, highest, lowest, quantile, rate, ratio
from .service_rows import REQUESTS, RESPONSES

TOKENS = "extproc_answer_tokens"


def _tokens(kind: str, by: str = "model") -> str:
    return rate(f"{TOKENS}_sum", by, f'type="{kind}"')


READ = Row(
    title="Tokens, of the answers that are read",
    is_open=False,
    panels=(
        Panel(
            title="Prompt tokens per second, by model",
            about="Of answers that were read: a share of them, where `responses.percent` says so. Divide by it / 100 "
            "for all of them, but not for models with targets of other names under `restore_model`: all of those "
            "are read.",
            queries=(Query(_tokens("prompt"), "{{model}}"),),
            empty=RESPONSES,
        ),
        Panel(
            title="Completion tokens per second, by model",
            about="What the GPUs produce for clients.",
            queries=(Query(_tokens("completion"), "{{model}}"),),
            empty=RESPONSES,
        ),
        Panel(
            title="Prompt tokens found in the cache",
            about="Share, as the engines tell it (vLLM: `--enable-prompt-tokens-details`). It falls when "
            "requests with the same beginning are spread over endpoints.",
            queries=(Query(ratio(_tokens("cached"), _tokens("prompt")), "{{model}}"),),
            unit="percentunit",
            most=1,
            empty=RESPONSES,
        ),
        Panel(
            title="Tokens of a request P50 and P95",
            about="Prompts and completions, of all models chosen.",
            queries=(
                Query(quantile(0.5, TOKENS, "type"), "{{type}} P50"),
                Query(quantile(0.95, TOKENS, "type"), "{{type}} P95"),
            ),
            empty=RESPONSES,
        ),
        Panel(
            title="Why answers ended",
            about="Per second. length: cut by max_tokens or the context. error: the engine gave up.",
            queries=(
                Query(
                    rate("extproc_answer_finish_reasons_total", "model, finish_reason"),
                    "{{model}} {{finish_reason}}",
                ),
            ),
            kind="areas",
            empty=RESPONSES,
        ),
        Panel(
            title="Answers read, by result",
            about="Per second. no_usage: the client did not ask for it (`stream_options.include_usage`). "
            "cut: ended early. not_sent: Envoy did not send the body that we asked for; it needs "
            "`allow_mode_override`.",
            queries=(Query(rate("extproc_answers_read_total", "pool, result"), "{{pool}} {{result}}"),),
            kind="areas",
            empty=RESPONSES,
        ),
    ),
)
ROUTER = Row(
    title="Router itself",
    is_open=False,
    panels=(
        Panel(
            title="Event loop lag P99",
            about="How late its timers fire, which is how late every request is. Over 100 ms Envoy's "
            "timeouts come near: more CPU, or more replicas.",
            queries=(Query(quantile(0.99, "extproc_event_loop_lag_seconds", "instance"), "{{instance}}"),),
            unit="s",
            levels=((None, GREEN), (0.05, YELLOW), (0.1, RED)),
        ),
        Panel(
            title="CPU",
            about="Cores in use; a router uses one at most. Over 0.8 for long: more replicas.",
            queries=(Query(rate("process_cpu_seconds_total", "instance"), "{{instance}}"),),
            levels=((None, GREEN), (0.8, YELLOW), (0.95, RED)),
        ),
        Panel(
            title="Memory",
            about="Resident. It should be level apart from bodies held (Bodies held).",
            queries=(Query(gauge("process_resident_memory_bytes", "instance"), "{{instance}}"),),
            unit="bytes",
        ),
        Panel(
            title="Bodies held",
            about="Bytes of request bodies, and the limit (`limits.max_buffered_bytes`), where requests get "
            "503.",
            queries=(
                Query(gauge("extproc_buffered_bytes", "instance"), "{{instance}}"),
                Query(f"min({chosen('extproc_buffered_limit_bytes')})", "limit"),
            ),
            unit="bytes",
        ),
        Panel(
            title="Open streams and tasks",
            about="A stream lives as long as its answer. Tasks that grow while streams do not: a leak.",
            queries=(
                Query(gauge("extproc_streams_in_flight", "instance"), "{{instance}} streams"),
                Query(gauge("extproc_event_loop_tasks", "instance"), "{{instance}} tasks"),
            ),
        ),
        Panel(
            title="File descriptors in use",
            about="Share of what the process may open; each endpoint that is scraped takes one.",
            queries=(
                Query(
                    f"{gauge('process_open_fds', 'instance')} / {gauge('process_max_fds', 'instance')}",
                    "{{instance}}",
                ),
            ),
            unit="percentunit",
            levels=((None, GREEN), (0.8, RED)),
            most=1,
        ),
        Panel(
            title="Faults",
            about="Per second. Internal errors: ours, each with a traceback in the log. Protocol errors: "
            "Envoy sent what it must not. Log lines dropped: nobody reads our stderr fast enough.",
            queries=(
                Query(rate("extproc_internal_errors_total", "instance"), "{{instance}} internal errors"),
                Query(rate(REQUESTS, "instance", 'outcome="protocol_error"'), "{{instance}} protocol errors"),
                Query(rate("extproc_log_lines_dropped_total", "instance"), "{{instance}} log lines dropped"),
            ),
            levels=((None, GREEN), (0.001, RED)),
        ),
        Panel(
            title="Config in force",
            about="Red: the file in place is faulty, the one before stays in force; config_reload_failed in "
            "the log says why. Vertical lines on the panels: a config was loaded.",
            queries=(Query(lowest("extproc_config_last_reload_successful", "instance"), "{{instance}}"),),
            kind="states",
            texts=(("0", "faulty file", RED), ("1", "in force", GREEN)),
        ),
        Panel(
            title="Age of the config",
            about="Since it was loaded. Replicas that differ read different files.",
            queries=(
                Query(
                    f"time() - {highest('extproc_config_last_reload_success_timestamp_seconds', 'instance')}",
                    "{{instance}}",
                ),
            ),
            unit="s",
        ),
        Panel(
            title="Certificate",
            about="Until it ends, and whether the files in place are in force (1).",
            queries=(
                Query(
                    f"{lowest('extproc_tls_certificate_expiry_timestamp_seconds', 'instance')} - time()",
                    "{{instance}} left",
                ),
            ),
            unit="s",
            empty="needs --tls-cert",
        ),
        Panel(
            title="Certificate files in force",
            about="Red: the new pair is faulty, the old one is shown; certificate_reload_failed in the log "
            "says why.",
            queries=(Query(lowest("extproc_tls_last_reload_successful", "instance"), "{{instance}}"),),
            kind="states",
            texts=(("0", "faulty files", RED), ("1", "in force", GREEN)),
            empty="needs --tls-cert",
        ),
        Panel(
            title="Denied and unknown",
            about="Per second: requests to the HTTP port without a valid token; requests whose header asked "
            "for a profile that is not there.",
            queries=(
                Query(rate("extproc_http_requests_denied_total"), "denied"),
                Query(rate("extproc_unknown_profiles_total", "pool"), "{{pool}} unknown profile"),
            ),
        ),
        Panel(
            title="Beginnings of prompts remembered",
            about="By which requests go to who has them cached. Level: the index is full, and forgets the "
            "oldest.",
            queries=(Query(highest("extproc_prefix_index_runs", "pool"), "{{pool}}"),),
        ),
        Panel(
            title="Sent over OTLP",
            about="Batches per second by what became of them, and what was dropped: the collector is away "
            "or slow.",
            queries=(
                Query(rate("extproc_otlp_exports_total", "signal, result"), "{{signal}} {{result}}"),
                Query(rate("extproc_otlp_dropped_total", "signal"), "{{signal}} dropped"),
            ),
            empty="needs --otlp-endpoint",
        ),
        Panel(
            title="Version and age",
            about="Two versions at once: a rollout. A young process among old ones: it was restarted.",
            queries=(
                Query(
                    f"time() - {highest('process_start_time_seconds', 'instance')}"
                    f" + on (instance) group_left (version) (0 * {chosen('extproc_build_info')})",
                    "{{instance}} {{version}}",
                ),
            ),
            unit="s",
        ),
    ),
)
NO_CLUSTER = "needs a pool with kubernetes:"
KUBERNETES = Row(
    title="Kubernetes",
    is_open=False,
    panels=(
        Panel(
            title="Followed",
            about="Red: contact is lost or a right is missing; what was last known holds. See "
            "`.kubernetes.sources` in /debug/state.",
            queries=(
                Query(
                    lowest("extproc_kubernetes_synced", "instance, resource"),
                    "{{instance}} {{resource}}",
                ),
            ),
            kind="states",
            texts=(("0", "not followed", RED), ("1", "followed", GREEN)),
            empty=NO_CLUSTER,
        ),
        Panel(
            title="Since the API last said something",
            about="Events or bookmarks. It grows where nothing happens, and where contact is lost: compare "
            "Followed.",
            queries=(Query(highest("extproc_kubernetes_last_contact_seconds", "resource"), "{{resource}}"),),
            unit="s",
            empty=NO_CLUSTER,
        ),
        Panel(
            title="Objects",
            about="That are followed, as the router with the most sees it.",
            queries=(Query(highest("extproc_kubernetes_objects", "resource"), "{{resource}}"),),
            empty=NO_CLUSTER,
        ),
        Panel(
            title="Events",
            about="Per second, from watches.",
            queries=(
                Query(rate("extproc_kubernetes_events_total", "resource, type"), "{{resource}} {{type}}"),
            ),
            empty=NO_CLUSTER,
        ),
        Panel(
            title="Errors",
            about="Requests to the API that failed, and objects that could not be read, per second.",
            queries=(
                Query(rate("extproc_kubernetes_errors_total", "resource, reason"), "{{resource}} {{reason}}"),
                Query(
                    rate("extproc_kubernetes_unreadable_objects_total", "resource"), "{{resource}} unreadable"
                ),
            ),
            empty="none (good)",
        ),
        Panel(
            title="Leader",
            about="The replica that writes conditions to statuses. None for long: no replica may hold the "
            "lease.",
            queries=(Query(gauge("extproc_kubernetes_leader", "instance"), "{{instance}}"),),
            kind="states",
            texts=(("0", "follows", "text"), ("1", "writes", GREEN)),
            empty=NO_CLUSTER,
        ),
    ),
)
ROWS = (READ, ROUTER, KUBERNETES)
