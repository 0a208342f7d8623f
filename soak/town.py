"""All that runs: pods, a cluster's API server, the service, two Envoys; started, restarted and stopped."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

import aiohttp
import yaml

from bench.pod_server import NAMESPACE
from bench.programs import PortProgram
from extproc.demo.bootstrap import POOL
from extproc.demo.envoy import Envoy
from extproc.demo.process import ChildProcess
from extproc.sim.config import SimConfig
from extproc.sim.server import SimServer

from .collector import Collector
from .plan import Plan
from .program import Program
from .settings import BOOTSTRAPS, CLUSTER_PODS, MIRROR, PODS, TARGETS, Settings

SPEED = 20.0
"""Simulated pods answer so much faster than a GPU: what is tried is the service, not patience."""
TIMEOUT_S = 30.0
TOKEN = "soak-soak-soak-soak"


class Town:
    """`async with Town(…) as town:` and everything is up and ready; in the end it is gone."""

    def __init__(self, plan: Plan, directory: Path, script: Path) -> None:
        self.plan = plan
        self.directory = directory
        self.rng = random.Random(plan.seed)
        self.pods: list[SimServer] = []
        """Of the pool `reasoning-pool`."""
        self.envoys: list[Envoy] = []
        self.service: Program
        self.settings: Settings
        self.client: aiohttp.ClientSession
        self.rolls_until = 0.0
        """On the event loop's clock; see `Plan.rolls_until_s`."""
        self.cluster: PortProgram
        self.collector: Collector
        self._script = script
        self._mirror = ""
        self._gates: list[int] = []
        self._exits = AsyncExitStack()

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._exits.aclose()
            raise
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._exits.aclose()

    async def _start(self) -> None:
        self.pods = [await self._pod(f"pod-{number}") for number in range(PODS)]
        narrow = await self._pod("narrow", max_num_seqs=2, speed=1.0)
        serving = await self._pod("clustered")
        self._mirror = f"127.0.0.1:{(await self._pod('mirror')).address.rpartition(':')[2]}"
        port = serving.address.rpartition(":")[2]
        self.cluster = PortProgram("bench.pod_server", self.directory, str(CLUSTER_PODS), port)
        await self._run(self.cluster)
        self.collector = await self._exits.enter_async_context(Collector())
        ports = [int(pod.address.rpartition(":")[2]) for pod in (*self.pods, narrow)]
        self.settings = Settings(ports[:-1], ports[-1])
        self.service = Program(
            self._script, self.settings.config(), self.directory, self._flags(), trace=self.plan.trace
        )
        await self._run(self.service)
        await asyncio.to_thread(self.service.wait_ready)
        self.envoys = [self._envoy(name) for name in BOOTSTRAPS]
        self._exits.push_async_callback(self._stop_envoys)
        await asyncio.gather(*(asyncio.to_thread(envoy.start) for envoy in self.envoys))
        self._gates = [int(envoy.listen.rpartition(":")[2]) for envoy in self.envoys]
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        connector = aiohttp.TCPConnector(limit=0)
        self.client = await self._exits.enter_async_context(
            aiohttp.ClientSession(timeout=timeout, connector=connector)
        )

    async def _pod(self, name: str, *, max_num_seqs: int = 256, speed: float = SPEED) -> SimServer:
        """Reachable at every address of the loopback interface, so that a new pod costs nothing."""
        config = SimConfig(
            host="0.0.0.0",
            name=name,
            models=TARGETS,
            speed=speed,
            max_num_seqs=max_num_seqs,
            enable_prompt_tokens_details=True,
        )
        return await self._exits.enter_async_context(SimServer(config))

    async def _run(self, process: ChildProcess) -> None:
        self._exits.push_async_callback(asyncio.to_thread, process.stop)
        await asyncio.to_thread(process.start)

    def _flags(self) -> list[str]:
        kubeconfig, token = self.directory / "kubeconfig", self.directory / "token"
        kubeconfig.write_text(yaml.safe_dump(_kubeconfig(f"http://127.0.0.1:{self.cluster.port}")))
        token.write_text(TOKEN)
        drain = ["--drain-delay", "0", "--drain-timeout", "1"]
        otlp = ["--otlp-endpoint", self.collector.url]
        return [*drain, *otlp, "--kubeconfig", str(kubeconfig), "--http-token-file", str(token)]

    # -- Envoy ----------------------------------------------------------------------------------------------

    def _envoy(self, bootstrap: str, port: int = 0) -> Envoy:
        envoy = Envoy(
            bootstrap,
            self.directory,
            pools={POOL: []},
            ext_proc=self.service.grpc,
            port=port,
            name=f"envoy-{bootstrap}",
        )
        written = yaml.safe_load(envoy.config_file.read_text())
        _add_mirror(written, self._mirror)
        envoy.config_file.write_text(yaml.safe_dump(written, sort_keys=False))
        return envoy

    async def restart_envoy(self, number: int) -> None:
        """It is killed, as a node is lost, and another one comes in its place."""
        before = self.envoys[number]
        await asyncio.to_thread(before.kill)
        await asyncio.to_thread(before.stop)
        after = self._envoy(BOOTSTRAPS[number], self._gates[number])
        self.envoys[number] = after
        await asyncio.to_thread(after.start)

    async def _stop_envoys(self) -> None:
        await asyncio.gather(*(asyncio.to_thread(envoy.stop) for envoy in self.envoys))

    def gate(self, rng: random.Random) -> tuple[str, int]:
        """(host, port) of one of the Envoys."""
        return "127.0.0.1", rng.choice(self._gates)

    # -- the service ----------------------------------------------------------------------------------------

    async def reload(self) -> None:
        """Put the settings as they are now into the config file."""
        await asyncio.to_thread(self.service.write_config, self.settings.config())

    @contextlib.asynccontextmanager
    async def asked(
        self, method: str, path: str, token: str = TOKEN
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """What the HTTP port answers; its connection is closed then."""
        headers = {"authorization": f"Bearer {token}", "connection": "close"}
        async with self.client.request(method, self.service.http + path, headers=headers) as answer:
            yield answer


def _add_mirror(bootstrap: dict[str, Any], address: str) -> None:
    """A rule that matches the mirror's header, before the pool's own; and the mirror's cluster."""
    resources = bootstrap["static_resources"]
    manager = resources["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    routes = manager["route_config"]["virtual_hosts"][0]["routes"]
    rule = copy.deepcopy(routes[0])
    rule["match"]["headers"] = [{"name": "x-extproc-mirror", "string_match": {"exact": MIRROR}}]
    rule["route"]["request_mirror_policies"] = [{"cluster": MIRROR}]
    routes.insert(0, rule)
    host, _, port = address.rpartition(":")
    endpoint = {"address": {"socket_address": {"address": host, "port_value": int(port)}}}
    load = {"cluster_name": MIRROR, "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}]}
    resources["clusters"].append(
        {"name": MIRROR, "type": "STATIC", "connect_timeout": "1s", "load_assignment": load}
    )


def _kubeconfig(url: str) -> dict[str, Any]:
    return {
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": NAMESPACE}}],
        "current-context": "c",
    }
