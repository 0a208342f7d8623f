"""Our label checker of PromQL finds the mistakes that Prometheus answers with an empty panel."""

from __future__ import annotations

import pytest
from promql_labels import Labels, Mismatch, labels

ROUTER: Labels = frozenset(("job", "instance"))
KNOWN = {
    "ready": ROUTER,
    "version": ROUTER | {"version"},
    "requests_total": ROUTER | {"pool", "outcome"},
    "seconds_bucket": ROUTER | {"le"},
}


@pytest.mark.parametrize(
    ("expression", "fault"),
    [
        ("request_total", "no series request_total"),
        ('requests_total{reason="x"}', "requests_total has no label reason"),
        ("sum by (pol) (rate(requests_total[5m]))", "rate(requests_total[5m]) has no label pol"),
        ("ready / requests_total", "['instance', 'job'] never match ['instance', 'job', 'outcome', 'pool']"),
        ("sum(requests_total) / on (pool) sum by (pool) (requests_total)", "no label pool"),
        ("ready + on (instance) group_left (build) version", "no label build"),
        ("histogram_quantile(0.9, sum(rate(seconds_bucket[5m])))", "no buckets"),
    ],
)
def test_what_can_never_have_a_value_is_found(expression: str, fault: str) -> None:
    with pytest.raises(Mismatch) as found:
        labels(expression, KNOWN)
    assert str(found.value).startswith(fault)


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("time() - ready", "instance job"),
        ("sum by (pool) (rate(requests_total[5m])) > 0.5", "pool"),
        ("sum without (outcome) (requests_total)", "instance job pool"),
        ("ready and on (job, instance) version", "instance job"),
        ("ready * on (instance) group_left (version) version", "instance job version"),
        (
            "sum by (pool) (requests_total) - on (pool) group_right () requests_total",
            "instance job outcome pool",
        ),
        ("sum by (pool) (requests_total) or vector(0)", ""),
        ("histogram_quantile(0.9, sum by (job, le) (rate(seconds_bucket[5m])))", "job"),
        ("absent(ready)", ""),
    ],
)
def test_the_labels_of_a_result_are_those_that_prometheus_gives_it(expression: str, result: str) -> None:
    assert labels(expression, KNOWN) == frozenset(result.split())


def test_a_number_has_no_labels() -> None:
    assert labels("2 * scalar(ready)", KNOWN) is None
