"""`python -m fuzz run [TARGET …]`, `python -m fuzz replay TARGET FILE`, `python -m fuzz list`."""

from __future__ import annotations

import importlib.util
import os
import random
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import thread_time

import click
from rich.console import Console
from rich.table import Table

from .outcome import Outcome, Plan
from .running import fuzz
from .targets import SHARES, load

FEWEST_INPUTS = 100
"""Of each target, however few are asked for."""
WIDTH = 120
"""Of what goes to a file."""
names = click.Choice(list(SHARES))


@click.group(help=__doc__)
def main() -> None: ...


@main.command("list")
def list_targets() -> None:
    """What there is to fuzz."""
    for name in SHARES:
        summary = (sys.modules[load(name).run.__module__].__doc__ or "").partition("\n")[0]
        click.echo(f"{name:14} {summary}")


@main.command()
@click.argument("target", type=names)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def replay(target: str, file: Path) -> None:
    """Run one input again, to see what is wrong with it."""
    begun = thread_time()
    load(target).run(file.read_bytes())
    click.echo(f"{target}: nothing is wrong with it; {thread_time() - begun:.3f} s of CPU")


@main.command()
@click.argument("targets", type=names, nargs=-1)
@click.option(
    "--runs", type=click.IntRange(1), default=1_000_000, show_default=True, help="Inputs, over all targets."
)
@click.option("--seconds", type=float, default=1200.0, show_default=True, help="No target takes longer.")
@click.option(
    "--jobs",
    type=click.IntRange(1),
    default=min(2, os.cpu_count() or 1),
    show_default=True,
    help="Targets at the same time, each in a process of its own.",
)
@click.option(
    "--seed", type=click.IntRange(1, 2**31 - 1), default=None, help="Of chance; drawn if not given."
)
@click.option("--unguided", is_flag=True, help="Our own mutator, even where atheris is installed.")
def run(
    targets: Sequence[str], runs: int, seconds: float, jobs: int, seed: int | None, unguided: bool
) -> None:
    """Fuzz TARGETs, or all; exit status 1 where something was found."""
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    seed = seed or random.randrange(1, 2**31)
    guided = not unguided and importlib.util.find_spec("atheris") is not None
    how = "guided by coverage (atheris)" if guided else "our own mutator, guided by nothing (no atheris)"
    console.print(f"seed {seed}, {how}", style="dim")
    plans = [
        Plan(name, count, seconds, seed, guided) for name, count in _counts(targets or list(SHARES), runs)
    ]
    with ThreadPoolExecutor(jobs) as pool:
        outcomes = [_told(outcome, console) for outcome in pool.map(fuzz, plans)]
    console.print(_table(outcomes))
    sys.exit(any(outcome.is_fault for outcome in outcomes))


def _counts(targets: Sequence[str], runs: int) -> list[tuple[str, int]]:
    """(target, how many inputs it gets); the sum is *runs* or a little more."""
    parts = sum(SHARES[name] for name in targets)
    return [(name, max(FEWEST_INPUTS, -(-runs * SHARES[name] // parts))) for name in targets]


def _told(outcome: Outcome, console: Console) -> Outcome:
    if outcome.is_fault:
        console.rule(f"{outcome.target}: {outcome.verdict}")
        console.print(outcome.detail, markup=False, highlight=False)
        if outcome.found:
            console.print(f"again: python -m fuzz replay {outcome.target} {outcome.found}", markup=False)
    else:
        console.print(f"{outcome.target}: {outcome.verdict}, {outcome.inputs:,} inputs", style="dim")
    return outcome


def _table(outcomes: Sequence[Outcome]) -> Table:
    table = Table(
        "target", "inputs", "s", "inputs/s", "corpus", "slowest ms", "growth MB", "objects", "verdict"
    )
    for column in table.columns[1:-1]:
        column.justify = "right"
    for each in outcomes:
        table.add_row(
            each.target,
            f"{each.inputs:,}",
            f"{each.seconds:.0f}",
            f"{each.inputs / (each.seconds or 1):,.0f}",
            f"{each.corpus or '-'}",
            f"{each.slowest_s * 1e3:.1f}",
            f"{each.growth_bytes / 1e6:.1f}",
            f"{each.growth_blocks:+,}",
            f"[red]{each.verdict}[/]" if each.is_fault else each.verdict,
        )
    table.add_section()
    inputs, seconds = sum(each.inputs for each in outcomes), sum(each.seconds for each in outcomes)
    table.add_row("all", f"{inputs:,}", f"{seconds:.0f}")
    return table


if __name__ == "__main__":
    main(prog_name="python -m fuzz")
