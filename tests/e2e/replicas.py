"""Several routers behind one Envoy, which is told of them by endpoint discovery, as a gateway in a cluster is."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from stack import ENVOY_GATEWAY, client_of, endpoints_by_pool, eventually, running
from upstream import EchoUpstream

from extproc.demo.bootstrap import POOL, ext_proc_filter
from extproc.demo.envoy import Envoy
from extproc.demo.service import Service

CLUSTER = "envoyextensionpolicy/llm/llm-router/extproc/0"
FLAGS = ("--drain-delay", "5", "--drain-timeout", "30")
"""Envoy asks for our health once a second, and waits half a second for the answer: then it knows of the drain."""


class Router(Service):
    """One of the routers."""

    def hang(self) -> None:
        """It keeps its connections, and does nothing more."""
        os.kill(self.pid, signal.SIGSTOP)

    def stop(self) -> None:
        """At once, also where it hangs: what it would drain is of no interest any more."""
        if self.running:
            self.kill()
        super().stop()


@dataclass
class Replicas:
    """Client → Envoy → several routers → upstreams."""

    client: aiohttp.ClientSession
    envoy: Envoy
    upstreams: list[EchoUpstream]
    routers: list[Router]
    """In the order of their start; those that ended are left in."""
    start: Callable[[], Awaitable[Router]]
    """Starts one more router, which Envoy does not know yet."""
    discovered: Path

    def discover(self, *routers: Router) -> None:
        """From now on Envoy knows of these."""
        write_endpoints(self.discovered, [router.grpc for router in routers])

    async def open_streams(self, router: Router) -> int:
        """Requests that the router has not seen the end of."""
        count: int = (await asyncio.to_thread(router.state))["open_streams"]
        return count

    async def busy(self, router: Router) -> None:
        """Until the router has a request."""
        await eventually(lambda: self.open_streams(router), bool)

    async def healthy(self, count: int) -> None:
        """Until Envoy holds so many for healthy."""
        await eventually(lambda: self.stat("membership_healthy"), lambda known: known == count)

    async def refused(self) -> int:
        """How often Envoy had to find out by itself that a router is gone."""
        ejected = await self.stat("outlier_detection.ejections_enforced_total")
        return ejected + await self.stat("health_check.network_failure")

    async def stat(self, name: str) -> int:
        """What Envoy counts of the routers."""
        found = await asyncio.to_thread(self.envoy.stats, f"cluster.{CLUSTER}.{name}")
        return next(iter(found.values()), 0)


@asynccontextmanager
async def running_replicas(
    directory: Path,
    count: int = 2,
    config: Callable[[list[str]], Mapping[str, Any]] = lambda addresses: {
        "pools": [{"name": POOL, "endpoints": addresses}]
    },
    health_timeout: str = "0.5s",
    **ext_proc: Any,
) -> AsyncIterator[Replicas]:
    """So many routers, all ready and known, behind an Envoy as Envoy Gateway programs it.

    `health_timeout`: how long Envoy waits for what a router says of its health. `ext_proc`: other settings of its
    ext_proc filter.
    """
    async with AsyncExitStack() as exits:
        upstreams = [await exits.enter_async_context(EchoUpstream()) for _ in range(3)]
        settings = config([upstream.address for upstream in upstreams])
        routers: list[Router] = []

        async def start() -> Router:
            router = Router(settings, directory, *FLAGS, name=f"router-{len(routers)}")
            routers.append(router)
            await exits.enter_async_context(running(router))
            await asyncio.to_thread(router.wait_ready)
            return router

        await asyncio.gather(*(start() for _ in range(count)))
        discovered = directory / "endpoints.yaml"
        write_endpoints(discovered, [router.grpc for router in routers])
        envoy = Envoy(ENVOY_GATEWAY.bootstrap, directory, pools=endpoints_by_pool(settings))
        bootstrap = yaml.safe_load(envoy.config_file.read_text())
        use_discovery(bootstrap, discovered, health_timeout)
        ext_proc_filter(bootstrap)["typed_config"] |= ext_proc
        envoy.config_file.write_text(yaml.safe_dump(bootstrap))
        await exits.enter_async_context(running(envoy))
        client = await exits.enter_async_context(client_of(envoy))
        replicas = Replicas(client, envoy, upstreams, routers, start, discovered)
        await replicas.healthy(count)
        yield replicas


def use_discovery(bootstrap: dict[str, Any], endpoints: Path, health_timeout: str) -> None:
    """The ext_proc cluster of this bootstrap learns its endpoints from a file, and checks them from the start."""
    bootstrap["node"] = {"id": "replicas", "cluster": "replicas"}
    (cluster,) = [each for each in bootstrap["static_resources"]["clusters"] if each["name"] == CLUSTER]
    del cluster["load_assignment"]
    source = {"path_config_source": {"path": str(endpoints)}, "resource_api_version": "V3"}
    cluster |= {"type": "EDS", "eds_cluster_config": {"eds_config": source}}
    # as it is, it says nothing in Envoy's first minute
    cluster["health_checks"][0] |= {"no_traffic_interval": "1s", "timeout": health_timeout}


def write_endpoints(file: Path, addresses: list[str]) -> None:
    """What a control plane would tell; Envoy notices that the file is replaced."""
    entries = []
    for address in addresses:
        host, _, port = address.rpartition(":")
        socket_address = {"address": host, "port_value": int(port)}
        entries.append({"endpoint": {"address": {"socket_address": socket_address}}})
    kind = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
    assignment = {"@type": kind, "cluster_name": CLUSTER, "endpoints": [{"lb_endpoints": entries}]}
    fresh = file.with_suffix(".new.yaml")
    fresh.write_text(yaml.safe_dump({"resources": [assignment]}))
    fresh.replace(file)


@dataclass
class Load:
    """Clients that send one request after another; `failures` says what went wrong with which."""

    client: aiohttp.ClientSession
    answered: int = 0
    failures: list[str] = field(default_factory=list)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _ending: bool = False

    def begin(self, clients: int, query: str) -> None:
        """So many more clients, whose requests ask this of the upstream."""
        self._tasks += [asyncio.create_task(self._send(query)) for _ in range(clients)]

    async def more(self, count: int) -> None:
        """Until so many more were answered, well or not."""
        enough = self.answered + count
        await eventually(lambda: self.answered, lambda answered: answered >= enough, within_s=60)

    async def end(self) -> None:
        """Until every client has its last answer."""
        self._ending = True
        await asyncio.gather(*self._tasks)

    async def _send(self, query: str) -> None:
        while not self._ending:
            failure = await failure_of(self.client, query)
            self.answered += 1
            if failure is not None:
                self.failures.append(failure)


async def failure_of(client: aiohttp.ClientSession, query: str) -> str | None:
    """What was wrong with the answer to a request; None: nothing."""
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    try:
        async with client.post(f"/v1/chat/completions?{query}", json=body) as response:
            text = await response.text()
    except aiohttp.ClientError as error:
        return f"{query}: {error!r}"
    whole = text.endswith("data: [DONE]\n\n") if "sse_s" in query else text.startswith('{"served_by"')
    return None if response.status == 200 and whole else f"{query}: {response.status} {text[-80:]!r}"


class Answers:
    """Streamed answers that have begun, and go on when they are told to."""

    def __init__(self, replicas: Replicas) -> None:
        self._replicas = replicas
        self._open: list[asyncio.Task[bool]] = []

    async def begin(self, count: int) -> None:
        """So many, until each has its first event."""
        for upstream in self._replicas.upstreams:
            upstream.gate.clear()
        begun = asyncio.Semaphore(0)
        self._open = [asyncio.create_task(self._read(begun)) for _ in range(count)]
        for _ in range(count):
            await begun.acquire()

    async def whole(self) -> int:
        """How many arrive to the end."""
        for upstream in self._replicas.upstreams:
            upstream.gate.set()
        return sum(await asyncio.gather(*self._open))

    async def _read(self, begun: asyncio.Semaphore) -> bool:
        body = {"model": "m", "stream": True}
        async with self._replicas.client.post("/v1/chat/completions?gated", json=body) as response:
            await response.content.readuntil(b"\n\n")
            begun.release()
            try:
                return await response.content.read() == b"data: [DONE]\n\n"
            except aiohttp.ClientPayloadError:
                return False
