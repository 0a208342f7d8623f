"""`python -m bench.live`: measure, print tables, write bench/results/live.json."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import click
from msgspec.structs import replace
from rich.console import Console

from extproc.demo.process import StartError

from .plan import SETTINGS, Setting
from .replay import replay
from .report import print_report
from .results import LiveReport, Overhead, Result, verdict

NAMES = [setting.workload for setting in SETTINGS]
RESULTS = Path(__file__).parents[1] / "results" / "live.json"
INTERRUPTED = 130
"""What a shell reports for a program that Ctrl-C ended."""
FAILED = 3
MIN_WIDTH = 120
"""Columns of the widest table."""


@click.command()
@click.option("--workload", "names", multiple=True, type=click.Choice(NAMES), help="Only this.")
@click.option("--rounds", type=click.IntRange(1, 100), default=2, show_default=True)
@click.option("--rate", type=click.FloatRange(0.1, 1000), help="Calls a second, by the workload's clock.")
@click.option("--seconds", type=click.FloatRange(2, 3600), help="Of each run, by the workload's clock.")
@click.option("--speed", type=click.FloatRange(0.1, 50), help="How many times faster than the workload.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), default=RESULTS)
def live(
    names: Sequence[str],
    rounds: int,
    rate: float | None,
    seconds: float | None,
    speed: float | None,
    output: Path,
) -> None:
    """The main comparison in real time, and whether its ranking agrees with the routing simulator's.

    Status 0: it does.  1: it does not.  2: the machine was too slow to tell.  3: something failed.
    """
    settings = [changed(s, rate, seconds, speed) for s in SETTINGS if not names or s.workload in names]
    console = Console(highlight=False)
    console.width = max(console.width, MIN_WIDTH)
    try:
        report = asyncio.run(_measure(settings, rounds, console))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(INTERRUPTED)
    except (StartError, TimeoutError, aiohttp.ClientError, ValueError) as error:
        console.print(f"{type(error).__name__}: {error}", style="red", markup=False)
        sys.exit(FAILED)
    print_report(report, console)
    output.parent.mkdir(exist_ok=True)
    output.write_bytes(report.json())
    sys.exit(report.exit_status)


def changed(setting: Setting, rate: float | None, seconds: float | None, speed: float | None) -> Setting:
    """*setting* with what the command line says; the warm-up stays the same part of the run."""
    duration_s = seconds or setting.duration_s
    return replace(
        setting,
        rate=rate or setting.rate,
        duration_s=duration_s,
        warmup_s=setting.warmup_s * duration_s / setting.duration_s,
        speed=speed or setting.speed,
    )


async def _measure(settings: Sequence[Setting], rounds: int, console: Console) -> LiveReport:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C, so that nothing is left running
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    begun = time.perf_counter()
    results: list[Result] = []
    overheads: list[Overhead] = []
    for setting in settings:
        with tempfile.TemporaryDirectory(prefix="extproc-live-") as directory:
            async for found in replay(
                setting, rounds, Path(directory), lambda line: console.print(line, style="dim")
            ):
                if isinstance(found, Result):
                    results.append(found)
                else:
                    overheads.append(found)
    return LiveReport(
        settings=tuple(settings),
        cores=os.cpu_count() or 1,
        wall_s=time.perf_counter() - begun,
        results=tuple(results),
        overheads=tuple(overheads),
        verdicts=tuple(
            verdict(s.workload, [r for r in results if r.workload == s.workload]) for s in settings
        ),
    )


if __name__ == "__main__":
    live()
