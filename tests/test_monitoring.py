"""The dashboard and the rules of `monitoring/`: up to date, of metrics that exist, with something to do for each."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from kubectl_program import HOW, kubectl
from markdown_pages import ROOT, page
from promql_labels import Labels, labels, selectors

from monitoring import catalogue
from monitoring.alert import Alert
from monitoring.alerts import ALERTS
from monitoring.cases import CASES
from monitoring.dashboard import ROWS, dashboard
from monitoring.files import generated
from monitoring.panels import Panel, Row
from monitoring.recording import RECORDINGS
from monitoring.rules import runbook
from monitoring.worlds import HEALTHY

MONITORING = ROOT / "monitoring"
TARGET = frozenset(("job", "instance", "namespace"))
"""Labels that Prometheus adds to all of a router; `namespace` where it runs in Kubernetes."""
OTHERS: dict[str, Labels] = {"up": TARGET, "ALERTS": TARGET | {"alertname", "alertstate", "severity"}}
"""Series that Prometheus makes itself."""
NOT_SHOWN = {
    "process_virtual_memory_bytes": "says nothing that process_resident_memory_bytes does not say better",
    "python_gc_collections_total": "of use to who works on us, with a profiler",
    "python_gc_objects_collected_total": "the same",
    "python_gc_objects_uncollectable_total": "the same",
}
"""Metrics of ours that are not on the dashboard, and why."""
PANELS = [(row, panel) for row in ROWS for panel in row.panels]


def known() -> dict[str, Labels]:
    """Labels by series: ours, Prometheus', and what the rules record."""
    found = {name: own | TARGET for name, own in catalogue.series().items()} | OTHERS
    for each in RECORDINGS:
        recorded = labels(each.expression, found)
        assert recorded is not None
        found[each.name] = recorded
    return found


KNOWN = known()


def plain(expression: str) -> str:
    """Without the dashboard's variables."""
    return expression.replace("$__rate_interval", "5m")


def title(row_and_panel: tuple[Row, Panel]) -> str:
    return row_and_panel[1].title


@pytest.mark.parametrize("name", generated())
def test_the_generated_files_are_up_to_date(name: str) -> None:
    assert (MONITORING / name).read_text() == generated()[name], "make monitoring writes them anew"


@pytest.mark.parametrize("of", PANELS, ids=title)
def test_a_panel_asks_for_series_that_exist_by_labels_that_they_have(of: tuple[Row, Panel]) -> None:
    for query in of[1].queries:
        result = labels(plain(query.expression), KNOWN)
        assert result is not None
        if of[1].kind != "table":
            assert set(re.findall(r"{{(\w+)}}", query.legend)) <= result, query


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_an_alert_asks_for_series_that_exist_and_speaks_of_labels_that_they_have(alert: Alert) -> None:
    result = labels(alert.expression, KNOWN)
    assert result is not None
    assert set(re.findall(r"\$labels\.(\w+)", alert.summary + alert.description)) <= result


CLOSED: dict[str, frozenset[str]] = {
    "outcome": catalogue.OUTCOMES,
    "state": frozenset(("available", "saturated", "failing", "set_aside", "cordoned")),
    "type": frozenset(("prompt", "cached", "completion")),
    "result": frozenset(("ok", "empty", "not_sent")),
}
"""Values that expressions may ask for."""


def test_values_that_are_asked_for_exist() -> None:
    expressions = [query.expression for _, panel in PANELS for query in panel.queries]
    expressions += [alert.expression for alert in ALERTS] + [each.expression for each in RECORDINGS]
    asked = {
        (matcher.name, value)
        for expression in expressions
        for selector in selectors(plain(expression))
        for matcher in selector.matchers.matchers
        for value in matcher.value.split("|")
        if str(selector.name).startswith("extproc_") and not matcher.value.startswith("$")
    }
    assert {(name, value) for name, value in asked if value not in CLOSED[name]} == set()


def test_every_metric_of_ours_is_on_the_dashboard_or_left_out_for_a_reason() -> None:
    shown = {
        selector.name
        for _, panel in PANELS
        for query in panel.queries
        for selector in selectors(plain(query.expression))
    }
    hidden = {name for name, family in catalogue.families().items() if shown.isdisjoint(family.series)}
    assert hidden == set(NOT_SHOWN)


