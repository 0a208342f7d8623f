"""What clients get: whether it is all right, one version beside the other, and how long it takes."""

from __future__ import annotations

from .catalogue import ERRORS, LOAD
from .panels import GREEN, RED, YELLOW, Panel, Query, Row
from .promql import chosen, gauge, one_of, quantile, rate, ratio

RESPONSES = "needs responses: in the config"
REQUESTS = "extproc_requests_total"
COUNTED = 'outcome!="observed"'
"""In observability mode nobody does as we decide."""
FAILED = one_of("outcome", ERRORS)
SHARE_LEVELS = ((None, GREEN), (0.005, YELLOW), (0.05, RED))
"""The error budget of the rules, and what uses ten times as much."""


def _share(matcher: str, by: str = "") -> str:
    return ratio(rate(REQUESTS, by, matcher), rate(REQUESTS, by, COUNTED))


TILES = (
    Panel(
        title="Alerts firing",
        about="Of rules.yaml, if this Prometheus has it. Each has a section in docs/monitoring.md.",
        queries=(Query('count(ALERTS{alertname=~"Extproc.+",alertstate="firing"}) or vector(0)'),),
        kind="stat",
        width=4,
        levels=((None, GREEN), (1, RED)),
    ),
    Panel(
        title="Routers ready",
        about="Replicas that take new requests. 0: nobody decides; Envoy answers 503. See ExtprocNotReady.",
        queries=(Query(gauge("extproc_ready")),),
        kind="stat",
        width=4,
        levels=((None, RED), (1, GREEN)),
        empty="no router is scraped",
    ),
    Panel(
        title="Requests per second",
        about="That ended, however they ended. None at all while clients complain: they do not come as "
        "far as us; look at Envoy.",
        queries=(Query(rate(REQUESTS, "", COUNTED)),),
        unit="reqps",
        kind="stat",
        width=4,
    ),
    Panel(
        title="Failed",
        about="Share of requests that should have been served and were not: 5xx of a model server, no "
        "endpoint, a fault of ours. Not clients' mistakes (4xx). Which it is says Requests by "
        "outcome.",
        queries=(Query(_share(FAILED)),),
        unit="percentunit",
        kind="stat",
        width=4,
        levels=SHARE_LEVELS,
        empty="no requests",
    ),
    Panel(
        title="Refused for load",
        about="Share that found no room: shed (429), waited too long, or too many bytes at once. More "
        "pods, or other priorities.",
        queries=(Query(_share(one_of("outcome", LOAD))),),
        unit="percentunit",
        kind="stat",
        width=4,
        levels=((None, GREEN), (0.01, YELLOW), (0.1, RED)),
        empty="no requests",
    ),
    Panel(
        title="Endpoints available",
        about="Of those we know: neither saturated, failing nor cordoned. Colour: below a half, none.",
        queries=(
            Query(
                ratio(
                    gauge("extproc_pool_endpoints", "", 'state="available"'), gauge("extproc_pool_endpoints")
                )
            ),
        ),
        unit="percentunit",
        kind="stat",
        width=4,
        levels=((None, RED), (0.01, YELLOW), (0.5, GREEN)),
        empty="no endpoints",
    ),
)
ALL_RIGHT = Row(
    title="Is it all right?",
    panels=(
        *TILES,
        Panel(
            title="Requests by outcome",
            about="completed: the model server's answer, of whatever status below 500. aborted: the client "
            "left before an answer came. upstream_error: 5xx of the model server. The others are "
            "reasons in x-extproc-reason.",
            queries=(Query(rate(REQUESTS, "outcome"), "{{outcome}}"),),
            unit="reqps",
            kind="areas",
            colors=(
                ("completed", GREEN),
                ("aborted", "text"),
                ("|".join(ERRORS), RED),
                ("|".join(LOAD), YELLOW),
            ),
            width=12,
        ),
        Panel(
            title="Failed, by pool",
            about="Share of requests that failed. Pool none: refused before a pool was chosen. One pool "
            "only: its model servers. All pools: us, or the network.",
            queries=(Query(_share(FAILED, "pool"), "{{pool}}"),),
            unit="percentunit",
            width=12,
            levels=SHARE_LEVELS,
            empty="no requests",
        ),
        Panel(
            title="Endpoints by state",
            about="Mean over the routers. available: takes requests. saturated: at or over the pool's "
            "limits. failing: failed repeatedly, and is tried all the same: nobody is left, or its pause is over. "
            "set_aside: failed repeatedly, tried again later. cordoned: by an operator.",
            queries=(
                Query(
                    f"avg by (pool, state) ({chosen('extproc_pool_endpoints')})",
                    "{{pool}} {{state}}",
                ),
            ),
            kind="areas",
            colors=(
                (".* available", GREEN),
                (".* saturated", YELLOW),
                (".* failing", "dark-red"),
                (".* set_aside", RED),
                (".* cordoned", "blue"),
            ),
            width=12,
        ),
        Panel(
            title="Saturated, by pool",
            about="Share of a pool's endpoints at or over `saturation` (queue, KV memory) or "
            "`max_in_flight`. At 100 % sheddable work gets 429 and the rest waits with us, where "
            "there is a queue.",
            queries=(
                Query(
                    ratio(
                        gauge("extproc_pool_endpoints", "pool", 'state="saturated"'),
                        gauge("extproc_pool_endpoints", "pool"),
                    ),
                    "{{pool}}",
                ),
            ),
            unit="percentunit",
            width=12,
            levels=((None, GREEN), (0.8, YELLOW), (1, RED)),
            most=1,
            empty="no endpoints",
        ),
    ),
)

