"""Warm-up, quiet, churn, quiet; and what was seen meanwhile."""

from __future__ import annotations

import asyncio
import collections
import random
from collections.abc import Awaitable, Callable
from tracemalloc import Snapshot, StatisticDiff
from typing import Any

from msgspec import Struct

from .churn import EVENTS, settle
from .clients import CLIENTS, EXPECTED
from .plan import Plan
from .reading import Reading, Sample, lowest, take
from .town import Town

MOST_AT_ONCE = 200
"""Clients; those that come when a pod hangs wait for it."""
CYCLE_S = 60.0
"""Longer than everything once takes on a machine that is busy."""
READINGS = 5
PAUSE_S = 0.2


class Outcome(Struct, kw_only=True):
    before: Reading
    after: Reading
    samples: list[Sample]
    told: dict[str, dict[str, int]]
    """How it went, by client."""
    events: dict[str, int]
    kinds: dict[str, int]
    """How many objects more of each type there are in the end, of those that became more."""
    faults: list[str]
    """What the service logged as its own."""
    grown: list[StatisticDiff]
    """Where what is held in the end was allocated, the most first; without `trace`, nothing."""


class Soak:
    """One run."""

    def __init__(self, plan: Plan, town: Town, say: Callable[[str], object]) -> None:
        self._plan = plan
        self._town = town
        self._say = say
        self._told: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        self._events: collections.Counter[str] = collections.Counter()
        self._samples: list[Sample] = []
        self._all_clients = asyncio.Event()
        """Each was sent once."""
        self._all_events = asyncio.Event()
        self._faults: list[Exception] = []
        """Of clients and events themselves."""

    async def run(self) -> Outcome:
        plan, town, loop = self._plan, self._town, asyncio.get_running_loop()
        self._say(f"warming up, {plan.warm_up_s:g} s")
        town.rolls_until = loop.time() + (plan.warm_up_s if plan.rolls_until_s else 0.0)
        await self._bustle(plan.warm_up_s, everything=True)
        before, kinds = await self._quiet()
        first = self._trace()
        self._say(f"churn, {plan.churn_s:g} s")
        town.rolls_until = loop.time() + plan.rolls_until_s
        async with asyncio.TaskGroup() as group:
            sampling = group.create_task(self._sample())
            await self._bustle(plan.churn_s)
            sampling.cancel()
        after, kinds_after = await self._quiet()
        last = self._trace()
        more = {kind: count - kinds.get(kind, 0) for kind, count in kinds_after.items()}
        return Outcome(
            before=before,
            after=after,
            samples=self._samples,
            told={name: dict(counts) for name, counts in sorted(self._told.items())},
            events=dict(self._events),
            kinds={kind: count for kind, count in more.items() if count > 0},
            faults=town.service.faults(),
            grown=last.compare_to(first, "traceback") if first and last else [],
        )

    def _trace(self) -> Snapshot | None:
        file = self._town.service.trace_file
        return Snapshot.load(str(file)) if file.exists() else None

    async def _bustle(self, seconds: float, *, everything: bool = False) -> None:
        """Clients and events for so long, and until there was *everything*; when it returns, all of them are over."""
        begun: set[asyncio.Task[Any]] = set()
        works = [self._send_clients(begun), self._make_events(begun), self._restart_envoys(seconds)]
        tasks = [asyncio.create_task(work) for work in works]
        await asyncio.sleep(seconds)
        if everything:
            async with asyncio.timeout(CYCLE_S):
                await self._all_clients.wait()
                await self._all_events.wait()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled():
                task.result()
        if begun:
            await asyncio.wait(begun, timeout=self._plan.drain_s)
        for task in begun:
            task.cancel()
        if begun:
            await asyncio.wait(begun)
        if self._faults:
            raise ExceptionGroup("clients or events failed", self._faults)

    async def _send_clients(self, begun: set[asyncio.Task[Any]]) -> None:
        rng = random.Random(self._plan.seed)
        clients = [client for client, count in CLIENTS.items() for _ in range(count)]
        while True:
            for client in rng.sample(clients, len(clients)):
                await asyncio.sleep(rng.expovariate(self._plan.rate))
                if len(begun) < MOST_AT_ONCE:
                    told = self._told[client.__name__]
                    _begin(self._tally(client(self._town, random.Random(rng.random())), told), begun)
            self._all_clients.set()

    async def _make_events(self, begun: set[asyncio.Task[Any]]) -> None:
        rng, every_s = random.Random(self._plan.seed + 1), self._plan.churn_every_s
        while True:
            for event in rng.sample(EVENTS, len(EVENTS)):
                lasts_s = every_s * rng.uniform(0.5, 2.0)
                happening = event(self._town, random.Random(rng.random()), lasts_s)
                _begin(self._tally(happening, self._events, event.__name__), begun)
                await asyncio.sleep(every_s)
            self._all_events.set()

    async def _tally(
        self, work: Awaitable[object], told: collections.Counter[str], name: str | None = None
    ) -> None:
        """Count what comes of *work*: by *name*, or by what it answers."""
        try:
            answered = await work
            told[name or str(answered)] += 1
        except EXPECTED as error:
            told[type(error).__name__] += 1
        except Exception as error:
            self._faults.append(error)

    async def _restart_envoys(self, seconds: float) -> None:
        count = self._plan.envoy_restarts
        for number in range(count):
            await asyncio.sleep(seconds / (count + 1))
            await asyncio.shield(asyncio.ensure_future(self._town.restart_envoy(number % 2)))
            self._events["envoy_is_killed"] += 1

    async def _sample(self) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        while True:
            await asyncio.sleep(self._plan.sample_s)
            reading, _ = await take(self._town)
            self._samples.append(Sample(loop.time() - begun, reading))

    async def _quiet(self) -> tuple[Reading, dict[str, int]]:
        """What is held once nobody asks for anything any more."""
        self._say(f"quiet, {self._plan.quiet_s:g} s")
        await settle(self._town)
        deadline = asyncio.get_running_loop().time() + self._plan.drain_s
        while _serves((await take(self._town))[0], deadline):  # noqa: ASYNC110 - what ends knows of no event
            await asyncio.sleep(PAUSE_S)
        await asyncio.sleep(self._plan.quiet_s)
        readings = []
        for _ in range(READINGS):
            reading, kinds = await take(self._town)
            readings.append(reading)
            await asyncio.sleep(PAUSE_S)
        return lowest(readings), kinds


def _serves(reading: Reading, deadline: float) -> bool:
    """Whether somebody is still served, who may be waited for."""
    serving = reading.streams or reading.in_flight or reading.held
    return bool(serving) and asyncio.get_running_loop().time() < deadline


def _begin(work: Awaitable[Any], begun: set[asyncio.Task[Any]]) -> None:
    task: asyncio.Task[Any] = asyncio.ensure_future(work)
    begun.add(task)
    task.add_done_callback(begun.discard)
