"""Who may use the HTTP port: a bearer token from a file that somebody else renews (RFC 6750)."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from pathlib import Path

from aiohttp import web

from .logs import Logger
from .token_file import TokenFile

MIN_TOKEN_LENGTH = 16
"""Characters: a shorter one can be guessed over a network."""
REREAD_S = 1.0
"""A token that was replaced or taken away ends within it; guessing must not have us read as often as one likes."""


class BearerGuard:
    """Compares the token of a request with that of a file, which is read at most once a second."""

    def __init__(
        self, path: Path, clock: Callable[[], float], denied: Callable[[], object], log: Logger
    ) -> None:
        """*denied* is called for each request that may not.  What becomes of the file is logged once.

        Raises OSError, or RuntimeError where the file holds no token that could serve.
        """
        self._file = TokenFile(str(path), REREAD_S)
        self._clock = clock
        self._denied = denied
        self._path = path
        self._log = log
        self._fault = ""
        try:
            self._token()
        except ValueError as error:
            raise RuntimeError(str(error)) from None

    def check(self, request: web.Request) -> None:
        """Raises HTTPUnauthorized, or HTTPServiceUnavailable where nobody can tell as the file is not there."""
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        try:
            shown = given.strip().encode("utf-8", "surrogateescape")
            if scheme.lower() == "bearer" and hmac.compare_digest(shown, self._token()):
                return
        except (OSError, ValueError) as error:
            self._denied()
            self._tell(str(error))
            raise web.HTTPServiceUnavailable(text="the token file cannot be read\n") from None
        self._denied()
        raise web.HTTPUnauthorized(
            text="a bearer token is needed\n", headers={"WWW-Authenticate": 'Bearer realm="extproc"'}
        )

    def _token(self) -> bytes:
        token = self._file.token(self._clock()).encode()
        if len(token) < MIN_TOKEN_LENGTH:
            self._file.refused()
            raise ValueError(f"{self._path} holds a token of fewer than {MIN_TOKEN_LENGTH} characters")
        self._fault = ""
        return token

    def _tell(self, fault: str) -> None:
        if fault != self._fault:
            self._fault = fault
            self._log.error(
                "token_file_faulty", fault=fault, hint="nobody gets through until it holds a token"
            )
