"""Whether requests come by ext_proc at all: every trap is found, what is near it is not."""

import pytest
from doctor_cases import (
    ENTRY,
    EXT_PROC,
    LISTENER,
    NOTE,
    ROUTE,
    SERIOUS,
    WARNING,
    Fine,
    Trap,
    assert_told,
    beside,
    drop,
    label,
    route_level,
)
from doctor_pages import any_of

CASES: list[Trap | Fine] = [
    Trap(
        "no-ext-proc",
        lambda p: p.filter.clear(),
        SERIOUS,
        "envoy",
        "1 HTTP connection managers, none with ext_proc",
    ),
    Fine("no-ext-proc", lambda p: p.filter.update(disabled=True)),
    Trap(
        "ext-proc-off",
        lambda p: p.filter.update(disabled=True),
        SERIOUS,
        LISTENER,
        "envoy.filters.http.ext_proc: on none of 2 routes",
    ),
    Fine(
        "ext-proc-off",
        lambda p: (p.filter.update(disabled=True), route_level(p, **any_of("FilterConfig", config={}))),
    ),
    Trap(
        "entry-without-ext-proc",
        lambda p: p.entry.update(
            typed_per_filter_config={
                "envoy.filters.http.ext_proc": any_of("FilterConfig", disabled=True, config={})
            }
        ),
        SERIOUS,
        ENTRY,
        "matches requests without x-extproc-pool; ext_proc is off",
    ),
    Trap(
        "entry-without-ext-proc",
        lambda p: (
            p.filter.update(disabled=True),
            route_level(p, **any_of("FilterConfig", config={})),
            p.entry.clear(),
        ),
        SERIOUS,
        ROUTE,
        "every route beside it asks for x-extproc-pool too",
    ),
    Fine("entry-without-ext-proc", lambda p: p.entry.clear()),
    Trap("bypass", beside, WARNING, "route all/direct", "goes to pods; ext_proc is off"),
    Fine("bypass", lambda p: beside(p, route={"cluster": "elsewhere"})),
    Trap(
        "several-ext-procs",
        lambda p: p.more_filters.append(
            {
                "name": "auth",
                "typed_config": any_of(
                    "ExternalProcessor", grpc_service={"envoy_grpc": {"cluster_name": "auth"}}
                ),
            }
        ),
        NOTE,
        "envoy",
        "auth, extproc",
    ),
    Fine("several-ext-procs", lambda p: p.more_filters.append({"name": "cors"})),
    Trap(
        "route-cache",
        lambda p: p.ext_proc.update(route_cache_action="RETAIN"),
        SERIOUS,
        EXT_PROC,
        "route_cache_action RETAIN",
    ),
    Fine(
        "route-cache",
        lambda p: (p.ext_proc.update(route_cache_action="RETAIN"), drop(p.rule["match"], "headers")),
    ),
    Fine("route-cache", lambda p: p.ext_proc.update(route_cache_action="CLEAR")),
    Trap(
        "observability-mode",
        lambda p: p.ext_proc.update(observability_mode=True),
        SERIOUS,
        EXT_PROC,
        "observability_mode true",
    ),
    Fine("observability-mode", lambda p: p.ext_proc.update(observability_mode=False)),
    Trap(
        "config-rejected",
        lambda p: p.rejected.append(
            {"cluster": {"name": "pods"}, "error_state": {"details": "no such field"}}
        ),
        SERIOUS,
        "pods",
        "no such field",
    ),
    Trap(
        "config-rejected",
        lambda p: p.stats.update({"cluster_manager.cds.update_rejected": 2}),
        NOTE,
        "envoy",
        "clusters: update_rejected 2 since its start",
    ),
    Fine("config-rejected", lambda p: p.stats.update({"cluster_manager.cds.update_rejected": 0})),
    Trap("envoy-not-live", lambda p: p.info.update(state="DRAINING"), WARNING, "envoy", "state DRAINING"),
    Fine("envoy-not-live", lambda p: p.info.clear()),
]


@pytest.mark.parametrize("case", CASES, ids=label)
def test_the_check_says_where_and_how_much(case: Trap | Fine) -> None:
    assert_told(case)
