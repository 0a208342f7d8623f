"""A bounded queue with a thread behind it that exports batches: nothing that a collector does reaches a request."""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from ..logs import Logger
from ..metrics import Metrics
from . import sdk_log

T = TypeVar("T")

MAX_REASON = 300
"""Characters of what a collector said, in our log."""


class Exporter(Generic[T]):
    """Hands what was `put` to *export*, in batches, from a thread of its own; counts and tells what came of it."""

    def __init__(
        self,
        signal: str,
        export: Callable[[Sequence[T]], bool],
        abort: Callable[[], None],
        metrics: Metrics,
        log: Logger,
        *,
        queue: int,
        batch: int,
        delay_s: float,
    ) -> None:
        """*export* says whether the batch arrived; it may raise, and may take as long as it likes.

        *abort* makes it return soon; *delay_s* is how long something waits at most for its batch to fill.
        """
        self._signal = signal
        self._export = export
        self._abort = abort
        self._log = log
        self._sent = metrics.otlp_exports.labels(signal, "ok")
        self._failed = metrics.otlp_exports.labels(signal, "failed")
        self._dropped = metrics.otlp_dropped.labels(signal)
        self._queue: collections.deque[T] = collections.deque()
        self._max_queue = queue
        self._batch = batch
        self._delay_s = delay_s
        self._awake = threading.Event()
        self._closing = False
        self._is_failing = False
        self._thread = threading.Thread(target=self._run, name=f"otlp {signal}", daemon=True)
        self._thread.start()

    def put(self, item: T) -> None:
        """Never blocks; what there is no room for is dropped, and counted."""
        if len(self._queue) >= self._max_queue:
            self._dropped.inc()
            return
        self._queue.append(item)
        if len(self._queue) >= self._batch:
            self._awake.set()

    def close(self, deadline: float) -> None:
        """Export what is left, until *deadline* (monotonic, seconds); then give up."""
        self._closing = True
        self._awake.set()
        self._thread.join(max(0.0, deadline - time.monotonic()))
        self._abort()

    def _run(self) -> None:
        closing = False
        while not closing:
            self._awake.wait(self._delay_s)
            self._awake.clear()
            closing = self._closing  # before the last look, so that it sees all that was put before
            self._empty()

    def _empty(self) -> None:
        while self._queue:
            batch = [self._queue.popleft() for _ in range(min(len(self._queue), self._batch))]
            sdk_log.forget()
            try:
                arrived, reason = self._export(batch), sdk_log.message()
            except (
                Exception
            ) as error:  # what the SDK cannot encode, a fault of ours: one batch, and not the thread
                arrived, reason = False, repr(error)
            self._tell(arrived, reason, len(batch))

    def _tell(self, arrived: bool, reason: str, size: int) -> None:
        """One log line when it begins to fail, and one when it works again."""
        (self._sent if arrived else self._failed).inc()
        if not arrived:
            self._dropped.inc(size)
        if arrived is self._is_failing:
            self._is_failing = not arrived
            if arrived:
                self._log.info("otlp_export_recovered", signal=self._signal)
            else:
                self._log.warning("otlp_export_failed", signal=self._signal, reason=reason[:MAX_REASON])
