"""The dashboard: variables, rows, and marks where a config was loaded."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard as make
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as shape

from . import pool_rows, router_rows, service_rows
from .panels import DATASOURCE, Row, build
from .promql import TARGET

ROWS: tuple[Row, ...] = (*service_rows.ROWS, *pool_rows.ROWS, *router_rows.ROWS)
ALL = shape.VariableOption(selected=True, text="All", value="$__all")
UID = "extproc"
"""Stable, so that loading a new version replaces the old one and links go on working."""
ABOUT = (
    "extproc: an Envoy external processor that routes LLM requests. Generated: `make monitoring`. "
    "Alerts, metrics and what to do: docs/monitoring.md."
)


def dashboard() -> str:
    """JSON."""
    made = make.Dashboard("extproc").uid(UID).description(ABOUT).tags(["extproc", "llm", "envoy"])
    made.time("now-1h", "now").refresh("30s").timezone("browser").editable()
    made.tooltip(shape.DashboardCursorSync.CROSSHAIR)
    made.with_variable(make.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    for variable in _variables():
        made.with_variable(variable)
    made.annotation(_config_loads())
    for row in ROWS:
        _add(made, row)
    text: str = JSONEncoder(sort_keys=False, indent=2, ensure_ascii=False).encode(_numbered(made.build()))
    return text + "\n"


def _variables() -> list[make.QueryVariable]:
    """All routers are those that are listed, as every process has metrics like process_*; all pools and models are
    any, those of requests that were refused before one was chosen, too."""
    everything = ".*"
    return [
        _variable("job", "Job", "label_values(extproc_build_info, job)"),
        _variable("instance", "Router", 'label_values(extproc_build_info{job=~"$job"}, instance)'),
        _variable("pool", "Pool", f"label_values(extproc_pool_endpoints{{{TARGET}}}, pool)").all_value(
            everything
        ),
        _variable("model", "Model", f"label_values(extproc_requests_total{{{TARGET}}}, model)").all_value(
            everything
        ),
    ]


def _variable(name: str, label: str, query: str) -> make.QueryVariable:
    """Of several values, all at first."""
    return (
        make.QueryVariable(name)
        .label(label)
        .datasource(DATASOURCE)
        .query({"query": query, "refId": f"{name}-values"})
        .refresh(shape.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(shape.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .current(ALL)
    )


def _config_loads() -> make.AnnotationQuery:
    loads = f"changes(extproc_config_last_reload_success_timestamp_seconds{{{TARGET}}}[2m]) > 0"
    return (
        make.AnnotationQuery()
        .name("Config loaded")
        .datasource(DATASOURCE)
        .expr(loads)
        .enable(True)
        .icon_color("blue")
    )


def _add(made: make.Dashboard, row: Row) -> None:
    """Panels of an open row follow it; those of a closed one are inside."""
    head = make.Row(row.title).collapsed(not row.is_open)
    panels = [build(panel) for panel in row.panels]
    if not row.is_open:
        for panel in panels:
            head.with_panel(panel)
    made.with_row(head)
    if row.is_open:
        for panel in panels:
            made.with_panel(panel)


def _numbered(made: shape.Dashboard) -> shape.Dashboard:
    """Panels have numbers, by which links name them."""
    number = 0
    for panel in made.panels or ():
        number += 1
        panel.id_val = number
        for inner in panel.panels if isinstance(panel, shape.RowPanel) else ():
            number += 1
            inner.id_val = number
    return made
