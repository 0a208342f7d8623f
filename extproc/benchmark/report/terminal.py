"""The report in a terminal, and without colours in a pipe."""

from __future__ import annotations

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from extproc.benchmark.report.columns import MAIN, NARROW, Column, best, significant
from extproc.benchmark.report.groups import Group, groups
from extproc.benchmark.report.headline import headline, tally
from extproc.benchmark.results import ORACLE, OURS, Report, Verdict

WIDE = 150
"""Columns of a terminal in which all figures fit with their intervals."""
MEDIUM = 108
"""In which they fit without."""
OUTCOMES = {True: ("reached", "green"), False: ("missed", "bold red"), None: ("unclear", "yellow")}


def print_report(report: Report, console: Console) -> None:
    """Shows as many figures as the terminal is wide enough for."""
    notes = {note.name: note for note in report.workloads}
    workload = ""
    for group in groups(report):
        if group.workload != workload:
            workload = group.workload
            note = notes.get(workload)
            console.print()
            console.print(Text(workload, "bold cyan"))
            if note:
                console.print(Text(f"{note.what}; {note.fleet}", "dim"))
        console.print(Padding(_group_table(group, console.width), (1, 0, 0, 0)))
    console.print(Text(_legend(console.width), "dim"))
    if report.verdicts:
        console.print(Padding(_verdict_table(report), (1, 0, 0, 0)))
    console.print()
    console.print(Text("".join(text for text, _ in headline(report).sentence()), "bold"))
    for line in headline(report).ranges():
        console.print(Text(line, "dim"))


def _legend(width: int) -> str:
    intervals = "± 95 % interval of the mean" if width >= WIDE else "means; intervals in the files"
    return (
        f"\nover seeds: {intervals} · best in bold green · KV spread: fullest cache above the mean, in points"
    )


def _group_table(group: Group, width: int) -> Table:
    columns = MAIN if width >= MEDIUM else NARROW
    table = Table(
        box=None, padding=(0, 1), title=group.load_label, title_justify="left", title_style="italic"
    )
    table.add_column("policy", no_wrap=True)
    for column in columns:
        table.add_column(
            _heading(column), justify="right", no_wrap=True, header_style="dim", vertical="bottom"
        )
    winners = [best(group, column) for column in columns]
    for policy in group.cells:
        figures = [
            _figure(group, policy, column, policy in of_column, width >= WIDE)
            for column, of_column in zip(columns, winners, strict=True)
        ]
        table.add_row(Text(policy, _policy_style(policy)), *figures)
    return table


def _heading(column: Column) -> Text:
    return Text("\n".join(part for part in (column.family, column.label, column.unit) if part))


def _figure(group: Group, policy: str, column: Column, is_best: bool, with_margin: bool) -> Text:
    value, margin = column.text(group.mean(policy, column.get))
    text = Text(value, "bold green" if is_best else _policy_style(policy) if policy == ORACLE else "")
    return text.append(f" {margin}", "dim not bold") if with_margin and margin else text


def _policy_style(policy: str) -> str:
    return "bold" if policy == OURS else "dim italic" if policy == ORACLE else ""


def _verdict_table(report: Report) -> Table:
    table = Table(box=None, padding=(0, 1), title=tally(report), title_justify="left", title_style="bold")
    table.add_column("figure", overflow="fold")
    table.add_column("", no_wrap=True)
    table.add_column("measured", justify="right", no_wrap=True, header_style="dim")
    table.add_column("reach", justify="right", no_wrap=True, header_style="dim")
    for verdict in report.verdicts:
        word, style = OUTCOMES[verdict.holds]
        figure = Text(verdict.figure)
        if verdict.note:
            figure.append(f" ({verdict.note})", "dim")
        table.add_row(figure, Text(word, style), measured(verdict), verdict.reach)
    return table


def measured(verdict: Verdict) -> str:
    """The value, and its interval where there is one."""
    if verdict.low is None or verdict.high is None:
        return significant(verdict.value)
    return f"{significant(verdict.value)} [{significant(verdict.low)}, {significant(verdict.high)}]"
