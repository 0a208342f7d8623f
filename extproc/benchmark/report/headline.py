"""The report in a sentence."""

from __future__ import annotations

from collections import Counter

from msgspec import Struct

from extproc.benchmark.report.columns import TTFT_MEAN, TTFT_P99, times
from extproc.benchmark.report.groups import Group, capacity_ratio, geometric_mean, groups, workload_names
from extproc.benchmark.results import LEAST_REQUEST, OURS, Report

GO_DEFAULT = "Go picker default"


class Telling(Struct, frozen=True):
    """A figure over all workloads, with its ends, so that no workload is picked for its looks."""

    value: float
    """Geometric mean of the ratios."""
    lowest: tuple[float, str]
    highest: tuple[float, str]
    count: int

    @property
    def range(self) -> str:
        return f"{times(self.lowest[0])} ({self.lowest[1]}) to {times(self.highest[0])} ({self.highest[1]})"


class Headline(Struct, frozen=True):
    """Each None where nothing was run to tell it."""

    p99_ttft: Telling | None
    """P99 TTFT, relative to least-request."""
    capacity: Telling | None
    """Relative to least-request."""
    mean_ttft: Telling | None
    """Mean TTFT, relative to the Go picker's default."""

    def sentence(self) -> list[tuple[str, bool]]:
        """Pieces of text, and whether each is a figure."""
        pieces: list[tuple[str, bool]] = []
        least = [(" the P99 time to first token", self.p99_ttft), (" the capacity", self.capacity)]
        told = [(text, figure) for text, figure in least if figure]
        for index, (text, figure) in enumerate(told):
            lead = " and " if index else "Against least-request, extproc has "
            pieces += [(lead, False), (times(figure.value), True), (text, False)]
        if self.mean_ttft:
            lead = (
                "; against the Go picker's default, "
                if pieces
                else "Against the Go picker's default, extproc has "
            )
            pieces += [
                (lead, False),
                (times(self.mean_ttft.value), True),
                (" the mean time to first token", False),
            ]
        return [*pieces, (".", False)] if pieces else [("What routing changes.", False)]

    def ranges(self) -> list[str]:
        """Where the sentence's figures come from."""
        told = (
            ("P99 TTFT vs. least-request", self.p99_ttft),
            ("Capacity vs. least-request", self.capacity),
            ("Mean TTFT vs. the Go picker's default", self.mean_ttft),
        )
        return [f"{what}: {figure.range}" for what, figure in told if figure]


def headline(report: Report) -> Headline:
    compared = [group for group in groups(report) if group.routers == 1 and _serves_all(group)]
    p99 = [(group.ratio(OURS, LEAST_REQUEST, TTFT_P99.get), group) for group in compared]
    means = [(group.ratio(OURS, GO_DEFAULT, TTFT_MEAN.get), group) for group in compared]
    capacities = [
        (capacity_ratio(report.capacities, name, OURS, LEAST_REQUEST), name)
        for name in workload_names(report)
    ]
    return Headline(
        p99_ttft=_telling([(ratio.value, _place(group)) for ratio, group in p99 if ratio]),
        capacity=_telling([(ratio.value, name) for ratio, name in capacities if ratio]),
        mean_ttft=_telling([(ratio.value, _place(group)) for ratio, group in means if ratio]),
    )


def _serves_all(group: Group) -> bool:
    """Whether ours refuses nobody; the others refuse nobody ever, and refusing makes the rest quick."""
    return OURS in group.cells and group.mean(OURS, lambda measures: measures.refused_share).value == 0


def tally(report: Report) -> str:
    """How many of the figures were reached; "" where none were sought."""
    counts = Counter(verdict.holds for verdict in report.verdicts)
    if not counts:
        return ""
    text = f"{counts[True]} of {counts.total()} figures reached"
    text += f", {counts[False]} missed" if counts[False] else ""
    return text + (f", {counts[None]} unclear" if counts[None] else "")


def _telling(figures: list[tuple[float, str]]) -> Telling | None:
    if not figures:
        return None
    value = geometric_mean(figure for figure, _ in figures)
    return Telling(value, min(figures), max(figures), len(figures))


def _place(group: Group) -> str:
    return (
        group.workload
        if group.closed
        else f"{group.workload} at {group.load_label.removesuffix(' of capacity')}"
    )
