"""What stands behind a pool: its endpoints, its queue, its tiers."""

from __future__ import annotations

from .panels import GREEN, RED, YELLOW, Panel, Query, Row
from .promql import gauge, highest, lowest, quantile, rate

IN_POOL = "{{endpoint}}"
UNSCRAPED = "no figures (engine: none, or see Scrapes that failed)"
ENDPOINTS = Row(
    title="Endpoints",
    panels=(
        Panel(
            title="In flight",
            about="Requests of all routers that have not ended. One far above the others while they wait "
            "for nothing: see docs/troubleshooting.md, All traffic on one pod.",
            queries=(Query(gauge("extproc_endpoint_in_flight", "pool, endpoint"), IN_POOL),),
        ),
        Panel(
            title="Waiting",
            about="Its queue, as last scraped (others' requests, too). Lasting: the pool is too small, or "
            "one endpoint slow.",
            queries=(Query(highest("extproc_endpoint_waiting_requests", "pool, endpoint"), IN_POOL),),
            empty=UNSCRAPED,
        ),
        Panel(
            title="Running",
            about="Its batch, as last scraped.",
            queries=(Query(highest("extproc_endpoint_running_requests", "pool, endpoint"), IN_POOL),),
            empty=UNSCRAPED,
        ),
        Panel(
            title="KV cache in use",
            about="At 100 % the engine preempts: requests are computed twice. Shorter contexts, more pods, "
            "or a lower `saturation.kv_usage`.",
            queries=(Query(highest("extproc_endpoint_kv_cache_usage_ratio", "pool, endpoint"), IN_POOL),),
            unit="percentunit",
            levels=((None, GREEN), (0.9, YELLOW), (0.98, RED)),
            most=1,
            empty=UNSCRAPED,
        ),
        Panel(
            title="Age of figures",
            about="Since the last successful scrape, by the router that waits longest; of one that was never read "
            "since the first that failed. Over `max_age_s` (2 s) the endpoint counts as the pool's median.",
            queries=(Query(highest("extproc_endpoint_metrics_age_seconds", "pool, endpoint"), IN_POOL),),
            unit="s",
            levels=((None, GREEN), (2, YELLOW), (30, RED)),
            empty=UNSCRAPED,
        ),
        Panel(
            title="Set aside and cordoned",
            about="Green: takes requests. Red: fails; a router has set it aside, or keeps it as the pool's last "
            "chance. Blue: cordoned.",
            queries=(
                Query(
                    f"{lowest('extproc_endpoint_ready', 'pool, endpoint')}"
                    f" + 2 * {highest('extproc_endpoint_cordoned', 'pool, endpoint')}",
                    IN_POOL,
                ),
            ),
            kind="states",
            texts=(
                ("0", "fails", RED),
                ("1", "ready", GREEN),
                ("2", "cordoned", "blue"),
                ("3", "cordoned", "blue"),
            ),
            empty="no endpoints",
        ),
        Panel(
            title="Set aside, by cause",
            about="Times a minute. answered: 502, 503 or 504. unreachable: connections refused or reset. "
            "scrape_refused: the port that serves requests is closed (metrics.port says another one: that one does "
            "not count).",
            queries=(
                Query(
                    f"60 * {rate('extproc_endpoints_set_aside_total', 'pool, cause')}", "{{pool}} {{cause}}"
                ),
            ),
            empty="none (good)",
        ),
        Panel(
            title="Scrapes that failed",
            about="Per second, by reason; a failing endpoint is tried every five seconds. We decide without its "
            "figures meanwhile: by what we sent there. empty: it has had no request yet, and tells nothing before.",
            queries=(
                Query(rate("extproc_scrapes_total", "pool, result", 'result!="ok"'), "{{pool}} {{result}}"),
            ),
            empty="none (good)",
        ),
        Panel(
            title="Scrape duration P99",
            about="Of successful ones. Over `timeout_s` (1 s) they fail.",
            queries=(Query(quantile(0.99, "extproc_scrape_duration_seconds"), "P99"),),
            unit="s",
        ),
        Panel(
            title="Pin misses",
            about="Requests per second that Envoy sent to an address that is no endpoint of ours. Lasting: "
            "Envoy knows other pods than we do. docs/troubleshooting.md, Pin misses.",
            queries=(Query(rate("extproc_pin_misses_total", "pool"), "{{pool}}"),),
            unit="reqps",
            empty="none (good)",
        ),
        Panel(
            title="Load reports",
            about="Figures that came with answers (ORCA), per second, by what became of them.",
            queries=(Query(rate("extproc_load_reports_total", "pool, result"), "{{pool}} {{result}}"),),
            empty="needs metrics.orca of a pool",
        ),
    ),
)

QUEUE = "needs queue: of a pool"
TIERS = "needs tiers: of a pool"
QUEUES = Row(
    title="Queue and tiers",
    is_open=False,
    panels=(
        Panel(
            title="Waiting with us",
            about="Requests held until an endpoint has room, by priority.",
            queries=(Query(gauge("extproc_queue_requests", "pool, priority"), "{{pool}} {{priority}}"),),
            kind="areas",
            empty=QUEUE,
        ),
        Panel(
            title="Their bodies",
            about="Bytes held in the queues; `queue.max_bytes` of each router is the limit.",
            queries=(Query(gauge("extproc_queue_bytes", "pool"), "{{pool}}"),),
            unit="bytes",
            empty=QUEUE,
        ),
        Panel(
            title="What came of waiting",
            about="Requests per second. dispatched: found room. overdue: critical, sent on after "
            "`timeout_s` all the same. queue_timeout: 503. saturated: gave its place to one that "
            "matters more. gone: the client left.",
            queries=(Query(rate("extproc_queue_dispatches_total", "pool, result"), "{{pool}} {{result}}"),),
            unit="reqps",
            empty=QUEUE,
        ),
        Panel(
            title="Requests, by tier",
            about="Share of a pool's requests. The last tier is what spills over: usually the dear one.",
            queries=(
                Query(
                    f"{rate('extproc_tier_requests_total', 'pool, tier')} / on (pool) group_left () "
                    f"({rate('extproc_tier_requests_total', 'pool')} > 0)",
                    "{{pool}} {{tier}}",
                ),
            ),
            unit="percentunit",
            kind="areas",
            empty=TIERS,
        ),
        Panel(
            title="Open tiers",
            about="Green while requests go there: no tier before has room. An autoscaler of the last tier "
            "goes by it.",
            queries=(Query(highest("extproc_tier_open", "pool, tier"), "{{pool}} {{tier}}"),),
            kind="states",
            texts=(("0", "closed", "text"), ("1", "open", GREEN)),
            empty=TIERS,
        ),
        Panel(
            title="Endpoints that may go",
            about="Idle while tiers before their own have room; every router must say so.",
            queries=(
                Query(
                    f"sum by (pool) ({lowest('extproc_endpoint_drainable', 'pool, endpoint')})",
                    "{{pool}}",
                ),
            ),
            empty=TIERS,
        ),
    ),
)


ROWS = (ENDPOINTS, QUEUES)
