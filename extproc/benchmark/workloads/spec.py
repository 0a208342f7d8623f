"""A workload by name: its fleet, its defaults and how its calls are made."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct

from extproc.benchmark.workload import Call, Replica, Workload


class WorkloadSpec(Struct, frozen=True, kw_only=True):
    """Everything but the seed."""

    name: str
    description: str
    """One line."""
    replicas: tuple[Replica, ...]
    calls: Callable[[str, float, float], Sequence[Call]]
    """From a seed key, the rate and the duration: calls in the order of `at_s`, which is in [0, duration).

    The same key gives the same calls at every rate (their lengths, contents and order), only closer together or
    more of them at a time; so runs at two rates differ by the rate and not by luck.
    """
    rate: float
    """Calls a second where a search for the capacity may start; of a closed loop, how many clients."""
    duration_s: float
    warmup_s: float
    closed: bool = False

    def make(
        self,
        seed: int,
        rate: float | None = None,
        duration_s: float | None = None,
        warmup_s: float | None = None,
    ) -> Workload:
        """The workload of a seed; None: the default.  `warmup_s` is a part of `duration_s`."""
        rate = self.rate if rate is None else rate
        duration_s = self.duration_s if duration_s is None else duration_s
        warmup_s = min(self.warmup_s, duration_s / 2) if warmup_s is None else warmup_s
        if rate <= 0 or duration_s <= 0 or not 0 <= warmup_s < duration_s:
            raise ValueError("rate and duration_s must be positive, and warmup_s less than duration_s")
        return Workload(
            name=self.name,
            replicas=self.replicas,
            calls=self.calls(f"{self.name}/{seed}", rate, duration_s),
            duration_s=duration_s,
            warmup_s=0.0 if self.closed else warmup_s,
            concurrency=round(rate) if self.closed else None,
        )
