"""Panels: what they show, said once, and made into Grafana's objects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from string import ascii_uppercase
from typing import Any, Literal

from grafana_foundation_sdk.builders import (
    common,
    dashboard,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.models import common as models
from grafana_foundation_sdk.models import dashboard as shape
from grafana_foundation_sdk.models.prometheus import PromQueryFormat
from msgspec import Struct

DATASOURCE = shape.DataSourceRef(type_val="prometheus", uid="$datasource")
HEIGHTS = {"stat": 4, "table": 9, "lines": 8, "areas": 8, "states": 8}
GREEN, YELLOW, RED = "green", "orange", "red"

Kind = Literal["lines", "areas", "stat", "states", "table"]
Levels = tuple[tuple[float | None, str], ...]
"""(from which value, colour), rising; the first from None."""


class Query(Struct, frozen=True):
    expression: str
    legend: str = ""
    """With `{{label}}`; in a table the name of the column."""


class Panel(Struct, frozen=True):
    title: str
    about: str
    """What it means, and what to do."""
    queries: tuple[Query, ...]
    unit: str = "short"
    """Of https://github.com/grafana/grafana/blob/main/packages/grafana-data/src/valueFormats/categories.ts"""
    kind: Kind = "lines"
    width: int = 8
    """Of 24."""
    levels: Levels = ()
    empty: str = "nothing yet"
    """Shown where there is no value: why that may be."""
    most: float | None = None
    """The axis ends here at least."""
    texts: tuple[tuple[str, str, str], ...] = ()
    """(value, what is shown instead, colour)."""
    units: tuple[tuple[str, str], ...] = ()
    """(column, unit) of a table."""
    colors: tuple[tuple[str, str], ...] = ()
    """(regular expression of a whole name, colour) of lines; a later one wins."""


def build(panel: Panel) -> Any:
    """A builder of Grafana's object."""
    made = _BUILDERS[panel.kind](panel)
    made.title(panel.title).description(panel.about).datasource(DATASOURCE)
    made.span(panel.width).height(HEIGHTS[panel.kind]).unit(panel.unit).no_value(panel.empty)
    for name, query in _named(panel):
        made.with_target(
            _target(name, query, instant=panel.kind in ("stat", "table"), is_table=panel.kind == "table")
        )
    if panel.levels:
        steps = [shape.Threshold(value=value, color=color) for value, color in panel.levels]
        made.thresholds(dashboard.ThresholdsConfig().mode(shape.ThresholdsMode.ABSOLUTE).steps(steps))
    for names, color in panel.colors:
        fixed = shape.FieldColor(mode=shape.FieldColorModeId.FIXED, fixed_color=color)
        made.override_by_regexp(f"^({names})$", [shape.DynamicConfigValue(id_val="color", value=fixed)])
    if panel.texts:
        results = {
            value: shape.ValueMappingResult(text=text, color=color, index=index)
            for index, (value, text, color) in enumerate(panel.texts)
        }
        made.mappings([shape.ValueMap(options=results)])
    return made


def _named(panel: Panel) -> list[tuple[str, Query]]:
    """Its queries by the letters that Grafana gives them.  ValueError: they are more than there are letters."""
    return list(zip(ascii_uppercase[: len(panel.queries)], panel.queries, strict=True))


def _target(name: str, query: Query, *, instant: bool, is_table: bool) -> prometheus.Dataquery:
    target = (
        prometheus.Dataquery().ref_id(name).expr(query.expression).legend_format(query.legend or "__auto")
    )
    if is_table:
        target.format(PromQueryFormat.TABLE)
    return target.instant() if instant else target.range()


def _lines(panel: Panel) -> timeseries.Panel:
    """Lines, with the last and the highest value of each beside its name, the highest first."""
    legend = common.VizLegendOptions().display_mode(models.LegendDisplayMode.TABLE).show_legend(True)
    legend.placement(models.LegendPlacement.BOTTOM).calcs(["lastNotNull", "max"]).sort_by("Max").sort_desc(
        True
    )
    tooltip = (
        common.VizTooltipOptions().mode(models.TooltipDisplayMode.MULTI).sort(models.SortOrder.DESCENDING)
    )
    made = timeseries.Panel().legend(legend).tooltip(tooltip).min(0).line_width(1).fill_opacity(5)
    made.show_points(models.VisibilityMode.NEVER)
    if panel.most is not None:
        made.axis_soft_max(panel.most)
    if panel.levels:
        style = common.GraphThresholdsStyleConfig().mode(models.GraphThresholdsStyleMode.DASHED)
        made.thresholds_style(style)
    return made


def _areas(panel: Panel) -> timeseries.Panel:
    """Parts of a whole, one upon the other."""
    stacking = common.StackingConfig().mode(models.StackingMode.NORMAL)
    return _lines(panel).fill_opacity(40).line_width(0).stacking(stacking)


def _stat(panel: Panel) -> stat.Panel:
    """One figure, its background in the colour of its level."""
    reduce = common.ReduceDataOptions().calcs(["lastNotNull"]).values(False)
    return (
        stat.Panel()
        .reduce_options(reduce)
        .color_mode(models.BigValueColorMode.BACKGROUND)
        .graph_mode(models.BigValueGraphMode.NONE)
    )


def _states(panel: Panel) -> statetimeline.Panel:
    """A bar for each series, in the colour of its value."""
    legend = common.VizLegendOptions().show_legend(False).display_mode(models.LegendDisplayMode.LIST)
    legend.placement(models.LegendPlacement.BOTTOM)
    return (
        statetimeline.Panel()
        .legend(legend)
        .show_value(models.VisibilityMode.NEVER)
        .row_height(0.8)
        .line_width(0)
        .fill_opacity(70)
    )


def _table(panel: Panel) -> table.Panel:
    """A row for each set of labels, a column for each query."""
    names = {f"Value #{ref}": query.legend for ref, query in _named(panel)}
    renamed = {"renameByName": names, "excludeByName": {"Time": True}, "indexByName": {}}
    made = table.Panel().show_header(True).align(models.FieldTextAlignment.AUTO).inspect(False)
    made.with_transformation(shape.DataTransformerConfig(id_val="merge", options={}))
    made.with_transformation(shape.DataTransformerConfig(id_val="organize", options=renamed))
    for column, unit in panel.units:
        made.override_by_name(column, [shape.DynamicConfigValue(id_val="unit", value=unit)])
    return made


_BUILDERS: dict[Kind, Callable[[Panel], Any]] = {
    "lines": _lines,
    "areas": _areas,
    "stat": _stat,
    "states": _states,
    "table": _table,
}


class Row(Struct, frozen=True):
    title: str
    panels: Sequence[Panel]
    is_open: bool = True
    """Shown at once; else a click opens it."""