def test_a_panel_says_what_it_means_and_is_found_by_its_name() -> None:
    titles = [panel.title for _, panel in PANELS]
    assert len(titles) == len(set(titles))
    assert [panel.title for _, panel in PANELS if len(panel.about) < 20] == []


def test_grafanas_own_model_reads_the_dashboard_and_writes_the_same() -> None:
    register_default_plugins()
    text = dashboard()
    read = Dashboard.from_json(json.loads(text))
    assert json.loads(JSONEncoder().encode(read)) == json.loads(text)


def boxes(panels: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of a dashboard, those inside closed rows, too."""
    return [box for panel in panels for box in (panel, *boxes(panel.get("panels", [])))]


def test_panels_have_numbers_of_their_own_and_lie_beside_each_other() -> None:
    made = json.loads(dashboard())
    found = boxes(made["panels"])
    assert len({box["id"] for box in found}) == len(found)
    taken: dict[tuple[int, int], str] = {}
    for box in (box for box in found if box["type"] != "row"):
        place = box["gridPos"]
        assert place["x"] + place["w"] <= 24
        for cell in ((place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])):
            assert taken.setdefault(cell, box["title"]) == box["title"]


def test_the_first_rows_are_open_and_answer_at_a_glance() -> None:
    assert [row.title for row in ROWS if row.is_open] == [
        "Is it all right?",
        "Canary: one version beside the other",
        "Latency",
        "Endpoints",
    ]
    assert [panel.title for panel in ROWS[0].panels if panel.kind == "stat"] == [
        *("Alerts firing", "Routers ready", "Requests per second"),
        *("Failed", "Refused for load", "Endpoints available"),
    ]


# -- rules --------------------------------------------------------------------------------------------------------


def test_every_alert_is_shown_to_fire() -> None:
    assert {name for case in CASES for name in case.firing} == {alert.name for alert in ALERTS}


def test_every_alert_has_a_world_beside_it_in_which_nothing_fires() -> None:
    """The cases come in pairs or more: what changes the same series, and hurts nobody."""
    for alert in ALERTS:
        fires = {series for case in CASES if alert.name in case.firing for series in case.series}
        calm = {series for case in CASES if not case.firing for series in case.series}
        assert (fires & calm) or alert.name == "ExtprocDown", alert.name


def test_the_healthy_world_is_of_series_that_exist() -> None:
    names = {series.split("{")[0] for case in CASES for series in (*HEALTHY, *case.series)}
    assert names - set(KNOWN) == set()


def test_every_alert_leads_to_a_section_that_says_what_to_do() -> None:
    anchors = page("monitoring").anchors
    assert {runbook(alert) for alert in ALERTS} == {
        f"docs/monitoring.md#{anchor}" for anchor in anchors if re.fullmatch("extproc[a-z]+", anchor)
    }


def test_the_operators_object_holds_the_same_rules() -> None:
    made = yaml.safe_load((MONITORING / "prometheusrule.yaml").read_text())
    assert made["spec"] == yaml.safe_load((MONITORING / "rules.yaml").read_text())
    assert (made["apiVersion"], made["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")


@pytest.mark.skipif(kubectl() is None, reason=HOW)
def test_kubectl_renders_what_kube_prometheus_stack_loads() -> None:
    argv = [str(kubectl()), "kustomize", str(MONITORING)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    made = {each["kind"]: each for each in yaml.load_all(done.stdout, Loader=yaml.CSafeLoader)}
    assert set(made) == {"ConfigMap", "PrometheusRule"}
    assert made["ConfigMap"]["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(made["ConfigMap"]["data"]["extproc.json"])["uid"] == "extproc"
    # What `kubectl apply` keeps in an annotation may have 256 KiB.
    assert max(len(json.dumps(each)) for each in made.values()) < 262_144


# -- the page -----------------------------------------------------------------------------------------------------


def test_the_page_has_every_metric_as_it_is() -> None:
    rows = {row[0].strip("`"): (row[1], row[2]) for row in page("monitoring").table("## Metrics")}
    assert rows == {
        family.name: (family.kind, " ".join(f"`{label}`" for label in family.labels))
        for family in catalogue.families().values()
    }
