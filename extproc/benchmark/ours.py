"""Our own deciding core as a policy: the same Router, Pool and Flight as the service, fed with what it would see."""

from __future__ import annotations

import math
import random
from itertools import cycle

from msgspec.structs import replace

from extproc.benchmark.simulation import World, prefix_hashes
from extproc.benchmark.workload import BLOCK_TOKENS
from extproc.config.schema import Config, EndpointConfig, ModelConfig, PoolConfig, TargetConfig
from extproc.endpoint import Endpoint
from extproc.engine_metrics import EngineMetrics
from extproc.errors import Rejected
from extproc.fleet import Fleet
from extproc.flight import Flight, Watcher
from extproc.holding import Lobby
from extproc.pool import Pool
from extproc.request import CHECKPOINTS, InferenceRequest, Prompt
from extproc.router import Decision
from extproc.scheduling.profile import Profile, default_profile

POOL, MODEL = "pool", "model"
TENANT_HEADER = "x-tenant"
ESTIMATE_ERROR = 0.1
"""Standard deviation of the error with which a prompt's tokens are estimated from its bytes."""


class Extproc:
    """One or several routers without shared state; each sees its share of the calls, and every scrape."""

    def __init__(
        self,
        seed: int,
        profile: Profile | None = None,
        routers: int = 1,
        scrape_interval_s: float = 0.2,
        pool: PoolConfig | None = None,
    ) -> None:
        """*pool*: queue, tiers and what else a config says of a pool, but for its profile.  Of its endpoints the
        labels count: each replica has its own, and those of one of them, in turn."""
        self.scrape_interval_s: float | None = scrape_interval_s
        self._profile = profile or default_profile()
        self._pool = pool or PoolConfig(POOL, [])
        self._rng = random.Random(f"extproc/{seed}")
        self._fleets = [Fleet() for _ in range(routers)]
        self._lobbies: list[Lobby[int]] = [Lobby() for _ in range(routers)]
        self._flights: dict[int, Flight] = {}
        self._router_of: dict[int, int] = {}
        self._wakes_at = math.inf

    def start(self, world: World) -> None:
        self._world = world
        self._addresses = [f"10.0.{i // 250}.{i % 250 + 1}:8000" for i in range(len(world.engines))]
        self._replica_of = {address: replica for replica, address in enumerate(self._addresses)}
        config = self._config(world)
        for fleet in self._fleets:
            fleet.apply(config)

    def _config(self, world: World) -> Config:
        labels = cycle([member.labels for member in self._pool.members()] or [{}])
        members: list[str | EndpointConfig] = [
            EndpointConfig(address, {**replica.labels, **more})
            for address, replica, more in zip(self._addresses, world.workload.replicas, labels, strict=False)
        ]
        pool = replace(self._pool, name=POOL, endpoints=members, kubernetes=None, profile=self._profile.name)
        names = {(call.lora or MODEL, call.priority) for call in world.workload.calls}
        models = [
            ModelConfig(_model_name(name, priority), POOL, priority=priority, targets=[TargetConfig(name)])
            for name, priority in sorted(names)
        ]
        return Config([pool], models=models, profiles=[self._profile])

    def arrived(self, call: int, now: float) -> None:
        number = self._rng.randrange(len(self._fleets)) if len(self._fleets) > 1 else 0
        router = self._fleets[number].router
        assert router is not None
        try:
            outcome = self._lobbies[number].offer(router, self._request(call), call, now, self._rng)
        except Rejected:
            self._world.refuse(call, now)
            return
        if isinstance(outcome, Decision):
            self._send(call, number, outcome, now)
        else:
            self._wake()

    def _send(self, call: int, number: int, decision: Decision, now: float) -> None:
        self._router_of[call] = number
        self._flights[call] = Flight(decision.pool, decision.endpoint, _SILENT, decision.work, now)
        self._world.send(call, self._replica_of[decision.endpoint.address], now)

    def _request(self, index: int) -> InferenceRequest:
        call = self._world.call(index)
        estimate = call.prompt_tokens * max(0.5, self._rng.gauss(1.0, ESTIMATE_ERROR))
        prompt = Prompt(round(estimate), prefix_hashes(call, CHECKPOINTS, BLOCK_TOKENS))
        headers = {TENANT_HEADER: call.tenant} if call.tenant else {}
        model = _model_name(call.lora or MODEL, call.priority)
        return InferenceRequest(headers, model, prompt=prompt, body_bytes=4 * call.prompt_tokens)

    def ended(self, call: int, replica: int, now: float) -> None:
        self._flights.pop(call).end(now)
        self._pump(self._router_of.pop(call), now)

    def scraped(self, replica: int, page: EngineMetrics, now: float) -> None:
        for number, fleet in enumerate(self._fleets):
            fleet.scraped(self._addresses[replica], page, now)
            self._pump(number, now)

    def woke(self, now: float) -> None:
        self._wakes_at = math.inf
        for number in range(len(self._fleets)):
            self._pump(number, now)
        self._wake()

    def _pump(self, number: int, now: float) -> None:
        lobby = self._lobbies[number]
        if not len(lobby):
            return
        for ticket, outcome in lobby.pump(now, self._rng):
            call = ticket.content.holder
            if isinstance(outcome, Decision):
                self._send(call, number, outcome, now)
            else:
                self._world.refuse(call, now)

    def _wake(self) -> None:
        """Be woken at the next deadline."""
        deadline = min(
            (at for each in self._lobbies if (at := each.next_deadline()) is not None), default=math.inf
        )
        if deadline < self._wakes_at:
            self._wakes_at = deadline
            self._world.wake_at(deadline)


def _model_name(name: str, priority: int) -> str:
    """What clients write: priorities are the models'."""
    return f"{name}@{priority}"


def _missed(pool: Pool, address: str) -> None:
    raise AssertionError("every replica is in the pool")


def _set_aside(pool: Pool, endpoint: Endpoint, cause: object, pause_s: float) -> None:
    raise AssertionError("no replica fails")


_SILENT = Watcher(_missed, _set_aside)
