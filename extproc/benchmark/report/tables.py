"""The page's tables."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from extproc.benchmark.report.columns import ALL, MAIN, Column, best
from extproc.benchmark.report.groups import Group
from extproc.benchmark.report.terminal import OUTCOMES, measured
from extproc.benchmark.results import ORACLE, OURS, Verdict


def group_tables(group: Group) -> str:
    """What matters most, and everything folded away."""
    return (
        _table(group, MAIN)
        + f"<details><summary>All measures, {escape(group.load_label)}</summary>{_table(group, ALL)}</details>"
    )


def verdict_table(verdicts: Sequence[Verdict]) -> str:
    rows = "".join(_verdict_row(verdict) for verdict in verdicts)
    return (
        '<div class="scroll"><table class="verdicts"><thead><tr><th scope="col">Figure</th>'
        '<th scope="col"></th><th scope="col">Measured [95 %]</th><th scope="col">Reach</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _table(group: Group, columns: Sequence[Column]) -> str:
    heads = "".join(_heading(column) for column in columns)
    winners = [best(group, column) for column in columns]
    rows = "".join(_row(group, policy, columns, winners) for policy in group.cells)
    seeds = max(len(cells) for cells in group.cells.values())
    caption = f"{group.load_label}; {seeds} seed{'s' if seeds > 1 else ''}"
    return (
        f'<div class="scroll"><table class="sortable"><caption>{escape(caption)}</caption>'
        f'<thead><tr><th scope="col">Policy</th>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _heading(column: Column) -> str:
    label = f"{column.family}<br>{f'{column.label} {column.unit}'.strip()}"
    return f'<th scope="col"><button>{label}</button></th>'


def _row(group: Group, policy: str, columns: Sequence[Column], winners: Sequence[set[str]]) -> str:
    kind = ' class="ours"' if policy == OURS else ' class="bound"' if policy == ORACLE else ""
    figures = "".join(
        _figure(group, policy, column, policy in of_column)
        for column, of_column in zip(columns, winners, strict=True)
    )
    return f'<tr{kind}><th scope="row">{escape(policy)}</th>{figures}</tr>'


def _figure(group: Group, policy: str, column: Column, is_best: bool) -> str:
    figure = group.mean(policy, column.get)
    value, margin = column.text(figure)
    kind = ' class="best"' if is_best else ""
    aside = f" <small>{margin}</small>" if margin else ""
    return f'<td{kind} data-value="{figure.value!r}">{value}{aside}</td>'


def _verdict_row(verdict: Verdict) -> str:
    word, _ = OUTCOMES[verdict.holds]
    note = f'<span class="note">{escape(verdict.note)}</span>' if verdict.note else ""
    return (
        f'<tr><td>{escape(verdict.figure)}{note}</td><td><span class="badge {word}">{word}</span></td>'
        f"<td>{measured(verdict)}</td><td>{escape(verdict.reach)}</td></tr>"
    )
