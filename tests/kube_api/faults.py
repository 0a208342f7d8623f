"""What can go wrong with the played API server, as methods for tests."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from .status import ApiError, forbidden, overloaded
from .store import Change, Store
from .watch import Watch

ListFault = Literal["null_items", "null_item", "truncated", "cut", "not_json"]


@dataclass
class Failure:
    """The next `times` requests (of this method, with this in their path) fail."""

    times: int
    code: int
    retry_after_s: int | None
    method: str
    path: str

    def meets(self, method: str, path: str) -> bool:
        return self.times > 0 and self.method in ("", method) and self.path in path


class Faults:
    """Faults of the server, and of the network before it.

    Attributes:
        expired_as: how a watch from a forgotten revision is refused: "event" (200, then one ERROR event, as
            Kubernetes' watch cache does) or "http" (a 410 answer).
        slow_s: every answer waits that long.
        chunk_bytes: watches write pieces of that size, 0: whole lines.
        duplicates: every event is told that many times.
        user: whom messages of refusal name.
    """

    store: Store

    def __init__(self) -> None:
        self.expired_as: Literal["event", "http"] = "event"
        self.slow_s = 0.0
        self.chunk_bytes = 0
        self.duplicates = 1
        self.user = "system:serviceaccount:llm:extproc"
        self.watches: set[Watch] = set()
        self._failures: list[Failure] = []
        self._forbidden: set[tuple[str, str, str | None]] = set()
        self._list_faults: list[ListFault] = []
        self._black_hole = asyncio.Event()
        self._black_hole.set()
        self._held: list[Change] | None = None

    @property
    def watching(self) -> dict[str, int]:
        """How many watches are open, by path."""
        paths = sorted(watch.path for watch in self.watches)
        return {path: paths.count(path) for path in paths}

    def compact(self) -> None:
        """Every revision before now is forgotten: watches that run go on, others from before get 410."""
        self.store.compact()

    def bookmark(self) -> None:
        """Sends a bookmark to every watch that wants them."""
        for watch in self.watches:
            watch.bookmark(self.store.version)

    def end_watches(self, path: str = "") -> None:
        """Ends watches properly, as when their time is up."""
        for watch in self._chosen(path):
            watch.end()

    def drop_watches(self, path: str = "", mid_line: bool = False) -> None:
        """Breaks the connections of watches: with a reset, or in the middle of a line."""
        for watch in self._chosen(path):
            watch.cut(mid_line)

    def hang_watches(self, path: str = "") -> None:
        """Watches that are open now say nothing more, but stay open, as if the peer were dead."""
        for watch in self._chosen(path):
            watch.hang(True)

    def resume_watches(self, path: str = "") -> None:
        """The opposite: what was held back arrives."""
        for watch in self._chosen(path):
            watch.hang(False)

    def send_line(self, line: bytes = b'{"type":"MODIFIED","object":{"kin\n', path: str = "") -> None:
        """A line of any bytes to the watches, unless told otherwise one that is not JSON."""
        for watch in self._chosen(path):
            watch.send(line)

    def _chosen(self, path: str) -> list[Watch]:
        return [watch for watch in self.watches if path in watch.path]

    def black_hole(self, on: bool = True) -> None:
        """New requests are taken and never answered, until it is off."""
        if on:
            self._black_hole.clear()
        else:
            self._black_hole.set()

    def fail_next(
        self, times: int, code: int = 500, retry_after_s: int | None = None, method: str = "", path: str = ""
    ) -> None:
        """The next requests fail with 500, 503 or 429, and say when to come back."""
        self._failures.append(Failure(times, code, retry_after_s, method, path))

    def break_next_list(self, fault: ListFault, times: int = 1) -> None:
        """The next lists are wrong: `items` or an item is null, the JSON or the connection is cut, or no JSON."""
        self._list_faults += [fault] * times

    def forbid(self, verb: str, plural: str, namespace: str | None = None) -> None:
        """Refuses a verb ("*": every one) on a resource, everywhere or in a namespace. Resources are written as
        "pods", "inferencemodels/status", or with their group, "inferencepools.inference.networking.k8s.io"."""
        self._forbidden.add((verb, plural, namespace))

    def allow(self, verb: str, plural: str, namespace: str | None = None) -> None:
        self._forbidden.discard((verb, plural, namespace))

    @contextmanager
    def reordered(self, seed: int = 0) -> Iterator[None]:
        """Holds the events of this block back, and then tells them in another order: each object's own order
        stays, that between objects does not."""
        self._held = []
        try:
            yield
        finally:
            held, self._held = self._held, None
            for change in shuffled(held, random.Random(seed)):
                self._publish(change)

    def _publish(self, change: Change) -> None:
        if self._held is not None:
            self._held.append(change)
            return
        for watch in self.watches:
            if watch.kind.key == change.kind.key:
                watch.tell(change, self.duplicates)

    def _failure(self, method: str, path: str) -> ApiError | None:
        failure = next((one for one in self._failures if one.meets(method, path)), None)
        if failure is None:
            return None
        failure.times -= 1
        return overloaded(failure.code, failure.retry_after_s)

    def _refusal(
        self, verb: str, plural: str, group: str, namespace: str, name: str, subresource: str
    ) -> ApiError | None:
        below = f"/{subresource}" if subresource else ""
        resources = (plural + below, f"{plural}.{group}{below}")
        asked = {(v, r, n) for v in (verb, "*") for r in resources for n in (namespace, None)}
        if asked & self._forbidden:
            return forbidden(self.user, verb, plural, group, namespace, name, subresource)
        return None


def shuffled(changes: list[Change], rng: random.Random) -> list[Change]:
    """Another order between the objects, the same for each of them."""
    order = [change.key for change in changes]
    rng.shuffle(order)
    left = {key: [change for change in changes if change.key == key] for key in order}
    return [left[key].pop(0) for key in order]
