"""The figures as tables: live beside simulated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

from rich.console import Console
from rich.table import Table
from rich.text import Text

from extproc.benchmark.results import OURS

from .plan import WAYS, Setting
from .results import Figures, LiveReport, Pair, Result, Verdict

_Column = tuple[str, Callable[[Figures], float], str]
COLUMNS: tuple[_Column, ...] = (
    ("TTFT mean", lambda f: f.ttft.mean_s * 1e3, ".0f"),
    ("P50", lambda f: f.ttft.median_s * 1e3, ".0f"),
    ("P90", lambda f: f.ttft.p90_s * 1e3, ".0f"),
    ("P99", lambda f: f.ttft.p99_s * 1e3, ".0f"),
    ("at the server", lambda f: f.server_ttft_s * 1e3, ".0f"),
    ("TPOT", lambda f: f.tpot.mean_s * 1e3, ".1f"),
    ("prefix hits", lambda f: f.hit_ratio * 100, ".1f"),
)
_COLORS = {"agrees": "green", "disagrees": "red", "cannot tell": "yellow"}


def print_report(report: LiveReport, console: Console) -> None:
    for setting, verdict in zip(report.settings, report.verdicts, strict=True):
        results = [result for result in report.results if result.workload == setting.workload]
        console.print()
        console.print(_figures(setting, results))
        _print_overheads(report, setting, console)
        console.print(_pairs(verdict))
        console.print(_machine(results))
        _print_verdict(verdict, console)
    console.print(f"\n{report.wall_s:.0f} s in all on {report.cores} cores.")


def _figures(setting: Setting, results: Sequence[Result]) -> Table:
    rounds = max(result.round for result in results)
    table = Table(
        "policy",
        title=f"{setting.workload}: {setting.rate:g} calls/s, {setting.speed:g} times as fast as they were",
        caption=f"Live · simulated; ms of the workload's own time, hits in %; means of {rounds} rounds",
    )
    for name, _, _ in COLUMNS:
        table.add_column(name, justify="right")
    for way in WAYS:
        ours = [result for result in results if result.policy == way.name]
        cells = [
            f"{fmean(of(r.live) for r in ours):{form}} · {fmean(of(r.simulated) for r in ours):{form}}"
            for _, of, form in COLUMNS
        ]
        table.add_row(way.name, *cells)
    return table


def _print_overheads(report: LiveReport, setting: Setting, console: Console) -> None:
    told = [
        f"{entry.policy} {entry.median_s * 1e3:.1f} ms"
        for entry in report.overheads
        if entry.workload == setting.workload
    ]
    console.print(
        f"HTTP, Envoy and router are not compressed: a lone call takes {', '.join(told)} longer than the model server "
        f"works on it; times {setting.speed:g} that is in each TTFT above.",
        style="dim",
    )


def _pairs(verdict: Verdict) -> Table:
    table = Table("mean TTFT of", "to that of", title="Ranking")
    for name in ("live", "simulated"):
        table.add_column(name, justify="right")
    table.add_column("")
    for pair in verdict.pairs:
        table.add_row(
            Text(pair.one, style="bold" if pair.one == OURS else ""),
            pair.other,
            f"{pair.live:.2f}",
            f"{pair.simulated:.2f}",
            _word(pair),
        )
    return table


def _word(pair: Pair) -> str:
    if not pair.clear:
        return "[dim]alike[/]"
    if pair.contradicts:
        return "[red]other order[/]"
    return "[green]same order[/]" if pair.agrees else "[yellow]alike live[/]"


def _machine(results: Sequence[Result]) -> Table:
    roles = list(results[0].load.cpu)
    table = Table("CPU, in cores", *roles, style="dim")
    for name in ("busiest", "others", "machine", "wait for a core", "late P99"):
        table.add_column(name, justify="right")
    for way in WAYS:
        loads = [result.load for result in results if result.policy == way.name]
        cpu = [f"{fmean(load.cpu[role] for load in loads):.2f}" for role in roles]
        late_ms = max(load.late_p99_s for load in loads) * 1e3
        table.add_row(
            way.name,
            *cpu,
            f"{max(load.busiest for load in loads):.2f}",
            f"{fmean(load.others for load in loads):.2f}",
            f"{max(load.machine for load in loads):.0%}",
            f"{max(load.waited_s or 0.0 for load in loads) * 1e3:.2f} ms",
            f"{late_ms:.1f} ms",
        )
    return table


def _print_verdict(verdict: Verdict, console: Console) -> None:
    clear = [pair for pair in verdict.pairs if pair.clear]
    same = sum(pair.agrees for pair in clear)
    console.print(
        f"{verdict.workload}: the ranking [{_COLORS[verdict.says]}]{verdict.says}[/] "
        f"({same} of the {len(clear)} pairs that the simulator ranks are in its order)"
    )
    for reason in verdict.too_slow:
        console.print(f"  the machine was too slow for a fair result: {reason}", style="yellow")
