"""Panels as pictures: PNG files, and SVG for the page."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from html import escape
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from extproc.benchmark.report.panels import Panel, capacity_panels, cdf_panels, kv_panels, summary_panels
from extproc.benchmark.report.style import INK, Style, styles
from extproc.benchmark.results import Report

PNG_DPI = 90
SUMMARY_DPI = 140
"""Of the one that is shown by itself, in a README."""
COLOURS = 64
"""Of a PNG: enough for lines with soft edges, a third of the bytes."""
COLUMNS = 3
"""Panels side by side in a PNG."""
_LOOK: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.fonttype": "none",
}
"""Text stays text in SVG, found by the browser's search."""


def pictures(report: Report) -> dict[str, bytes]:
    """PNG by file name; without those that the report has nothing for."""
    looks = styles(report)
    found = {
        "summary.png": _png(summary_panels(report), {}, dpi=SUMMARY_DPI),
        "ttft-cdf.png": _png(cdf_panels(report), looks),
        "capacity.png": _png(capacity_panels(report), {}),
        "kv-usage.png": _png(kv_panels(report), {}, columns=2),
    }
    return {name: content for name, content in found.items() if content}


def svg(panel: Panel) -> str:
    """To be put into a page: transparent, its ink is the text's colour, its font the page's."""
    with matplotlib.rc_context({**_LOOK, "svg.hashsalt": panel.title}):
        figure = Figure(figsize=(panel.width_in, panel.height_in), layout="constrained")
        panel.draw(figure.add_subplot())
        target = io.StringIO()
        figure.savefig(target, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(target.getvalue(), panel.title)


def _inline(document: str, title: str) -> str:
    """Without the ids that nothing refers to: they would be double on a page of several pictures."""
    text = document[document.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', text))
    text = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", text)
    text = re.sub(r' (?:xmlns(?::xlink)?|version)="[^"]*"', "", text)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = text.replace("xlink:href", "href").replace(INK, "currentColor")
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1)


def _png(
    panels: Sequence[Panel],
    looks: dict[str, Style],
    columns: int = COLUMNS,
    dpi: int = PNG_DPI,
) -> bytes:
    if not panels:
        return b""
    columns = min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    size = (columns * panels[0].width_in, rows * max(panel.height_in + 0.25 for panel in panels) + 0.4)
    with matplotlib.rc_context(_LOOK):
        figure = Figure(figsize=size, layout="constrained", facecolor="white")
        cells = list(figure.subplots(rows, columns, squeeze=False).flat)
        for panel, axes in zip(panels, cells, strict=False):
            panel.draw(axes)
            if len(panels) > 1:
                axes.set_title(panel.title, loc="left", weight="bold")
        for axes in cells[len(panels) :]:
            axes.set_axis_off()
        if len(panels) == 1:
            figure.suptitle(panels[0].title, weight="bold")
        _legend(figure, looks)
        target = io.BytesIO()
        figure.savefig(target, format="png", dpi=dpi)
    return _smaller(target)


def _legend(figure: Figure, looks: dict[str, Style]) -> None:
    if looks:
        handles = [_handle(name, look) for name, look in looks.items()]
        figure.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False)


def _handle(name: str, look: Style) -> Line2D:
    dash: Any = (0, look.dash) if look.dash else "solid"
    return Line2D([], [], color=look.colour, linewidth=look.width, linestyle=dash, label=name)


def _smaller(picture: io.BytesIO) -> bytes:
    target = io.BytesIO()
    with Image.open(picture) as image:
        reduced = image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
        reduced.save(target, format="PNG", optimize=True)
    return target.getvalue()
