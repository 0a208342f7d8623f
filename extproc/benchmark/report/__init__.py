"""The report of a benchmark: tables in the terminal, a JSON file, pictures, and one self-contained HTML page.

`write(report, directory)` makes the files, `print_report(report, console)` the tables.
"""

from __future__ import annotations

from extproc.benchmark.report.files import write
from extproc.benchmark.report.terminal import print_report

__all__ = ["print_report", "write"]
