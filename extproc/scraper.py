"""Reads the endpoints' metrics pages: one task an endpoint, each by itself.

What comes of it is told to a listener; who the endpoints belong to is not known here.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from collections.abc import Callable, Iterable
from typing import Protocol
from urllib.parse import quote

import msgspec

from .address import join
from .engine_metrics import EngineMetrics, MetricNames, UnusedError, all_names, parse
from .engines import VLLM
from .http_get import PageConnection, Tls
from .http_response import Failure, GetError
from .metrics_page import MetricsError
from .repeats import Repeats
from .token_file import TokenFile

MAX_PAGE_BYTES = 2 * 1024 * 1024
"""A longer page is cut off.  A vLLM 0.32 page has 54 KB for each data-parallel rank: room for 32 ranks."""

MAX_PAUSE_S = 5.0
"""A failing endpoint is tried at least this often (or at its interval, if that is longer): one that is back
is known within seconds, and a hundred dead ones cost about twenty tries a second."""

MAX_SPREAD_S = 1.0
"""First scrapes are spread over the interval, but not over more than this: readiness waits for them."""

SLOT_S = 0.01
"""Scrapes begin at multiples of this: a few together cost the event loop one awakening, not one each (a quarter of
the CPU); fine enough to spread an interval."""

FAULT_REPORT_S = 60.0
"""A fault of ours would come back at every scrape of every endpoint: reported once in this time."""


class ScrapeTarget(msgspec.Struct, frozen=True, kw_only=True):
    """What to read, and how; its identity is all of it."""

    address: str
    """The endpoint's `ip:port`: not used here, the listener knows it by that."""
    host: str
    """IP address (IPv6 without brackets) that serves the page."""
    port: int
    path: str = "/metrics"
    scheme: str = "http"
    """`http` or `https`."""
    insecure_skip_verify: bool = False
    """Take any certificate."""
    ca_file: str | None = None
    """Whose certificates to trust; None: the system's."""
    server_name: str | None = None
    """What the certificate must be for; None: *host*."""
    headers: tuple[tuple[str, str], ...] = ()
    bearer_token_file: str | None = None
    interval_s: float = 0.2
    timeout_s: float = 1.0
    select: bool = True
    """Ask for the needed metrics only.  A server that does not know how sends its whole page."""
    names: MetricNames = VLLM

    def select_path(self) -> str | None:
        """The path that gives the needed metrics only, as prometheus_client's ASGI app understands it.

        vLLM mounts that app at `/metrics`, behind a route that takes exactly that path and ignores the
        query: hence the slash.  Tried with 0.32: 3 KB instead of 54, and 0.35 ms instead of 6.5 of the
        server's CPU.
        """
        if not self.select or "?" in self.path:
            return None
        query = "&".join(f"name[]={quote(name, safe=':')}" for name in all_names(self.names))
        return f"{self.path.rstrip('/')}/?{query}"

    @property
    def url(self) -> str:
        """For people; a query may hold a secret."""
        return f"{self.scheme}://{join(self.host, self.port)}{self.path.partition('?')[0]}"

    def request(self, path: str, token: str | None = None) -> bytes:
        """The GET for *path*; raises ValueError where something would break its lines."""
        headers = [
            ("Host", join(self.host, self.port)),
            ("Accept", "text/plain;version=0.0.4"),
            ("Accept-Encoding", "identity"),  # a compressed page could be a bomb
            ("User-Agent", "extproc"),
            *self.headers,
        ]
        if token:
            headers.append(("Authorization", f"Bearer {token}"))
        lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
        if not path.startswith("/") or " " in path or not all(s.isascii() and s.isprintable() for s in lines):
            raise ValueError(f"no HTTP request can be made of {lines}")
        return "\r\n".join([*lines, "", ""]).encode()


class Listener(Protocol):
    """Who is told; the calls come from the event loop, times are in seconds, `started_at` monotonic."""

    def scraped(
        self, target: ScrapeTarget, metrics: EngineMetrics, started_at: float, duration_s: float
    ) -> None: ...

    def scrape_failed(
        self, target: ScrapeTarget, reason: Failure, detail: str, duration_s: float
    ) -> None: ...


FaultReport = Callable[[ScrapeTarget, Exception, int], None]
"""Told of a fault of ours (or the listener's), and how many before it went unreported."""


