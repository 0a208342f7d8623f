"""What libraries and Python itself would write to stderr, as lines of our log.

They would write it where it happens, on the event loop, which a log reader that stops reading would stop; in lines that
are not JSON; and with what they choke on: a malformed HTTP request is quoted with its `authorization`.  So what they
say is left out.  Where in their code they said it, and the class and places of an exception, hold nothing of a request.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from .logs import Logger
from .repeats import Repeats

INTERVAL_S = 1.0
"""Lines of one kind come this far apart: nobody fills the log with malformed requests."""
MAX_FRAMES = 20
"""Of a stack, the innermost: Python's own limit of depth would make a line of 100 KB."""


class LibraryHandler(logging.Handler):
    """Writes a line for each record of a warning or more, and counts those in between."""

    def __init__(self, log: Logger, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(logging.WARNING)
        self._log = log
        self._repeats = Repeats(INTERVAL_S, clock)
        """Of one logger, level and class of exception."""
        self._counting = threading.RLock()
        """Taken again by the same thread for what a finalizer raises, whenever that runs."""

    def emit(self, record: logging.LogRecord) -> None:
        _, error, stack = record.exc_info or (None, None, None)
        self.tell(record.name, f"{_short(record.pathname)}:{record.lineno}", record.levelno, error, stack)

    def tell(
        self,
        logger: str,
        where: str,
        level: int,
        error: BaseException | type[BaseException] | None,
        stack: TracebackType | None = None,
    ) -> None:
        """One line, unless one of its kind was told within the last second."""
        name = _class_name(error) if error is not None else None
        with self._counting:
            unreported = self._repeats.happened((logger, level, name))
        if unreported is None:
            return
        tell = self._log.error if level >= logging.ERROR else self._log.warning
        tell(
            "library_log",
            logger=logger,
            where=where,
            error=name,
            stack=_places(stack),
            unreported=unreported,
        )


@contextmanager
def told_to(log: Logger) -> Iterator[None]:
    """Until the end of the block all of this process goes to *log*: `logging`, warnings, exceptions nobody caught."""
    handler = LibraryHandler(log)
    root = logging.getLogger()
    before = warnings.showwarning, sys.unraisablehook, threading.excepthook

    def warned(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        handler.tell("warnings", f"{_short(filename)}:{lineno}", logging.WARNING, category)

    def unraisable(fault: Any) -> None:
        handler.tell("unraisable", "", logging.ERROR, fault.exc_type, fault.exc_traceback)

    def in_thread(fault: threading.ExceptHookArgs) -> None:
        handler.tell("threading", "", logging.ERROR, fault.exc_type, fault.exc_traceback)

    root.addHandler(handler)
    warnings.showwarning, sys.unraisablehook, threading.excepthook = warned, unraisable, in_thread
    try:
        yield
    finally:
        warnings.showwarning, sys.unraisablehook, threading.excepthook = before
        root.removeHandler(handler)


def _class_name(error: BaseException | type[BaseException]) -> str:
    kind = error if isinstance(error, type) else type(error)
    return f"{kind.__module__}.{kind.__qualname__}"


def _places(stack: TracebackType | None) -> list[str]:
    """`file:line function`, the outermost first."""
    frames = [(frame.f_code, line) for frame, line in traceback.walk_tb(stack)][-MAX_FRAMES:]
    return [f"{_short(code.co_filename)}:{line} {code.co_name}" for code, line in frames]


def _short(file: str) -> str:
    """As much of a path as tells which module it is."""
    return "/".join(Path(file).parts[-3:])
