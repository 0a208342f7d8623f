"""The processes of one workload: model servers, the service, and an Envoy for each way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from msgspec import Struct
from prometheus_client.parser import text_string_to_metric_families

from extproc.benchmark.workload import Replica
from extproc.demo.bootstrap import POOL
from extproc.demo.envoy import Envoy
from extproc.demo.process import ChildProcess
from extproc.demo.service import Service, Sim
from extproc.sim.engine import EngineConfig
from extproc.sim.profiles import PROFILES

from .plan import WAYS, Way

SCRAPE_S = 0.2
"""The default interval of scrapes; by the servers' clock, so that the router is no blinder than beside real ones."""
LEAST_SCRAPE_S = 0.02
"""The config allows no less."""
STREAM_INTERVAL = 16
"""Tokens of an event, the first excepted: half a second of an answer.  A token an event would keep the cores busy with
nothing but passing events on."""
IDLE_S = 20.0
"""For requests that were cut to be gone everywhere."""
POLL_S = 0.05


class Counts(Struct, frozen=True):
    """What the servers' own metrics say, all together since they were started, or over a run."""

    queries: float
    """Prompt tokens looked for in the prefix caches."""
    hits: float
    first_tokens: float
    first_tokens_s: float
    """Real seconds from a request's arrival at its server to its first token, summed up."""

    def since(self, before: Counts) -> Counts:
        return Counts(*(getattr(self, name) - getattr(before, name) for name in self.__struct_fields__))

    @property
    def hit_ratio(self) -> float:
        return self.hits / max(1.0, self.queries)

    @property
    def mean_ttft_s(self) -> float:
        return self.first_tokens_s / max(1.0, self.first_tokens)


class Fleet:
    """All of it runs."""

    def __init__(self, sims: Sequence[Sim], service: Service, envoys: dict[str, Envoy]) -> None:
        self.sims, self.service, self.envoys = sims, service, envoys
        self.replica_of = {sim.name: replica for replica, sim in enumerate(sims)}

    def pids(self, way: Way) -> dict[str, list[int]]:
        """Of those that have a part in a run, by role."""
        roles = {"servers": [sim.pid for sim in self.sims], "envoy": [self.envoys[way.slug].pid]}
        return {**roles, "extproc": [self.service.pid]}

    async def counts(self) -> Counts:
        pages = await self._pages()
        return Counts(*(sum(_value(page, name) for page in pages) for name in _COUNTERS))

    async def wait_idle(self) -> None:
        """Until no server has anything to do.  Raises TimeoutError."""
        async with asyncio.timeout(IDLE_S):
            while any(_value(page, name) for page in await self._pages() for name in _IN_USE):  # noqa: ASYNC110
                await asyncio.sleep(POLL_S)

    async def _pages(self) -> list[str]:
        timeout = aiohttp.ClientTimeout(total=IDLE_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:

            async def page(sim: Sim) -> str:
                async with session.get(f"http://{sim.address}/metrics") as response:
                    return await response.text()

            return await asyncio.gather(*(page(sim) for sim in self.sims))


_COUNTERS = (
    "vllm:prefix_cache_queries_total",
    "vllm:prefix_cache_hits_total",
    "vllm:time_to_first_token_seconds_count",
    "vllm:time_to_first_token_seconds_sum",
)
_IN_USE = ("vllm:num_requests_running", "vllm:num_requests_waiting")


def _value(page: str, name: str) -> float:
    return sum(
        sample.value
        for line in page.splitlines()
        if line.startswith(name)
        for family in text_string_to_metric_families(line + "\n")
        for sample in family.samples
        if sample.name == name
    )


@asynccontextmanager
async def running_fleet(replicas: Sequence[Replica], speed: float, directory: Path) -> AsyncIterator[Fleet]:
    """Raises StartError; whatever was started is stopped."""
    async with AsyncExitStack() as exits:

        async def start(process: ChildProcess) -> None:
            exits.push_async_callback(asyncio.to_thread, process.stop)
            await asyncio.to_thread(process.start)

        async def start_all(processes: Sequence[ChildProcess]) -> None:
            await asyncio.gather(*map(start, processes))

        sims = [
            Sim(directory, *flags(replica.engine, speed), name=f"server-{number}")
            for number, replica in enumerate(replicas)
        ]
        await start_all(sims)
        addresses = [sim.address for sim in sims]
        service = Service(config(addresses, speed), directory, "--drain-delay", "0", "--drain-timeout", "1")
        await start(service)
        await asyncio.to_thread(service.wait_ready)
        envoys = {way.slug: _envoy(way, addresses, service, directory) for way in WAYS}
        await start_all(list(envoys.values()))
        yield Fleet(sims, service, envoys)


def flags(engine: EngineConfig, speed: float) -> list[str]:
    """Of `extproc sim`, for a server with this engine."""
    gpu = next(name for name, profile in PROFILES.items() if profile == engine.profile)
    options = {
        "--gpu": gpu,
        "--speed": speed,
        "--num-blocks": engine.num_blocks,
        "--max-num-seqs": engine.max_num_seqs,
        "--max-model-len": engine.max_model_len,
        "--max-num-batched-tokens": engine.token_budget,
        "--stream-interval": STREAM_INTERVAL,
    }
    switches = [] if engine.chunked_prefill else ["--no-chunked-prefill"]
    switches += [] if engine.prefix_caching else ["--no-prefix-caching"]
    return [text for option in options.items() for text in map(str, option)] + switches


def config(addresses: Sequence[str], speed: float) -> dict[str, Any]:
    """The service's: defaults, but for the clock.

    Not `max_age_s`: a machine that hesitates does so in real time.
    """
    interval_s = max(LEAST_SCRAPE_S, round(SCRAPE_S / speed, 3))
    return {"pools": [{"name": POOL, "endpoints": list(addresses), "metrics": {"interval_s": interval_s}}]}


def _envoy(way: Way, addresses: Sequence[str], service: Service, directory: Path) -> Envoy:
    with_service = way.bootstrap != "round-robin"
    envoy = Envoy(
        way.bootstrap,
        directory,
        pools={POOL: addresses},
        ext_proc=service.grpc if with_service else None,
        name=f"envoy-{way.slug}",
    )
    if way.balancing:
        envoy.config_file.write_text(
            yaml.safe_dump(balanced(yaml.safe_load(envoy.config_file.read_text()), way))
        )
    return envoy


def balanced(bootstrap: dict[str, Any], way: Way) -> dict[str, Any]:
    """*bootstrap* with the way's own load balancing."""
    clusters = bootstrap["static_resources"]["clusters"]
    cluster = next(cluster for cluster in clusters if cluster["name"] == POOL)
    del cluster["lb_policy"]
    cluster.update(way.balancing)
    return bootstrap
