"""The demo from start to end: mixed traffic, then the same burst without and with the service."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp

from extproc.demo import plan
from extproc.demo.figures import (
    BurstFigures,
    Outcome,
    Spread,
    burst_figures,
    change,
    failures,
    models_by_user,
    shares,
)
from extproc.demo.plan import PlannedRequest
from extproc.demo.screen import Screen, burst_table, split_table
from extproc.demo.servers import WEIGHTS, Servers
from extproc.demo.traffic import batch_job, get_json, play
from extproc.demo.watch import Pod, Watch

LOOK_S = 0.25
"""Between two looks at the pods."""

MIXED_RATE = 4.5
"""Requests a second of the pods' clock: they are busy, and seldom have a queue."""

BURST_RATE = 8.0
"""Requests a second of the pods' clock: what two pods can take, and the third as well where it has time."""
BATCH_POD = 1
"""Which of the pods has a batch job beside the burst."""
BATCH_WORKERS = 12
"""Enough long prompts at a time that the pod always computes one, and others wait."""
LEAD_S = 1.5
"""The batch job runs for this long before the burst begins, and the pods rest for as long after it."""
LONG_SHARE = 0.08
"""Of the burst's prompts; these are 20x longer."""


@dataclass(frozen=True)
class Options:
    """How long the demo takes."""

    mixed_s: float = 10.0
    burst_requests: int = 300
    seed: int = 1


class Demo:
    """Runs on servers that are ready, and shows what it does on a screen."""

    def __init__(self, servers: Servers, screen: Screen, options: Options) -> None:
        self._servers = servers
        self._screen = screen
        self._options = options
        self.failed: list[Outcome] = []
        """Requests that did not end as they should, of all phases."""

    async def run(self) -> None:
        """Raises StartError when a process ends on its own, aiohttp.ClientError when one stops answering."""
        await self._mixed()
        await self._bursts()
        self._screen.failures(self.failed)

    async def _mixed(self) -> None:
        screen, options, servers = self._screen, self._options, self._servers
        screen.phase(
            1,
            "Mixed traffic",
            "Clients ask for two aliases, streamed or not, with short and long prompts. extproc reads each "
            "request, draws a version by weight, and picks a pod by its load: what the pod reports, and what "
            "extproc has sent there since.",
        )
        traffic = plan.mixed_traffic(options.seed, options.mixed_s, MIXED_RATE * servers.speed)
        outcomes = await self._watched("mixed traffic", traffic, servers.envoy.listen, servers.service.http)
        screen.table(split_table(WEIGHTS, shares(outcomes, plan.ALIAS)))
        users = models_by_user(outcomes)
        faithful = sum(len(models) == 1 for models in users.values())
        refused = [outcome for outcome in outcomes if outcome.status == 404]
        models = await get_json(servers.envoy.listen, "/v1/models")
        screen.note(
            f"{plan.STICKY_ALIAS}     {faithful} of {len(users)} users got the same version every time"
        )
        screen.note(
            f"{plan.UNKNOWN}  {len(refused)} requests, all refused with 404 before they reached a pod"
        )
        screen.note(f"GET /v1/models {', '.join(model['id'] for model in models['data'])}")

    async def _bursts(self) -> None:
        options, servers, screen = self._options, self._servers, self._screen
        burst = plan.burst(options.seed, options.burst_requests, BURST_RATE * servers.speed, LONG_SHARE)
        long_prompts = sum(request.is_long for request in burst)
        screen.phase(
            2,
            "The same burst, twice",
            f"{len(burst)} requests for {plan.BASE} in {burst[-1].at_s:.0f} s, {long_prompts} of them with prompts "
            f"20 times as long. Meanwhile another team's batch job keeps {self._batch_pod.name} busy, past this "
            "gateway. The same requests go to the same pods: first by Envoy's round robin alone, then by extproc.",
        )
        before = await self._burst("round robin", burst, servers.round_robin.listen, None)
        after = await self._burst("extproc", burst, servers.envoy.listen, servers.service.http)
        screen.table(burst_table(before, after))
        self._conclude(before.ttft, after.ttft)

    @property
    def _batch_pod(self) -> Pod:
        return self._servers.pods[BATCH_POD]

    async def _burst(
        self, label: str, burst: Sequence[PlannedRequest], url: str, service_http: str | None
    ) -> BurstFigures:
        async with batch_job(f"http://{self._batch_pod.address}", BATCH_WORKERS, LEAD_S):
            outcomes = await self._watched(label, burst, url, service_http)
        await asyncio.sleep(LEAD_S)  # what was left of the job must not meet the next run
        return burst_figures(outcomes)

    def _conclude(self, before: Spread | None, after: Spread | None) -> None:
        """In words, what the times to first token say."""
        if before is None or after is None:
            return
        note = self._screen.note
        mean, p50, p99 = (
            change(old, new)
            for old, new in ((before.mean, after.mean), (before.p50, after.p50), (before.p99, after.p99))
        )
        note(f"Time to first token with extproc: mean {mean}, P50 {p50}, P99 {p99}.", "bold")
        if after.mean < before.mean:
            note(
                f"Round robin gives {self._batch_pod.name} its turn whatever happens there; extproc reads in its "
                "metrics that it is busy, and counts what it sent itself."
            )
        else:
            note(
                "No gain this time; how the long prompts fall is chance. Try another --seed, or a longer --burst."
            )
        load, cpus = os.getloadavg()[0], os.cpu_count() or 1
        if load > cpus:
            note(f"This machine is busy (load {load:.1f} on {cpus} CPUs), which blurs these figures.", "dim")

    async def _watched(
        self, label: str, traffic: Sequence[PlannedRequest], url: str, service_http: str | None
    ) -> list[Outcome]:
        """Plays the traffic and shows the pods meanwhile."""
        done: list[Outcome] = []
        task = asyncio.create_task(play(url, traffic, done.append), name=label)
        try:
            async with aiohttp.ClientSession() as session:
                watch = Watch(session, self._servers.pods, service_http)
                await watch.look()
                while not task.done():
                    await asyncio.wait({task}, timeout=LOOK_S)
                    self._servers.check_running()
                    states = await watch.look()
                    self._screen.update(label, len(done), len(traffic), states)
                self._screen.finish(label, len(done), len(traffic), await watch.look())
            outcomes = await task
        finally:
            task.cancel()
            self._screen.close()
        self.failed += failures(outcomes)
        return outcomes
