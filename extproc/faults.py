"""Faults of ours where no request waits for what comes of it: counted, told, and survived."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from .logs import Logger
from .metrics import Metrics
from .repeats import Repeats

AGAIN_S = 5.0
"""Before a task begins anew: what it lacks (descriptors, threads, memory) may be there again."""
INTERVAL_S = 1.0
"""Lines of one class of exception: where no descriptor is left, asyncio reports a hundred failed accepts a second."""


class Faults:
    """`extproc_internal_errors_total`, and a line with the traceback."""

    def __init__(self, metrics: Metrics, log: Logger, clock: Callable[[], float]) -> None:
        self._count = metrics.internal_errors.inc
        self._log = log
        self._repeats = Repeats(INTERVAL_S, clock)
        """Of the loop's faults, those of one class."""

    def of_loop(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What a callback raised, or a task that nobody awaited."""
        self._count()
        error: Any = context.get("exception")
        unreported = self._repeats.happened(error.__class__)
        if unreported is not None:
            message = context.get("message")
            self._log.error("loop_fault", message=message, unreported=unreported, exc_info=error)

    def of_scrape(self, target: object, error: Exception, unreported: int) -> None:
        """In reading a page, or in what was made of it."""
        self._count()
        self._log.error("scrape_fault", target=repr(target), unreported=unreported, exc_info=error)

    async def survive(self, task: str, work: Callable[[], Awaitable[None]], again_s: float = AGAIN_S) -> None:
        """Until *work* returns, which begins anew where it fails: what keeps house must not end the service."""
        while True:
            try:
                return await work()
            except Exception as error:
                self._count()
                self._log.error("task_fault", task=task, again_in_s=again_s, exc_info=error)
            await asyncio.sleep(again_s)
