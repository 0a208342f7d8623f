"""A fleet at work: what its endpoints were sent, what they told, and what they have cached."""

from __future__ import annotations

import random
from collections.abc import Sequence

from msgspec.structs import replace

from extproc.config import parse_config
from extproc.endpoint import Endpoint
from extproc.engine_metrics import EngineMetrics
from extproc.fleet import Fleet
from extproc.flight import Answered, Flight, Watcher
from extproc.request import CHECKPOINTS, InferenceRequest, Prompt
from extproc.router import Decision
from extproc.speed import MIN_BUSY_S

PROMPT_TOKENS = 8_000
PROMPT_CHECKPOINTS = sum(position <= PROMPT_TOKENS for position in CHECKPOINTS)
SYSTEM_CHECKPOINTS = 16
"""Every prompt begins with one of a few system prompts, which all endpoints have."""
SYSTEM_PROMPTS = 3
CONVERSATIONS = 12
"""That each endpoint has, as many as fit into its cache of KV_BLOCKS."""
IN_FLIGHT = 8
BLOCK_SIZE, KV_BLOCKS = 16, 8_000
SCRAPE_S = 1.0
SCRAPES = int(2 * MIN_BUSY_S / SCRAPE_S)
"""Until its speed is known."""

_DEAF = Watcher(lambda *_: None, lambda *_: None)


class BusyFleet:
    """*count* endpoints in one pool; the same at every call."""

    def __init__(self, count: int) -> None:
        self._rng = random.Random(1)
        self._fleet = Fleet()
        addresses = ", ".join(f"10.{i // 65536}.{i // 256 % 256}.{i % 256}:8000" for i in range(count))
        text = f"{{pools: [{{name: p, endpoints: [{addresses}]}}], models: [{{name: m, pool: p}}]}}"
        self.router = self._fleet.apply(parse_config(text.encode()))
        self.pool = self.router.pools["p"]
        self.endpoints = self.pool.endpoints
        self.now = 0.0
        self._systems = [self._hashes(SYSTEM_CHECKPOINTS) for _ in range(SYSTEM_PROMPTS)]
        self._conversations: list[tuple[int, ...]] = []
        for _ in range(CONVERSATIONS):
            self._talk()
        for number in range(SCRAPES):
            self._scrape(number)
        for endpoint in self.endpoints:
            for _ in range(self._rng.randrange(IN_FLIGHT)):
                self._send(endpoint, self.prompts(1)[0])

    def prompts(self, count: int) -> list[Prompt]:
        """Every other goes on with a conversation that an endpoint has, the rest are new after the system prompt."""
        return [
            Prompt(PROMPT_TOKENS, self._rng.choice(self._conversations) if number % 2 else self._begun())
            for number in range(count)
        ]

    def decisions(self, prompts: Sequence[Prompt]) -> list[Decision]:
        return [
            self.router.decide(InferenceRequest({}, "m", prompt=prompt), self.now, self._rng)
            for prompt in prompts
        ]

    def fly(self, decision: Decision) -> None:
        """A request from its decision to its end."""
        work = replace(decision.work)  # it lets go of its hashes
        flight = Flight(self.pool, decision.endpoint, _DEAF, work, self.now)
        flight.answered(Answered(200, served=decision.endpoint.address), self.now)
        flight.end(self.now)

    def _begun(self) -> tuple[int, ...]:
        return self._rng.choice(self._systems) + self._hashes(PROMPT_CHECKPOINTS - SYSTEM_CHECKPOINTS)

    def _hashes(self, count: int) -> tuple[int, ...]:
        return tuple(self._rng.getrandbits(64) for _ in range(count))

    def _talk(self) -> None:
        """Each endpoint serves one conversation more."""
        for endpoint in self.endpoints:
            conversation = self._begun()
            self._conversations.append(conversation)
            self._send(endpoint, Prompt(PROMPT_TOKENS, conversation)).end(self.now)

    def _send(self, endpoint: Endpoint, prompt: Prompt) -> Flight:
        request = InferenceRequest({}, "m", prompt=prompt, target_model="m")
        self.pool.match(request)
        return Flight(self.pool, endpoint, _DEAF, self.pool.work(request, endpoint), self.now)

    def _scrape(self, number: int) -> None:
        rng = self._rng
        self.now += SCRAPE_S
        for endpoint in self.endpoints:
            before = endpoint.metrics
            steps = (before.iterations_total or 0.0) if before else 0.0
            prompts = (before.prompt_tokens_total or 0.0) if before else 0.0
            page = EngineMetrics(
                waiting=rng.randrange(3),
                running=rng.randrange(1, 40),
                kv_cache_usage=rng.random(),
                max_loras=4,
                block_size=BLOCK_SIZE,
                num_gpu_blocks=KV_BLOCKS,
                prompt_tokens_total=prompts + rng.randrange(2500),
                generation_tokens_total=2000.0 * number,
                requests_finished_total=10.0 * number,
                prefix_cache_hits_total=0.0,
                iterations_total=steps + rng.randrange(20, 45),
            )
            self._fleet.scraped(endpoint.address, page, self.now)
