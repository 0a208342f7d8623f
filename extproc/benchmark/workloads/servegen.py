"""The sum of unequal clients (`servegen`), as ServeGen (Alibaba, NSDI'26, arXiv 2505.09999) finds production to be.

Short bursts come from a few of the biggest clients; intervals are gamma's or Weibull's, input lengths a lognormal body
with a Pareto tail, output lengths exponential; making the sum at once instead of client by client led to half the
machines needed.  The figures of the 40 clients are made up within what the paper shows; they are the same for every
seed, which gives times and lengths.
"""

from __future__ import annotations

import math
from random import Random

from msgspec import Struct

from extproc.benchmark.workload import BLOCK_TOKENS, Call
from extproc.benchmark.workloads.arrivals import renewal
from extproc.benchmark.workloads.fleets import fleet
from extproc.benchmark.workloads.spec import WorkloadSpec

CLIENTS = 40
ZIPF = 1.2
"""Exponent of the clients' rates: the biggest has a quarter of all calls."""
MAX_INPUT = 16_000
MAX_OUTPUT = 2_000


class Client(Struct, frozen=True):
    name: str
    share: float
    """Of all calls."""
    cv: float
    """Of its intervals."""
    system: range
    """Blocks of its own system prompt."""
    input_median: float
    tail_share: float
    """Of its prompts, how many are from the Pareto tail."""
    output_mean: float


def clients() -> list[Client]:
    """From the biggest to the smallest."""
    rng = Random("servegen/clients")
    weights = [rank**-ZIPF for rank in range(1, CLIENTS + 1)]
    return [
        Client(
            name=f"client-{rank:02}",
            share=weight / sum(weights),
            cv=rng.uniform(2.0, 4.0) if rank <= 4 else rng.uniform(0.8, 1.5),
            system=range(rank << 12, (rank << 12) + rng.choice((0, 16, 32, 64, 128))),
            input_median=math.exp(rng.gauss(math.log(500), 0.6)),
            tail_share=rng.uniform(0.02, 0.08),
            output_mean=rng.uniform(80, 400),
        )
        for rank, weight in enumerate(weights, 1)
    ]


def calls(key: str, rate: float, duration_s: float) -> list[Call]:
    """Each client's own calls, closer together as the rate rises."""
    every: list[Call] = []
    for client in clients():
        times = renewal(Random(f"{key}/{client.name}/arrivals"), rate * client.share, duration_s, client.cv)
        rng = Random(f"{key}/{client.name}/lengths")
        every += [_call(client, at_s, rng) for at_s in times]
    return sorted(every, key=lambda call: call.at_s)


def _call(client: Client, at_s: float, rng: Random) -> Call:
    system_tokens = len(client.system) * BLOCK_TOKENS
    text = client.input_median * (
        3 * rng.paretovariate(2.0) if rng.random() < client.tail_share else rng.lognormvariate(0, 0.7)
    )
    return Call(
        at_s=at_s,
        prompt_tokens=system_tokens + max(8, min(round(text), MAX_INPUT)),
        output_tokens=max(1, min(round(rng.expovariate(1 / client.output_mean)), MAX_OUTPUT)),
        blocks=(client.system,) if client.system else (),
        tenant=client.name,
    )


SPEC = WorkloadSpec(
    name="servegen",
    description="40 clients of very unequal rates, each with its own bursts, lengths and system prompt",
    replicas=fleet(5, "a100-llama-3-8b"),
    calls=calls,
    rate=9.0,
    duration_s=300.0,
    warmup_s=40.0,
)
