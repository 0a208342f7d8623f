"""Signals to `extproc serve` that operators send by habit."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from extproc.demo.service import Service

BOUND_S = 20.0
CONFIG = {"pools": [{"name": "p", "endpoints": ["127.0.0.1:9"], "metrics": {"engine": "none"}}]}


def test_a_hangup_cuts_no_stream_and_says_what_to_send_instead(tmp_path: Path) -> None:
    with Service(CONFIG, tmp_path, "--drain-delay", "0") as service:
        service.wait_ready()
        os.kill(service.pid, signal.SIGHUP)
        told = service.wait_for_event("signal_ignored", BOUND_S)
        assert told["signal"] == "SIGHUP"
        assert "SIGTERM drains" in told["hint"]
        service.wait_ready()
        service.terminate()
        assert service.wait(BOUND_S) == 0