VERSION = "model, target_model"
LEGEND = "{{model}} → {{target_model}}"
CANARY = Row(
    title="Canary: one version beside the other",
    panels=(
        Panel(
            title="Versions side by side",
            about="One line a target. Compare the lines of one model: weights move shares, failures and "
            "times should be alike. A target that fails or is slow: set its weight to 0, the file is "
            "read again within seconds.",
            queries=(
                Query(rate(REQUESTS, VERSION, COUNTED), "requests/s"),
                Query(_share(FAILED, VERSION), "failed"),
                Query(quantile(0.5, "extproc_request_duration_seconds", VERSION), "duration P50"),
                Query(quantile(0.95, "extproc_request_duration_seconds", VERSION), "duration P95"),
                Query(quantile(0.95, "extproc_time_to_first_token_seconds", VERSION), "first token P95"),
                Query(quantile(0.5, "extproc_time_per_output_token_seconds", VERSION), "per token P50"),
            ),
            kind="table",
            width=24,
            units=(
                ("requests/s", "reqps"),
                ("failed", "percentunit"),
                ("duration P50", "s"),
                ("duration P95", "s"),
                ("first token P95", "s"),
                ("per token P50", "s"),
            ),
            empty="no requests",
        ),
        Panel(
            title="Requests, by target",
            about="Whether the split is what the weights say. A sticky key moves whole users: with few of "
            "them the shares are coarse. See docs/troubleshooting.md, The canary does not move.",
            queries=(Query(rate(REQUESTS, VERSION, COUNTED), LEGEND),),
            unit="reqps",
        ),
        Panel(
            title="Failed, by target",
            about="Share of requests that failed. Higher for the new version: take its weight back.",
            queries=(Query(_share(FAILED, VERSION), LEGEND),),
            unit="percentunit",
            levels=SHARE_LEVELS,
            empty="no requests",
        ),
        Panel(
            title="Moved from their target",
            about="Requests per second whose target had no endpoint, so that another one served them: the "
            "labels of the new version's pods, or its pods themselves, are missing.",
            queries=(Query(rate("extproc_target_fallbacks_total", "model, pool"), "{{model}}"),),
            unit="reqps",
            empty="none (good)",
        ),
        Panel(
            title="Time to the first token P95, by target",
            about="From request headers to the first content of a streamed answer.",
            queries=(Query(quantile(0.95, "extproc_time_to_first_token_seconds", VERSION), LEGEND),),
            unit="s",
            empty=RESPONSES,
        ),
        Panel(
            title="Duration P50 and P95, by target",
            about="Whole exchanges. Longer answers take longer: compare the time per token too.",
            queries=(
                Query(quantile(0.5, "extproc_request_duration_seconds", VERSION), f"{LEGEND} P50"),
                Query(quantile(0.95, "extproc_request_duration_seconds", VERSION), f"{LEGEND} P95"),
            ),
            unit="s",
        ),
        Panel(
            title="Copies to mirrors",
            about="Requests per second of which Envoy was told to send a copy. What became of the copies is "
            "known only to the mirror's own metrics.",
            queries=(
                Query(rate("extproc_mirrored_requests_total", "model, mirror"), "{{model}} → {{mirror}}"),
            ),
            unit="reqps",
            empty="needs mirrors: of a model",
        ),
    ),
)


def _quantiles(name: str, by: str, *shares: float) -> tuple[Query, ...]:
    """One query a share; the legend names both."""
    legend = f"{{{{{by}}}}} " if by else ""
    return tuple(Query(quantile(share, name, by), f"{legend}P{share * 100:g}") for share in shares)


LATENCY = Row(
    title="Latency",
    panels=(
        Panel(
            title="Time to response headers, by pool",
            about="From request headers to response headers: our decision, the queue, the way there, and of "
            "answers that are not streamed all of the work.",
            queries=_quantiles("extproc_time_to_response_headers_seconds", "pool", 0.5, 0.95, 0.99),
            unit="s",
        ),
        Panel(
            title="Time to the first token, by model",
            about="Of streamed answers. Rises first when prompts queue: see Waiting in the row Endpoints.",
            queries=_quantiles("extproc_time_to_first_token_seconds", "model", 0.5, 0.95),
            unit="s",
            empty=RESPONSES,
        ),
        Panel(
            title="Time per output token, by model",
            about="Between the first and the last. Rises with the size of the batch: requests running per "
            "endpoint.",
            queries=_quantiles("extproc_time_per_output_token_seconds", "model", 0.5, 0.95),
            unit="s",
            empty=RESPONSES,
        ),
        Panel(
            title="Request duration, by pool",
            about="From request headers to the end of the answer.",
            queries=_quantiles("extproc_request_duration_seconds", "pool", 0.5, 0.95),
            unit="s",
        ),
        Panel(
            title="Decision",
            about="Choosing target and endpoint: some ten to a hundred microseconds. Milliseconds: the "
            "process gets no CPU.",
            queries=_quantiles("extproc_decision_duration_seconds", "", 0.5, 0.99),
            unit="s",
            levels=((None, GREEN), (0.005, RED)),
        ),
        Panel(
            title="Wait in our queue, by pool",
            about="Of requests that were held until an endpoint had room. It is part of the times above.",
            queries=_quantiles("extproc_queue_wait_seconds", "pool", 0.5, 0.95),
            unit="s",
            empty="needs queue: of a pool",
        ),
    ),
)
ROWS = (ALL_RIGHT, CANARY, LATENCY)
