"""The demo from start to end: mixed traffic, then the same burst without and with the service."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp

from extproc.demo import plan
from extproc.demo.figures import (
    BurstFigures,
    Outcome,
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
from extproc.demo.watch import PodState, pod_states

LOOK_S = 0.25
"""Between two looks at the pods."""

MIXED_RATE = 14.0
"""Requests a second: the pods are busy, and seldom have a queue."""

BURST_RATE = 32.0
"""Requests a second: more than three pods can take, so that queues form; they empty after the last one."""
LONG_SHARE = 0.1
"""Of the burst's prompts; these are 20x longer."""


@dataclass(frozen=True)
class Options:
    """How long the demo takes."""

    mixed_s: float = 12.0
    burst_requests: int = 200
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
        round_robin, ours = await self._bursts()
        self._summary(round_robin, ours)

    async def _mixed(self) -> None:
        screen, options = self._screen, self._options
        screen.phase(
            1,
            "Mixed traffic",
            f"Chat requests for two aliases, streamed and not, short and long, for {options.mixed_s:g} s. extproc "
            "reads each\nrequest, draws a version and picks a pod, by what pods report and by what it sent them.",
        )
        traffic = plan.mixed_traffic(options.seed, options.mixed_s, MIXED_RATE)
        outcomes = await self._watched("mixed traffic", traffic, self._servers.envoy.listen)
        screen.table(split_table(WEIGHTS, shares(outcomes, plan.ALIAS)))
        users = models_by_user(outcomes)
        faithful = sum(len(models) == 1 for models in users.values())
        screen.note(f"{plan.STICKY_ALIAS}: {faithful} of {len(users)} users saw one version only", "")
        refused = sum(outcome.status == 404 for outcome in outcomes)
        screen.note(f"{plan.UNKNOWN}: {refused} requests refused with 404, none of them reached a pod", "")
        models = await get_json(self._servers.envoy.listen, "/v1/models")
        screen.note(f"GET /v1/models: {', '.join(model['id'] for model in models['data'])}", "")

    async def _bursts(self) -> tuple[BurstFigures, BurstFigures]:
        options, servers = self._options, self._servers
        burst = plan.burst(options.seed, options.burst_requests, BURST_RATE, LONG_SHARE)
        long_prompts = sum(request.is_long for request in burst)
        self._screen.phase(
            2,
            "The same burst twice",
            f"{len(burst)} requests for {plan.BASE} within {burst[-1].at_s:.1f} s, {long_prompts} of them with "
            "prompts 20 times as long.\nSame requests, same pods: first Envoy's round robin alone, then extproc.",
        )
        figures = []
        for label, url in (("round robin", servers.round_robin.listen), ("extproc", servers.envoy.listen)):
            figures.append(burst_figures(await self._watched(label, burst, url)))
        self._screen.table(burst_table(figures[0], figures[1]))
        return figures[0], figures[1]

    def _summary(self, round_robin: BurstFigures, ours: BurstFigures) -> None:
        if round_robin.ttft is None or ours.ttft is None:
            return
        mean = change(round_robin.ttft.mean, ours.ttft.mean)
        p99 = change(round_robin.ttft.p99, ours.ttft.p99)
        self._screen.note(
            f"Time to the first token with extproc: mean {mean}, P99 {p99}, measured just now.", "bold"
        )

    async def _watched(self, label: str, traffic: Sequence[PlannedRequest], url: str) -> list[Outcome]:
        """Plays the traffic and shows the pods meanwhile."""
        done: list[Outcome] = []
        states: dict[str, PodState] = {}
        task = asyncio.create_task(play(url, traffic, done.append), name=label)
        try:
            async with aiohttp.ClientSession() as session:
                while not task.done():
                    await asyncio.wait({task}, timeout=LOOK_S)
                    self._servers.check_running()
                    states = await pod_states(session, self._servers.pods, self._servers.service.http)
                    self._screen.update(label, len(done), len(traffic), states)
            outcomes = await task
        finally:
            task.cancel()
            self._screen.close()
        self.failed += failures(outcomes)
        return outcomes
