"""Whether a request goes to the pod that the router chose: every trap is found, what is near it is not."""

import pytest
from doctor_cases import (
    EXT_PROC,
    LISTENER,
    NOTE,
    PODS_AT,
    ROUTE,
    SERIOUS,
    WARNING,
    Fine,
    Trap,
    also,
    assert_told,
    beside,
    drop,
    label,
    route,
    route_level,
    to_original_dst,
    unstripped,
)
from doctor_pages import PIN, any_of, by_metadata, locality, override_host

CASES: list[Trap | Fine] = [
    Trap("client-pin", unstripped, WARNING, LISTENER, f"x-extproc-pool, {PIN}"),
    Trap(
        "client-pin",
        also(unstripped, lambda p: p.ext_proc.update(failure_mode_allow=True)),
        SERIOUS,
        LISTENER,
        f"x-extproc-pool, {PIN}; {EXT_PROC} fails open",
    ),
    Trap(
        "client-pin",
        also(unstripped, beside),
        SERIOUS,
        LISTENER,
        f"x-extproc-pool, {PIN}; ext_proc is off on route all/direct",
    ),
    Trap(
        "client-pin",
        lambda p: p.rule["match"]["headers"].append({"name": "x-extproc-mirror", "present_match": True}),
        WARNING,
        LISTENER,
        "x-extproc-mirror",
    ),
    Fine(
        "client-pin",
        also(
            unstripped,
            lambda p: p.more_filters.append(
                {
                    "typed_config": any_of(
                        "HeaderMutation",
                        mutations={
                            "request_mutations": [
                                {"remove_on_match": {"key_matcher": {"prefix": "X-Gateway-"}}},
                                {"remove_on_match": {"key_matcher": {"exact": "x-extproc-pool"}}},
                            ]
                        },
                    )
                }
            ),
        ),
    ),
    Trap(
        "client-pin",
        also(
            unstripped,
            lambda p: p.more_filters.append(
                {
                    "disabled": True,
                    "typed_config": any_of(
                        "HeaderMutation", mutations={"request_mutations": [{"remove": PIN}]}
                    ),
                }
            ),
        ),
        WARNING,
        LISTENER,
        f"x-extproc-pool, {PIN}",
    ),
    Trap(
        "pin-removed",
        lambda p: p.host.update(request_headers_to_remove=["X-Gateway-Destination-Endpoint"]),
        SERIOUS,
        ROUTE,
        f"request_headers_to_remove {PIN}",
    ),
    Fine("pin-removed", lambda p: p.rule.update(request_headers_to_remove=["x-other"])),
    Trap(
        "pin-ignored",
        lambda p: drop(p.pods, "load_balancing_policy"),
        SERIOUS,
        PODS_AT,
        "load balancing; reads no pin",
    ),
    Trap(
        "pin-ignored",
        lambda p: p.pods.update(
            load_balancing_policy=override_host(override_host_sources=[{"header": "x-pod"}])
        ),
        SERIOUS,
        PODS_AT,
        "override_host; reads x-pod",
    ),
    Trap(
        "pin-ignored",
        lambda p: p.pods.update(
            load_balancing_policy=override_host(override_host_sources=[{"metadata": by_metadata("pod")}])
        ),
        SERIOUS,
        PODS_AT,
        "override_host; reads envoy.lb/pod",
    ),
    Trap(
        "pin-ignored",
        also(to_original_dst, lambda p: drop(p.pods["original_dst_lb_config"], "http_header_name")),
        SERIOUS,
        PODS_AT,
        "ORIGINAL_DST; reads x-envoy-original-dst-host",
    ),
    Trap(
        "pin-ignored",
        also(
            lambda p: drop(p.pods, "load_balancing_policy"),
            lambda p: p.pods.update(lb_subset_config={"subset_selectors": [{"keys": ["version"]}]}),
        ),
        SERIOUS,
        PODS_AT,
        "lb_subset_config; reads no pin",
    ),
    Trap(
        "pin-ignored",
        also(
            lambda p: drop(p.pods, "load_balancing_policy"),
            lambda p: p.pods.update(cluster_type={"name": "envoy.clusters.dynamic_forward_proxy"}),
        ),
        SERIOUS,
        PODS_AT,
        "dynamic_forward_proxy; reads no pin",
    ),
    Fine(
        "pin-ignored",
        also(
            lambda p: drop(p.pods, "load_balancing_policy"),
            lambda p: p.pods.update(cluster_type={"name": "envoy.clusters.dynamic_forward_proxy"}),
            lambda p: route(p, host_rewrite_header=PIN),
        ),
    ),
    Fine(
        "pin-ignored",
        also(
            lambda p: drop(p.pods, "load_balancing_policy"),
            lambda p: p.pods.update(lb_subset_config={"subset_selectors": [{"keys": [PIN]}]}),
        ),
    ),
    Fine("pin-ignored", to_original_dst),
    Fine(
        "pin-ignored",
        lambda p: p.pods.update(
            load_balancing_policy=override_host(override_host_sources=[{"metadata": by_metadata()}])
        ),
    ),
    Trap(
        "pin-twice",
        lambda p: p.pods.update(
            load_balancing_policy=override_host(
                override_host_sources=[{"header": PIN}, {"metadata": by_metadata()}]
            )
        ),
        WARNING,
        PODS_AT,
        f"override_host_sources {PIN}, envoy.lb/{PIN}",
    ),
    Fine("pin-twice", to_original_dst),
    Trap("pin-list", to_original_dst, SERIOUS, PODS_AT, "ORIGINAL_DST; pool qwq has fallback_endpoints 2"),
    Fine("pin-list", also(to_original_dst, lambda p: p.pool_values.update(fallback_endpoints=0))),
    Trap(
        "fail-open",
        lambda p: p.ext_proc.update(failure_mode_allow=True),
        WARNING,
        EXT_PROC,
        "failure_mode_allow true",
    ),
    Trap(
        "fail-open",
        also(unstripped, lambda p: p.ext_proc.update(failure_mode_allow=True)),
        SERIOUS,
        EXT_PROC,
        f"failure_mode_allow true; clients can send x-extproc-pool, {PIN}",
    ),
    Trap(
        "fail-open",
        also(to_original_dst, lambda p: p.ext_proc.update(failure_mode_allow=True)),
        SERIOUS,
        EXT_PROC,
        "failure_mode_allow true",
    ),
    Trap(
        "fail-open",
        lambda p: route_level(p, **any_of("ExtProcPerRoute", overrides={"failure_mode_allow": True})),
        WARNING,
        EXT_PROC,
        "failure_mode_allow true",
    ),
    Fine(
        "fail-open",
        lambda p: (
            p.ext_proc.update(failure_mode_allow=True),
            route_level(p, **any_of("ExtProcPerRoute", overrides={"failure_mode_allow": False})),
        ),
    ),
    Trap(
        "several-backends",
        lambda p: route(
            p,
            cluster=None,
            weighted_clusters={
                "clusters": [
                    {"name": "pods", "weight": 1},
                    {"name": "invalid-backend-cluster", "weight": 1},
                ]
            },
        ),
        SERIOUS,
        ROUTE,
        "weighted_clusters pods 1, invalid-backend-cluster 1",
    ),
    Trap(
        "several-backends",
        lambda p: p.localities.__setitem__(slice(None), [locality("r/backend/0"), locality("r/backend/1")]),
        WARNING,
        PODS_AT,
        "2 localities: r/backend/0, r/backend/1",
    ),
    Trap(
        "several-backends",
        lambda p: p.localities.__setitem__(slice(None), [locality("eu-1"), locality("eu-2")]),
        NOTE,
        PODS_AT,
        "2 localities: eu-1, eu-2",
    ),
    Fine(
        "several-backends",
        lambda p: p.localities.__setitem__(
            slice(None), [locality("r/backend/0", "eu-1"), locality("r/backend/0", "eu-2")]
        ),
    ),
    Fine(
        "several-backends",
        lambda p: route(
            p,
            cluster=None,
            weighted_clusters={"clusters": [{"name": "pods", "weight": 1}, {"name": "old", "weight": 0}]},
        ),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=label)
def test_the_check_says_where_and_how_much(case: Trap | Fine) -> None:
    assert_told(case)
