"""Whether Envoy and the router know the same pods: every trap is found, what is near it is not."""

import pytest
from doctor_cases import (
    PODS_AT,
    SERIOUS,
    WARNING,
    Fine,
    Trap,
    also,
    assert_told,
    drop,
    label,
    to_original_dst,
)
from doctor_pages import PODS

CASES: list[Trap | Fine] = [
    Trap(
        "service-ip",
        lambda p: p.hosts.update(pods=["10.96.0.7:8000"]),
        SERIOUS,
        PODS_AT,
        f"its only host 10.96.0.7:8000 is none of the router's endpoints ({', '.join(PODS)})",
    ),
    Fine("service-ip", lambda p: p.hosts.update(pods=[PODS[0]])),
    Fine("service-ip", also(to_original_dst, lambda p: p.hosts.update(pods=["10.9.9.9:8000"]))),
    Trap(
        "stale-endpoints",
        lambda p: p.hosts.update(pods=[PODS[0]]),
        SERIOUS,
        PODS_AT,
        "the router picks, Envoy does not know: 10.0.0.2:8000",
    ),
    Trap(
        "stale-endpoints",
        lambda p: p.hosts.update(pods=[*PODS, "10.0.0.3:8000"]),
        WARNING,
        PODS_AT,
        "Envoy knows, the router does not: 10.0.0.3:8000",
    ),
    Trap(
        "stale-endpoints",
        lambda p: p.hosts.update(pods=[]),
        SERIOUS,
        PODS_AT,
        "the router picks, Envoy does not know: 10.0.0.1:8000, 10.0.0.2:8000",
    ),
    Fine("stale-endpoints", lambda p: p.hosts.update(pods=PODS[::-1])),
    Fine("stale-endpoints", lambda p: drop(p.hosts, "pods")),
    Fine("stale-endpoints", lambda p: (drop(p.hosts, "pods"), p.pool.update(name="r1"))),
    Fine("stale-endpoints", lambda p: (p.hosts.update(pods=[]), p.pool.update(name="r1"))),
    Trap(
        "health-disagrees",
        lambda p: p.unhealthy.update(
            {PODS[0]: {"failed_active_health_check": True, "eds_health_status": "HEALTHY"}}
        ),
        WARNING,
        PODS_AT,
        "10.0.0.1:8000 failed_active_health_check",
    ),
    Trap(
        "health-disagrees",
        lambda p: p.unhealthy.update({PODS[0]: {"eds_health_status": "DRAINING"}}),
        WARNING,
        PODS_AT,
        "10.0.0.1:8000 eds DRAINING",
    ),
    Fine(
        "health-disagrees",
        lambda p: (
            p.unhealthy.update({PODS[0]: {"failed_outlier_check": True}}),
            p.pool["endpoints"][0].update(ready=False),
        ),
    ),
    Trap(
        "pool-without-route",
        lambda p: p.pool.update(name="r1"),
        SERIOUS,
        "pool r1",
        "routes ask for qwq",
    ),
    Fine("pool-without-route", lambda p: (p.pool.update(name="r1"), drop(p.rule["match"], "headers"))),
]


@pytest.mark.parametrize("case", CASES, ids=label)
def test_the_check_says_where_and_how_much(case: Trap | Fine) -> None:
    assert_told(case)
