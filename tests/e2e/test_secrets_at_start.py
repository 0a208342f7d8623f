"""Tokens and certificates that cannot serve: the service says so and does not start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from extproc.tls import make_certificate

pytestmark = pytest.mark.envoy

CHAIN, KEY = make_certificate(["localhost"])
OTHER_KEY = make_certificate(["localhost"])[1]


@pytest.mark.parametrize(
    ("files", "flags", "fault"),
    [
        (
            {"token": b"short"},
            ["--http-token-file", "token"],
            "token holds a token of fewer than 16 characters",
        ),
        (
            {"token": b"two words"},
            ["--http-token-file", "token"],
            "token holds no bearer token (one line of visible ASCII)",
        ),
        ({}, ["--http-token-file", "token"], "[Errno 2] No such file or directory: 'token'"),
        ({"c": CHAIN, "k": OTHER_KEY}, ["--tls-cert", "c", "--tls-key", "k"], "k: not the key of c"),
        ({"c": CHAIN}, ["--tls-cert", "c", "--tls-key", "k"], "[Errno 2] No such file or directory: 'k'"),
    ],
)
def test_what_cannot_serve_is_told_on_one_line_and_the_service_does_not_start(
    tmp_path: Path, files: dict[str, bytes], flags: list[str], fault: str
) -> None:
    (tmp_path / "router.yaml").write_text("pools: [{name: p, endpoints: []}]")
    for name, text in files.items():
        (tmp_path / name).write_bytes(text)
    addresses = ["--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0"]
    ran = subprocess.run(
        [sys.executable, "-m", "extproc", "serve", "--config", "router.yaml", *addresses, *flags],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 1
    assert ran.stderr == f"extproc: cannot serve: {fault}\n"
