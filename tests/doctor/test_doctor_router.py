"""What the router says of itself: every trap is found, what is near it is not."""

import pytest
from doctor_cases import SERIOUS, WARNING, Fine, Trap, assert_told, label

CASES: list[Trap | Fine] = [
    Trap(
        "router-not-ready",
        lambda p: p.state.update(not_ready=["shutting down"]) if p.state else None,
        SERIOUS,
        "router",
        "shutting down",
    ),
    Fine("router-not-ready", lambda p: p.state.update(version="9.9.9") if p.state else None),
    Trap(
        "pool-empty",
        lambda p: p.pool.update(endpoints=[]),
        SERIOUS,
        "pool qwq",
        "0 endpoints",
    ),
    Fine("pool-empty", lambda p: p.pool["endpoints"].pop()),
    Trap(
        "metrics-missing",
        lambda p: (
            p.pool["endpoints"][0].update(fresh=False, metrics_age_s=12.34),
            p.pool["endpoints"][1].update(fresh=False),
        ),
        WARNING,
        "pool qwq",
        "2 of 2: 10.0.0.1:8000 (12.3 s old), 10.0.0.2:8000 (never)",
    ),
    Fine(
        "metrics-missing",
        lambda p: (
            p.pool["endpoints"][0].update(fresh=False),
            p.pool_values.update(metrics={"engine": "none"}),
        ),
    ),
    Trap(
        "endpoints-set-aside",
        lambda p: p.pool["endpoints"][0].update(ready=False, health={"cause": "refused"}),
        WARNING,
        "pool qwq",
        "1 of 2: 10.0.0.1:8000 (refused)",
    ),
    Trap(
        "endpoints-set-aside",
        lambda p: [endpoint.update(ready=False) for endpoint in p.pool["endpoints"]],
        SERIOUS,
        "pool qwq",
        "2 of 2: 10.0.0.1:8000 (unknown), 10.0.0.2:8000 (unknown)",
    ),
    Trap(
        "endpoints-set-aside",
        lambda p: p.pool.update(
            endpoints=[{"address": f"10.0.0.{n}:1", "ready": n > 6} for n in range(1, 9)]
        ),
        WARNING,
        "pool qwq",
        "6 of 8: " + ", ".join(f"10.0.0.{n}:1 (unknown)" for n in range(1, 6)) + " and 1 more",
    ),
    Fine("endpoints-set-aside", lambda p: p.pool["endpoints"][0].update(health={"cause": "refused"})),
]


@pytest.mark.parametrize("case", CASES, ids=label)
def test_the_check_says_where_and_how_much(case: Trap | Fine) -> None:
    assert_told(case)
