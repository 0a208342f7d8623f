"""`python -m soak`: run it, print the table; exit status 1 where something did not come back."""

from __future__ import annotations

import asyncio
import logging
import sys
import tempfile
from pathlib import Path

import click
import msgspec
from rich.console import Console

from . import plan as plans
from .plan import Plan
from .program import PROBE
from .report import show
from .run import Outcome, Soak
from .town import Town
from .verdict import Row, compare

WIDTH = 150
"""Columns, where the output is no terminal."""


@click.command()
@click.option("--minutes", type=click.FloatRange(min=0.1), default=30.0, show_default=True, help="Of churn.")
@click.option(
    "--rate", type=click.FloatRange(min=1), default=40.0, show_default=True, help="Requests a second."
)
@click.option(
    "--short", is_flag=True, help="The form of the tests: everything twice, in a quarter of a minute."
)
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--trace", is_flag=True, help="Print where what has grown was allocated (slower).")
@click.option("--script", type=click.Path(path_type=Path), default=PROBE, help="What serves, with its probe.")
@click.option("--json", "file", type=click.Path(path_type=Path), help="Write the figures, too.")
def main(
    minutes: float, rate: float, short: bool, seed: int, trace: bool, script: Path, file: Path | None
) -> None:
    """The service under churn, and whether all that it held came back."""
    if sys.platform != "linux":
        raise click.UsageError("needs Linux: its pods are at many addresses of 127.0.0.0/8")
    plan = plans.short(seed=seed, trace=trace) if short else plans.full(minutes, rate, seed=seed, trace=trace)
    # The pods' side of what is done to them, as of pages that nobody reads to their end.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    outcome = asyncio.run(_soak(plan, script, console))
    rows = compare(outcome.before, outcome.after, outcome.samples, plan.slack)
    show(console, outcome, rows)
    if file is not None:
        file.write_bytes(msgspec.json.format(msgspec.json.encode(_report(outcome, rows)), indent=2))
    sys.exit(0 if all(row.good for row in rows) else 1)


async def _soak(plan: Plan, script: Path, console: Console) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="extproc-soak-") as directory:
        async with Town(plan, Path(directory), script) as town:
            return await Soak(plan, town, lambda text: console.print(text, style="dim")).run()


def _report(outcome: Outcome, rows: list[Row]) -> dict[str, object]:
    return {
        "figures": {
            row.figure.name: {
                "before": row.before,
                "after": row.after,
                "allowed": row.allowed,
                "good": row.good,
            }
            for row in rows
        },
        "clients": outcome.told,
        "kinds": outcome.kinds,
        "events": outcome.events,
        "faults": outcome.faults,
        "samples": outcome.samples,
    }


if __name__ == "__main__":
    main()
