"""Log lines: JSON (or for people), written by a thread so that a slow reader never holds up the event loop."""

from __future__ import annotations

import collections
import json
import os
import select
import sys
import threading
from collections.abc import Callable
from typing import Any

import msgspec
import structlog

MAX_PENDING = 50_000
"""Lines held for a reader that does not take them (about 25 MB); what comes on top is dropped and counted."""
FLUSH_S = 0.1
"""Lines are written together, this often: one system call for many requests."""
LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}

Logger = structlog.typing.FilteringBoundLogger


class LineWriter:
    """A file descriptor with a bounded queue before it and a thread behind it; `close` writes what is left."""

    def __init__(self, descriptor: int, on_drop: Callable[[], None] = lambda: None) -> None:
        self.on_drop = on_drop
        self._descriptor = descriptor
        self._lines: collections.deque[str] = collections.deque()
        self._torn = False
        """What was written last lacks its end: the next line begins on a new one."""
        self._writable = select.poll()
        self._writable.register(descriptor, select.POLLOUT)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log writer", daemon=True)
        self._thread.start()

    def line(self, text: str) -> None:
        if len(self._lines) >= MAX_PENDING:
            self.on_drop()
            return
        self._lines.append(text)

    msg = debug = info = warning = error = critical = exception = log = line  # what structlog calls

    def close(self, timeout_s: float = 2.0) -> None:
        """Write what is pending, for at most *timeout_s*: a reader that is stuck must not keep us from ending."""
        self._closing.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._closing.wait(FLUSH_S):
            self._flush()
        self._flush()

    def _flush(self) -> None:
        while self._lines:
            lines = [self._lines.popleft() for _ in range(min(len(self._lines), 1000))]
            text = "\n".join(lines) + "\n"
            if not self._write(("\n" * self._torn + text).encode("utf-8", "backslashreplace")):
                return

    def _write(self, text: bytes) -> bool:
        """However long its reader takes; False where nobody reads any more, or the disk is full: it is counted then."""
        left = memoryview(text)
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:  # somebody who shares the pipe made it so
                self._writable.poll()
            except OSError:
                for _ in range(bytes(left).count(b"\n")):
                    self.on_drop()
                self._torn = text[: len(text) - len(left)][-1:] not in (b"", b"\n")
                return False
        self._torn = False
        return True


def standard_error() -> int:
    """Its descriptor; where we were started without one, a descriptor that takes everything to nowhere."""
    return os.open(os.devnull, os.O_WRONLY) if sys.stderr is None else sys.stderr.fileno()


def configure(writer: LineWriter, level: str, style: str) -> Logger:
    """A logger that writes to *writer*: lines of *level* and above, *style* `json` or `console`."""
    shared: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper("iso", utc=True),
    ]
    if style == "json":
        shared += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_json)]
    else:
        shared.append(structlog.dev.ConsoleRenderer(colors=os.isatty(2)))
    logger: Logger = structlog.wrap_logger(
        writer,
        processors=shared,
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        cache_logger_on_first_use=True,
    )
    return logger.bind()


def _json(event: dict[str, Any], **_: Any) -> str:
    event = {
        "timestamp": event.pop("timestamp"),
        "level": event.pop("level"),
        "event": event.pop("event"),
        **event,
    }
    try:
        return msgspec.json.encode(event, enc_hook=repr).decode()
    except UnicodeEncodeError:  # a lone surrogate
        return json.dumps(event, default=repr)
