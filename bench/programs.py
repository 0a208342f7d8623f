"""The programs that are measured, as child processes."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from extproc.demo.process import ChildProcess
from extproc.demo.service import Service

READY_S = 30.0


class PortProgram(ChildProcess):
    """A module of ours that prints the port it listens on."""

    def __init__(self, module: str, directory: Path, *arguments: str) -> None:
        super().__init__(module, [sys.executable, "-m", module, *arguments], directory)
        self.port = 0

    def start(self) -> None:
        super().start()
        self.port = self.wait_for("its port", self._read_port, READY_S)

    def _read_port(self) -> int | None:
        line = self.out.read_text().partition("\n")
        return int(line[0]) if line[1] else None


def service(directory: Path, endpoints: Sequence[str], metrics: Mapping[str, Any], name: str) -> Service:
    """`extproc serve` with one model over *endpoints*."""
    config = {
        "pools": [{"name": "bench", "endpoints": list(endpoints), "metrics": dict(metrics)}],
        "models": [{"name": "qwq", "pool": "bench", "targets": [{"model": "qwq-32b"}]}],
    }
    return Service(config, directory, "--drain-delay", "0", name=name)


def cpu_s(pid: int) -> float:
    """CPU seconds, user and system, that the process has used."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def rss_bytes(pid: int) -> int:
    return int(psutil.Process(pid).memory_info().rss)
