"""What this process may have of the system, and that it ends."""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Callable

END_S = 5.0
"""What does not hang ends within a tenth of a second."""


def allow_descriptors() -> None:
    """As many open files and connections as the hard limit has.

    The soft one is 1,024 mostly, for programs that use select(2); a thousand scraped endpoints take as many.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError):  # a system that takes no unlimited one
        return


def must_end(*last_words: Callable[[], object], within_s: float = END_S) -> None:
    """All that matters is done: end with status 0, whatever thread hangs, say over a file whose server is away.

    Python would wait for that thread for ever.
    """

    def end() -> None:
        for words in last_words:
            words()
        os._exit(0)

    timer = threading.Timer(within_s, end)
    timer.daemon = True
    timer.start()
