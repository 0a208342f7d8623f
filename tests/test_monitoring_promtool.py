"""The rules and our metrics page as promtool takes them: valid, and each alert fires in its world and in no other."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client.exposition import generate_latest
from prometheus_program import needs_prometheus, promtool

from monitoring.cases import GROUPS
from monitoring.catalogue import registry
from monitoring.rules import rule_tests, rules

pytestmark = [needs_prometheus, pytest.mark.timeout(300)]
PARTS = sorted({(group, case.step_minutes) for group, cases in GROUPS.items() for case in cases})


@pytest.fixture
def rules_file(tmp_path: Path) -> Path:
    file = tmp_path / "rules.yaml"
    file.write_text(rules())
    return file


def test_promtool_finds_no_fault_in_the_rules(rules_file: Path) -> None:
    checked = promtool("check", "rules", "--lint=all", "--lint-fatal", str(rules_file))
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize(("group", "step_minutes"), PARTS)
def test_exactly_the_alerts_of_each_case_fire_and_where_none_should_none_does_at_any_step(
    rules_file: Path, group: str, step_minutes: int
) -> None:
    cases = rules_file.with_name("cases.yaml")
    cases.write_text(rule_tests(GROUPS[group], step_minutes))
    tested = promtool("test", "rules", str(cases))
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_an_alert_that_would_not_fire_is_found(rules_file: Path) -> None:
    spoilt = rules().replace("extproc_buffered_limit_bytes > 0.8", "extproc_buffered_limit_bytes > 0.95")
    assert spoilt != rules()
    rules_file.write_text(spoilt)
    cases = rules_file.with_name("cases.yaml")
    cases.write_text(rule_tests([case for case in GROUPS["faults"] if "bodies" in case.title], 1))
    tested = promtool("test", "rules", str(cases))
    assert tested.returncode == 1
    assert 'exp: {alertname="ExtprocBodiesHeld"} 1E+00' in tested.stdout + tested.stderr


def test_one_that_fires_for_a_while_where_none_should_is_found(rules_file: Path) -> None:
    spoilt = rules().replace('{outcome="protocol_error"}[10m])) > 3', '{outcome="protocol_error"}[10m])) > 1')
    assert spoilt != rules()
    rules_file.write_text(spoilt)
    cases = rules_file.with_name("cases.yaml")
    cases.write_text(rule_tests([case for case in GROUPS["faults"] if "broke it twice" in case.title], 1))
    tested = promtool("test", "rules", str(cases))
    assert tested.returncode == 1
    assert 'got: {alertname="ExtprocProtocolErrors"} 1E+00' in tested.stdout + tested.stderr


RENDERED = """
rule_files: [rules.yaml]
evaluation_interval: 1m
tests:
- interval: 1m
  input_series:
  - {series: 'extproc_requests_total{job="j",pool="p",model="m",outcome="completed"}', values: 0+30x60}
  - {series: 'extproc_requests_total{job="j",pool="p",model="m",outcome="upstream_error"}', values: 0+10x60}
  alert_rule_test:
  - alertname: ExtprocPoolErrors
    eval_time: 30m
    exp_alerts:
    - exp_labels: {severity: warning, job: j, pool: p}
      exp_annotations:
        summary: Model servers of pool p answer 5xx
        description: 25% of its requests.
        runbook: docs/monitoring.md#extprocpoolerrors
"""


def test_an_alert_says_of_whom_it_is_and_how_bad_it_is(rules_file: Path) -> None:
    case = rules_file.with_name("rendered.yaml")
    case.write_text(RENDERED)
    tested = promtool("test", "rules", str(case))
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_promtool_finds_no_fault_in_a_page_with_every_metric_on_it() -> None:
    page = generate_latest(registry()).decode()
    checked = promtool("check", "metrics", stdin=page)
    assert (checked.returncode, checked.stderr, checked.stdout) == (0, "", "")
