"""Small worlds for the routing simulator, whose times can be counted by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, TypeVar

from extproc.benchmark.baselines import Blind
from extproc.benchmark.simulation import World
from extproc.benchmark.workload import Call, Replica, Workload
from extproc.engine_metrics import EngineMetrics
from extproc.sim.engine import EngineConfig
from extproc.sim.profiles import GpuProfile

SECOND_A_STEP = GpuProfile(base_s=1.0, token_s=0.0, context_s=0.0, sequence_s=0.0, num_blocks=0)
"""An iteration takes a second, whatever is in it: a prompt of up to 2,048 tokens one, each token of an answer one."""


def replica(**options: Any) -> Replica:
    return Replica(engine=EngineConfig(**{"profile": SECOND_A_STEP, "num_blocks": 1000, **options}))


def call(at_s: float = 0.0, prompt: int = 16, output: int = 1, **more: Any) -> Call:
    return Call(at_s=at_s, prompt_tokens=prompt, output_tokens=output, **more)


def workload(*calls: Call, replicas: Sequence[Replica] = (replica(),), **more: Any) -> Workload:
    options = {"duration_s": 10.0, **more}
    return Workload(name="by hand", replicas=tuple(replicas), calls=calls, **options)


class Scripted:
    """A policy that does what it is told, and notes what it is told of."""

    def __init__(
        self,
        *targets: int,
        scrape_interval_s: float | None = None,
        refused: Sequence[int] = (),
        held_s: float = 0.0,
        lost: Sequence[int] = (),
    ) -> None:
        """*targets*: the replica of each call, the last one's also of those beyond.  *held_s*: how long they wait
        with the policy.  *lost*: calls that it forgets."""
        self.scrape_interval_s = scrape_interval_s
        self._targets = targets or (0,)
        self._refused, self._lost, self._held_s = refused, lost, held_s
        self._held: list[int] = []
        self.arrivals: list[tuple[int, float]] = []
        self.ends: list[tuple[int, int, float]] = []
        self.pages: list[tuple[int, EngineMetrics, float]] = []

    def start(self, world: World) -> None:
        self._world = world

    def arrived(self, call: int, now: float) -> None:
        self.arrivals.append((call, now))
        if call in self._refused:
            self._world.refuse(call, now)
        elif self._held_s:
            self._held.append(call)
            self._world.wake_at(now + self._held_s)
        elif call not in self._lost:
            self._send(call, now)

    def _send(self, call: int, now: float) -> None:
        self._world.send(call, self._targets[min(call, len(self._targets) - 1)], now)

    def ended(self, call: int, replica: int, now: float) -> None:
        self.ends.append((call, replica, now))

    def scraped(self, replica: int, page: EngineMetrics, now: float) -> None:
        self.pages.append((replica, page, now))

    def woke(self, now: float) -> None:
        self._send(self._held.pop(0), now)


P = TypeVar("P", bound=Blind)


def begun(policy: P, *calls: Call, replicas: Sequence[Replica] | int = 3) -> P:
    """In a world of *calls*."""
    fleet = (replica(),) * replicas if isinstance(replicas, int) else replicas
    policy.start(World(workload(*(calls or (call(),)), replicas=fleet), policy))
    return policy


def choices(policy: Blind, number: int, call: int = 0) -> Counter[int]:
    return Counter(policy.choose(call, 0.0) for _ in range(number))
