"""SECURITY.md promises nothing that no test shows."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "SECURITY.md").read_text()


def test_every_test_that_it_names_is_there() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)
    missing = [
        f"{file}::{name}"
        for file, name in named
        if not (ROOT / file).is_file() or f"def {name}(" not in (ROOT / file).read_text()
    ]
    assert (missing, len(named) > 30) == ([], True)


def test_every_threat_that_is_stopped_names_the_test_that_shows_it() -> None:
    sections = re.split(r"^## ", TEXT, flags=re.MULTILINE)
    tables = [section for section in sections if re.match("What (a|an) (client|pod|neighbour)", section)]
    rows = [line for table in tables for line in table.splitlines() if line.startswith("| ")]
    without = [row for row in rows if "::" not in row and "the same tests" not in row]
    assert [row.split(" | ")[0] for row in without] == ["| it"] * len(tables)
    assert len(tables) == 3


def test_every_flag_and_metric_that_it_names_is_there() -> None:
    sources = "".join(file.read_text() for file in (ROOT / "extproc").rglob("*.py"))
    flags = set(re.findall(r"--(?:tls|http)-[a-z-]+", TEXT))
    assert [flag for flag in sorted(flags) if f'"{flag}"' not in sources] == []
    metrics = {name.removesuffix("_total") for name in re.findall(r"extproc_([a-z_]+)", TEXT)}
    assert [name for name in sorted(metrics) if name not in sources] == []
