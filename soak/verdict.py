"""Whether what was held came back: each figure with what it may differ by, and why."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from msgspec import Struct

from .reading import Reading, Sample

LOST_BYTES = 5.0
"""A request: half of what a leak of 1 KB in 100 requests is."""
GRPC_LOST_BYTES = 15.0
"""A request, of these: 240 are lost with each write to a stream that Envoy had reset (grpc/grpc#43360), as a client
left within its answer; to be taken out when grpcio frees them."""
LOST_BLOCKS = 0.05
"""A request: 1 KB in small objects is some 10 of them, so that as much is found of those."""
SIGMAS = 3.0
"""A slope counts where it is that many standard errors above what is allowed: samples ten seconds apart resemble each
other, and load comes in waves."""
MIN_SPAN_S = 120.0
"""Samples of a shorter time say nothing of a slope."""


class Figure(Struct, frozen=True, kw_only=True):
    """What is compared."""

    name: str
    label: str
    why: str
    """Of the allowance."""
    allowed: float = 0.0
    per_request: float = 0.0
    """Besides, for each request of the churn."""
    trend: float | None = None
    """What it may grow by with each request while there is churn; None: it is not looked at."""
    empty: bool = False
    """It must be 0 in the end, whatever it was before."""
    unit: float = 1.0


MB = 1e6
FIGURES = (
    Figure(
        name="rss",
        label="memory of the process, MB",
        allowed=8 * MB,
        per_request=LOST_BYTES + GRPC_LOST_BYTES,
        unit=MB,
        why="pages that few small objects keep; the next two are exact",
    ),
    Figure(
        name="heap",
        label="C heap in use, MB",
        allowed=0.3 * MB,
        per_request=LOST_BYTES + GRPC_LOST_BYTES,
        trend=LOST_BYTES + GRPC_LOST_BYTES,
        unit=MB,
        why="tables of Python grow in steps; of what a request lost, 15 bytes are gRPC's",
    ),
    Figure(
        name="blocks",
        label="Python's small objects",
        allowed=2000,
        per_request=LOST_BLOCKS,
        trend=LOST_BLOCKS,
        why="free lists; decisions kept for `explain` differ",
    ),
    Figure(name="objects", label="containers", allowed=500, per_request=LOST_BLOCKS / 5, why="as above"),
    Figure(
        name="tasks",
        label="asyncio tasks",
        allowed=1,
        why="all are ours, or gRPC's of one stream each; one may be at work at the moment",
    ),
    Figure(
        name="fds",
        label="file descriptors",
        allowed=2,
        why="connections that are kept for a while: to the collector, to a pod for its list of models",
    ),
    Figure(name="threads", label="threads", allowed=6, why="pools fill up to cores + 4, and stay"),
    Figure(name="streams", label="open streams", empty=True, why="no request is there"),
    Figure(name="in_flight", label="requests in flight", empty=True, why="no request is there"),
    Figure(name="buffered", label="bytes of bodies held", empty=True, why="no request is there"),
    Figure(name="held", label="requests that wait", empty=True, why="no request is there"),
    Figure(name="index", label="runs in prefix indices", allowed=200, why="as many prompts as there are"),
    Figure(name="series", label="metric series", allowed=60, why="a kind of outcome that came only now"),
    Figure(name="internal_errors", label="faults of ours", empty=True, why="there are none to allow"),
)


class Row(Struct, frozen=True, kw_only=True):
    """A figure before and after; `growth` a request while there was churn, and its standard error."""

    figure: Figure
    before: float
    after: float
    allowed: float
    growth: float | None = None
    error: float = 0.0

    @property
    def came_back(self) -> bool:
        return self.after <= self.allowed

    @property
    def is_steady(self) -> bool:
        if self.growth is None or self.figure.trend is None:
            return True
        return self.growth - SIGMAS * self.error <= self.figure.trend

    @property
    def good(self) -> bool:
        return self.came_back and self.is_steady


def compare(before: Reading, after: Reading, samples: Sequence[Sample], slack: float = 1.0) -> list[Row]:
    """A row for each figure; what it may differ by anyhow is taken *slack* times."""
    requests = after.requests - before.requests
    return [
        _row(figure, before, after, samples, figure.allowed * slack + figure.per_request * requests)
        for figure in FIGURES
    ]


def _row(figure: Figure, before: Reading, after: Reading, samples: Sequence[Sample], more: float) -> Row:
    was, is_now = getattr(before, figure.name), getattr(after, figure.name)
    growth, error = None, 0.0
    if figure.trend is not None and samples and samples[-1].at_s - samples[0].at_s >= MIN_SPAN_S:
        growth, error = slope(
            [sample.reading.requests for sample in samples],
            [getattr(sample.reading, figure.name) for sample in samples],
        )
    return Row(
        figure=figure,
        before=was,
        after=is_now,
        allowed=0.0 if figure.empty else was + more,
        growth=growth,
        error=error,
    )


def slope(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Of the line of least squares through the lowest of each three: (slope, its standard error).

    The lowest, as who is served at the moment holds memory as well.
    """
    lows = [min(zip(y[i : i + 3], x[i : i + 3], strict=True)) for i in range(0, len(y), 3)]
    ys, xs = [low for low, _ in lows], [at for _, at in lows]
    line = statistics.linear_regression(xs, ys)
    spread = sum((each - statistics.fmean(xs)) ** 2 for each in xs)
    left = sum((b - line.slope * a - line.intercept) ** 2 for a, b in zip(xs, ys, strict=True))
    return line.slope, math.sqrt(left / max(1, len(xs) - 2) / spread)
