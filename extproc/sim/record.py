"""The last requests a server saw, for tests to look at."""

from __future__ import annotations

import hashlib
from collections import deque

from aiohttp import web
from msgspec import Struct

MAX_REQUESTS = 1000
"""Of these the record keeps the last: enough for a test, 64 MB with bodies at the worst."""
MAX_BODY_BYTES = 65_536


class Recorded(Struct, frozen=True):
    method: str
    path: str
    """With the query."""
    headers: list[tuple[str, str]]
    """As they came: order, spelling and repetitions."""
    body_bytes: int
    body_sha256: str
    body: bytes | None = None
    """Base64 in JSON; None: not recorded, or over 64 KiB."""


class Record:
    def __init__(self, bodies: bool) -> None:
        self._bodies = bodies
        self.requests: deque[Recorded] = deque(maxlen=MAX_REQUESTS)
        """The oldest first."""

    def add(self, request: web.BaseRequest, body: bytes) -> None:
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.raw_headers]
        self.requests.append(
            Recorded(
                method=request.method,
                path=request.path_qs,
                headers=headers,
                body_bytes=len(body),
                body_sha256=hashlib.sha256(body).hexdigest(),
                body=body if self._bodies and len(body) <= MAX_BODY_BYTES else None,
            )
        )
