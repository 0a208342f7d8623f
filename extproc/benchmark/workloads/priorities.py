"""More work than the fleet can do, of unequal weight, and one greedy tenant (`priorities`)."""

from __future__ import annotations

from random import Random

import msgspec

from extproc.benchmark.workload import Call
from extproc.benchmark.workloads import azure
from extproc.benchmark.workloads.fleets import fleet
from extproc.benchmark.workloads.spec import WorkloadSpec

CRITICALITY = {1: 0.2, 0: 0.5, -1: 0.3}
"""Shares of Critical, Standard and Sheddable calls, the same for every tenant."""
GREEDY = "greedy"
GREEDY_SHARE = 0.5
TENANTS = tuple(f"tenant-{letter}" for letter in "abcde")
"""They have the rest in equal shares."""


def calls(key: str, rate: float, duration_s: float) -> list[Call]:
    """Azure's chats with a tenant and a criticality each."""
    chats = azure.conversation(key, rate, duration_s)
    share = (1 - GREEDY_SHARE) / len(TENANTS)
    tenants = Random(f"{key}/tenants").choices(
        (GREEDY, *TENANTS), (GREEDY_SHARE, *(share for _ in TENANTS)), k=len(chats)
    )
    priorities = Random(f"{key}/priorities").choices(
        tuple(CRITICALITY), tuple(CRITICALITY.values()), k=len(chats)
    )
    return [
        msgspec.structs.replace(chat, tenant=tenant, priority=priority)
        for chat, tenant, priority in zip(chats, tenants, priorities, strict=True)
    ]


SPEC = WorkloadSpec(
    name="priorities",
    description="Azure's chats beyond capacity: 20 % Critical, 30 % Sheddable, one tenant with half of the calls",
    replicas=fleet(5, "a100-llama-3-8b"),
    calls=calls,
    rate=45.0,
    duration_s=180.0,
    warmup_s=30.0,
)
