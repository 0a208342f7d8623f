"""What each picture shows.  A panel draws itself into given axes, alone on the page or beside others in a file."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter
from msgspec import Struct

from extproc.benchmark.measures import QUANTILE_LEVELS, TTFT_LIMIT_S
from extproc.benchmark.report.columns import TTFT_P99, significant, times
from extproc.benchmark.report.groups import Group, groups, workload_names
from extproc.benchmark.report.style import INK, Style, styles
from extproc.benchmark.results import LEAST_REQUEST, ORACLE, OURS, Capacity, Report, Series
from extproc.benchmark.statistics import mean

TAIL_TICKS = (0.0, 0.5, 0.9, 0.99, 0.999)
MAX_SAMPLES = 240
"""Of a line over time: more than that are not seen."""

MOST_TIMES = 10.0
"""Marks further out stand here: one policy that collapses would squeeze all the rest together."""


class Panel(Struct, frozen=True):
    title: str
    draw: Callable[[Axes], None]
    width_in: float = 4.2
    height_in: float = 2.7


def cdf_panels(report: Report) -> list[Panel]:
    """TTFT of all policies, one panel for each workload and load; with one router."""
    looks = styles(report)
    return [
        Panel(group.label, partial(_draw_cdf, group, looks)) for group in groups(report) if group.routers == 1
    ]


def capacity_panels(report: Report) -> list[Panel]:
    looks = styles(report)
    panels = []
    for name in workload_names(report):
        found = {
            item.policy: item for item in report.capacities if item.workload == name and item.routers == 1
        }
        if found:
            ordered = [found[policy] for policy in looks if policy in found]
            height_in = 0.75 + 0.27 * len(ordered)
            panels.append(Panel(name, partial(_draw_capacity, ordered, looks), height_in=height_in))
    return panels


def kv_panels(report: Report) -> list[Panel]:
    looks = styles(report)
    return [
        Panel(f"{series.policy}: {series.workload}", partial(_draw_kv, series, looks[series.policy]))
        for series in report.series
    ]


def summary_panels(report: Report) -> list[Panel]:
    """One, or none where nothing was run beside least-request."""
    compared = [
        group
        for group in groups(report)
        if group.routers == 1 and {OURS, LEAST_REQUEST} <= group.cells.keys()
    ]
    if not compared:
        return []
    draw = partial(_draw_summary, compared, styles(report))
    title = "P99 time to first token, relative to least-request"
    return [Panel(title, draw, 7.6, 1.5 + 0.3 * len(compared))]


def _draw_cdf(group: Group, looks: dict[str, Style], axes: Axes) -> None:
    """The share is drawn by its tail, as −log10(1 − share): P90 and P99 are as far apart as P99 and P99.9."""
    top = -math.log10(1 - TAIL_TICKS[-1])
    inside = [(index, -math.log10(1 - level)) for index, level in enumerate(QUANTILE_LEVELS) if level < 1]
    inside = [(index, height) for index, height in inside if height <= top + 1e-6]
    for policy in reversed(group.cells):
        quantiles, look = group.ttft_quantiles(policy), looks[policy]
        if quantiles:
            values = [max(quantiles[index], 1e-4) for index, _ in inside]
            axes.plot(values, [height for _, height in inside], **_line(look), label=policy)
    axes.axvline(TTFT_LIMIT_S, color=INK, linewidth=0.8, alpha=0.5)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}" if _is_round(value) else ""))
    axes.tick_params(axis="x", which="both", length=3, pad=3)
    axes.set_yticks(
        [-math.log10(1 - tick) for tick in TAIL_TICKS], [f"{tick * 100:g} %" for tick in TAIL_TICKS]
    )
    axes.set_ylim(0, top)
    axes.set_xlabel("time to first token, s")
    axes.grid(alpha=0.15, color=INK)


def _draw_capacity(capacities: list[Capacity], looks: dict[str, Style], axes: Axes) -> None:
    rows = [mean(item.rates) for item in capacities]
    reach = max(row.high or row.value for row in rows)
    for place, (item, row) in enumerate(zip(capacities, rows, strict=True)):
        bound = item.policy == ORACLE
        axes.barh(
            place,
            row.value,
            height=0.68,
            facecolor="none" if bound else looks[item.policy].colour,
            edgecolor=INK if bound else "none",
            linestyle=(0, (2, 2)) if bound else "solid",
            xerr=row.half_width or 0.0,
            error_kw={"ecolor": INK, "elinewidth": 1.0, "capsize": 2.5},
        )
        weight = "bold" if item.policy == OURS else "normal"
        axes.text(
            (row.high or row.value) + 0.02 * reach, place, significant(row.value), va="center", weight=weight
        )
    axes.set_yticks(range(len(rows)), [item.policy for item in capacities])
    axes.set_xlim(0, 1.16 * reach)
    axes.invert_yaxis()
    axes.set_xlabel("calls/s with 99 % within limits")
    axes.tick_params(axis="y", length=0)


def _draw_kv(series: Series, look: Style, axes: Axes) -> None:
    """A line for each replica, and the band from the emptiest to the fullest."""
    step = max(1, math.ceil(len(series.at_s) / MAX_SAMPLES))
    at_s, rows = series.at_s[::step], [[100 * value for value in row] for row in series.usage[::step]]
    lows, highs = [min(row) for row in rows], [max(row) for row in rows]
    axes.fill_between(at_s, lows, highs, color=look.colour, alpha=0.18, linewidth=0)
    for column in zip(*rows, strict=True):
        axes.plot(at_s, column, color=look.colour, linewidth=0.9, alpha=0.85)
    axes.set_ylim(0, 100)
    axes.set_ylabel("KV cache used, %")
    axes.set_xlabel("seconds")
    axes.grid(alpha=0.15, color=INK)


def _draw_summary(compared: list[Group], looks: dict[str, Style], axes: Axes) -> None:
    """A bar from least-request (1) to ours, so that its length is the gain; the others as marks on the same row."""
    for place, group in enumerate(compared):
        for policy in group.cells:
            ratio = group.ratio(policy, LEAST_REQUEST, TTFT_P99.get)
            if ratio is None or policy == LEAST_REQUEST:
                continue
            if policy == OURS:
                low, high = ratio.low or ratio.value, ratio.high or ratio.value
                axes.barh(place, ratio.value - 1, left=1, height=0.62, color=looks[OURS].colour)
                axes.hlines(place, low, high, color=INK, linewidth=1.2, zorder=4)
                _right_of(axes, place, times(ratio.value), looks[OURS])
            else:
                look = looks[policy]
                axes.plot(
                    min(ratio.value, MOST_TIMES),
                    place,
                    look.marker,
                    color=look.colour,
                    markersize=6,
                    zorder=3,
                )
    axes.axvline(1, color=looks[LEAST_REQUEST].colour, linewidth=2)
    axes.set_xscale("log")
    axes.margins(x=0.12)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}×" if _is_round(value) else ""))
    axes.tick_params(axis="x", which="both", length=3, pad=3)
    axes.set_yticks(range(len(compared)), [group.label for group in compared])
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.15, color=INK)
    axes.set_xlabel(f"← sooner · later →   (at {MOST_TIMES:g}×: that or more)")
    _mark_legend(axes, looks)


def _right_of(axes: Axes, place: int, text: str, look: Style) -> None:
    """In a column of its own, where no mark can hide it."""
    spot = axes.get_yaxis_transform()
    axes.text(1.01, place, text, transform=spot, va="center", weight="bold", color=look.colour)


def _mark_legend(axes: Axes, looks: dict[str, Style]) -> None:
    for name, look in looks.items():
        if name == OURS:
            axes.plot([], [], color=look.colour, linewidth=8, label=name)
        elif name == LEAST_REQUEST:
            axes.plot([], [], color=look.colour, linewidth=2, label=name)
        else:
            axes.plot([], [], look.marker, color=look.colour, markersize=6, label=name)
    axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=4, frameon=False)


def _line(look: Style) -> dict[str, Any]:
    return {
        "color": look.colour,
        "linewidth": look.width,
        "linestyle": (0, look.dash) if look.dash else "solid",
        "zorder": 1 + look.width,
    }


def _is_round(value: float) -> bool:
    """2 or 5, times a power of ten."""
    return round(value / 10 ** math.floor(math.log10(value))) in (2, 5)
