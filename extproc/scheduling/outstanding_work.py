"""The scorer that the built-in default rests on: where does this request cost everybody the least time?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median_low
from typing import Annotated, ClassVar

from msgspec import Meta, Struct
from msgspec.structs import replace

from ..endpoint import NO_LORAS, Endpoint
from ..request import InferenceRequest
from .plugin import Plugin, Weight, fill_loads, known_loads, prefer_low

LEAST_TOKENS = 64
"""A request costs at least this many prompt tokens: an iteration is made for it however much of it is cached."""
KV_WATCHED = 0.7
"""Below this usage of its KV cache nobody waits for memory at an endpoint: answers grow slowly."""
KV_ROOM = 0.98
"""Usage up to which prompts are admitted; engines keep a little back for answers that grow."""
KV_BLUR = 0.02
"""Share of the KV cache by which we may be wrong about what is free."""
UNKNOWN_OUTPUT = 200.0
"""Length of an answer where no counter has told yet: the mean of public chat traces (Azure 2023: 211)."""
SLOT_WAIT_ANSWERS = 1.0
"""How many answers' times it takes until a LoRA slot is free where all are in use."""
LOAD_S = 0.05
"""Loading an adapter that is in the host's memory, while every running request waits."""


class Cost(Struct, frozen=True):
    """What an endpoint's cost is made of."""

    new_tokens: float
    """Of the request's prompt, those that it would have to compute."""
    ahead_tokens: float
    """Of other prompts, those that it computes first."""
    token_s: float
    """Seconds for each of both."""
    kv_wait_s: float
    lora_wait_s: float
    requests: float
    """That wait for this one, or it for them; itself counted in."""
    slowness: float
    cost_s: float
    """((new + ahead) x token_s + waits) x requests x slowness; of an unknown endpoint at least the others' median."""

    @property
    def is_raised(self) -> bool:
        """To the others' median, as nothing is known of the endpoint."""
        waits_s = (self.new_tokens + self.ahead_tokens) * self.token_s + self.kv_wait_s + self.lora_wait_s
        return self.cost_s > waits_s * self.requests * self.slowness * 1.001  # rounding is far below


class OutstandingWorkScorer(Plugin, frozen=True, tag="outstanding-work"):
    """Prefers the endpoint where (prompt work ahead of the request and its own) x (requests there) is least.

    LMetric (arXiv 2603.15202): prompt tokens to compute are the request's own wait, and every request in the batch
    waits for them too.  What is cached there need not be computed, so that prefix affinity, balance and interference
    are one figure without weights to tune.  Tokens count in seconds of the endpoint's measured speed; waiting for KV
    memory or for a LoRA slot adds to them.  An endpoint with more than `load_bound` times the mean load gets nothing
    for what it has cached: affinity makes nobody worse off than that.  One of which nothing is known never counts as
    better than the median of the others: that it told of no queue and no full cache does not prove that it has none.
    """

    reads_prompt: ClassVar[bool] = True

    load_bound: Annotated[float, Meta(ge=1.0, le=100.0)] = 2.0
    weight: Weight = 1.0

    def score(self, request: InferenceRequest, endpoints: Sequence[Endpoint], now: float) -> list[float]:
        return prefer_low(self.costs(request, endpoints, now))

    def explain(self, request: InferenceRequest, endpoints: Sequence[Endpoint], now: float) -> list[Cost]:
        """What the costs are made of, beside *endpoints*."""
        told: list[Cost] = []
        self.costs(request, endpoints, now, told)
        return told

    def costs(
        self,
        request: InferenceRequest,
        endpoints: Sequence[Endpoint],
        now: float,
        told: list[Cost] | None = None,
    ) -> list[float]:
        """Seconds of waiting, summed over all that wait, beside *endpoints*; *told* gets what they are made of."""
        total, cached = max(request.prompt.tokens, LEAST_TOKENS), request.expected
        adapter = request.target_model if request.is_adapter else None
        known = known_loads(endpoints, now)
        loads: Sequence[float] = fill_loads(known, endpoints, now) if None in known else known  # type: ignore[assignment]
        most = self.load_bound * (sum(loads) / len(loads) + 1.0)
        costs, kv_waits = [], False
        for endpoint, load in zip(endpoints, loads, strict=True):
            new = total
            if cached and load <= most and (hit := cached.get(endpoint)):
                new = max(total - hit, LEAST_TOKENS)
            backlog = endpoint.backlog
            ahead = backlog.tokens - (now - backlog.at) * backlog.rate
            ahead = ahead + backlog.others if ahead > 0.0 else backlog.others
            wait_s = (new + ahead) * endpoint.token_s
            kv_s = lora_s = 0.0
            if endpoint.kv_usage > KV_WATCHED and endpoint.kv_fresh_until > now:
                kv_s = kv_wait_s(endpoint, new + ahead)
                wait_s += kv_s
                kv_waits = True
            if adapter is not None and endpoint.max_loras:
                lora_s = _slot_wait_s(endpoint, adapter, now)
                wait_s += lora_s
            costs.append(wait_s * (load + 1.0) * endpoint.slowness)
            if told is not None:
                token_s, slowness = endpoint.token_s, endpoint.slowness
                told.append(Cost(new, ahead, token_s, kv_s, lora_s, load + 1.0, slowness, costs[-1]))
        if kv_waits and any(endpoint.kv_fresh_until <= now for endpoint in endpoints):
            known = [
                load if e.kv_fresh_until > now else None for e, load in zip(endpoints, known, strict=True)
            ]
        if loads is not known:
            costs = _fill_up(costs, known)
            if told is not None:
                told[:] = [replace(each, cost_s=cost) for each, cost in zip(told, costs, strict=True)]
        return costs


