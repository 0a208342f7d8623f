"""A stack whose Envoy mirrors, as Envoy Gateway has it do, to servers good and bad."""

from __future__ import annotations

import asyncio
import copy
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from stack import Stack, Way, client_of, eventually, running, running_service
from upstream import EchoUpstream, Received

from extproc.demo.bootstrap import POOL
from extproc.demo.envoy import Envoy

MIRROR = "x-extproc-mirror"
SHADOW, FAILING, SLOW, SILENT, REFUSING, DEAF = "shadow", "failing", "slow", "silent", "refusing", "deaf"
BAD = [FAILING, SLOW, SILENT, REFUSING, DEAF]
TARGET = [{"model": "what-serves-it"}]
MODELS: list[dict[str, Any]] = [
    {"name": "all", "targets": TARGET, "mirrors": [{"name": SHADOW, "percent": 100}]},
    {"name": "share", "mirrors": [{"name": SHADOW, "percent": 25}]},
    {"name": "sticky", "mirrors": [{"name": SHADOW, "percent": 50, "sticky": {"header": "X-Session-Id"}}]},
    {"name": "none"},
    *({"name": name, "targets": TARGET, "mirrors": [{"name": name, "percent": 100}]} for name in BAD),
]


@dataclass
class Mirrored:
    """A stack, and the mirrors' servers, of those that have one."""

    stack: Stack
    mirrors: dict[str, EchoUpstream]

    async def copies(self, count: int) -> list[Received]:
        """The requests that the shadow got, once they are *count*: Envoy waits for none of them."""
        shadow = self.mirrors[SHADOW]
        await eventually(lambda: len(shadow.requests), lambda got: got >= count)
        return shadow.requests

    async def sent(self, name: str) -> int:
        """How often Envoy has tried to reach a mirror so far."""
        prefix = f"cluster.{POOL}-mirror-{name}.upstream_"
        stats = await asyncio.to_thread(self.stack.envoy.stats, prefix)
        return stats[prefix + "rq_total"] + stats[prefix + "rq_pending_failure_eject"]

    async def unanswered(self, name: str) -> int:
        """Copies whose answer is due."""
        stat = f"cluster.{POOL}-mirror-{name}.upstream_rq_active"
        return (await asyncio.to_thread(self.stack.envoy.stats, stat))[stat]


def config(addresses: list[str]) -> dict[str, Any]:
    return {
        "pools": [{"name": POOL, "endpoints": addresses}],
        "models": [{"pool": POOL, **model} for model in MODELS],
    }


def add_mirror(bootstrap: dict[str, Any], name: str, address: str) -> None:
    """A rule that matches pool and mirror before the pool's own, as Envoy Gateway makes one of a RequestMirror
    filter; and the mirror's cluster with the settings that it has there."""
    manager = bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    routes = manager["route_config"]["virtual_hosts"][0]["routes"]
    own = next(each for each in routes if "request_mirror_policies" not in each["route"])
    rule = copy.deepcopy(own)
    rule["name"], cluster = f"{POOL}-{name}", f"{POOL}-mirror-{name}"
    rule["match"].setdefault("headers", []).append({"name": MIRROR, "string_match": {"exact": name}})
    rule["route"]["request_mirror_policies"] = [
        {"cluster": cluster, "disable_shadow_host_suffix_append": True}
    ]
    routes.insert(0, rule)
    host, _, port = address.rpartition(":")
    endpoint = {"address": {"socket_address": {"address": host, "port_value": int(port)}}}
    settings = {
        "name": cluster,
        "type": "STATIC",
        "connect_timeout": "10s",
        "per_connection_buffer_limit_bytes": 32768,
        "load_assignment": {
            "cluster_name": cluster,
            "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}],
        },
    }
    bootstrap["static_resources"]["clusters"].append(settings)


@contextmanager
def refusing() -> Iterator[str]:
    """An address at which nobody listens, and nobody else can."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@contextmanager
def deaf() -> Iterator[str]:
    """A server that takes connections and never reads from them: its kernel does, until its buffers are full."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        server.bind(("127.0.0.1", 0))
        server.listen(1000)
        yield f"127.0.0.1:{server.getsockname()[1]}"


@asynccontextmanager
async def running_mirrored(directory: Path, way: Way) -> AsyncIterator[Mirrored]:
    async with AsyncExitStack() as exits:
        mirrors = {
            SHADOW: EchoUpstream(),
            FAILING: EchoUpstream(status=500),
            SLOW: EchoUpstream(holds=True),
            SILENT: EchoUpstream(holds=True),
        }
        upstreams = [EchoUpstream(), EchoUpstream()]
        for server in (*mirrors.values(), *upstreams):
            await exits.enter_async_context(server)
        addresses = [upstream.address for upstream in upstreams]
        service = await exits.enter_async_context(running_service(config(addresses), directory))
        envoy = Envoy(
            way.bootstrap, directory, pools={POOL: addresses}, ext_proc=service.grpc, strip_client_pins=False
        )
        bootstrap = yaml.safe_load(envoy.config_file.read_text())
        where = {name: mirror.address for name, mirror in mirrors.items()}
        where |= {REFUSING: exits.enter_context(refusing()), DEAF: exits.enter_context(deaf())}
        for name, address in where.items():
            add_mirror(bootstrap, name, address)
        envoy.config_file.write_text(yaml.safe_dump(bootstrap))
        await exits.enter_async_context(running(envoy))
        client = await exits.enter_async_context(client_of(envoy))
        yield Mirrored(Stack(client, envoy, service, upstreams, way), mirrors)
