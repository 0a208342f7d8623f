"""Agents: many short steps, each on top of one long system prompt and all steps before it (`agents`).

The means are those of Mooncake's tool and agent trace (FAST'25): 8,596 tokens in, 182 out.  The rest is made up to
what agent frameworks do: a handful of agents of unequal popularity, each with 4,000 to 8,000 tokens of instructions and
tools behind a preamble that is common to all.
"""

from __future__ import annotations

from random import Random

from extproc.benchmark.workload import BLOCK_TOKENS, Call
from extproc.benchmark.workloads.arrivals import renewal
from extproc.benchmark.workloads.dialogue import by_time, contents
from extproc.benchmark.workloads.fleets import fleet
from extproc.benchmark.workloads.quantiles import Quantiles
from extproc.benchmark.workloads.spec import WorkloadSpec

PREAMBLE_TOKENS = 1024
AGENT_TOKENS = (4870, 4100, 7930, 5310, 6150, 6720)
"""System prompts with the preamble, the most popular agent first; popularity is Zipf's, 1/rank."""
TASK_TOKENS = Quantiles((0, 60), (0.5, 350), (0.9, 1200), (1, 4000))
TOOL_TOKENS = Quantiles((0, 30), (0.5, 320), (0.9, 1050), (1, 3000))
"""What a step adds: the result of a tool."""
ANSWER_TOKENS = Quantiles((0, 20), (0.25, 60), (0.5, 110), (0.75, 220), (0.9, 400), (0.99, 900), (1, 1500))
CONTINUE = 0.84
"""Chance that another step follows."""
MAX_STEPS = 16
MEAN_STEPS = (1 - CONTINUE**MAX_STEPS) / (1 - CONTINUE)
TOOL_S = Quantiles((0, 0.5), (0.5, 3), (0.9, 12), (1, 40))
"""How long a tool takes."""
TOKEN_S = 0.03
"""Roughly how long an answer's token takes: a step waits for the answer before it.  The calls are an open loop, so
that every policy gets the same ones."""
HISTORY_S = 600.0
"""So long before the run tasks begin; few take longer."""


def calls(key: str, rate: float, duration_s: float) -> list[Call]:
    """Tasks begin more often with the rate; the pace within a task stays as it is."""
    starts = renewal(Random(f"{key}/arrivals"), rate / MEAN_STEPS, HISTORY_S + duration_s)
    steps: list[Call] = []
    for number, start in enumerate(starts):
        steps += _task(Random(f"{key}/{number}"), number, start - HISTORY_S)
    return by_time(steps, duration_s)


def _task(rng: Random, number: int, at_s: float) -> list[Call]:
    ranks = range(1, len(AGENT_TOKENS) + 1)
    agent = rng.choices(range(len(AGENT_TOKENS)), [1 / rank for rank in ranks])[0]
    system = system_blocks(agent)
    steps: list[Call] = []
    prompt = AGENT_TOKENS[agent] + TASK_TOKENS.tokens(rng)
    while True:
        output = ANSWER_TOKENS.tokens(rng)
        steps.append(
            Call(
                at_s=at_s,
                prompt_tokens=prompt,
                output_tokens=output,
                blocks=contents(system, number, prompt + output),
                session=f"task-{number}",
                tenant=f"agent-{agent}",
            )
        )
        if len(steps) == MAX_STEPS or rng.random() >= CONTINUE:
            return steps
        at_s += output * TOKEN_S + TOOL_S.draw(rng)
        prompt += output + TOOL_TOKENS.tokens(rng)


def system_blocks(agent: int) -> tuple[range, range]:
    """The preamble's and the agent's own; a last block that is not full is like no other."""
    preamble = PREAMBLE_TOKENS // BLOCK_TOKENS
    first = (agent + 1) << 12
    return range(preamble), range(first, first + AGENT_TOKENS[agent] // BLOCK_TOKENS - preamble)


SPEC = WorkloadSpec(
    name="agents",
    description="Agents' steps: 6 long system prompts, growing contexts, short answers",
    replicas=fleet(5, "a100-llama-3-8b"),
    calls=calls,
    rate=10.0,
    duration_s=300.0,
    warmup_s=60.0,
)
