"""One request in flight: counted at the endpoint that serves it, and what its answer says of that endpoint.

Counts rest on the life of the ext_proc stream: with BUFFERED bodies and Envoy ≥ 1.39, or with response trailers
sent, Envoy keeps it open until the HTTP exchange ends.  Elsewhere it closes at the response headers; such a request
lingers in the count until the next scrape sees it, or for `LINGER_S`.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from . import load_report
from .endpoint import Endpoint
from .health import Failure
from .pool import Pool
from .work import Work

LINGER_S = 10.0
"""How long a streamed answer is expected to go on where no scrape can tell: a few hundred tokens."""
EARLY_CLOSE_S = 0.01
"""A streamed answer that ends this soon after its headers did not end: Envoy closed the stream."""
BAD_GATEWAY = frozenset((502, 503, 504))

VIA_UPSTREAM = "via_upstream"
# Envoy's response code details (source/common/http and router) of an endpoint's own failures; any others are
# Envoy's own doing (no route, no healthy host, rate limits, overload), or the client's.
_SLOW = ("upstream_response_timeout", "upstream_per_try_timeout")
_RESET = "upstream_reset"
_ENVOYS_OWN_RESET = ("overflow", "local_reset")


class Answered(Struct, frozen=True):
    """What the response headers say."""

    status: int
    served: str | None = None
    """`ip:port` that answered, as Envoy tells it; None where it does not."""
    details: str | None = None
    """Envoy's response code details (`via_upstream`, `upstream_reset_before_response_started{…}`)."""
    streamed: bool = False
    """Server-sent events: the answer goes on after its headers."""
    ended: bool = False
    load_report: str | None = None
    """What the endpoint tells of its load, where it was asked to."""
    from_cache: bool = False
    """It may be old (RFC 9111 §5.1)."""
    content_type: str = ""
    content_encoding: str = ""
    content_length: int | None = None
    not_theirs: tuple[str, ...] = ()
    """Headers that a model server has no business to send to clients."""

    @property
    def is_by_endpoint(self) -> bool:
        """And not by Envoy itself (where it tells)."""
        return not self.details or self.details.startswith(VIA_UPSTREAM)


class Watcher(Struct, frozen=True):
    """Who is told of what is worth a metric or a log line."""

    missed: Callable[[Pool, str], None]
    """Envoy sent a request of this pool to an address that is not in it."""
    set_aside: Callable[[Pool, Endpoint, Failure, float], None]
    """An endpoint was set aside, for so many seconds."""
    reported: Callable[[Pool, str], None] = lambda pool, result: None
    """An answer told of its endpoint's load; what came of it: `ok`, `invalid`, `empty` or `ignored`."""


class Flight:
    """Counts one request at one endpoint, from its decision to its end, exactly once."""

    __slots__ = ("_answered_at", "_open_ended", "_watcher", "_work", "endpoint", "pool")

    def __init__(
        self, pool: Pool, endpoint: Endpoint, watcher: Watcher, work: Work | None = None, now: float = 0.0
    ) -> None:
        self.endpoint: Endpoint | None = endpoint
        """Where it is counted now; None once it ended, or where Envoy sent it out of our sight."""
        self.pool = pool
        self._watcher = watcher
        self._answered_at: float | None = None
        self._open_ended = False
        self._work = work or Work()
        endpoint.acquire(self._work, now)
        pool.sent(self._work, endpoint, now)

    def answered(self, answer: Answered, now: float) -> None:
        """Response headers came."""
        self._answered_at = now
        self._open_ended = answer.streamed and not answer.ended
        if answer.served is not None:
            self._serve(answer.served, now)
        self._work.prefix = ()  # some kilobytes, and the answer may take an hour
        if answer.load_report is not None and self.pool.load_reports:
            self._watcher.reported(self.pool, self._report(answer, answer.load_report, now))
        endpoint = self.endpoint
        if endpoint is None:
            return
        failure = _blame(answer)
        if failure is not None:
            self._fail(endpoint, failure, now)
        elif _is_success(answer):
            endpoint.health.succeeded()

    def _serve(self, address: str, now: float) -> None:
        chosen = self.endpoint
        if chosen is None or chosen.address == address:
            return
        served = self.pool.by_address.get(address)
        chosen.release(self._work)
        self.endpoint = served
        if served is None:
            self._watcher.missed(self.pool, address)
            return
        self.pool.moved(self._work, served)
        served.acquire(self._work, now)
        self.pool.sent(self._work, served, now)
        self._fail(chosen, Failure.ANSWERED, now)  # Envoy tried it first and went on

    def _report(self, answer: Answered, text: str, now: float) -> str:
        """Tell the endpoint that answered what it said; what came of that."""
        if self.endpoint is None or answer.from_cache or not answer.is_by_endpoint:
            return "ignored"
        try:
            report = load_report.parse(text)
        except load_report.ReportError:
            return "invalid"
        if report == load_report.LoadReport():
            return "empty"
        self.endpoint.reported(report, now)
        return "ok"

    def _fail(self, endpoint: Endpoint, failure: Failure, now: float) -> None:
        pause_s = self.pool.failed(endpoint, failure, now)
        if pause_s is not None:
            self._watcher.set_aside(self.pool, endpoint, failure, pause_s)

    def body_seen(self) -> None:
        """Its end was seen, or some of its body: Envoy keeps the stream open to the end, which is exact."""
        self._open_ended = False

    def end(self, now: float) -> bool:
        """The stream ended.  True where the answer goes on unseen, so that the count is an estimate."""
        endpoint, self.endpoint = self.endpoint, None
        if endpoint is None:
            return False
        early = self._open_ended and self._answered_at is not None and now - self._answered_at < EARLY_CLOSE_S
        if early:
            endpoint.linger(now + LINGER_S, self._work)
        else:
            endpoint.release(self._work)
        return early


def _blame(answer: Answered) -> Failure | None:
    """What the answer says against the endpoint; None: nothing."""
    details = answer.details
    if answer.status not in BAD_GATEWAY:
        return None
    if not details or details.startswith((VIA_UPSTREAM, *_SLOW)):
        return Failure.ANSWERED
    if details.startswith(_RESET) and not any(own in details for own in _ENVOYS_OWN_RESET):
        return Failure.UNREACHABLE
    return None


def _is_success(answer: Answered) -> bool:
    """Whether the endpoint itself answered, other than with what might be a fault of its own."""
    return answer.is_by_endpoint and answer.status >= 100 and answer.status not in (500, *BAD_GATEWAY)
