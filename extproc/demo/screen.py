"""What the demo shows: live in a terminal, line by line and without colours in a pipe."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from extproc.demo.figures import BurstFigures, Outcome, Spread, change
from extproc.demo.watch import Pod, PodState

INDENT = 3
BAR_WIDTH = 28
PLAIN_EVERY_S = 4.0
"""Between two lines of progress in a pipe: enough to see it move, short enough to read."""


class Screen:
    """Prints phases one after another; within a phase `update` shows how it goes."""

    def __init__(self, console: Console, pods: Sequence[Pod]) -> None:
        self._console = console
        self._pods = pods
        self._live: Live | None = None
        self._shown_at = 0.0

    @property
    def is_live(self) -> bool:
        return self._console.is_terminal and not self._console.is_dumb_terminal

    def phase(self, number: int, title: str, explanation: str) -> None:
        self._console.print()
        self._console.print(Text.assemble((f" {number} ", "bold cyan"), (title, "bold")))
        self.note(explanation)
        self._console.print()
        self._shown_at = time.monotonic()

    def note(self, text: str, style: str = "dim") -> None:
        self._print(Text(text, style=style))

    def update(self, label: str, done: int, total: int, states: Mapping[str, PodState]) -> None:
        """Progress of a phase: `done` of `total` requests have ended."""
        if self.is_live:
            view = _indented(Group(self._progress(label, done, total), Text(), self._pod_table(states)))
            if self._live is None:
                self._live = Live(view, console=self._console, refresh_per_second=8)
                self._live.start()
            self._live.update(view)
        elif time.monotonic() - self._shown_at >= PLAIN_EVERY_S:
            self._shown_at = time.monotonic()
            self._print(Text(f"{label}: {done} of {total} done"))
            self._print(self._pod_table(states))

    def end_updates(self, label: str, done: int, total: int, states: Mapping[str, PodState]) -> None:
        """The last state of a phase stays on the screen."""
        if self._live is not None:
            self.update(label, done, total, states)
            self.close()
        else:
            self._print(Text(f"{label}: {done} of {total} done"))
            self._print(self._pod_table(states))

    def close(self) -> None:
        """Gives the terminal back; safe to call at any time."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def table(self, table: Table) -> None:
        self._console.print()
        self._print(table)

    def failures(self, outcomes: Sequence[Outcome]) -> None:
        """The first few, in words."""
        for outcome in outcomes[:5]:
            what = outcome.error or f"status {outcome.status}"
            self.note(f"failed: a request for {outcome.request.model!r}: {what}", "red")

    def _print(self, what: RenderableType) -> None:
        self._console.print(_indented(what))

    def _progress(self, label: str, done: int, total: int) -> Table:
        row = Table.grid(padding=(0, 2))
        row.add_row(label, ProgressBar(total, done, width=BAR_WIDTH), f"{done} of {total} requests done")
        return row

    def _pod_table(self, states: Mapping[str, PodState]) -> Table:
        table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
        table.add_column("pod")
        table.add_column("version")
        if self.is_live:
            table.add_column("work", width=BAR_WIDTH)
        for heading in ("running", "waiting", "in flight", "KV cache", "served"):
            table.add_column(heading, justify="right")
        for pod in self._pods:
            state = states.get(pod.name, PodState())
            figures = [str(n) for n in (state.running, state.waiting, state.in_flight)]
            figures += [f"{state.kv_usage:.0%}", str(state.served)]
            bar = [_bar(state)] if self.is_live else []
            table.add_row(pod.name, pod.version, *bar, *figures)
        return table


def _bar(state: PodState) -> Text:
    """A mark a request: those that run, then those that wait; a wider pod shows as full."""
    running = min(state.running, BAR_WIDTH)
    waiting = min(state.waiting, BAR_WIDTH - running)
    return Text.assemble(("■" * running, "cyan"), ("□" * waiting, "yellow"))


def _indented(what: RenderableType) -> Padding:
    return Padding(what, (0, 0, 0, INDENT))


def split_table(weights: Mapping[str, int], observed: Mapping[str, int]) -> Table:
    """The canary split, as configured and as the answers say."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2), header_style="dim")
    for heading in ("qwq was answered by", "configured", "observed", "answers"):
        table.add_column(heading, justify="left" if heading.startswith("qwq") else "right")
    total, answers = sum(weights.values()), sum(observed.values())
    for model, weight in weights.items():
        count = observed.get(model, 0)
        share = f"{count / answers:.0%}" if answers else "–"
        table.add_row(model, f"{weight / total:.0%}", share, str(count))
    return table


def burst_table(round_robin: BurstFigures, ours: BurstFigures) -> Table:
    """Both ways of sending the burst beside each other."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2), header_style="dim")
    table.add_column("")
    for heading in ("round robin", "extproc", "difference"):
        table.add_column(heading, justify="right")
    for name, before, after in (
        ("time to first token", round_robin.ttft, ours.ttft),
        ("… of the short prompts", round_robin.ttft_short, ours.ttft_short),
        ("whole answer", round_robin.duration, ours.duration),
    ):
        if before and after:
            _add_spread(table, name, before, after)
    counts = [f"{figures.answered}/{figures.sent}" for figures in (round_robin, ours)]
    table.add_row("answered", *counts, "")
    return table


def _add_spread(table: Table, name: str, before: Spread, after: Spread) -> None:
    for label, old, new in (
        (f"{name}, mean", before.mean, after.mean),
        ("P50", before.p50, after.p50),
        ("P99", before.p99, after.p99),
    ):
        style = "green" if new < old else "red"
        difference = Text(change(old, new), style=style)
        table.add_row(
            Text(label, justify="right" if label == label.upper() else "left"),
            *_seconds(old, new),
            difference,
        )
    table.add_section()


def _seconds(*values: float) -> list[str]:
    return [f"{value:.2f} s" for value in values]
