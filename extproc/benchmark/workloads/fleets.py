"""Replicas of the workloads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from extproc.benchmark.workload import Replica
from extproc.sim.engine import EngineConfig
from extproc.sim.profiles import PROFILES


def fleet(count: int, profile: str, labels: Mapping[str, str] = {}, **options: Any) -> tuple[Replica, ...]:
    """*count* equal replicas; *options* are EngineConfig's, where they are not the profile's or the default."""
    gpu = PROFILES[profile]
    engine = EngineConfig(profile=gpu, **{"num_blocks": gpu.num_blocks, **options})
    return (Replica(engine=engine, labels=dict(labels)),) * count
