"""Names in the documents exist: metrics, checks of the doctor, reasons, and every word in code type."""

from __future__ import annotations

import ast
import functools
import inspect
import re
import time
from typing import Any, get_args

import pytest
from markdown_pages import PAGES, ROOT, page

from extproc import config_file, metrics, tls_reload
from extproc.cluster_metrics import ClusterMetrics
from extproc.doctor.checks import CHECKS
from extproc.doctor.finding import Check, Line
from extproc.errors import Reason as Refused
from extproc.fleet import Fleet
from extproc.holding import Lobby
from extproc.kube.membership import Reason as Excluded
from extproc.kube.model_objects import ACCEPTED
from extproc.kube.model_verdicts import OVERRIDDEN

OTHERS_WORDS = {
    *(
        "upstream_rq_total",
        "upstream_rq_5xx",
        "upstream_rq_active",
        "connection_termination",
        "response_timeout",
    ),
    *("ext_proc_error", "ext_proc_error_per-message_timeout_exceeded", "request_payload_too_large"),
    *("processing-body-mode", "VLLM_HTTP_TIMEOUT_KEEP_ALIVE"),
    *("honor_labels", "process_virtual_memory_bytes", "python_gc_collections_total"),
    *("python_gc_objects_collected_total", "python_gc_objects_uncollectable_total"),
    *("OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER"),
}
"""What other programs call something, where nothing in the project says it."""


@functools.cache
def metric_names() -> frozenset[str]:
    """Those that one instance has; and those of the TLS files, which take files to be there."""
    fleet = Fleet()
    fleet.apply(config_file.parse(b"pools: [{name: a, endpoints: []}]"), 0.0)
    made = metrics.Metrics(fleet, time.monotonic, "0")
    made.show_queues(Lobby[Any]())
    ClusterMetrics(made.registry, lambda: (), lambda: False, time.monotonic)
    names = {family.name for family in made.registry.collect()}
    return frozenset(names.union(re.findall(r'"(extproc_tls_[a-z_]+)"', inspect.getsource(tls_reload))))


def test_metrics_that_are_named_exist() -> None:
    named = {found for each in PAGES.values() for found in re.findall(r"\bextproc_[a-z_]+", each.text)}
    ends = r"_(total|bucket|count|sum)$"
    assert {name for name in named if re.sub(ends, "", name) not in metric_names()} == set()


def test_the_doctors_page_has_every_check_as_it_is() -> None:
    rows = [row for row in page("doctor").rows() if re.match(r"\| `[a-z]", row)]
    assert rows == [_row(each) for each in CHECKS]


def _row(check: Check) -> str:
    cure = check.cure
    envoy = () if cure.gateway else cure.envoy
    parts = [_cure(line.kind, line) for line in (*cure.gateway, *cure.router)]
    parts += [_cure(f"Envoy's {line.kind}", line) for line in envoy]
    told = "; ".join([*parts, *([cure.words] if cure.words else [])])
    router = " (router)" if check.needs_router else ""
    return f"| `{check.id}`{router} | {check.severity.value} | {check.title} | {told} |"


def _cure(kind: str, line: Line) -> str:
    return f"{kind} `{line.path}: {line.value}`" if line.value else f"{kind} {line.path}"


def test_each_check_stands_beside_a_symptom_and_no_other_does() -> None:
    paragraphs = re.findall(r"^Doctor: (.*?)\n\n", page("troubleshooting").prose, re.DOTALL | re.MULTILINE)
    named = {span for text in paragraphs for span in re.findall(r"`([^`]+)`", text)}
    ids = {check.id for check in CHECKS}
    assert named == ids


def test_every_refusal_is_in_the_readme_with_its_status_and_among_the_symptoms() -> None:
    told = {}
    for codes, statuses, _ in PAGES["README.md"].table(
        "Refused, it gets OpenAI's error shape and the reason in `x-extproc-reason`:"
    ):
        for code in re.findall(r"`([a-z_]+)`", codes):
            told[code] = int(statuses)
    assert told == {each.code: each.status for each in Refused}
    symptoms = {span.removeprefix("x-extproc-reason: ") for span in page("troubleshooting").spans}
    assert {each.code for each in Refused} <= symptoms


def test_every_reason_of_a_condition_is_explained() -> None:
    rows = page("kubernetes").table("### What their authors are told")
    assert {row[0].strip("`") for row in rows} == condition_reasons()


def condition_reasons() -> set[str]:
    """What the code gives as `Refusal(source, REASON, ...)`, and `Accepted`."""
    found = {OVERRIDDEN, ACCEPTED}
    for name in ("models", "model_claims"):
        tree = ast.parse((ROOT / f"extproc/kube/{name}.py").read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Refusal":
                reason = node.args[1]
                found |= {str(reason.value)} if isinstance(reason, ast.Constant) else set()
    return found


def test_every_reason_why_a_pod_gets_nothing_is_explained() -> None:
    rows = page("kubernetes").table("### Who gets no requests, and why")
    assert {row[0].strip("`") for row in rows} == set(get_args(Excluded))


WORD = r"[A-Za-z][A-Za-z0-9]*([_-][A-Za-z0-9]+)+|[a-z]+[A-Z]\w+"
"""snake_case, kebab-case or camelCase."""


@functools.cache
def project_words() -> frozenset[str]:
    """Of all that the project is made of but its documents and tests, in lower case."""
    files = [
        path
        for root in ("extproc", "k8s", "envoy", "bench", "monitoring")
        for path in (ROOT / root).rglob("*.*")
    ]
    files += [*(ROOT / "tests/data/crds").glob("*.json"), ROOT / "Makefile", ROOT / "pyproject.toml"]
    kept = [path for path in files if path.suffix in {".py", ".yaml", ".json", ".sh", ".toml", ""}]
    text = "\n".join(path.read_text() for path in kept if path.is_file()).lower()
    return frozenset(re.findall(r"[a-z0-9]+(?:[_-][a-z0-9]+)*", text))


@pytest.mark.parametrize("name", PAGES)
def test_words_in_code_type_are_words_of_the_project(name: str) -> None:
    """A name of a key, header, reason, field, event or check that is misspelt is found nowhere."""
    words = {span for span in PAGES[name].spans if re.fullmatch(WORD, span)}
    unknown = {word for word in words - OTHERS_WORDS if word.lower() not in project_words()}
    assert {word for word in unknown if not word.lower().startswith("extproc_")} == set()
