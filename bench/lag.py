"""How long the event loop stands still under bodies of 32 MiB, through a real Envoy."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import yaml

from extproc.demo.bootstrap import POOL
from extproc.demo.envoy import Envoy

from . import peer
from .figure import Figure
from .http_client import Connection
from .programs import READY_S, PortProgram

BODY_BYTES = 32 * 1024 * 1024
ROUNDS = 7
MODES = (("buffered-original-dst", "BUFFERED", 150.0), ("duplex-original-dst", "FULL_DUPLEX_STREAMED", 10.0))


def measure(directory: Path) -> Iterator[Figure]:
    with PortProgram("bench.sink_server", directory) as upstream:
        config = directory / "lag.yaml"
        config.write_text(yaml.safe_dump(_config(upstream.port)))
        with PortProgram("bench.probed_service", directory, str(config)) as ours:
            for bootstrap, mode, reach in MODES:
                ext_proc = f"127.0.0.1:{ours.port}"
                with Envoy(bootstrap, directory, pools={POOL: []}, ext_proc=ext_proc, name=mode) as envoy:
                    stalls = asyncio.run(_stalls(envoy.listen, ours))
                wall, cpu = (median(values) * 1e3 for values in zip(*stalls, strict=True))
                note = f"of which CPU {cpu:.0f} ms; worst of {ROUNDS}: {max(stalls)[0] * 1e3:.0f} ms"
                yield Figure(f"loop stall, 32 MiB {mode}", wall, "ms (median)", reach, note)


def _config(port: int) -> dict[str, object]:
    return {
        "pools": [{"name": POOL, "endpoints": [f"127.0.0.1:{port}"], "metrics": {"engine": "none"}}],
        "models": [{"name": "qwq", "pool": POOL, "targets": [{"model": "qwq-32b"}]}],
    }


async def _stalls(url: str, ours: PortProgram) -> list[tuple[float, float]]:
    """(wall, CPU) seconds of the longest stall for each body."""
    body = peer.chat(BODY_BYTES)
    connection = await Connection.open(url)
    stalls = []
    for round_ in range(ROUNDS + 1):
        _read_probe(ours)  # forget what was before
        await connection.post(body)
        stall = _read_probe(ours)
        if round_:  # the first warms up
            stalls.append(stall)
    await connection.close()
    return stalls


def _read_probe(ours: PortProgram) -> tuple[float, float]:
    told = len(ours.out.read_text().splitlines())
    os.kill(ours.pid, signal.SIGUSR1)

    def answer() -> tuple[float, float] | None:
        lines = ours.out.read_text().splitlines()
        if len(lines) == told:
            return None
        wall, cpu = lines[-1].split()
        return float(wall), float(cpu)

    return ours.wait_for("the probe", answer, READY_S)
