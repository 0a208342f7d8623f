"""The Azure LLM inference trace of 2023: chats (`azure-conv`) and code completions (`azure-code`).

Two hours of two services, published with Splitwise (ISCA'24): times and lengths, no contents; so nothing is shared
between the prompts here, and only balance counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

from extproc.benchmark.workload import Call
from extproc.benchmark.workloads.arrivals import bursts, follow, renewal
from extproc.benchmark.workloads.fleets import fleet
from extproc.benchmark.workloads.quantiles import (
    AZURE_CODE_INPUT,
    AZURE_CODE_OUTPUT,
    AZURE_CONV_INPUT,
    AZURE_CONV_OUTPUT,
)
from extproc.benchmark.workloads.spec import WorkloadSpec

CONV_CV = 1.1
"""Of the intervals between chats (measured 1.09; a gamma law of shape 0.87 fits)."""


def conversation(key: str, rate: float, duration_s: float) -> list[Call]:
    """Chats: 1,155 tokens in and 211 out in the mean, intervals a little burstier than Poisson's."""
    return chats(key, renewal(Random(f"{key}/arrivals"), rate, duration_s, CONV_CV))


def chats(key: str, times: Iterable[float]) -> list[Call]:
    """Calls with the lengths of Azure's chats at these times."""
    rng = Random(f"{key}/lengths")
    return [
        Call(
            at_s=at_s,
            prompt_tokens=AZURE_CONV_INPUT.tokens(rng),
            output_tokens=AZURE_CONV_OUTPUT.tokens(rng),
        )
        for at_s in times
    ]


def code(key: str, rate: float, duration_s: float) -> list[Call]:
    """Completions: 2,048 tokens in and 28 out in the mean; flurries at many times the mean rate, then silence."""
    rng = Random(f"{key}/lengths")
    even = renewal(Random(f"{key}/arrivals"), rate, duration_s)
    return [
        Call(
            at_s=at_s,
            prompt_tokens=AZURE_CODE_INPUT.tokens(rng),
            output_tokens=AZURE_CODE_OUTPUT.tokens(rng),
        )
        for at_s in follow(bursts(Random(f"{key}/bursts"), duration_s), even, duration_s)
    ]


CONV = WorkloadSpec(
    name="azure-conv",
    description="Azure's chats: medium prompts, answers of about 100 or 400 tokens, nothing shared",
    replicas=fleet(5, "a100-llama-3-8b"),
    calls=conversation,
    rate=24.0,
    duration_s=300.0,
    warmup_s=30.0,
)
CODE = WorkloadSpec(
    name="azure-code",
    description="Azure's code completions: bursts at up to 25 times the mean rate, tiny answers, nothing shared",
    replicas=fleet(5, "a100-llama-3-8b"),
    calls=code,
    rate=1.5,
    duration_s=1800.0,
    warmup_s=30.0,
)
