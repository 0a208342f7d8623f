"""`extproc serve` whose log nobody reads any more: whatever comes, it is no log line that stops the service."""

from __future__ import annotations

import json
import os
import select
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BOUND_S = 20.0
SECRET = "s3cret-token-of-prometheus"
CONFIG = "pools: [{name: p, endpoints: ['127.0.0.1:9'], metrics: {engine: none}}]"
MALFORMED = f"GET /metrics HTTP/1.1\r\nAuthorization: Bearer {SECRET}\x01\r\n\r\n".encode()


class Service:
    """The process, and the pipe that is its stderr."""

    def __init__(self, directory: Path, *flags: str) -> None:
        (config := directory / "router.yaml").write_text(CONFIG)
        os.mkfifo(pipe := directory / "stderr")
        self._reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        self._filler = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        self._seen = b""
        command = ["-m", "extproc", "serve", "--config", str(config), *flags]
        ports = ["--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0"]
        # As we import the package, too, ours has what it says to gRPC: the process must say it by itself.
        environment = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
        with pipe.open("wb", buffering=0) as stderr:
            argv = [sys.executable, *command, *ports]
            self._process = subprocess.Popen(argv, stderr=stderr, env=environment)

    def ports(self) -> tuple[int, int]:
        """(gRPC, HTTP), once it listens."""
        deadline = time.monotonic() + BOUND_S
        while not (found := [line for line in self.lines() if line["event"] == "listening"]):
            assert time.monotonic() < deadline, self._seen
            select.select([self._reader], [], [], 1.0)
        return int(found[0]["grpc"].rpartition(":")[2]), int(found[0]["http"].rpartition(":")[2])

    def fill(self) -> None:
        """Nobody reads from now on, and nothing more goes into the pipe."""
        for size in (4096, 1):
            try:
                while True:
                    os.write(self._filler, b"\n" * size)
            except BlockingIOError:
                pass

    def lines(self) -> list[dict[str, Any]]:
        """What was written until now; each line is JSON."""
        try:
            while text := os.read(self._reader, 65_536):
                self._seen += text
        except BlockingIOError:
            pass
        whole, _, _ = self._seen.rpartition(b"\n")
        return [json.loads(line) for line in whole.split(b"\n") if line]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._reader)
        os.close(self._filler)


@contextmanager
def serving(directory: Path, *flags: str) -> Iterator[Service]:
    service = Service(directory, *flags)
    try:
        yield service
    finally:
        service.close()


def answer(port: int, request: bytes) -> bytes:
    """The beginning of it."""
    with socket.create_connection(("127.0.0.1", port), timeout=BOUND_S) as connection:
        connection.sendall(request)
        return connection.recv(100)


def test_malformed_requests_to_the_http_port_stop_nothing(tmp_path: Path) -> None:
    with serving(tmp_path) as service:
        _, port = service.ports()
        service.fill()
        for _ in range(3):
            assert answer(port, MALFORMED).startswith(b"HTTP/1.0 400")
            assert answer(port, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").startswith(b"HTTP/1.1 200")


def test_plain_text_on_the_tls_port_stops_no_handshake(tmp_path: Path) -> None:
    with serving(tmp_path, "--tls-self-signed") as service:
        port, _ = service.ports()
        service.fill()
        for _ in range(3):
            assert answer(port, b"GET / HTTP/1.1\r\n\r\n") == b""
        shown = ssl.get_server_certificate(("127.0.0.1", port), timeout=BOUND_S)
        assert shown.startswith("-----BEGIN CERTIFICATE-----")


def test_what_comes_to_either_port_leaves_json_lines_only_and_no_secret(tmp_path: Path) -> None:
    with serving(tmp_path, "--tls-self-signed") as service:
        grpc_port, http_port = service.ports()
        for _ in range(3):
            answer(grpc_port, b"GET / HTTP/1.1\r\n\r\n")
        answer(http_port, MALFORMED)
        deadline = time.monotonic() + BOUND_S
        while not (told := [line for line in service.lines() if line["event"] == "library_log"]):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert [(line["logger"], line["error"]) for line in told] == [
            ("aiohttp.server", "aiohttp.http_exceptions.BadHttpMessage")
        ]
        assert SECRET not in json.dumps(service.lines())
