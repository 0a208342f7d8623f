"""The table, the course of it, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from tracemalloc import StatisticDiff

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .reading import Sample
from .run import Outcome
from .verdict import Row

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 60
"""Characters of a course."""
COURSES = ("rss", "heap", "blocks", "tasks", "fds", "in_flight", "held", "index", "series")
SITES = 15
"""Places in the code where memory was allocated, with `--trace`: what leaks is among the first."""


def show(console: Console, outcome: Outcome, rows: Sequence[Row]) -> None:
    console.print(_table(rows))
    if len(outcome.samples) > 1:
        console.print(_courses(outcome.samples))
    console.print(_clients(outcome))
    for fault in outcome.faults[:5]:
        console.print(f"[red]logged:[/] {escape(fault)}")
    _sites(console, outcome.grown)
    bad = [row for row in rows if not row.good]
    if bad:
        console.print("grown most: " + ", ".join(f"{k} +{n}" for k, n in list(outcome.kinds.items())[:12]))
    console.print(verdict(outcome, rows))


def verdict(outcome: Outcome, rows: Sequence[Row]) -> str:
    """One line."""
    requests = round(outcome.after.requests - outcome.before.requests)
    after = f"after {requests} requests and {sum(outcome.events.values())} events"
    bad = [row.figure.label for row in rows if not row.good]
    if bad:
        return f"[red]NOT BACK[/] {after}: {'; '.join(bad)}"
    return f"[green]ALL BACK[/] {after}"


def _table(rows: Sequence[Row]) -> Table:
    table = Table("what", "before", "after", "at most", "a request", "", "allowed, because")
    for column in table.columns[1:5]:
        column.justify = "right"
    for row in rows:
        unit = row.figure.unit
        growth = "" if row.growth is None else f"{row.growth:+.3g} ± {row.error:.2g}"
        mark = "[green]ok[/]" if row.good else "[red]NOT BACK[/]" if row.is_steady else "[red]GROWS[/]"
        figures = (f"{each / unit:,.10g}" if unit == 1 else f"{each / unit:.2f}" for each in _three(row))
        table.add_row(row.figure.label, *figures, growth, mark, row.figure.why)
    return table


def _three(row: Row) -> tuple[float, float, float]:
    return row.before, row.after, round(row.allowed) if row.figure.unit == 1 else row.allowed


def _courses(samples: Sequence[Sample]) -> Table:
    table = Table("during the churn", "lowest", "", "highest", box=None)
    for name in COURSES:
        values = [float(getattr(sample.reading, name)) for sample in samples]
        low, high = min(values), max(values)
        table.add_row(name, f"{low:,.0f}", _sparkline(values, low, high), f"{high:,.0f}")
    return table


def _sparkline(values: Sequence[float], low: float, high: float) -> str:
    step = max(1, -(-len(values) // WIDTH))
    means = [sum(values[i : i + step]) / len(values[i : i + step]) for i in range(0, len(values), step)]
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((value - low) * scale)] for value in means)


def _clients(outcome: Outcome) -> Table:
    table = Table("clients", "how it went", box=None)
    for name, told in outcome.told.items():
        most = sorted(told.items(), key=lambda item: -item[1])
        table.add_row(name.replace("_", " "), ", ".join(f"{how} {count}" for how, count in most))
    return table


def _sites(console: Console, grown: Sequence[StatisticDiff]) -> None:
    for site in grown[:SITES]:
        console.print(f"[bold]{site.size_diff / 1e3:+.1f} KB, {site.count_diff:+} objects[/]")
        console.print("\n".join(site.traceback.format(limit=8)), markup=False, style="dim")
