"""Where Prometheus' programs are: on the PATH, or in the virtual environment, where `make setup` puts Debian's."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HOW = "no promtool and prometheus: put them on the PATH, or run sh monitoring/get_prometheus.sh .venv/prometheus"


@functools.cache
def program(name: str) -> str | None:
    """`prometheus` or `promtool`; None: there is none."""
    unpacked = Path(sys.prefix, "prometheus", "usr", "bin", name)
    return shutil.which(name) or (str(unpacked) if unpacked.exists() else None)


needs_prometheus = pytest.mark.skipif(
    program("promtool") is None or program("prometheus") is None, reason=HOW
)


def promtool(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """What it says; four minutes for a machine that has others to serve: an hour of alerts takes seconds."""
    argv = [program("promtool"), *arguments]
    return subprocess.run(
        [word for word in argv if word is not None],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
