"""The played API server as a program: `PYTHONPATH=tests python -m kube_api [--port 0] [--tls] objects.yaml...`

It prints one JSON line, {"url": ..., "control": ...}, and ends when its stdin does, so that it cannot outlive the
test that started it. POST control + "/METHOD" with {"args": [...], "kwargs": {...}} calls that method of KubeApi
(or sets that attribute, with one argument) and answers with its result.
"""

from __future__ import annotations

import argparse
import asyncio
import inspect
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

from .server import KubeApi

METHODS = frozenset(
    {
        *("put", "delete", "terminate", "get", "objects", "install", "uninstall", "forbid", "allow"),
        *("compact", "bookmark", "end_watches", "drop_watches", "hang_watches", "resume_watches"),
        *("black_hole", "fail_next", "break_next_list", "start", "stop", "kubeconfig", "service_account"),
    }
)
ATTRIBUTES = frozenset(
    {"expired_as", "slow_s", "chunk_bytes", "duplicates", "user", "tokens", "watching", "requests"}
)


class Control:
    """A second listener by which another process changes the cluster; no fault touches it."""

    def __init__(self, api: KubeApi) -> None:
        self.api = api

    async def called(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        said = await request.json()
        try:
            return web.json_response({"result": await self._result(name, said["args"], said["kwargs"])})
        except (LookupError, ValueError, TypeError) as error:
            return web.json_response({"error": f"{type(error).__name__}: {error}"}, status=400)

    async def _result(self, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        if name in ATTRIBUTES:
            if args:
                setattr(self.api, name, set(args[0]) if name == "tokens" and args[0] is not None else args[0])
            return _plain(getattr(self.api, name))
        if name not in METHODS:
            raise LookupError(f"no method {name}")
        if name in ("kubeconfig", "service_account"):
            args = [Path(args[0]), *args[1:]]
        result = getattr(self.api, name)(*args, **kwargs)
        return _plain(await result if inspect.isawaitable(result) else result)


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [vars(one) if hasattr(one, "__dict__") else one for one in value]
    if isinstance(value, set):
        return sorted(value)
    return str(value) if isinstance(value, Path) else value


async def stdin_ended() -> None:
    """In a daemon thread, which an interrupted program does not wait for."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def read() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=read, daemon=True).start()
    await ended.wait()


async def run(port: int, tls: bool, files: list[Path]) -> None:
    async with KubeApi(port=port, tls=tls) as api:
        for file in files:
            api.put(*filter(None, yaml.safe_load_all(file.read_text())))
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_post("/{name}", Control(api).called)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        control = f"http://127.0.0.1:{runner.addresses[0][1]}"
        print(json.dumps({"url": api.url, "control": control}), flush=True)
        try:
            await stdin_ended()
        finally:
            await runner.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(description="Plays Kubernetes' API server.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("files", nargs="*", type=Path)
    said = parser.parse_args()
    try:
        asyncio.run(run(said.port, said.tls, said.files))
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
