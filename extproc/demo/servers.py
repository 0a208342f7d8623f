"""What the demo runs: three simulated model servers, the service, an Envoy with it and one without."""

from __future__ import annotations

import asyncio
import shutil
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from extproc.demo.bootstrap import POOL
from extproc.demo.envoy import Envoy
from extproc.demo.plan import ALIAS, BASE, CANARY, STICKY_ALIAS
from extproc.demo.process import ChildProcess, StartError
from extproc.demo.service import Service, Sim
from extproc.demo.watch import Pod

DEFAULT_SPEED = 3.0
"""How many times faster than real ones the pods are: a burst takes a quarter of a minute, not a whole one."""

SCRAPE_S = 0.2
"""The default interval of scrapes; by the pods' clock, so that the service is no blinder than beside real ones."""

PORT = 10080
"""Where Envoy listens if it can, so that what a reader pastes works in the next run as well."""

WEIGHTS = {BASE: 90, CANARY: 10}
STICKY_WEIGHTS = {BASE: 60, CANARY: 40}
"""More for the canary than above, so that a handful of users is seen to split."""


def config(addresses: Sequence[str], speed: float) -> dict[str, Any]:
    """The service's config: two pods of version v1, and one that has the canary loaded besides."""
    versions = ("v1", "v1", "v2")
    return {
        "pools": [
            {
                "name": POOL,
                "endpoints": [
                    {"address": address, "labels": {"version": version}}
                    for address, version in zip(addresses, versions, strict=True)
                ],
                "metrics": {"interval_s": max(0.02, round(SCRAPE_S / speed, 3))},
                "fallback_endpoints": 2,
            }
        ],
        "models": [
            {"name": ALIAS, "pool": POOL, "targets": _targets(WEIGHTS)},
            {
                "name": STICKY_ALIAS,
                "pool": POOL,
                "targets": _targets(STICKY_WEIGHTS),
                "sticky": {"header": "x-user-id"},
            },
            {"name": BASE, "pool": POOL},
        ],
        "default_pool": None,
    }


def _targets(weights: dict[str, int]) -> list[dict[str, Any]]:
    versions = {BASE: "v1", CANARY: "v2"}
    return [
        {"model": model, "weight": weight, "labels": {"version": versions[model]}}
        for model, weight in weights.items()
    ]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Envoy does
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class Servers:
    """All of it runs and is ready after `start`, all of it is gone after `stop`."""

    def __init__(self, speed: float = DEFAULT_SPEED) -> None:
        self.speed = speed
        self.directory = Path(tempfile.mkdtemp(prefix="extproc-demo-"))
        """Configs and logs."""
        flags = ["--gpu", "a10x4-qwq-32b", "--speed", str(speed), "--model", BASE]
        self.sims = [Sim(self.directory, *flags, name=f"pod-{number}") for number in (1, 2)]
        self.sims.append(Sim(self.directory, *flags, "--lora", CANARY, name="pod-3"))
        self._started: list[ChildProcess] = []

    async def start(self) -> None:
        """Raises StartError; `stop` is due in any case."""
        await asyncio.gather(*(self._start(sim) for sim in self.sims))
        addresses = [sim.address for sim in self.sims]
        drain = ("--drain-delay", "0", "--drain-timeout", "1")
        self.service = Service(config(addresses, self.speed), self.directory, *drain)
        await self._start(self.service)
        await asyncio.to_thread(self.service.wait_ready)
        pools = {POOL: addresses}
        self.envoy = Envoy(
            "buffered-override-host",
            self.directory,
            pools=pools,
            ext_proc=self.service.grpc,
            port=PORT if _is_free(PORT) else 0,
        )
        self.round_robin = Envoy("round-robin", self.directory, pools=pools, name="envoy-round-robin")
        await asyncio.gather(self._start(self.envoy), self._start(self.round_robin))

    async def stop(self) -> None:
        """Envoy first, so that no request finds its backend gone. Safe to call at any time."""
        for process in reversed(self._started):
            await asyncio.to_thread(process.stop)

    def remove_files(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def pods(self) -> list[Pod]:
        versions = ("v1", "v1", "v1 + v2")
        return [Pod(sim.name, sim.address, version) for sim, version in zip(self.sims, versions, strict=True)]

    def check_running(self) -> None:
        """Raises StartError with the log of a process that ended on its own."""
        for process in self._started:
            if not process.running:
                raise StartError(f"{process.name} ended on its own. Its last words:\n{process.tail()}")

    async def _start(self, process: ChildProcess) -> None:
        self._started.append(process)
        await asyncio.to_thread(process.start)
