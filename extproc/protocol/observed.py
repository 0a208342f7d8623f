"""The conversation in observability mode: Envoy tells, waits for nothing, and reads no answer.

It does not tell its body modes then (1.40): a body that does not come was not to come.
"""

from __future__ import annotations

from collections.abc import Iterator

from .messages import BodyMode, Event, Pairs, Piece, Reply
from .steps import Half
from .stream import ExtProcStream


class ObservedStream(ExtProcStream):
    """Takes what an `ExtProcStream` takes of bodies that come in pieces, and says nothing."""

    def __init__(self) -> None:
        super().__init__(BodyMode.FULL_DUPLEX_STREAMED, BodyMode.FULL_DUPLEX_STREAMED)
        self._unread = False

    def respond(self, status: int, headers: Pairs = (), body: bytes = b"", details: str = "") -> None:
        """We would have answered: the rest of the request is not told of, its response is."""
        self._unread, self._body = True, []
        if self.request is not Half.BODY:
            self.request = Half.DONE

    def _request_body(self, data: Piece, end: bool) -> Event | None:
        return None if self._unread else super()._request_body(data, end)

    def _request_trailers(self) -> Event | None:
        return None if self._unread else super()._request_trailers()

    def replies(self) -> Iterator[Reply]:
        self._replies, self._pieces = [], None
        self._answer.take_replies()
        return iter(())
