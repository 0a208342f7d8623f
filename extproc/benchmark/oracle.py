"""A bound: the same rule as ours, by one who knows each replica's true state at this instant, and all lengths."""

from __future__ import annotations

from extproc.benchmark.baselines import Blind
from extproc.benchmark.workload import Call
from extproc.sim.engine import Engine
from extproc.sim.sequence import Phase, Sequence


class Oracle(Blind):
    """Where the prompt work ahead and the request's own, times the requests there, is least.

    No router can know this: what is computed at this instant, what is in the caches, when answers will end.
    """

    def choose(self, call: int, now: float) -> int:
        what = self.world.call(call)
        costs = []
        for engine in self.world.engines:
            engine.catch_up(now)
            costs.append(_cost(engine, what))
        least = min(costs)
        return self.rng.choice([replica for replica, cost in enumerate(costs) if cost == least])


def _cost(engine: Engine, call: Call) -> float:
    """Seconds of waiting, times the requests that wait, times how long a step takes them: slow replicas cost more."""
    config, scheduler = engine.config, engine.scheduler
    queue = [*scheduler.waiting, *scheduler.deferred]
    ahead = sum(
        _left(each) for each in (*queue, *scheduler.running.values()) if each.phase is not Phase.DECODE
    )
    new = max(16, call.prompt_tokens - engine.cached_tokens(call.prompt_tokens, call.blocks, call.lora))
    profile = config.profile
    step_s = profile.step_s(scheduler.decoding.size, scheduler.decoding.context, scheduler.decoding.size)
    token_s = profile.token_s + step_s / config.token_budget
    wait_s = (ahead + new) * token_s / config.speed
    wait_s += _memory_wait_s(engine, sum(_left(each) for each in queue) + new, step_s / config.speed)
    if call.lora is not None and not scheduler.adapters.has_slot(call.lora):
        wait_s += _slot_wait_s(engine, step_s / config.speed)
    return wait_s * (engine.num_running + engine.num_waiting + 1) * step_s


def _left(sequence: Sequence) -> int:
    """Tokens to compute before it decodes."""
    return sequence.target - sequence.computed


def _memory_wait_s(engine: Engine, tokens: int, step_s: float) -> float:
    """Until answers have ended that hold what *tokens* lack."""
    missing = tokens - engine.free_blocks * engine.config.block_size
    if missing <= 0:
        return 0.0
    ends = sorted((_to_come(each), each.target) for each in engine.scheduler.running.values())
    for steps, freed in ends:
        missing -= freed
        if missing <= 0:
            return steps * step_s
    return max((steps for steps, _ in ends), default=0) * step_s


def _slot_wait_s(engine: Engine, step_s: float) -> float:
    """Until the first adapter in use has no request left."""
    last: dict[str, int] = {}
    for sequence in engine.scheduler.running.values():
        lora = sequence.request.lora
        if lora is not None:
            last[lora] = max(last.get(lora, 0), _to_come(sequence))
    return (min(last.values(), default=0) + len(engine.scheduler.deferred)) * step_s


def _to_come(sequence: Sequence) -> int:
    """Tokens of its answer, at most."""
    return sequence.request.output_tokens - sequence.generated
