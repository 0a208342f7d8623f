"""The report as one HTML page that needs nothing from anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from html import escape
from importlib import resources
from typing import TypeAlias

from extproc.benchmark.measures import THROUGHPUT_SHARE, TPOT_LIMIT_S, TTFT_LIMIT_S
from extproc.benchmark.report.groups import groups, workload_names
from extproc.benchmark.report.headline import headline, tally
from extproc.benchmark.report.panels import Panel, capacity_panels, cdf_panels, kv_panels, summary_panels
from extproc.benchmark.report.plots import svg
from extproc.benchmark.report.style import INK, styles
from extproc.benchmark.report.tables import group_tables, verdict_table
from extproc.benchmark.results import Report

POLICY_NOTES = {
    "extproc": "ours, with its default profile",
    "round robin": "each replica in turn",
    "random": "any replica",
    "least-request": "the replica with the fewest calls in flight, of all",
    "P2C (Envoy default)": "the better of two drawn at random, by calls in flight, each Envoy worker by itself",
    "Go picker default": "queue 2, KV cache 2, approximate prefix 3, on scrapes every 50 ms; re-created from its facts",
    "oracle (bound)": "knows every replica's state and every answer's length: a bound, nothing that can be run",
}
DEFINITIONS = (
    ("TTFT", "Time to first token, from sending the call."),
    ("TPOT", "Time per output token after the first, of answers of at least two tokens."),
    ("End to end", "From sending the call to its last token."),
    ("P50, P90, P99", "What 50, 90, 99 % of a run's served calls stay below; then the mean over the seeds."),
    (
        "Goodput",
        f"Share of all calls, refused ones too, with TTFT ≤ {TTFT_LIMIT_S:g} s and TPOT ≤ {TPOT_LIMIT_S * 1000:g} ms.",
    ),
    ("Capacity", "The highest rate at which 99 % of the calls are within these limits."),
    (
        "Output",
        f"Tokens a second from the first call to the end of {THROUGHPUT_SHARE:.0%} of them: how the last few drain "
        "does not count.",
    ),
    ("Prefix hits", "Share of the prompts' tokens that the replica had in its cache."),
    (
        "KV spread",
        "How much fuller the fullest KV cache was than the mean of all, over time, in points of a cache.",
    ),
    ("±", "95 % confidence interval of the mean over seeds (Student's t)."),
    (
        "Ratios",
        "Paired: both policies get the same calls from the same seed. Geometric mean of the seeds' ratios, with "
        "Student's t on their logarithms.",
    ),
)

Section: TypeAlias = tuple[str, str, str]
"""Anchor, heading and content."""


def page(report: Report) -> str:
    """HTML with its styles, script and pictures inline."""
    title = "extproc: routing benchmark"
    sections = _sections(report)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_asset('page.css')}</style></head><body>"
        f"{_header(report, sections)}<main>{_body(report, sections)}</main>"
        f"<script>{_asset('page.js')}</script></body></html>\n"
    )


def _header(report: Report, sections: Sequence[Section]) -> str:
    told = headline(report)
    sentence = "".join(f"<b>{text}</b>" if figure else escape(text) for text, figure in told.sentence())
    lines = [*told.ranges(), tally(report)]
    ranges = "".join(f"<li>{escape(line)}</li>" for line in lines if line)
    links = "".join(f'<a href="#{anchor}">{text}</a>' for anchor, text, _ in sections)
    return (
        f'<header><p class="kicker">extproc {escape(report.version)} · routing benchmark</p><h1>{sentence}</h1>'
        f'<ul class="ranges">{ranges}</ul><nav>{links}</nav></header>'
    )


def _body(report: Report, sections: Sequence[Section]) -> str:
    summary = _figures(summary_panels(report), "wide")
    return summary + "".join(f'<h2 id="{anchor}">{text}</h2>{content}' for anchor, text, content in sections)


def _sections(report: Report) -> list[Section]:
    """Those that the report has something for."""
    legend = _legend(report)
    found = (
        ("figures", "Figures to reach", verdict_table(report.verdicts) if report.verdicts else ""),
        ("run", "What was run", _what_was_run(report)),
        ("ttft", "Time to first token", _grid(cdf_panels(report), legend + _TAIL_NOTE)),
        ("capacity", "Capacity", _grid(capacity_panels(report), "")),
        ("kv", "KV cache over time", _grid(kv_panels(report), _KV_NOTE, "grid two")),
        ("tables", "All workloads", _tables(report)),
        ("definitions", "Definitions", _definitions(report)),
        ("again", "Do it again", _reproduce(report)),
    )
    return [section for section in found if section[2]]


_TAIL_NOTE = (
    f'<p class="dim">Share of calls answered by then; the upper end is stretched, as users feel the tail. Further left '
    f"is better. The upright line is the goodput limit, {TTFT_LIMIT_S:g} s.</p>"
)
_KV_NOTE = '<p class="dim">A line for each replica, from one seed. A narrow band is an evenly used fleet.</p>'


def _what_was_run(report: Report) -> str:
    seeds = len({cell.seed for cell in report.cells})
    items = "".join(
        f"<dt>{escape(note.name)}</dt><dd>{escape(note.what)}. {escape(note.fleet)}.</dd>"
        for note in report.workloads
    )
    return (
        f'<p class="dim">{len(report.cells)} runs in virtual time with {seeds} seed{"s" if seeds != 1 else ""}; every '
        f"policy gets the same calls from a seed. Loads are shares of full least-request's capacity.</p>"
        f'<dl class="sheet">{items}</dl>'
    )


def _tables(report: Report) -> str:
    found = groups(report)
    parts = []
    for name in workload_names(report):
        tables = "".join(group_tables(group) for group in found if group.workload == name)
        if tables:
            parts.append(f"<h3>{escape(name)}</h3>{tables}")
    return '<p class="dim">Best in each column in green. Press a heading to sort.</p>' + "".join(parts)


def _definitions(report: Report) -> str:
    policies = [(name, POLICY_NOTES[name]) for name in styles(report) if name in POLICY_NOTES]
    items = "".join(
        f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>" for term, text in (*DEFINITIONS, *policies)
    )
    return f'<dl class="sheet">{items}</dl>'


def _reproduce(report: Report) -> str:
    matrix = "full" if report.full else "quick"
    speed = f", {report.simulated_s / report.wall_s:,.0f} times faster than life" if report.wall_s else ""
    return (
        f"<pre>{escape(report.command)}</pre><p class='dim'>The {matrix} matrix; it took {report.wall_s / 60:.1f} "
        f"minutes{speed}. Made {escape(report.made_at)} by extproc {escape(report.version)}; the same seeds give the "
        "same figures on any machine. All runs are in results.json beside this page.</p>"
    )


def _grid(panels: Sequence[Panel], before: str, kind: str = "grid") -> str:
    return f'{before}<div class="{kind}">{_figures(panels)}</div>' if panels else ""


def _figures(panels: Sequence[Panel], kind: str = "") -> str:
    return "".join(
        f'<figure class="{kind}"><figcaption>{escape(panel.title)}</figcaption>{svg(panel)}</figure>'
        for panel in panels
    )


def _legend(report: Report) -> str:
    items = []
    for name, look in styles(report).items():
        colour = look.colour.replace(INK, "currentColor")
        dashes = " ".join(f"{length * look.width:g}" for length in look.dash)
        items.append(
            f'<li><svg viewBox="0 0 32 10" aria-hidden="true"><path d="M0 5H32" stroke="{colour}" '
            f'stroke-width="{1.3 * look.width:g}" stroke-dasharray="{dashes}"/></svg>{escape(name)}</li>'
        )
    return f'<ul class="legend">{"".join(items)}</ul>'


@cache
def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
