"""Faults where no request waits: the service goes on, says so, and does not fill the log."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from msgspec.json import decode

from extproc import logs
from extproc.faults import Faults
from extproc.fleet import Fleet
from extproc.metrics import Metrics


class Told:
    """The lines of a `Faults`, whose clock stands at `now`."""

    def __init__(self, file: Path) -> None:
        self.now = 0.0
        self._file = file
        self._writer = logs.LineWriter(os.open(file, os.O_WRONLY | os.O_CREAT))
        self._metrics = Metrics(Fleet(), lambda: self.now, "1")
        self.faults = Faults(self._metrics, logs.configure(self._writer, "info", "json"), lambda: self.now)

    def lines(self) -> list[dict[str, Any]]:
        self._writer.close()
        return [decode(line) for line in self._file.read_text().splitlines()]

    @property
    def counted(self) -> float | None:
        return self._metrics.registry.get_sample_value("extproc_internal_errors_total")


@pytest.fixture
def told(tmp_path: Path) -> Told:
    return Told(tmp_path / "log")


async def test_a_task_that_fails_begins_anew(told: Told) -> None:
    outcomes = [OSError(24, "Too many open files"), RuntimeError("can't start new thread"), None]

    async def work() -> None:
        if (outcome := outcomes.pop(0)) is not None:
            raise outcome

    await told.faults.survive("config reload", work, again_s=0.0)
    assert outcomes == []
    assert told.counted == 2
    lines = told.lines()
    assert [(line["event"], line["task"]) for line in lines] == [("task_fault", "config reload")] * 2
    assert "Too many open files" in lines[0]["exception"]


async def test_a_task_that_is_cancelled_ends(told: Told) -> None:
    running = asyncio.create_task(told.faults.survive("housekeeping", asyncio.Event().wait))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert told.lines() == []


async def test_the_loops_faults_of_one_kind_are_told_once_a_second_and_all_counted(told: Told) -> None:
    loop = asyncio.get_running_loop()
    for now in (0.0, 0.1, 0.9, 1.0):
        told.now = now
        told.faults.of_loop(loop, {"message": "accept", "exception": OSError(24, "Too many open files")})
        told.faults.of_loop(loop, {"message": "other", "exception": ValueError("x")})
    assert told.counted == 8
    seen = [(line["message"], line["unreported"]) for line in told.lines()]
    assert seen == [("accept", 0), ("other", 0), ("accept", 2), ("other", 2)]
