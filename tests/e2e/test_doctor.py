"""`extproc doctor` looks at real Envoys: ours are without serious traps, and one full of traps has every one found."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from stack import (
    AI_GATEWAY,
    ENVOY_GATEWAY,
    ISTIO,
    TLS,
    WAYS,
    Way,
    client_of,
    eventually,
    running,
    running_service,
)
from upstream import EchoUpstream

from extproc.demo.bootstrap import POOL
from extproc.demo.envoy import Envoy
from extproc.doctor.checks import CHECKS
from extproc.doctor.command import doctor

pytestmark = pytest.mark.envoy

BOOTSTRAPS = Path(__file__).parents[2] / "envoy"
TRAPPED = Path(__file__).parents[1] / "data" / "doctor" / "trapped.yaml"
EVERY_WAY = [*WAYS, AI_GATEWAY, ISTIO, ENVOY_GATEWAY]

KNOWN = {
    "ai-gateway-epp": {
        "ext-proc-circuit-breaker",
        "keepalive",
        "pool-circuit-breaker",
        "response-attributes",
    },
    "duplex-override-host": {"duplex-retry"},
    "istio-epp": {"duplex-retry"},
}
"""Traps that these share with the gateways they are like; only AI Gateway's circuit breaker is a serious one."""
ONLY_WHILE_RUNNING = {
    "answers-cut",
    "bodies-refused",
    "connections-closed",
    "endpoints-set-aside",
    "envoy-not-live",
    "failed-open",
    "health-disagrees",
    "message-timeouts",
    "mutations-refused",
    "pool-empty",
    "router-not-ready",
    "streams-failed",
}
"""Traps that no config holds."""
ELSEWHERE = {"no-ext-proc", "config-rejected", "drain-time"}
"""Traps of another Envoy than one that has the others."""


async def examine(envoy: str, router: str) -> tuple[Result, dict[str, Any]]:
    arguments = ["--envoy", envoy, "--router", router, "--json"]
    result = await asyncio.to_thread(CliRunner().invoke, doctor, arguments)
    return result, json.loads(result.output)


def test_every_bootstrap_of_ours_is_examined() -> None:
    with_us = {path.stem for path in BOOTSTRAPS.glob("*.yaml")} - {"round-robin"}

    assert {way.bootstrap for way in EVERY_WAY} == with_us


@pytest.mark.parametrize("way", EVERY_WAY, ids=lambda way: way.bootstrap)
async def test_a_bootstrap_of_ours_has_no_trap_but_those_of_its_gateway(way: Way, tmp_path: Path) -> None:
    names = (POOL, "chat-pool") if way is ENVOY_GATEWAY else (POOL,)
    fallbacks = 0 if way.pinning == "original-dst" else 1
    async with EchoUpstream() as a, EchoUpstream() as b, EchoUpstream() as c:
        endpoints = [[a.address, b.address], [c.address]]
        pools = dict(zip(names, endpoints, strict=False))
        config = {
            "pools": [
                {
                    "name": name,
                    "endpoints": addresses,
                    "fallback_endpoints": min(fallbacks, len(addresses) - 1),
                    "queue": {"timeout_s": 5},
                }
                for name, addresses in pools.items()
            ],
            "responses": {},
        }
        flags = TLS if way in (AI_GATEWAY, ISTIO) else ()
        async with running_service(config, tmp_path, *flags) as service:
            envoy = Envoy(way.bootstrap, tmp_path, pools=pools, ext_proc=service.grpc)
            async with running(envoy):
                await checked(envoy)
                result, told = await examine(envoy.admin, service.http)

    traps = {finding["id"]: finding for finding in told["findings"] if finding["severity"] != "note"}
    assert traps.keys() == KNOWN.get(way.bootstrap, set()), traps
    assert result.exit_code == (way is AI_GATEWAY), traps
    assert told["not_made"] == []
    assert told["looked_at"]["served_routes"] >= 1
    assert told["looked_at"]["router_endpoints"] == sum(map(len, pools.values()))


async def checked(envoy: Envoy) -> None:
    """Until Envoy's health check of the service has passed: on a busy machine the first one may be late."""

    def healthy() -> list[int]:
        stats = envoy.stats("cluster.")
        return [n for name, n in stats.items() if "extproc" in name and name.endswith("membership_healthy")]

    await eventually(lambda: asyncio.to_thread(healthy), lambda found: found and all(found))


async def test_every_trap_that_a_config_can_hold_is_found(tmp_path: Path) -> None:
    pool = {"endpoints": ["127.0.0.1:1", "127.0.0.1:2"], "fallback_endpoints": 2}  # nobody is there
    config = {
        "pools": [
            {"name": "reasoning-pool", **pool, "queue": {"timeout_s": 30}},
            {"name": "unrouted", "endpoints": ["127.0.0.1:3"]},
            {"name": "anywhere", **pool},
        ],
        "default_pool": "reasoning-pool",
        "trusted_headers": ["x_tenant"],
        "responses": {},
    }
    envoy = Envoy("round-robin", tmp_path, pools={"p": []})
    envoy.config_file.write_text(TRAPPED.read_text())
    async with running_service(config, tmp_path) as service, running(envoy):
        result, told = await examine(envoy.admin, service.http)

    found = {finding["id"] for finding in told["findings"]}
    assert {check.id for check in CHECKS} - found == ONLY_WHILE_RUNNING | ELSEWHERE
    assert found <= {check.id for check in CHECKS}
    assert result.exit_code == 1


async def test_a_trap_that_traffic_shows_is_found_by_its_counter(tmp_path: Path) -> None:
    """Bodies that Envoy refused, and the window that makes it so for HTTP/2 clients."""
    async with EchoUpstream() as a:
        config = {"pools": [{"name": POOL, "endpoints": [a.address]}]}
        async with running_service(config, tmp_path) as service:
            envoy = Envoy(
                "buffered-override-host", tmp_path, pools={POOL: [a.address]}, ext_proc=service.grpc
            )
            spoil(envoy, 32768)
            async with running(envoy):
                before = await seen(envoy, service.http)
                status = await post(envoy, 100_000)
                after = await seen(envoy, service.http)

    assert status == 413
    assert "bodies-refused" not in before
    assert after["bodies-refused"] == [{"where": "listener inference", "figure": "downstream_rq_too_large 1"}]
    assert after["buffer-limit"] == [
        {
            "where": "listener inference",
            "figure": "32 KiB for route all/entry; the router takes bodies of 32 MiB",
        }
    ]


def spoil(envoy: Envoy, limit: int) -> None:
    bootstrap = yaml.safe_load(envoy.config_file.read_text())
    bootstrap["static_resources"]["listeners"][0]["per_connection_buffer_limit_bytes"] = limit
    envoy.config_file.write_text(yaml.safe_dump(bootstrap))


async def seen(envoy: Envoy, router: str) -> dict[str, Any]:
    _, told = await examine(envoy.admin, router)
    return {finding["id"]: finding["found"] for finding in told["findings"]}


async def post(envoy: Envoy, size: int) -> int:
    async with (
        client_of(envoy) as client,
        client.post("/v1/completions", json={"model": "m", "prompt": "x" * size}) as response,
    ):
        return response.status
