"""The cluster of the ext_proc service: every trap is found, what is near it is not."""

import pytest
from doctor_cases import (
    FAILED,
    NOTE,
    ROUTERS_AT,
    SERIOUS,
    WARNING,
    Fine,
    Trap,
    assert_told,
    drop,
    label,
)

CASES: list[Trap | Fine] = [
    Trap(
        "ext-proc-circuit-breaker",
        lambda p: p.processor.update(circuit_breakers={"thresholds": [{"max_retries": 1024}]}),
        SERIOUS,
        ROUTERS_AT,
        "max_requests 1,024, max_pending_requests 1,024, max_connections 1,024",
    ),
    Trap(
        "ext-proc-circuit-breaker",
        lambda p: drop(p.breaker(p.processor), "max_pending_requests"),
        WARNING,
        ROUTERS_AT,
        "max_pending_requests 1,024",
    ),
    Trap(
        "ext-proc-circuit-breaker",
        lambda p: p.stats.update({"cluster.extproc.upstream_rq_active_overflow": 76}),
        WARNING,
        ROUTERS_AT,
        "max_requests 100,000, max_pending_requests 100,000, max_connections 100,000; "
        "so far upstream_rq_active_overflow 76",
    ),
    Fine(
        "ext-proc-circuit-breaker",
        lambda p: p.processor["circuit_breakers"]["thresholds"].insert(0, {"priority": "HIGH"}),
    ),
    Trap(
        "ext-proc-streams",
        lambda p: (
            p.http(p.processor)["explicit_http_config"]["http2_protocol_options"].update(
                max_concurrent_streams=10
            ),
            p.breaker(p.processor).update(max_connections=100),
        ),
        WARNING,
        ROUTERS_AT,
        "max_concurrent_streams 10 × max_connections 100",
    ),
    Fine(
        "ext-proc-streams",
        lambda p: p.http(p.processor)["explicit_http_config"]["http2_protocol_options"].update(
            max_concurrent_streams=100
        ),
    ),
    Trap(
        "not-http2",
        lambda p: p.http(p.processor).update(explicit_http_config={"http_protocol_options": {}}),
        SERIOUS,
        ROUTERS_AT,
        "no http2_protocol_options",
    ),
    Fine(
        "not-http2",
        lambda p: (
            drop(p.processor, "typed_extension_protocol_options"),
            p.processor.update(http2_protocol_options={}),
        ),
    ),
    Trap(
        "ext-proc-unreachable",
        lambda p: p.hosts.update(extproc=[]),
        SERIOUS,
        ROUTERS_AT,
        "no endpoints",
    ),
    Trap(
        "ext-proc-unreachable",
        lambda p: (
            p.unhealthy.update(dict.fromkeys(p.hosts["extproc"], FAILED)),
            p.processor.update(common_lb_config={"healthy_panic_threshold": {}}),
        ),
        SERIOUS,
        ROUTERS_AT,
        "10.0.1.1:9002 (failed_active_health_check), 10.0.1.2:9002 (failed_active_health_check)",
    ),
    Trap(
        "ext-proc-unreachable",
        lambda p: p.unhealthy.update(dict.fromkeys(p.hosts["extproc"], FAILED)),
        WARNING,
        ROUTERS_AT,
        "10.0.1.1:9002 (failed_active_health_check), 10.0.1.2:9002 (failed_active_health_check); "
        "in panic Envoy asks them all the same",
    ),
    Trap(
        "ext-proc-unreachable",
        lambda p: p.ext_proc["grpc_service"].update(envoy_grpc={"cluster_name": "gone"}),
        SERIOUS,
        "cluster gone",
        "named by ext_proc, and not there",
    ),
    Fine(
        "ext-proc-unreachable",
        lambda p: p.unhealthy.update({p.hosts["extproc"][0]: {"failed_active_health_check": True}}),
    ),
    Trap(
        "no-health-check",
        lambda p: drop(p.processor, "health_checks"),
        WARNING,
        ROUTERS_AT,
        "no health check; 2 endpoints",
    ),
    Trap(
        "no-health-check",
        lambda p: (p.processor.update(health_checks=[{"tcp_health_check": {}}]), p.hosts["extproc"].pop()),
        NOTE,
        ROUTERS_AT,
        "tcp_health_check; 1 endpoint",
    ),
    Fine("no-health-check", lambda p: p.processor.update(health_checks=[{"grpc_health_check": {}}])),
    Trap(
        "health-check-service",
        lambda p: p.processor.update(health_checks=[{"grpc_health_check": {"service_name": "ext_proc"}}]),
        SERIOUS,
        ROUTERS_AT,
        "service_name ext_proc",
    ),
    Fine("health-check-service", lambda p: p.processor.update(health_checks=[{"grpc_health_check": {}}])),
    Trap(
        "panic-threshold",
        lambda p: drop(p.processor, "common_lb_config"),
        NOTE,
        ROUTERS_AT,
        "healthy_panic_threshold 50 %",
    ),
    Fine("panic-threshold", lambda p: drop(p.processor, "common_lb_config", "health_checks")),
    Trap(
        "health-check-start",
        lambda p: p.processor.update(common_lb_config={"healthy_panic_threshold": {}}),
        WARNING,
        ROUTERS_AT,
        "no_traffic_interval 60 s, healthy_panic_threshold 0 %",
    ),
    Trap(
        "health-check-start",
        lambda p: (
            p.processor.update(common_lb_config={"healthy_panic_threshold": {}}),
            p.processor["health_checks"][0].update(no_traffic_interval="10.500s"),
        ),
        WARNING,
        ROUTERS_AT,
        "no_traffic_interval 10.5 s, healthy_panic_threshold 0 %",
    ),
    Fine(
        "panic-threshold",
        lambda p: p.processor.update(common_lb_config={"healthy_panic_threshold": {"value": 10}}),
    ),
    Fine(
        "ext-proc-circuit-breaker",
        lambda p: p.breaker(p.processor).update(
            max_requests=1025, max_connections=1025, max_pending_requests=1025
        ),
    ),
    Fine(
        "health-check-start",
        lambda p: (
            p.processor.update(common_lb_config={"healthy_panic_threshold": {}}),
            p.processor["health_checks"][0].update(no_traffic_interval="1s"),
        ),
    ),
    Trap(
        "no-grpc-retry",
        lambda p: (drop(p.ext_proc["grpc_service"], "retry_policy"), drop(p.processor, "outlier_detection")),
        NOTE,
        ROUTERS_AT,
        "2 endpoints; no grpc_service.retry_policy and no outlier_detection",
    ),
    Fine(
        "no-grpc-retry",
        lambda p: (drop(p.ext_proc["grpc_service"], "retry_policy"), p.hosts["extproc"].pop()),
    ),
    Trap(
        "keepalive",
        lambda p: p.http(p.processor).update(explicit_http_config={"http2_protocol_options": {}}),
        NOTE,
        ROUTERS_AT,
        "no connection_keepalive",
    ),
    Trap(
        "keepalive",
        lambda p: (
            p.http(p.processor).update(explicit_http_config={"http2_protocol_options": {}}),
            drop(p.processor, "health_checks"),
        ),
        WARNING,
        ROUTERS_AT,
        "no connection_keepalive, no health check",
    ),
    Fine("keepalive", lambda p: p.ext_proc["grpc_service"].update(envoy_grpc={"cluster_name": "gone"})),
]


@pytest.mark.parametrize("case", CASES, ids=label)
def test_the_check_says_where_and_how_much(case: Trap | Fine) -> None:
    assert_told(case)
