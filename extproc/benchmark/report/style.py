"""One look for a policy in all pictures and tables."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from extproc.benchmark.results import LEAST_REQUEST, ORACLE, OURS, POLICIES, Report

INK = "#1b2a3a"
"""Text and axes.  The page's pictures have the page's colour of text in its place."""


class Style(Struct, frozen=True):
    colour: str
    dash: tuple[float, ...] = ()
    """Lengths of line and gap in line widths; () is solid."""
    width: float = 1.4
    """Points."""
    marker: str = "o"


_STYLES = {
    OURS: Style("#d55e00", width=2.6, marker="D"),
    "round robin": Style("#56b4e9", (5, 2), marker="^"),
    "random": Style("#999999", (1, 1.5), marker="v"),
    LEAST_REQUEST: Style("#0072b2", width=1.8, marker="o"),
    "P2C (Envoy default)": Style("#009e73", (6, 2, 1, 2), marker="s"),
    "Go picker default": Style("#cc79a7", width=1.8, marker="P"),
    ORACLE: Style(INK, (2, 2), width=1.1, marker="x"),
}
"""The colours of Okabe and Ito, which people who are colour-blind tell apart; dashes and markers say it again."""
_SPARE = (
    Style("#e69f00", (4, 1.5), marker="X"),
    Style("#b8a800", (2, 1), marker="*"),
    Style("#882255", (8, 2), marker="<"),
    Style("#44aa99", (3, 3), marker=">"),
)
"""For policies that have no colour of their own; given out again when they are used up."""


def styles(report: Report) -> dict[str, Style]:
    """Of each policy of the report, in the order in which they are shown."""
    names = in_order(
        {cell.policy for cell in report.cells}
        | {capacity.policy for capacity in report.capacities}
        | {series.policy for series in report.series}
    )
    others = [name for name in names if name not in _STYLES]
    spare = {name: _SPARE[index % len(_SPARE)] for index, name in enumerate(others)}
    return {name: _STYLES.get(name) or spare[name] for name in names}


def in_order(policies: Iterable[str]) -> list[str]:
    """Variants of ours come next to it, others after the known ones, the bound last."""
    return sorted(policies, key=_place)


def _place(policy: str) -> tuple[float, str]:
    if policy in POLICIES:
        return (POLICIES.index(policy), policy)
    return (0.5 if policy.startswith(OURS) else len(POLICIES) - 1.5, policy)
