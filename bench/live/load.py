"""How busy the machine was during a run: whether the figures are the policies' or the machine's."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil
from msgspec import Struct

from ..programs import cpu_s

WAIT_LIMIT_S = 0.0003
"""For a core, whenever one of our threads has something to do: 0.1 to 0.2 ms where this works well.  A first token
takes ten such turns and more, and those of a busy moment are much later than the mean."""
BUSY_LIMIT = 0.85
"""Of all cores, where the kernel does not tell how long threads wait for one."""
CORE_LIMIT = 0.8
"""Of one core, for a process: ours have one thread each, and a queue forms before one that is busier."""
LATE_LIMIT_S = 0.02
"""For a timer of the client, P99 in real seconds."""


class Load(Struct, frozen=True, kw_only=True):
    """One run.  CPU in cores."""

    wall_s: float
    machine: float
    """Of all cores together, everybody's work (0..1)."""
    cpu: dict[str, float]
    """By role; of the servers all together."""
    busiest: float
    """The busiest process of ours."""
    others: float
    """What is not ours."""
    waited_s: float | None
    """How long our threads waited for a core each time they had something to do, on average; None: unknown."""
    late_p99_s: float
    """How late the client sent."""

    @property
    def too_slow(self) -> str:
        """Why the machine was too slow for a fair result; empty: it was not."""
        if self.waited_s is None and self.machine > BUSY_LIMIT:
            return f"its cores were {self.machine:.0%} busy"
        if self.waited_s is not None and self.waited_s > WAIT_LIMIT_S:
            return f"our threads waited {self.waited_s * 1e3:.1f} ms for a core each time"
        if self.busiest > CORE_LIMIT:
            return f"a process took {self.busiest:.0%} of a core"
        if self.late_p99_s > LATE_LIMIT_S:
            return f"the client was {self.late_p99_s * 1e3:.0f} ms late"
        return ""


class Meter:
    """From its making to `read`."""

    def __init__(self, processes: Mapping[str, Sequence[int]]) -> None:
        """*processes*: pids by role."""
        self._processes = processes
        self._waits = self._scheduled()
        self._begun = time.perf_counter(), _machine(), self._cpu()

    def read(self, late_p99_s: float) -> Load:
        begun_at, (busy_before, all_before), before = self._begun
        wall_s = time.perf_counter() - begun_at
        busy, total = _machine()
        used = {pid: (seconds - before[pid]) / wall_s for pid, seconds in self._cpu().items()}
        machine = (busy - busy_before) / max(total - all_before, 1e-9)
        cpu = {role: sum(used[pid] for pid in pids) for role, pids in self._processes.items()}
        return Load(
            wall_s=wall_s,
            machine=machine,
            cpu=cpu,
            busiest=max(used.values()),
            others=max(0.0, machine * (psutil.cpu_count() or 1) - sum(cpu.values())),
            waited_s=self._waited(),
            late_p99_s=late_p99_s,
        )

    def _waited(self) -> float | None:
        waited_ns, turns = (
            after - before for after, before in zip(self._scheduled(), self._waits, strict=True)
        )
        return waited_ns / 1e9 / turns if turns else None

    def _scheduled(self) -> tuple[int, int]:
        """(ns waited for a core, turns on one) of all threads so far; zeros where the kernel does not tell."""
        waited_ns = turns = 0
        for pid in (pid for pids in self._processes.values() for pid in pids):
            for file in Path(f"/proc/{pid}/task").glob("*/schedstat"):
                with contextlib.suppress(OSError):  # a thread that has just ended
                    _, waited, begun = map(int, file.read_text().split())
                    waited_ns, turns = waited_ns + waited, turns + begun
        return waited_ns, turns

    def _cpu(self) -> dict[int, float]:
        return {pid: cpu_s(pid) for pids in self._processes.values() for pid in pids}


def _machine() -> tuple[float, float]:
    """(busy, all) CPU seconds since it was started; what a hypervisor took from it counts as busy."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    total = sum(times[:8])  # without guest time, which is in user time too
    return total - idle, total
