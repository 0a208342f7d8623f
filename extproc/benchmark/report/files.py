"""The files of a report."""

from __future__ import annotations

from pathlib import Path

from extproc.benchmark import results
from extproc.benchmark.extra import require_extra

JSON_NAME = "results.json"
PAGE_NAME = "index.html"


def write(report: results.Report, directory: Path) -> list[Path]:
    """Makes the directory where it is missing, overwrites what is there; answers the files written: the page first,
    then the JSON, then the pictures.  Raises MissingExtra, before anything is written, and OSError."""
    require_extra()
    from extproc.benchmark.report.page import page
    from extproc.benchmark.report.plots import pictures

    contents = {PAGE_NAME: page(report).encode(), JSON_NAME: results.encode(report), **pictures(report)}
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for name, content in contents.items():
        path = directory / name
        path.write_bytes(content)
        written.append(path)
    return written
