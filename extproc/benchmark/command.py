"""`extproc bench`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from extproc.benchmark.extra import MissingExtra, require_extra
from extproc.finite_float import FiniteFloat

DEFAULT_OUTPUT = Path("bench-routing")


@click.command()
@click.argument("workloads", nargs=-1)
@click.option("--full", is_flag=True, help="Everything at full length: hours instead of minutes.")
@click.option("--list", "listing", is_flag=True, help="Name the workloads and policies.")
@click.option(
    "--seeds", type=click.IntRange(1, 1000), help="Seeds of each run.  [default: 10; with --full 20]"
)
@click.option(
    "--load",
    "loads",
    type=FiniteFloat(min=0, min_open=True),
    multiple=True,
    help="Share of least-request's capacity; repeatable.",
)
@click.option("--rate", type=FiniteFloat(min=0, min_open=True), help="Calls a second, instead of --load.")
@click.option("--policy", "policies", multiple=True, help="Of those that --list names; repeatable.")
@click.option(
    "--routers", type=click.IntRange(2, 64), multiple=True, help="Also so many routers; repeatable."
)
@click.option("--duration", "duration_s", type=FiniteFloat(min=1), help="Simulated seconds of a run.")
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A config file whose first pool is tried too; simulated endpoints carry its endpoints' labels.",
)
@click.option(
    "--trace",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Your own trace, CSV or JSONL, as a workload.",
)
@click.option(
    "--gpu", default="a100-llama-3-8b", show_default=True, help="What serves the trace (see extproc sim)."
)
@click.option(
    "--replicas", type=click.IntRange(1, 1000), default=5, show_default=True, help="How many serve it."
)
@click.option(
    "--jitter",
    "jitter_s",
    type=FiniteFloat(min=0),
    default=0.0,
    help="Spread the trace's times by so many seconds.",
)
@click.option("--strict", is_flag=True, help="Exit 1 where a figure is missed.")
@click.option(
    "--processes", type=click.IntRange(1, 256), help="That simulate at the same time.  [default: one a core]"
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_OUTPUT,
    show_default=True,
    help="A directory for the page, plots and JSON.",
)
def bench(**options: Any) -> None:
    """Compare routing policies in virtual time: this router's own deciding core against the defaults of others.

    Without WORKLOADS the matrix of the README.  Writes a table here, and a page, plots and JSON to --output.
    """
    try:
        require_extra()
    except MissingExtra as error:
        raise click.ClickException(str(error)) from None
    from extproc.benchmark import program
    from extproc.benchmark.runner import RunError

    if options.pop("listing"):
        click.echo(program.listing())
        return
    try:
        sys.exit(program.run(program.Options(**options)))
    except program.UsageError as error:
        raise click.UsageError(str(error)) from None
    except RunError as error:
        raise click.ClickException(f"{error}; try --rate, or a longer --duration") from None
    except KeyboardInterrupt:
        raise click.Abort from None
