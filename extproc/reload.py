"""Notices that the content of the config file changed.

By reading it: a ConfigMap is swapped by renaming a link two levels up, which file watches miss or see too early.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path

from . import config_file
from .config import Config
from .config.load import read_file
from .errors import ConfigError

INTERVAL_S = 1.0
"""A human's wait; the kubelet takes up to a minute to bring a ConfigMap."""


def digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


class ConfigWatcher:
    """Tells `apply` of a new valid config, `fail` once of a faulty one."""

    def __init__(
        self,
        path: Path,
        current: str,
        apply: Callable[[Config, str], object],
        fail: Callable[[ConfigError], object],
    ) -> None:
        self._path = path
        self._seen = current
        self._apply = apply
        self._fail = fail

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            await self.look()

    async def look(self) -> None:
        """Compare the file with what was last seen of it."""
        try:
            text = await asyncio.to_thread(read_file, self._path)
        except ConfigError as error:
            if self._saw(str(error)):
                self._fail(error)
            return
        if not self._saw(digest(text)):
            return
        try:
            config = await asyncio.to_thread(config_file.parse, text)
        except ConfigError as error:
            self._fail(error)
        else:
            self._apply(config, self._seen)

    def _saw(self, what: str) -> bool:
        """Whether that is news."""
        news, self._seen = what != self._seen, what
        return news
