"""`pools[].queue`: what it may say, what it says when left out, and that its faults are told."""

from __future__ import annotations

import pytest

from extproc.config import parse_config
from extproc.config.schema import QueueConfig, TenantHeader
from extproc.errors import ConfigError


def text(queue: str, rest: str = "", metrics: str = "{}") -> bytes:
    return f"pools: [{{name: p, endpoints: ['10.0.0.1:80'], metrics: {metrics}, {queue}}}]\n{rest}".encode()


def queue_of(text: bytes) -> QueueConfig | None:
    return parse_config(text).pools[0].queue


def faults(text: bytes) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text)
    return [str(fault) for fault in caught.value.faults]


def test_without_the_key_no_request_waits() -> None:
    assert queue_of(text("profile: default")) is None
    assert queue_of(text("queue: null")) is None


def test_the_defaults_stay_below_envoys_message_timeout() -> None:
    queue = queue_of(text("queue: {}"))
    assert queue == QueueConfig(
        timeout_s=0.15, max_requests=1000, max_bytes=268_435_456, order="fifo", tenant="none", waiting=1
    )
    assert queue.timeout_s < 0.2


def test_everything_can_be_said() -> None:
    said = "timeout_s: 5, max_requests: 7, max_bytes: 33554432, order: shortest, tenant: {header: x-tenant}, waiting: 2"
    assert queue_of(text(f"queue: {{{said}}}")) == QueueConfig(
        timeout_s=5,
        max_requests=7,
        max_bytes=33_554_432,
        order="shortest",
        tenant=TenantHeader("x-tenant"),
        waiting=2,
    )
    by_key = queue_of(text("queue: {tenant: api-key}"))
    assert by_key is not None
    assert by_key.tenant == "api-key"


@pytest.mark.parametrize(
    ("queue", "fault"),
    [
        ("{timeout: 1}", ".timeout: unknown key (did you mean 'timeout_s'?); "
         "allowed: timeout_s, max_requests, max_bytes, order, tenant, waiting"),
        ("{timeout_s: 0}", ".timeout_s: expected a number above 0 up to 3600, got 0"),
        ("{timeout_s: 3601}", ".timeout_s: expected a number above 0 up to 3600, got 3601"),
        ("{timeout_s: .nan}", ".timeout_s: expected a number above 0 up to 3600, got nan"),
        ("{max_requests: 0}", ".max_requests: expected an integer from 1 up to 100000, got 0"),
        ("{max_bytes: 0}", ".max_bytes: expected an integer from 1 up to 1099511627776, got 0"),
        ("{order: lifo}", ".order: expected one of fifo, shortest, got 'lifo'"),
        ("{tenant: key}", ".tenant: expected a mapping or one of api-key, none, got 'key'"),
        ("{tenant: {}}", ".tenant.header: missing, it is required"),
        ("{tenant: {header: 'a b'}}", ".tenant.header: expected a header name (RFC 9110 token of 1..256 characters), "
         "got 'a b'"),
        ("{waiting: 0}", ".waiting: expected an integer from 1 up to 1000, got 0"),
        ("{waiting: 1.5}", ".waiting: expected an integer from 1 up to 1000, got 1.5"),
    ],
)  # fmt: skip
def test_a_fault_says_what_is_allowed(queue: str, fault: str) -> None:
    assert faults(text(f"queue: {queue}")) == [f"$.pools[0].queue{fault}"]


def test_a_queue_needs_metrics() -> None:
    assert faults(text("queue: {}", metrics="{engine: none}")) == [
        "$.pools[0].queue: without metrics nobody knows who has a waiting queue; leave it out"
    ]


def test_the_largest_body_must_fit() -> None:
    limits = "limits: {max_body_bytes: 2000}"
    assert queue_of(text("queue: {max_bytes: 2000}", limits)) is not None
    assert faults(text("queue: {max_bytes: 1999}", limits)) == [
        "$.pools[0].queue.max_bytes: must not be below limits.max_body_bytes, or such a body never waits"
    ]


@pytest.mark.parametrize(
    "header", ["x-gateway-destination-endpoint", "X-Extproc-Pool", "x-gateway-model-name"]
)
def test_a_header_that_we_set_makes_no_tenant(header: str) -> None:
    assert faults(text(f"queue: {{tenant: {{header: {header}}}}}")) == [
        f"$.pools[0].queue.tenant.header: {header} is set by us; any other header is allowed"
    ]
