"""docs/tracing.md names what is sent, all of it, and its settings are read."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import yaml
from markdown_pages import ROOT, page

from extproc.otlp import genai, settings

SOURCES = [*(ROOT / "extproc/otlp").glob("*.py")]


def told(pattern: str, sources: list[Path] = SOURCES) -> set[str]:
    return {found for path in sources for found in re.findall(pattern, path.read_text())}


def spans() -> set[str]:
    return set(page("tracing").spans)


def test_every_attribute_of_a_span_is_there_and_no_other() -> None:
    rows = _rows("| attribute | of |")
    documented = {span for row in rows for span in re.findall(r"`([a-z_.]+(?:\.NAME)?)`", row.split("|")[1])}
    sources = [ROOT / "extproc/otlp" / name for name in ("span_attributes.py", "spans.py")]
    written = told(r'"((?:gen_ai|extproc|http|url|server|error)\.[a-z_.]+)"', sources)
    families = {f"{found}.NAME" for found in told(r'f"(extproc\.[a-z]+)\.\{')}
    names = {"extproc.request", "extproc.decide", "extproc.queue"}
    assert documented == (written - names) | families


def _rows(head: str) -> list[str]:
    below = page("tracing").prose.split(head, 1)[1].split("\n\n", 1)[0]
    return below.splitlines()[2:]


def test_every_conventional_metric_is_there_with_what_it_is() -> None:
    rows = [row.split("|") for row in _rows("| metric | is | attributes |")]
    documented = {row[2].strip(" `"): row[1].strip(" `") for row in rows}
    assert documented == {ours: theirs for ours, (theirs, _) in genai.METRICS.items()}


def test_every_variable_that_is_named_is_read() -> None:
    """Those of who tells are the SDK's own to read."""
    source = (ROOT / "extproc/otlp/settings.py").read_text()
    read = set(re.findall(r'"(OTEL_[A-Z_]+)"', source))
    read |= {f"OTEL_EXPORTER_OTLP_{each}" for each in re.findall(r'"([A-Z_]+)"', source)}
    read |= {f"OTEL_{signal}_EXPORTER" for signal in ("TRACES", "METRICS")}
    named = {found for span in spans() for found in re.findall(r"\bOTEL_[A-Z_]+", span)}
    assert named - read == {"OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"}
    shortened = {span for span in spans() if re.fullmatch(r"…_[A-Z_]+", span)}
    ends = {span.removeprefix("…_").removeprefix("TRACES_").removeprefix("METRICS_") for span in shortened}
    assert {f"OTEL_EXPORTER_OTLP_{end}" for end in ends} <= read | {"OTEL_EXPORTER_OTLP_ENDPOINT"}


def test_the_defaults_are_those_of_the_program() -> None:
    found = settings.Settings(None, None)
    text = page("tracing").text
    assert f"spans that wait ({found.queue}), go together ({found.batch})" in text
    assert f"milliseconds ({int(found.delay_s * 1000)})" in text
    assert f"| milliseconds ({int(found.interval_s * 1000)}) |" in text
    assert f"`{found.sampler}` (default)" in text


def test_envoys_part_is_what_was_tried() -> None:
    """tests/e2e/tracing.py runs an Envoy with it."""
    (shown,) = [
        yaml.safe_load(block.text) for block in page("tracing").blocks if "# of an Envoy" in block.text
    ]
    shown["tracing"]["provider"]["typed_config"]["grpc_service"]["envoy_grpc"]["cluster_name"] = "collector"
    tried = ast.parse((ROOT / "tests/e2e/tracing.py").read_text())
    (tracer,) = [
        ast.literal_eval(node.value)
        for node in tried.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "TRACER"
    ]
    del tracer["typed_config"]["grpc_service"]["timeout"]
    assert shown["tracing"]["provider"] == tracer


def test_the_collectors_pipelines_are_made_of_what_it_has() -> None:
    (shown,) = [
        yaml.safe_load(block.text) for block in page("tracing").blocks if "# of the collector" in block.text
    ]
    for pipeline in shown["service"]["pipelines"].values():
        assert set(pipeline["receivers"]) <= set(shown["receivers"])
        assert set(pipeline["exporters"]) <= set(shown["exporters"])
