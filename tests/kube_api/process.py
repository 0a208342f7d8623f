"""The played API server in a process of its own, for tests whose service is a process as well."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import aiohttp

TESTS = Path(__file__).parents[1]
BOUND_S = 20.0
"""How long a start, a call or an end may take."""
_LOOK_S = 0.02


class KubeApiProcess:
    """`async with KubeApiProcess() as api:`; methods are KubeApi's, to be awaited.

    `await api.put(pod(...))`, `await api.drop_watches()`, `await api.watching()`, `await api.slow_s(0.5)`.
    """

    def __init__(self, *files: Path, tls: bool = False) -> None:
        self._argv = ["-m", "kube_api", *(["--tls"] if tls else []), *map(str, files)]
        self._process: Process | None = None
        self._session: aiohttp.ClientSession | None = None
        self._control = ""
        self.url = ""

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, *self._argv, stdin=PIPE, stdout=PIPE, env=os.environ | {"PYTHONPATH": str(TESTS)}
        )
        assert self._process.stdout
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), BOUND_S)
            said = json.loads(line)
        except (TimeoutError, ValueError):
            await self._end()
            raise
        self.url, self._control = said["url"], said["control"]
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=BOUND_S))
        return self

    async def __aexit__(self, *_exc: object) -> None:
        if self._session:
            await self._session.close()
        await self._end()

    async def _end(self) -> None:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), BOUND_S)
        except TimeoutError:
            process.kill()
            await process.wait()

    async def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Calls a method of the server; LookupError with its message where that fails."""
        assert self._session
        said = {"args": args, "kwargs": kwargs}
        async with self._session.post(
            f"{self._control}/{method}", data=json.dumps(said, default=str)
        ) as answer:
            document = await answer.json()
        if "error" in document:
            raise LookupError(document["error"])
        return document["result"]

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method.startswith("_"):
            raise AttributeError(method)

        async def called(*args: Any, **kwargs: Any) -> Any:
            return await self.call(method, *args, **kwargs)

        return called

    async def until_watching(self, path: str) -> None:
        """Waits until there is a watch on that path."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + BOUND_S
        while not (await self.call("watching")).get(path):
            if loop.time() > deadline:
                raise TimeoutError(f"nobody watches {path}; {await self.call('watching')}")
            await asyncio.sleep(_LOOK_S)
