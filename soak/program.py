"""The service as a child process whose log somebody reads (or does not), and whose memory can be asked for."""

from __future__ import annotations

import collections
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from extproc.demo.service import Service

PROBE = Path(__file__).with_name("probed.py")
PROBE_S = 20.0
"""A collection takes a tenth of a second; tracemalloc's snapshot takes some, on a machine that is busy."""
TRACE_FRAMES = "8"
"""Enough to see who called what allocates."""
READ_BYTES = 1 << 16
OTEL = (
    "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf",
    "OTEL_METRIC_EXPORT_INTERVAL=2000",
    "OTEL_BSP_SCHEDULE_DELAY=500",
    "OTEL_EXPORTER_OTLP_TIMEOUT=1000",
)
"""In milliseconds.  Often, so that what an export does not give back is seen; and what waits for one is soon gone."""


class Program(Service):
    """`extproc serve`, by way of a script that adds the probe.

    Its log goes through a pipe, which this reads; `reading.clear()` makes it a reader that does not.  Lines of
    requests are counted, all others kept in the file that `log` reads.
    """

    def __init__(
        self, script: Path, config: Mapping[str, Any], directory: Path, flags: Sequence[str], *, trace: bool
    ) -> None:
        super().__init__(config, directory, *flags, name="extproc")
        self.outcomes: collections.Counter[str] = collections.Counter()
        """Of the log lines of requests."""
        self.reading = threading.Event()
        self.reading.set()
        self._probe = directory / "probe.json"
        self._pipe = directory / "log.pipe"
        os.mkfifo(self._pipe)
        serve = self.argv[self.argv.index("serve") :]
        environment = [*OTEL, *([f"PYTHONTRACEMALLOC={TRACE_FRAMES}"] if trace else [])]
        python = ["env", *environment, sys.executable, "-P", str(script), str(self._probe), *serve]
        # The shell and env become the service: the process that is signalled is the one that serves.
        self.argv = ["sh", "-c", 'pipe=$1; shift; exec "$@" 2>"$pipe"', "sh", str(self._pipe), *python]
        self._reader = threading.Thread(target=self._read_log, name="log reader", daemon=True)
        self._ended = threading.Event()

    def start(self) -> None:
        self._reader.start()
        super().start()

    def stop(self) -> None:
        """As of any child process; then its log is at its end, too."""
        self._ended.set()
        self.reading.set()
        super().stop()
        self._reader.join(PROBE_S)

    def _read_log(self) -> None:
        with open(os.open(self._pipe, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as pipe:
            pending = b""
            while not self._ended.is_set():
                self.reading.wait()
                try:
                    data = pipe.read(READ_BYTES)
                except BlockingIOError:
                    data = None
                if not data:
                    time.sleep(0.02)
                    continue
                *lines, pending = (pending + data).split(b"\n")
                self._take(lines)

    def _take(self, lines: list[bytes]) -> None:
        kept = []
        for line in lines:
            event = json.loads(line) if line.startswith(b"{") else {}
            if event.get("event") == "request":
                self.outcomes[event["outcome"]] += 1
            else:
                kept.append(line + b"\n")
        with self.err.open("ab") as log:
            log.writelines(kept)

    def faults(self) -> list[str]:
        """What it logged as its own faults."""
        expected = {"config_reload_failed"}
        return [
            f"{line['event']}: {line.get('exc_info') or line.get('exception') or line.get('message') or line}"
            for line in self.log()
            if line["level"] == "error" and line["event"] not in expected
        ]

    def memory(self) -> dict[str, Any]:
        """What the probe tells.  Blocks; raises StartError where the service does not answer."""
        self._probe.unlink(missing_ok=True)
        os.kill(self.pid, signal.SIGUSR1)
        return self.wait_for("the probe's answer", self._read_probe, PROBE_S)

    def _read_probe(self) -> dict[str, Any] | None:
        return json.loads(self._probe.read_text()) if self._probe.exists() else None

    @property
    def trace_file(self) -> Path:
        """The snapshot of tracemalloc that the last `memory` took."""
        return Path(f"{self._probe}.trace")

    def process(self) -> psutil.Process:
        """For what the system knows of it."""
        return psutil.Process(self.pid)
