"""The demo from start to end: mixed traffic, then the same burst without and with the service."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp

from extproc.demo import plan
from extproc.demo.figures import (
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
from extproc.demo.traffic import get_json, play
from extproc.demo.watch import Watch

LOOK_S = 0.25
"""Between two looks at the pods."""

MIXED_RATE = 4.5
"""Requests a second of the pods' clock: they are busy, and seldom have a queue."""

BURST_RATE = 12.0
"""Requests a second of the pods' clock: more than they can take for long, so that queues form."""
LONG_SHARE = 0.08
"""Of the burst's prompts; these are 20x longer."""


@dataclass(frozen=True)
class Options:
    """How long the demo takes."""

    mixed_s: float = 10.0
    burst_requests: int = 400
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
            "20 times as long. The same requests go to the same pods: first by Envoy's round robin alone, "
            "then by extproc.",
        )
        label = "round robin"
        before = burst_figures(await self._watched(label, burst, servers.round_robin.listen, None))
        after = burst_figures(
            await self._watched("extproc", burst, servers.envoy.listen, servers.service.http)
        )
        screen.table(burst_table(before, after))
        self._conclude(before.ttft, after.ttft)

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
                "Round robin gives a pod its turn even while it computes a long prompt; extproc looks first."
            )
        else:
            note(
                "No gain this time: how the long prompts fall is chance. Try another --seed, or a longer --burst."
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
