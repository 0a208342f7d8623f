"""What the SDK logs is not printed: it writes a line for each batch that fails.  It is kept, as the reason."""

from __future__ import annotations

import logging
import threading


class _Kept(logging.Handler):
    """The first message of each thread since it said `forget`: what comes later says that it was tried again."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.of_thread = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        self.of_thread.message = self.message() or record.getMessage()

    def message(self) -> str:
        return str(getattr(self.of_thread, "message", ""))


_KEPT = _Kept()


def keep() -> None:
    """From now on, in place of printing.  Call it when what logs is imported."""
    logger = logging.getLogger("opentelemetry")
    logger.propagate = False
    logger.handlers = [_KEPT]
    for name, each in logging.root.manager.loggerDict.items():
        if name.startswith("opentelemetry.") and isinstance(each, logging.Logger):
            each.filters.clear()  # they drop what was said within 20 s, be it of another signal


def forget() -> None:
    """This thread begins something new."""
    _KEPT.of_thread.message = ""


def message() -> str:
    """The first of this thread since then; empty for none."""
    return _KEPT.message()
