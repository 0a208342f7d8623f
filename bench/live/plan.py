"""What is compared, and under which load."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

from extproc.benchmark.baselines import LeastRequest, PowerOfTwo, RoundRobin
from extproc.benchmark.ours import Extproc
from extproc.benchmark.results import LEAST_REQUEST, OURS
from extproc.benchmark.simulation import Policy


class Way(Struct, frozen=True, kw_only=True):
    """One way of spreading the calls, live and simulated."""

    name: str
    slug: str
    bootstrap: str
    balancing: Mapping[str, Any] = {}
    """What Envoy's cluster has in place of the bootstrap's `lb_policy`."""
    simulated: Callable[[int], Policy]
    """The same in the routing simulator, from a seed."""


_FULL_SCAN = {
    "@type": "type.googleapis.com/envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest",
    "selection_method": "FULL_SCAN",
}
"""With `choice_count` alone, however high, Envoy may draw the same host twice and miss the best."""

WAYS = (
    Way(name=OURS, slug="extproc", bootstrap="buffered-override-host", simulated=Extproc),
    Way(
        name=LEAST_REQUEST,
        slug="least-request",
        bootstrap="round-robin",
        balancing={
            "load_balancing_policy": {
                "policies": [
                    {
                        "typed_extension_config": {
                            "name": "envoy.load_balancing_policies.least_request",
                            "typed_config": _FULL_SCAN,
                        }
                    }
                ]
            }
        },
        simulated=LeastRequest,
    ),
    Way(
        name="P2C (Envoy default)",
        slug="p2c",
        bootstrap="round-robin",
        balancing={"lb_policy": "LEAST_REQUEST"},
        simulated=PowerOfTwo,
    ),
    Way(
        name="round robin",
        slug="round-robin",
        bootstrap="round-robin",
        balancing={"lb_policy": "ROUND_ROBIN"},
        simulated=RoundRobin,
    ),
)


class Setting(Struct, frozen=True, kw_only=True):
    """A workload, and how it is replayed; times in the workload's own seconds."""

    workload: str
    rate: float
    """Calls a second: some 80 % of what least-request carries, where policies differ and nothing breaks down."""
    duration_s: float
    warmup_s: float
    """Of `duration_s`."""
    speed: float
    """How many times faster than in the workload everything happens."""


SETTINGS = (
    Setting(workload="azure-conv", rate=28.0, duration_s=22.0, warmup_s=5.0, speed=2.0),
    Setting(workload="agents", rate=12.0, duration_s=27.0, warmup_s=9.0, speed=3.0),
    Setting(workload="mooncake-conv", rate=7.5, duration_s=45.0, warmup_s=10.0, speed=5.0),
)
"""HTTP, Envoy and router take some milliseconds whatever the speed: lower where first tokens come soon.  Two cores are
half idle at these, and two rounds of all take five minutes."""
