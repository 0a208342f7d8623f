"""When each series of counts began: one whose model left is dropped, and begins again at 0 if that comes back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.core import Metric as Family

from .metrics import Series


class Starts:
    """Known by comparison of one reading of the registry with the one before."""

    def __init__(self, began_ns: int) -> None:
        """*began_ns*: what the first reading shows has been counted since; nanoseconds since the epoch."""
        self._read_ns = began_ns
        self._series: dict[Series, tuple[int, float]] = {}
        """Of the last reading: since when it is counted, and how far that came."""

    def read(self, families: Iterable[Family], now_ns: int) -> Mapping[Series, int]:
        """The start of each series in a reading of *now_ns*; readings are told in their order.

        One that was not there at the reading before began after that, and so did one that fell.
        (One that was dropped and came back further than before, all between two readings, looks as if it had grown: for
        that they would have to be more than `SERIES_KEPT_S` apart, which is five times the usual.)
        """
        before, self._series = self._series, {}
        for family in families:
            for series, count in _counts(family):
                start_ns, reached = before.get(series, (self._read_ns, 0.0))
                self._series[series] = (start_ns if count >= reached else self._read_ns, count)
        self._read_ns = now_ns
        return {series: start_ns for series, (start_ns, _) in self._series.items()}


def _counts(family: Family) -> Iterator[tuple[Series, float]]:
    """Each series of *family* that only grows, and how far it came."""
    if family.type not in ("counter", "histogram"):
        return
    end = "_total" if family.type == "counter" else "_count"
    for sample in family.samples:
        if sample.name.endswith(end):
            yield (family.name, tuple(sample.labels.items())), sample.value
