"""What the demo shows: live in a terminal, line by line and without colours in a pipe."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from extproc.demo.figures import BurstFigures, Outcome, Spread, change
from extproc.demo.watch import Pod, PodState

INDENT = 3
BAR_WIDTH = 24
OTHER_COLUMNS = 68
"""Width of the pods' table without its bars."""
PLAIN_EVERY_S = 4.0
"""Between two lines of progress in a pipe: enough to see it move, short enough to read."""


class Screen:
    """Prints phases one after another; within a phase `update` shows how it goes."""

    def __init__(self, console: Console, pods: Sequence[Pod]) -> None:
        self._console = console
        self._pods = pods
        self._bar_width = max(8, min(BAR_WIDTH, console.width - OTHER_COLUMNS))
        self._live: Live | None = None
        self._shown_at: float | None = None
        """When the last plain update was due, in seconds (monotonic); None: this traffic has had none yet."""

    @property
    def is_live(self) -> bool:
        return self._console.is_terminal and not self._console.is_dumb_terminal

    def phase(self, number: int, title: str, explanation: str) -> None:
        self._console.print()
        self._console.print(Text.assemble((f" {number} ", "bold cyan"), (title, "bold")))
        self.note(explanation, "dim")
        if self.is_live:
            self._print(Text.assemble(("■ running  ", "cyan"), ("□ waiting", "yellow")))
        self._console.print()

    def note(self, text: str, style: str = "") -> None:
        self._print(Text(text, style=style))

    def table(self, table: Table) -> None:
        self._console.print()
        self._print(table)
        self._console.print()

    def update(self, label: str, done: int, total: int, states: Mapping[str, PodState]) -> None:
        """Progress within a phase: `done` of `total` requests have ended."""
        if self.is_live:
            view = Group(self._progress(label, done, total), self._pod_table(states), Text())
            if self._live is None:
                self._live = Live(console=self._console, refresh_per_second=8)
                self._live.start()
            self._live.update(_indented(view))
        elif self._shown_at is None:
            self._shown_at = time.monotonic()
        elif time.monotonic() - self._shown_at >= PLAIN_EVERY_S:
            self._print_update(label, done, total, states)

    def finish(self, label: str, done: int, total: int, states: Mapping[str, PodState]) -> None:
        """The last update of this traffic, which stays on the screen."""
        if self.is_live:
            self.update(label, done, total, states)
        else:
            self._print_update(label, done, total, states)
        self.close()

    def close(self) -> None:
        """Gives the terminal back. Safe to call at any time."""
        self._shown_at = None
        if self._live is not None:
            self._live.stop()
            self._live = None

    def failures(self, outcomes: Sequence[Outcome]) -> None:
        """The first few, in words."""
        for outcome in outcomes[:5]:
            what = outcome.error or f"status {outcome.status}"
            self.note(f"failed: a request for {outcome.request.model!r}: {what}", "red")

    def _print(self, what: RenderableType) -> None:
        self._console.print(_indented(what))

    def _print_update(self, label: str, done: int, total: int, states: Mapping[str, PodState]) -> None:
        self._shown_at = time.monotonic()
        self.note(f"{label}: {done} of {total} requests done")
        self._print(self._pod_table(states))

    def _progress(self, label: str, done: int, total: int) -> Table:
        row = Table.grid(padding=(0, 2))
        row.add_row(
            Text(label, "bold"), ProgressBar(total, done, width=self._bar_width), f"{done} of {total} done"
        )
        return row

    def _pod_table(self, states: Mapping[str, PodState]) -> Table:
        table = Table("pod", "version", box=None, padding=(0, 2, 0, 0), header_style="dim")
        if self.is_live:
            table.add_column("", width=self._bar_width)
        for heading in ("running", "waiting", "in flight", "KV cache", "served"):
            table.add_column(heading, justify="right")
        for pod in self._pods:
            state = states.get(pod.name, PodState())
            in_flight = "–" if state.in_flight is None else str(state.in_flight)
            figures = [str(state.running), str(state.waiting), in_flight, f"{state.kv_usage:.0%}"]
            bar = [self._bar(state)] if self.is_live else []
            table.add_row(pod.name, pod.version, *bar, *figures, str(state.served))
        return table

    def _bar(self, state: PodState) -> Text:
        """A mark a request: those that run, then those that wait; more than there is room for are left out."""
        running = min(state.running, self._bar_width)
        waiting = min(state.waiting, self._bar_width - running)
        return Text.assemble(("■" * running, "cyan"), ("□" * waiting, "yellow"))


def _indented(what: RenderableType) -> Padding:
    return Padding(what, (0, 0, 0, INDENT), expand=False)


def split_table(weights: Mapping[str, int], observed: Mapping[str, int]) -> Table:
    """The canary split, as configured and as the answers say."""
    table = _figures_table(Column("qwq was answered by"), "configured", "observed", "answers")
    total, answers = sum(weights.values()), sum(observed.values())
    for model, weight in weights.items():
        count = observed.get(model, 0)
        share = f"{count / answers:.0%}" if answers else "–"
        table.add_row(model, f"{weight / total:.0%}", share, str(count))
    return table


def burst_table(round_robin: BurstFigures, ours: BurstFigures) -> Table:
    """Both ways of sending the burst beside each other."""
    table = _figures_table(Column(), Column(), "round robin", "extproc", "difference")
    for name, before, after in (
        ("time to first token", round_robin.ttft, ours.ttft),
        ("… of short prompts", round_robin.ttft_short, ours.ttft_short),
        ("whole answer", round_robin.duration, ours.duration),
    ):
        if before and after:
            _add_spread(table, name, before, after)
    counts = [f"{figures.answered} of {figures.sent}" for figures in (round_robin, ours)]
    table.add_row("answered", "", *counts, "")
    return table


def _figures_table(*columns: Column | str) -> Table:
    """Headings that are plain text stand over figures, to the right."""
    headers = [
        Column(header=column, justify="right") if isinstance(column, str) else column for column in columns
    ]
    return Table(*headers, box=None, padding=(0, 4, 0, 0), header_style="dim")


def _add_spread(table: Table, name: str, before: Spread, after: Spread) -> None:
    for label, old, new in (
        ("mean", before.mean, after.mean),
        ("P50", before.p50, after.p50),
        ("P99", before.p99, after.p99),
    ):
        style = "bold green" if new < old else "red"
        table.add_row(name, label, _milliseconds(old), _milliseconds(new), Text(change(old, new), style))
        name = ""
    table.add_row()


def _milliseconds(value_s: float) -> str:
    return f"{value_s * 1000:,.0f} ms"
