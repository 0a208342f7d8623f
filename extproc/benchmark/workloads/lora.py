"""More adapters than slots (`lora`)."""

from __future__ import annotations

from random import Random

import msgspec

from extproc.benchmark.workload import Call
from extproc.benchmark.workloads import azure
from extproc.benchmark.workloads.fleets import fleet
from extproc.benchmark.workloads.spec import WorkloadSpec

ADAPTERS = 32
SLOTS = 4
"""Of each replica (vLLM's --max-loras): 20 in the fleet."""
LOAD_S = 0.25
"""vLLM keeps no more adapters in main memory than it has slots unless told to (--max-cpu-loras), so one that comes back
is read from disk: 100 MB or so, many small tensors.  Reports range from tens of milliseconds to two seconds."""


def calls(key: str, rate: float, duration_s: float) -> list[Call]:
    """Azure's chats, each for one of 32 adapters; popularity is Zipf's (1/rank), as S-LoRA (MLSys'24) and Punica
    assume for adapters."""
    rng = Random(f"{key}/adapters")
    names = [f"adapter-{rank:02}" for rank in range(1, ADAPTERS + 1)]
    chats = azure.conversation(key, rate, duration_s)
    drawn = rng.choices(names, [1 / rank for rank in range(1, ADAPTERS + 1)], k=len(chats))
    return [msgspec.structs.replace(chat, lora=name) for chat, name in zip(chats, drawn, strict=True)]


SPEC = WorkloadSpec(
    name="lora",
    description="Azure's chats over 32 LoRA adapters of unequal popularity, 4 slots a replica",
    replicas=fleet(5, "a100-llama-3-8b", max_loras=SLOTS, lora_load_s=LOAD_S),
    calls=calls,
    rate=5.0,
    duration_s=600.0,
    warmup_s=30.0,
)
