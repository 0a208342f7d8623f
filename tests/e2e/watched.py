"""Simulated pods, the service, Envoy and a real Prometheus that scrapes the service, and has our rules."""

from __future__ import annotations

import asyncio
import json
import re
import urllib.parse
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from prometheus_program import program
from stack import QUICK_STOP, client_of, running, running_service

from extproc import tls
from extproc.demo.bootstrap import POOL
from extproc.demo.envoy import LOOPBACK, Envoy
from extproc.demo.process import ChildProcess
from extproc.demo.service import Service, Sim
from monitoring.rules import rules

READY_S = 60.0
"""For a loaded machine; it takes about a second."""
TIERED = "tiered"
"""A pool with tiers, a queue and load reports."""
JOB = "router"


class Prometheus(ChildProcess):
    """Scrapes *targets* twice a second; evaluates our rules once a second."""

    def __init__(self, directory: Path, targets: list[str]) -> None:
        (directory / "rules.yaml").write_text(rules())
        settings = {
            "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "1s"},
            "rule_files": ["rules.yaml"],
            "scrape_configs": [{"job_name": JOB, "static_configs": [{"targets": targets}]}],
        }
        file = directory / "prometheus.yaml"
        file.write_text(yaml.safe_dump(settings))
        argv = [str(program("prometheus")), f"--config.file={file}", "--web.listen-address=127.0.0.1:0"]
        super().__init__("prometheus", [*argv, f"--storage.tsdb.path={directory / 'tsdb'}"], directory)
        self.url = ""

    def start(self) -> None:
        super().start()
        try:
            self.url = self.wait_for("its address", self._read_address, READY_S)
            self.wait_for("its readiness", self._ready, READY_S)
        except BaseException:
            self.stop()
            raise

    def ask(self, path: str, **query: str) -> Any:
        """`data` of an answer of its HTTP API.  Raises HTTPError for a faulty expression."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with LOOPBACK.open(url, timeout=30) as answer:
            told = json.loads(answer.read())
        assert told["status"] == "success", told
        return told["data"]

    def values(self, expression: str) -> list[dict[str, Any]]:
        """What it makes of *expression* now, without values that are not a number."""
        found: list[dict[str, Any]] = self.ask("query", query=expression)["result"]
        return [each for each in found if each["value"][1] != "NaN"]

    def _ready(self) -> bool | None:
        try:
            LOOPBACK.open(f"{self.url}/-/ready", timeout=5).close()
        except OSError:
            return None
        return True

    def _read_address(self) -> str | None:
        found = re.search(r'msg="Listening on" address=(\S+)', self.err.read_text())
        return f"http://{found[1]}" if found else None


@dataclass
class Watched:
    envoy: Envoy
    service: Service
    prometheus: Prometheus
    client: aiohttp.ClientSession


def config(plain: list[str], tiered: list[str]) -> Mapping[str, Any]:
    """Two versions, a mirror, tiers, a queue, answers that are read: as much as the dashboard shows."""
    own, cloud = ({"name": name, "labels": {"tier": name}} for name in ("own", "cloud"))
    return {
        "pools": [
            {"name": POOL, "endpoints": plain},
            {
                "name": TIERED,
                "endpoints": [
                    {"address": address, "labels": {"tier": tier}}
                    for address, tier in zip(tiered, ("own", "cloud"), strict=True)
                ],
                "metrics": {"orca": True},
                "tiers": [own, cloud],
                "queue": {"timeout_s": 5},
                "max_in_flight": 1,
            },
        ],
        "models": [
            {
                "name": "qwq",
                "pool": POOL,
                "targets": [{"model": "qwq-32b", "weight": 1}, {"model": "qwq-32b-v2", "weight": 1}],
            },
            {"name": "deep", "pool": TIERED, "criticality": "Critical"},
        ],
        "default_pool": POOL,
        "responses": {"percent": 100},
    }


MODELS = ("--model", "qwq-32b", "--model", "qwq-32b-v2", "--model", "deep")
FAST = (*MODELS, "--enable-prompt-tokens-details", "--speed", "20")


def certificate(directory: Path) -> tuple[str, ...]:
    """Flags; Envoy's bootstrap speaks plain text, so this is for a second router that only Prometheus sees."""
    cert, key = tls.make_certificate(["localhost"])
    (directory / "cert.pem").write_bytes(cert)
    (directory / "key.pem").write_bytes(key)
    return "--tls-cert", str(directory / "cert.pem"), "--tls-key", str(directory / "key.pem")


@asynccontextmanager
async def watched(directory: Path) -> AsyncIterator[Watched]:
    async with AsyncExitStack() as exits:
        sims = [
            await exits.enter_async_context(running(Sim(directory, *FAST, name=f"pod-{number}")))
            for number in range(3)
        ]
        addresses = [sim.address for sim in sims]
        pools = {POOL: addresses[:2], TIERED: [addresses[2], addresses[0]]}
        settings = config(*pools.values())
        service, other = await asyncio.gather(
            exits.enter_async_context(running_service(settings, directory)),
            exits.enter_async_context(
                running_service(settings, directory, *QUICK_STOP, *certificate(directory), name="other")
            ),
        )
        envoy = Envoy("buffered-override-host", directory, pools=pools, ext_proc=service.grpc)
        await exits.enter_async_context(running(envoy))
        targets = [each.http.removeprefix("http://") for each in (service, other)]
        prometheus = await exits.enter_async_context(running(Prometheus(directory, targets)))
        client = await exits.enter_async_context(client_of(envoy))
        yield Watched(envoy, service, prometheus, client)
