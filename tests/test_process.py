"""The limit of open files is the hard one; a thread that hangs keeps nobody."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from extproc.demo.service import Service

LIMITS = """
import resource
from extproc import process
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200))
process.allow_descriptors()
print(resource.getrlimit(resource.RLIMIT_NOFILE))
"""
BOUND_S = 20.0
CONFIG = {"pools": [{"name": "p", "endpoints": ["127.0.0.1:9"], "metrics": {"engine": "none"}}]}


def test_as_many_descriptors_are_allowed_as_the_hard_limit_has() -> None:
    shown = subprocess.run([sys.executable, "-c", LIMITS], capture_output=True, text=True, check=True)
    assert shown.stdout == "(200, 200)\n"


def test_a_config_file_that_cannot_be_read_to_its_end_does_not_keep_the_service_from_ending(
    tmp_path: Path,
) -> None:
    with Service(CONFIG, tmp_path, "--drain-delay", "0") as service:
        service.wait_ready()
        pipe = tmp_path / "pipe"  # that nobody writes to, as a file whose server is away
        os.mkfifo(pipe)
        pipe.replace(service.config_file)
        writer = service.wait_for("its reading", lambda: _opened(service.config_file), BOUND_S)
        service.terminate()
        assert service.wait(BOUND_S) == 0
        os.close(writer)
        assert service.log()[-1]["event"] == "ended_without_threads"


def _opened(pipe: Path) -> int | None:
    """Its writing end; None while nobody reads."""
    try:
        return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return None
