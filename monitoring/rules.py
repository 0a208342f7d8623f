"""Prometheus' files: the rules, the same for the Prometheus operator, and their unit tests for promtool."""

from __future__ import annotations

from collections.abc import Sequence

from extproc.manifests.text import Object, Why, document

from .alerts import FILES, INSIDE, ROUTERS, SERVICE, VERSIONS, Alert
from .cases import HEALTHY, Case
from .recording import RECORDINGS

RUNBOOKS = "docs/monitoring.md"
GENERATED = "Generated: make monitoring. What to do for each alert: docs/monitoring.md."
GROUPS = {
    "extproc.routers": ROUTERS,
    "extproc.files": FILES,
    "extproc.service": SERVICE,
    "extproc.versions": VERSIONS,
    "extproc.inside": INSIDE,
}


def rules() -> str:
    """As Prometheus' `rule_files` reads them."""
    return document(Why({"groups": _groups()}, GENERATED))


def prometheus_rule() -> str:
    """As an object of the Prometheus operator."""
    made: Object = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "extproc", "labels": {"app.kubernetes.io/name": "extproc"}},
        "spec": {"groups": _groups()},
    }
    return document(Why(made, GENERATED))


def runbook(alert: Alert) -> str:
    """A path in this project, with the heading."""
    return f"{RUNBOOKS}#{alert.name.lower()}"


def _groups() -> list[Object]:
    recordings: list[Object] = [
        {"record": each.name, "expr": Why(each.expression, each.reason) if each.reason else each.expression}
        for each in RECORDINGS
    ]
    alerts = [{"name": name, "rules": [_alert(each) for each in group]} for name, group in GROUPS.items()]
    return [{"name": "extproc.recordings", "rules": recordings}, *alerts]


def _alert(alert: Alert) -> Object:
    return {
        "alert": alert.name,
        "expr": alert.expression,
        "for": alert.wait,
        "labels": {"severity": alert.severity},
        "annotations": {
            "summary": alert.summary,
            "description": alert.description,
            "runbook": runbook(alert),
        },
    }


def rule_tests(cases: Sequence[Case], step: str) -> str:
    """Those that go in such steps, as `promtool test rules` reads them beside `rules.yaml`."""
    tests = [_test(case) for case in cases if case.step == step]
    return document({"rule_files": ["rules.yaml"], "evaluation_interval": step, "tests": tests})


def _test(case: Case) -> Object:
    series = {name: values for name, values in (HEALTHY | case.series).items() if values is not None}
    firing: Object = {
        "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
        "eval_time": case.at,
        "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(case.firing)],
    }
    return {
        "name": case.title,
        "interval": case.step,
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [firing],
    }
