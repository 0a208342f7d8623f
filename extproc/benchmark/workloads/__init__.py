"""The workloads of the routing benchmark, by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from extproc.benchmark.workloads import (
    agents,
    azure,
    lora,
    mixed_gpus,
    mooncake,
    priorities,
    seed,
    servegen,
    tidal,
)
from extproc.benchmark.workloads.spec import WorkloadSpec

WORKLOADS: Mapping[str, WorkloadSpec] = MappingProxyType(
    {
        spec.name: spec
        for spec in (
            seed.SPEC,
            azure.CONV,
            azure.CODE,
            mooncake.SPEC,
            agents.SPEC,
            lora.SPEC,
            mixed_gpus.SPEC,
            tidal.SPEC,
            servegen.SPEC,
            priorities.SPEC,
        )
    }
)
