"""The clusters of model servers: every trap is found, what is near it is not."""

import pytest
from doctor_cases import (
    NOTE,
    PODS_AT,
    ROUTE,
    SERIOUS,
    WARNING,
    Fine,
    Trap,
    assert_told,
    drop,
    label,
    retry,
)

CASES: list[Trap | Fine] = [
    Trap(
        "pool-circuit-breaker",
        lambda p: drop(p.breaker(p.pods), "max_requests", "max_connections"),
        WARNING,
        PODS_AT,
        "max_requests 1,024, max_connections 1,024",
    ),
    Trap(
        "pool-circuit-breaker",
        lambda p: (
            drop(p.breaker(p.pods), "max_requests"),
            p.stats.update({"cluster.pods.upstream_rq_pending_overflow": 5}),
        ),
        SERIOUS,
        PODS_AT,
        "max_requests 1,024; so far upstream_rq_pending_overflow 5",
    ),
    Fine("pool-circuit-breaker", lambda p: p.more_clusters.append({"name": "other"})),
    Trap(
        "retry-circuit-breaker",
        lambda p: drop(p.breaker(p.pods), "max_retries"),
        WARNING,
        PODS_AT,
        "max_retries 3",
    ),
    Trap(
        "retry-circuit-breaker",
        lambda p: p.stats.update({"cluster.pods.upstream_rq_retry_overflow": 4}),
        WARNING,
        PODS_AT,
        "max_retries 1,024; 4 retries not made",
    ),
    Fine(
        "retry-circuit-breaker",
        lambda p: (drop(p.breaker(p.pods), "max_retries"), drop(p.rule["route"], "retry_policy")),
    ),
    Fine(
        "retry-circuit-breaker",
        lambda p: (drop(p.breaker(p.pods), "max_retries"), p.breaker(p.pods).update(retry_budget={})),
    ),
    Trap(
        "retry-missing",
        lambda p: drop(p.rule["route"], "retry_policy"),
        WARNING,
        ROUTE,
        "pool qwq has fallback_endpoints 2; no retry policy",
    ),
    Trap(
        "retry-missing",
        lambda p: retry(p, retry_on="retriable-status-codes"),
        WARNING,
        ROUTE,
        "pool qwq has fallback_endpoints 2; retry_on retriable-status-codes",
    ),
    Trap(
        "retry-missing",
        lambda p: drop(p.rule["route"]["retry_policy"], "num_retries"),
        NOTE,
        ROUTE,
        "pool qwq has fallback_endpoints 2; num_retries 1",
    ),
    Fine(
        "retry-missing",
        lambda p: p.host.update(retry_policy=p.rule["route"].pop("retry_policy")),
    ),
    Trap(
        "retry-any-error",
        lambda p: retry(p, retry_on="5xx, connect-failure,gateway-error"),
        WARNING,
        ROUTE,
        "retry_on 5xx, gateway-error",
    ),
    Fine("retry-any-error", lambda p: retry(p, retry_on="connect-failure,reset")),
]


@pytest.mark.parametrize("case", CASES, ids=label)
def test_the_check_says_where_and_how_much(case: Trap | Fine) -> None:
    assert_told(case)