class Scraper:
    """Owns the scraping tasks; `close` it.  `clock` gives seconds, monotonic."""

    def __init__(
        self, listener: Listener, report_fault: FaultReport, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._listener = listener
        self._report_fault = report_fault
        self._clock = clock
        self._closed = False
        self._tasks: dict[ScrapeTarget, asyncio.Task[None]] = {}
        self._faults = Repeats(FAULT_REPORT_S, clock)

    async def update(self, targets: Iterable[ScrapeTarget]) -> None:
        """Scrape exactly *targets* from now on.

        Unchanged ones go on undisturbed; when this returns, no more is heard of those gone.
        Raises ValueError, and changes nothing, where no request can be made of a target.
        """
        if self._closed:
            raise RuntimeError("the scraper is closed")
        wanted = dict.fromkeys(targets)
        new = [
            _Scrape(target, self._listener, self._fault, self._clock)
            for target in wanted
            if target not in self._tasks
        ]
        gone = [self._tasks.pop(target) for target in list(self._tasks) if target not in wanted]
        now = self._clock()
        for i, scrape in enumerate(new):
            first = now + min(scrape.target.interval_s, MAX_SPREAD_S) * i / len(new)
            run = scrape.run(math.ceil(first / SLOT_S) * SLOT_S)
            self._tasks[scrape.target] = asyncio.create_task(run, name=f"scrape {scrape.target.address}")
        await _end(gone)

    async def close(self) -> None:
        """End all; nothing is heard after it returns.  Idempotent."""
        self._closed = True
        tasks, self._tasks = list(self._tasks.values()), {}
        await _end(tasks)

    def _fault(self, target: ScrapeTarget, error: Exception) -> None:
        unreported = self._faults.happened()
        if unreported is None:
            return
        with contextlib.suppress(Exception):  # a report that fails must not end the scraping
            self._report_fault(target, error, unreported)


class _Scrape:
    """One endpoint's scraping."""

    def __init__(
        self,
        target: ScrapeTarget,
        listener: Listener,
        fault: Callable[[ScrapeTarget, Exception], None],
        clock: Callable[[], float],
    ) -> None:
        self.target = target
        self._listener = listener
        self._fault = fault
        self._clock = clock
        self._select_path = target.select_path()
        self._requests = {path: target.request(path) for path in (target.path, self._select_path) if path}
        self._connection: PageConnection | None = None
        self._token = TokenFile(target.bearer_token_file) if target.bearer_token_file else None

    async def run(self, first: float) -> None:
        """Scrape at the time *first*, and so on until cancelled; nothing else ends it."""
        try:
            await self._run(first)
        finally:
            if self._connection:
                self._connection.close()

    async def _run(self, first: float) -> None:
        pause_s = interval_s = self.target.interval_s
        await asyncio.sleep(first - self._clock())
        while True:
            if await self._scrape():
                pause_s = interval_s
                await asyncio.sleep(until_next(first, interval_s, self._clock()))
            else:
                pause_s = min(pause_s * 2, max(interval_s, MAX_PAUSE_S))
                await asyncio.sleep(pause_s * random.uniform(0.75, 1.0))

    async def _scrape(self) -> bool:
        """Read once and tell; False where there was nothing to read."""
        started_at = self._clock()
        found = await self._attempt()
        duration_s = self._clock() - started_at
        try:
            if isinstance(found, GetError):
                self._listener.scrape_failed(self.target, found.reason, found.detail, duration_s)
            else:
                self._listener.scraped(self.target, found, started_at, duration_s)
        except Exception as error:
            self._fault(self.target, error)
        return not isinstance(found, GetError)

    async def _attempt(self) -> EngineMetrics | GetError:
        try:
            return await self._read()
        except GetError as error:
            return error
        except Exception as error:
            self._fault(self.target, error)
            return GetError("other", repr(error))

    async def _read(self) -> EngineMetrics:
        """The needed metrics where the server can select them; else, and then for good, the whole page.

        A page without them counts as a no too: of a vLLM with several API servers, which share their metrics
        in files, prometheus_client selects nothing.
        """
        if self._select_path:
            try:
                return await self._page(self._select_path)
            except GetError as error:
                if error.reason != "invalid" and not 300 <= (error.status or 0) < 500:
                    raise
        metrics = await self._page(self.target.path)
        self._select_path = None
        return metrics

    async def _page(self, path: str) -> EngineMetrics:
        request = self._request(path)
        try:
            page = await self._connected().get(request, self.target.timeout_s)
            return parse(page, self.target.names)
        except UnusedError as error:
            raise GetError("empty", str(error)) from None
        except MetricsError as error:
            raise GetError("invalid", str(error)) from None
        except GetError as error:
            if self._token and error.status in (401, 403):
                self._token.refused()
            raise

    def _request(self, path: str) -> bytes:
        if not self._token:
            return self._requests[path]
        try:
            return self.target.request(path, self._token.token(self._clock()))
        except (OSError, ValueError) as error:
            raise GetError("other", f"bearer_token_file: {error}") from None

    def _connected(self) -> PageConnection:
        if not self._connection:
            target = self.target
            tls = None
            if target.scheme == "https":
                tls = Tls(not target.insecure_skip_verify, target.ca_file, target.server_name or target.host)
            self._connection = PageConnection(target.host, target.port, tls, MAX_PAGE_BYTES)
        return self._connection


def until_next(first: float, interval_s: float, now: float) -> float:
    """Seconds from *now* to the next of the times first + n * interval_s.

    Not counted from the last scrape: after one stall of the event loop all would go in step for ever.
    A time that is as good as here is skipped: some event loops wake a little early.
    """
    rest = interval_s - (now - first) % interval_s
    return rest if rest > interval_s * 0.1 else rest + interval_s


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
