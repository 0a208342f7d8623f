"""Prometheus' files: the rules, the same for the Prometheus operator, and their unit tests for promtool."""

from __future__ import annotations

from collections.abc import Sequence

from extproc.manifests.text import Object, Why, document

from .alert import Alert
from .alerts import INSIDE, SERVICE, VERSIONS
from .cases import Case
from .recording import RECORDINGS
from .router_alerts import FILES, ROUTERS
from .worlds import HEALTHY, STEPS

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


def rule_tests(cases: Sequence[Case], step_minutes: int) -> str:
    """Those that go in such steps, as `promtool test rules` reads them beside `rules.yaml`."""
    tests = [_test(case) for case in cases if case.step_minutes == step_minutes]
    return document(
        {
            "rule_files": ["rules.yaml"],
            "evaluation_interval": f"{step_minutes}m",
            # or alerts may come first, and find what was recorded a step ago, if that is not too long
            "group_eval_order": ["extproc.recordings", *GROUPS],
            "tests": tests,
        }
    )


def _test(case: Case) -> Object:
    series = {name: values for name, values in (HEALTHY | case.series).items() if values is not None}
    every = [f"{n * case.step_minutes}m" for n in range(STEPS + 1)]
    return {
        "name": case.title,
        "interval": f"{case.step_minutes}m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [_asked(at, case.firing) for at in ([case.at] if case.firing else every)],
    }


def _asked(at: str, firing: Sequence[str]) -> Object:
    return {
        "expr": 'group by (alertname) (ALERTS{alertstate="firing"})',
        "eval_time": at,
        "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(firing)],
    }
