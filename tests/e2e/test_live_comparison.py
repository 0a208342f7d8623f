"""`make bench-live`, shortened: who serves is who Envoy says, and nothing is left running."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import psutil
import pytest
from stack import eventually

from bench.live.client import Seen, play
from bench.live.fleet import running_fleet
from bench.live.plan import WAYS
from bench.live.texts import Script
from extproc.benchmark.workload import Call
from extproc.benchmark.workloads.fleets import fleet

pytestmark = pytest.mark.envoy

CALLS = [Call(prompt_tokens=1100, output_tokens=5, blocks=(range(64),)) for _ in range(6)]


async def test_every_way_serves_all_calls_by_whom_envoy_says_and_all_processes_end(tmp_path: Path) -> None:
    script = Script(CALLS)
    async with running_fleet(fleet(2, "a100-llama-3-8b"), 10.0, tmp_path) as servers:
        address_of = {sim.name: sim.address for sim in servers.sims}
        pids = {pid for way in WAYS for role in servers.pids(way).values() for pid in role}
        for way in WAYS:
            before = await servers.counts()
            envoy = servers.envoys[way.slug]
            seen: dict[str, Seen] = {}
            for number in range(
                len(CALLS)
            ):  # one after the other: each finds what those before have computed
                label = f"{way.slug}-{number}"
                body = script.body(number, way.slug)
                (seen[label],) = await play(envoy.listen, [0.0], partial(_same, body), label, 60.0)
            await servers.wait_idle()
            log = await eventually(envoy.access_log, lambda log: len(log) == len(CALLS))
            counts = (await servers.counts()).since(before)

            said = {entry["path"].partition("run=")[2].partition("&")[0]: entry["upstream"] for entry in log}
            assert said == {label: address_of[entry.server] for label, entry in seen.items()}
            assert [entry.error for entry in seen.values()] == [""] * len(CALLS)
            assert counts.queries == sum(call.prompt_tokens for call in CALLS)
            assert counts.first_tokens == len(CALLS)
            # each server computes the shared blocks once, whatever was said before by other names
            computed_by = len({entry.server for entry in seen.values()})
            assert counts.hits == 64 * 16 * (len(CALLS) - computed_by)

    assert len(pids) == 2 + 1 + len(WAYS)
    assert [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"] == []


def _same(body: bytes, number: int) -> bytes:
    return body


BRIEF = ("--workload", "agents", "--rounds", "1", "--rate", "6", "--seconds", "6", "--speed", "4")


def test_the_command_writes_all_figures_and_leaves_nothing_behind(tmp_path: Path) -> None:
    output, folder = tmp_path / "live.json", tmp_path / "files"
    folder.mkdir()
    ran = subprocess.run(
        [sys.executable, "-m", "bench.live", *BRIEF, "--output", str(output)],
        env={**os.environ, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert ran.returncode in (0, 1, 2), ran.stdout + ran.stderr
    assert "agents: the ranking " in ran.stdout
    report = json.loads(output.read_text())
    (verdict,) = report["verdicts"]
    assert ["agrees", "disagrees", "cannot tell"][ran.returncode] == verdict["says"]
    assert {result["policy"] for result in report["results"]} == {way.name for way in WAYS}
    for result in report["results"]:
        assert (result["round"], result["workload"], result["live"]["failed_share"]) == (1, "agents", 0.0)
        assert result["live"]["calls"] == result["simulated"]["calls"] > 0
        assert result["live"]["ttft"]["mean_s"] > 0
        assert result["live"]["server_ttft_s"] > 0
        assert 0 < result["live"]["hit_ratio"] < 1
        assert sum(result["replica_shares"]) == pytest.approx(1)
        assert set(result["load"]["cpu"]) == {"servers", "envoy", "extproc", "client"}
    assert [entry["policy"] for entry in report["overheads"]] == [way.name for way in WAYS]
    assert list(folder.iterdir()) == []
    assert running_in(folder) == []


async def test_a_run_that_is_ended_early_leaves_nothing_behind(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.live", *BRIEF, "--seconds", "400"),
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), 60)
    process.terminate()
    await asyncio.wait_for(process.communicate(), 30)

    assert line.startswith(b"agents, round 1 of 1: ")
    assert process.returncode == 130
    assert list(tmp_path.iterdir()) == []
    assert running_in(tmp_path) == []


def running_in(folder: Path) -> list[psutil.Process]:
    """Processes whose files are there."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("TMPDIR") == str(folder):
                found.append(process)
        except psutil.Error:
            continue
    return found
