"""Child processes that are waited for, whose logs can be read, and that are gone at the end."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

T = TypeVar("T")

POLL_S = 0.02
STOP_S = 5.0
"""Between SIGTERM and SIGKILL. All that we start here ends in well under a second."""


class StartError(RuntimeError):
    """A child process ended, or did not become ready in time; the message ends with the tail of its log."""


class ChildProcess:
    """A program of ours or of others, with stdout and stderr in `DIRECTORY/NAME.out` and `.err`.

    A context manager: started on entry, stopped on exit. It runs in its own process group, so that Ctrl-C in
    a terminal reaches only the parent, which then stops the children in order.
    """

    def __init__(self, name: str, argv: Sequence[str], directory: Path) -> None:
        self.name = name
        self.argv = list(argv)
        self.out = directory / f"{name}.out"
        self.err = directory / f"{name}.err"
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False
        self._lock = threading.Lock()
        """A start that runs in a thread may be overtaken by the stop of an impatient user."""

    def start(self) -> None:
        """Raises StartError where the program cannot be run at all, or has been stopped before."""
        with self._lock, self.out.open("wb") as out, self.err.open("wb") as err:
            if self._stopped:
                raise StartError(f"{self.name} was stopped before it started")
            try:
                self._process = subprocess.Popen(
                    self.argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err, process_group=0
                )
            except OSError as error:
                raise StartError(f"{self.name} cannot be started: {error}") from error

    @property
    def pid(self) -> int:
        return self._started().pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def terminate(self) -> None:
        """Sends SIGTERM and does not wait."""
        self._started().terminate()

    def kill(self) -> None:
        """Sends SIGKILL, for tests of what happens when it is gone at once."""
        self._started().kill()

    def wait(self, timeout_s: float) -> int:
        """The exit status. Raises subprocess.TimeoutExpired."""
        return self._started().wait(timeout_s)

    def stop(self) -> None:
        """SIGTERM, then SIGKILL after STOP_S, for good. Safe to call more than once, and before any start."""
        with self._lock:
            self._stopped = True
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def wait_for(self, what: str, probe: Callable[[], T | None], timeout_s: float) -> T:
        """Asks `probe` until it answers something. Raises StartError when the process ends or time is up."""
        deadline = time.monotonic() + timeout_s
        while (found := probe()) is None:
            if not self.running:
                raise self._start_error(f"ended with status {self._started().returncode} before {what}")
            if time.monotonic() > deadline:
                raise self._start_error(f"{what} did not come within {timeout_s:g} s")
            time.sleep(POLL_S)
        return found

    def wait_for_event(self, event: str, timeout_s: float) -> dict[str, Any]:
        """The first JSON log line on stderr whose `event` is this one."""

        def find() -> dict[str, Any] | None:
            return next((entry for entry in self.log() if entry.get("event") == event), None)

        return self.wait_for(f"the log line {event!r}", find, timeout_s)

    def log(self) -> list[dict[str, Any]]:
        """The JSON objects on stderr, one a line, oldest first; lines that are none are left out."""
        return json_lines(self.err)

    def tail(self, lines: int = 15) -> str:
        """The end of what it wrote, stdout before stderr."""
        texts = (path.read_text(errors="replace") for path in (self.out, self.err) if path.exists())
        return "\n".join("".join(texts).splitlines()[-lines:])

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError(f"{self.name} has not been started")
        return self._process

    def _start_error(self, why: str) -> StartError:
        return StartError(f"{self.name} {why}. It ran as\n  {' '.join(self.argv)}\nand wrote\n{self.tail()}")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def json_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects in a file, one a line; a line still being written is left out like any other text."""
    found = []
    for line in path.read_bytes().splitlines():
        if line.startswith(b"{"):
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
    return found
