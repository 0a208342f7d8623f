"""Unequal replicas of models of one size (`mixed-gpus`)."""

from __future__ import annotations

from extproc.benchmark.workloads import azure
from extproc.benchmark.workloads.fleets import fleet
from extproc.benchmark.workloads.spec import WorkloadSpec

SPEC = WorkloadSpec(
    name="mixed-gpus",
    description="Azure's chats on 2 H100, 2 A100 and 2 A40 with models of 7 to 8 billion parameters",
    replicas=(
        *fleet(2, "h100-llama-2-7b", labels={"gpu": "h100"}),
        *fleet(2, "a100-llama-3-8b", labels={"gpu": "a100"}),
        *fleet(2, "a40-llama-2-7b", labels={"gpu": "a40"}),
    ),
    calls=azure.conversation,
    rate=20.0,
    duration_s=300.0,
    warmup_s=30.0,
)
