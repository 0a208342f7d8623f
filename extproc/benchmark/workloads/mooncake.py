"""Long chats over documents, after Mooncake's conversation trace (`mooncake-conv`; Kimi, FAST'25).

Computed from the published hour (12,031 requests, blocks of 512 tokens): the first block is the same for all of them;
a cache without limits would hit 37 % of the prompt tokens; 42 % of the requests find half of their prompt or more;
34 % extend an earlier prompt by more than two blocks, 42/126/266/486/1,482 s after it (P10, P50, P75, P90, P99).

Two differences.  What does not fit in 32,768 tokens is not sent (longer first prompts are drawn again, a dialogue that
would grow beyond ends), which takes the mean prompt from 12,035 to about 9,000 tokens.  And times are even where the
trace has them in steps of 3 s.
"""

from __future__ import annotations

from random import Random

from extproc.benchmark.workload import Call
from extproc.benchmark.workloads.arrivals import renewal
from extproc.benchmark.workloads.dialogue import by_time, contents
from extproc.benchmark.workloads.fleets import fleet
from extproc.benchmark.workloads.quantiles import (
    MOONCAKE_GAP_S,
    MOONCAKE_INPUT,
    MOONCAKE_OUTPUT,
    Quantiles,
)
from extproc.benchmark.workloads.spec import WorkloadSpec

MAX_TOKENS = 32_768
SYSTEM = (range(32),)
"""The universal first block of 512 tokens."""
CONTINUE = 0.38
"""Chance that another turn follows."""
MEAN_TURNS = 1.59
"""Of a dialogue, with what MAX_TOKENS cuts off."""
HISTORY_S = 3000.0
"""So long before the run dialogues begin: at its start there are as many open ones as later."""
USER_TEXT = Quantiles((0, 20), (0.5, 250), (0.8, 900), (0.95, 6000), (1, 20_000))
"""Tokens of a later turn: mostly a question, sometimes another document."""


def calls(key: str, rate: float, duration_s: float) -> list[Call]:
    """Dialogues begin more often with the rate; the time between their turns stays as it is: people's."""
    starts = renewal(Random(f"{key}/arrivals"), rate / MEAN_TURNS, HISTORY_S + duration_s)
    turns: list[Call] = []
    for number, start in enumerate(starts):
        turns += _dialogue(Random(f"{key}/{number}"), number, start - HISTORY_S)
    return by_time(turns, duration_s)


def _dialogue(rng: Random, number: int, at_s: float) -> list[Call]:
    turns: list[Call] = []
    prompt = MOONCAKE_INPUT.tokens(rng, MAX_TOKENS - 2000)
    while True:
        output = MOONCAKE_OUTPUT.tokens(rng)
        total = prompt + output
        if total > MAX_TOKENS:
            return turns
        turns.append(
            Call(
                at_s=at_s,
                prompt_tokens=prompt,
                output_tokens=output,
                blocks=contents(SYSTEM, number, total),
                session=f"dialogue-{number}",
            )
        )
        if rng.random() >= CONTINUE:
            return turns
        at_s += MOONCAKE_GAP_S.draw(rng)
        prompt = total + USER_TEXT.tokens(rng)


SPEC = WorkloadSpec(
    name="mooncake-conv",
    description="Mooncake's chats over documents: prompts of 9,000 tokens, a third of them seen before",
    # 8-bit KV cache: twice the blocks.  At full load a replica's cache then holds the last minute or two.
    replicas=fleet(4, "h100x8-llama-2-70b", num_blocks=160_000),
    calls=calls,
    rate=5.0,
    duration_s=900.0,
    warmup_s=300.0,
)
