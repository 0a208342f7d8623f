"""`python -m bench [SECTION …]`: measure, print a table, write bench/results/latest.json."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from . import chunk, churn, cost, decision, idle, index_memory, lag, latency, memory
from .figure import Figure

SECTIONS = {
    "decision": decision.measure,
    "index": index_memory.measure,
    "cost": cost.measure,
    "chunk": chunk.measure,
    "memory": memory.measure,
    "latency": latency.measure,
    "lag": lag.measure,
    "idle": idle.measure,
    "churn": churn.measure,
}
RESULTS = Path(__file__).parent / "results" / "latest.json"


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in SECTIONS]
    if unknown:
        print(f"unknown section {unknown[0]!r}; there are {', '.join(SECTIONS)}", file=sys.stderr)
        return 2
    console = Console()
    figures = list(_measure(names or list(SECTIONS), console))
    console.print(_table(figures))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_bytes(msgspec.json.format(msgspec.json.encode(figures), indent=2))
    return 0 if all(figure.within is not False for figure in figures) else 1


def _measure(names: list[str], console: Console) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as directory:
        for name in names:
            console.print(f"measuring {name} …", style="dim")
            yield from SECTIONS[name](Path(directory))


def _table(figures: list[Figure]) -> Table:
    table = Table("what", "figure", "reach", "", "how", title="extproc bench")
    table.columns[1].justify = "right"
    marks = {None: "", True: "[green]ok[/]", False: "[red]over[/]"}
    for figure in figures:
        reach = "" if figure.reach is None else f"≤ {figure.reach:g}"
        table.add_row(
            figure.name, f"{figure.value:.3g} {figure.unit}", reach, marks[figure.within], figure.note
        )
    return table


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
