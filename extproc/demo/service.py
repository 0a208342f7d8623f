"""Our own programs as child processes: the service and simulated model servers."""

from __future__ import annotations

import json
import re
import sys
import urllib.error
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from extproc.demo.envoy import LOOPBACK
from extproc.demo.process import ChildProcess

READY_S = 30.0
"""Imports take about a second here; the rest is for a loaded machine."""


class Sim(ChildProcess):
    """`extproc sim` on a free port of the loopback interface; it listens when `start` returns."""

    def __init__(self, directory: Path, *flags: str, name: str) -> None:
        argv = [sys.executable, "-m", "extproc", "sim", "--port", "0", "--name", name, *flags]
        super().__init__(name, argv, directory)
        self.address = ""
        """`ip:port`."""

    def start(self) -> None:
        super().start()
        try:
            self.address = self.wait_for("its address", self._read_address, READY_S)
        except BaseException:
            self.stop()
            raise

    def _read_address(self) -> str | None:
        found = re.search(r"^listening on http://(\S+)\n", self.out.read_text(), re.MULTILINE)
        return found[1] if found else None


class Service(ChildProcess):
    """`extproc serve` on free ports of the loopback interface; it listens when `start` returns.

    Blocks: from asyncio use `asyncio.to_thread(service.start)`.
    """

    def __init__(
        self, config: Mapping[str, Any], directory: Path, *flags: str, name: str = "extproc"
    ) -> None:
        self.config_file = directory / f"{name}.yaml"
        self.write_config(config)
        addresses = ["--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0"]
        argv = [sys.executable, "-m", "extproc", "serve", "--config", str(self.config_file)]
        super().__init__(name, [*argv, *addresses, *flags], directory)
        self.grpc = ""
        """`ip:port` of the ext_proc service."""
        self.http = ""
        """URL of metrics, probes and debug state."""

    def start(self) -> None:
        super().start()
        try:
            listening = self.wait_for_event("listening", READY_S)
        except BaseException:
            self.stop()
            raise
        self.grpc, self.http = listening["grpc"], f"http://{listening['http']}"

    def wait_ready(self) -> None:
        """Until `/readyz` says so. Raises StartError."""
        self.wait_for("its readiness", lambda: True if self._get("/readyz") is not None else None, READY_S)

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Puts a new config file in place of the old one at once, as a reload must find it."""
        fresh = self.config_file.with_suffix(".new")
        fresh.write_text(yaml.safe_dump(dict(config), sort_keys=False))
        fresh.replace(self.config_file)

    def state(self) -> dict[str, Any]:
        """`/debug/state`."""
        state: dict[str, Any] = json.loads(self._get("/debug/state") or b"{}")
        return state

    def metrics(self) -> str:
        """The Prometheus page."""
        return (self._get("/metrics") or b"").decode()

    def _get(self, path: str) -> bytes | None:
        """The body, or None for an error status or no connection."""
        try:
            with LOOPBACK.open(self.http + path, timeout=5) as answer:
                body: bytes = answer.read()
        except (urllib.error.URLError, ConnectionError):
            return None
        return body
