"""A bearer token in a file that somebody else renews, e.g. Kubernetes a projected service account token."""

from __future__ import annotations

from pathlib import Path

REREAD_S = 60.0
"""How long a token is used before the file is read again: Kubernetes renews with a fifth of the life left,
which is minutes, and its own clients read once a minute."""

MAX_TOKEN_BYTES = 64 * 1024
"""No server takes a longer header; what is longer is the wrong file."""


class TokenFile:
    """Reads the file at most once in *reread_s*, unless the token was refused."""

    def __init__(self, path: str, reread_s: float = REREAD_S) -> None:
        self._path = Path(path)
        self._reread_s = reread_s
        self._token: str | None = None
        self._read_at = 0.0

    def token(self, now: float) -> str:
        """The token, without the white space around it; `now` in seconds, monotonic.

        Raises OSError, or ValueError where the file holds no token.
        """
        if self._token is None or now - self._read_at >= self._reread_s:
            self._token = self._read()
            self._read_at = now
        return self._token

    def refused(self) -> None:
        """The server did not take the token: read the file again next time."""
        self._token = None

    def _read(self) -> str:
        with self._path.open("rb") as file:
            text = file.read(MAX_TOKEN_BYTES + 1)
        token = text.strip()
        if not token or len(text) > MAX_TOKEN_BYTES or not all(0x21 <= byte <= 0x7E for byte in token):
            raise ValueError(f"{self._path} holds no bearer token (one line of visible ASCII)")
        return token.decode()
