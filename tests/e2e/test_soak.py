"""`make soak` in a quarter of a minute: the service holds nothing back, and a service that does is caught.

Both run at the same time: what they need most of is patience.
"""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
LEAKY = Path(__file__).with_name("leaky_service.py")
BOUND_S = 100.0

pytestmark = [
    pytest.mark.envoy,
    pytest.mark.skipif(sys.platform != "linux", reason="its pods are at many addresses of 127.0.0.0/8"),
]


class Ran(NamedTuple):
    status: int
    said: str
    report: dict[str, Any]

    @property
    def not_back(self) -> set[str]:
        return {name for name, figure in self.report["figures"].items() if not figure["good"]}


async def soak(report: Path, *arguments: str) -> Ran:
    argv = [sys.executable, "-m", "soak", "--short", "--json", str(report), *arguments]
    process = await asyncio.create_subprocess_exec(*argv, cwd=ROOT, stdout=PIPE, stderr=STDOUT)
    try:
        said, _ = await asyncio.wait_for(process.communicate(), BOUND_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    text = said.decode()
    assert report.exists(), text
    assert process.returncode is not None
    return Ran(process.returncode, text, json.loads(report.read_bytes()))


async def test_what_churn_took_comes_back_and_a_leak_of_any_kind_is_found(tmp_path: Path) -> None:
    ours, leaky = await asyncio.gather(
        soak(tmp_path / "ours.json"), soak(tmp_path / "leaky.json", "--script", str(LEAKY))
    )
    assert (ours.status, ours.not_back) == (0, set()), ours.said
    assert "ALL BACK" in ours.said
    assert ours.report["faults"] == []
    assert (leaky.status, leaky.not_back & {"heap", "tasks", "fds", "in_flight"}) == (
        1,
        {"heap", "tasks", "fds", "in_flight"},
    ), leaky.said
    assert "NOT BACK" in leaky.said