def _fill_up(costs: list[float], loads: Sequence[int | None]) -> list[float]:
    """*costs*, none of an unknown endpoint below the median of the known; unknown are those without a load.

    Where others wait for KV memory, those are unknown, too, whose engines do not tell how much they have left.
    """
    known = [cost for cost, load in zip(costs, loads, strict=True) if load is not None]
    if not known:
        return costs
    least = median_low(known)  # the lower: between two, the median would be above the one that is free
    return [max(cost, least) if load is None else cost for cost, load in zip(costs, loads, strict=True)]


def kv_wait_s(endpoint: Endpoint, tokens: float) -> float:
    """How long prompts of *tokens* wait for KV memory: for answers to end that hold what is missing."""
    metrics = endpoint.metrics
    capacity = metrics.num_gpu_blocks * metrics.block_size if metrics is not None else 0
    if not capacity:
        return 0.0
    blur = KV_BLUR * capacity
    missing = (endpoint.kv_usage - KV_ROOM) * capacity + tokens
    soft = missing if missing > 30 * blur else blur * math.log1p(math.exp(missing / blur))
    return soft / _freed_per_s(endpoint, capacity)


def _freed_per_s(endpoint: Endpoint, capacity: int) -> float:
    """Tokens of KV memory that ending answers free in a second."""
    held = max(endpoint.tokens_in_flight, endpoint.kv_usage * capacity, 1.0)
    return held / answer_s(endpoint)


def answer_s(endpoint: Endpoint) -> float:
    """How long an answer takes to generate there, on average."""
    step_time = endpoint.step_time
    return (step_time.mean_output or UNKNOWN_OUTPUT) * (step_time.step_s or UNKNOWN_STEP_S)


UNKNOWN_STEP_S = 0.03
"""An iteration's time where it was not measured yet: 8B to 70B models on their usual cards take 10 to 60 ms."""


def _slot_wait_s(endpoint: Endpoint, adapter: str, now: float) -> float:
    """Until *adapter* can run: nothing where it does, its loading where a slot is free, else until one becomes free."""
    ours = endpoint.loras_in_flight
    running = endpoint.running_loras if endpoint.fresh_until > now else NO_LORAS
    if adapter in ours or adapter in running:
        return 0.0
    active = len(running.union(ours)) if ours else len(running)
    if active < endpoint.max_loras:
        return LOAD_S
    return LOAD_S + SLOT_WAIT_ANSWERS * answer_s(endpoint) * (active - endpoint.max_loras + 1)
