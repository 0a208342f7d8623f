"""What Envoy takes from clients besides bodies: every trap is found, what is near it is not."""

import pytest
from doctor_cases import (
    LISTENER,
    NOTE,
    SERIOUS,
    WARNING,
    Fine,
    Trap,
    assert_told,
    drop,
    label,
    options,
    values,
)

CASES: list[Trap | Fine] = [
    Trap(
        "header-limits",
        lambda p: drop(p.manager, "max_request_headers_kb"),
        NOTE,
        LISTENER,
        "60 KiB, 200 headers at most",
    ),
    Trap(
        "header-limits",
        lambda p: options(p, max_headers_count=50),
        WARNING,
        LISTENER,
        "96 KiB, 50 headers at most",
    ),
    Trap(
        "header-limits",
        lambda p: p.manager.update(max_request_headers_kb=59),
        WARNING,
        LISTENER,
        "59 KiB, 200 headers at most",
    ),
    Fine("header-limits", lambda p: options(p, max_headers_count=100)),
    Trap(
        "underscore-headers",
        lambda p: (
            values(p).update(trusted_headers=["x_tenant"]),
            options(p, headers_with_underscores_action="REJECT_REQUEST"),
        ),
        SERIOUS,
        LISTENER,
        "REJECT_REQUEST; the router goes by x_tenant",
    ),
    Fine("underscore-headers", lambda p: options(p, headers_with_underscores_action="REJECT_REQUEST")),
    Fine("underscore-headers", lambda p: values(p).update(trusted_headers=["x_tenant"])),
    Trap(
        "client-streams",
        lambda p: p.manager.update(http2_protocol_options={"max_concurrent_streams": 100}),
        NOTE,
        LISTENER,
        "max_concurrent_streams 100",
    ),
    Fine(
        "client-streams", lambda p: p.manager.update(http2_protocol_options={"max_concurrent_streams": 101})
    ),
]


@pytest.mark.parametrize("case", CASES, ids=label)
def test_the_check_says_where_and_how_much(case: Trap | Fine) -> None:
    assert_told(case)
