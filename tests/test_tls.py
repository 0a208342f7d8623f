"""Server credentials, tried with a real gRPC server and client on loopback."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509

from extproc import tls

BOUND_S = 20.0


@asynccontextmanager
async def serving(credentials: grpc.ServerCredentials) -> AsyncIterator[int]:
    server = grpc.aio.server()
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield port
    finally:
        await server.stop(0)


async def status(port: int, credentials: grpc.ChannelCredentials) -> grpc.StatusCode:
    """How a call ends: UNIMPLEMENTED came through TLS (the server has no methods), UNAVAILABLE did not."""
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/none/None")(b"", timeout=BOUND_S)
    return caught.value.code()


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """(certificate, key) files."""
    cert, key = tls.make_certificate(["localhost"])
    (tmp_path / "cert.pem").write_bytes(cert)
    (tmp_path / "key.pem").write_bytes(key)
    return tmp_path / "cert.pem", tmp_path / "key.pem"


def test_a_made_certificate_holds_for_its_hosts_and_loopback_from_now_on() -> None:
    pem, _ = tls.make_certificate(["localhost", "gateway"])
    certificate = x509.load_pem_x509_certificate(pem)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "gateway"]
    assert list(map(str, names.get_values_for_type(x509.IPAddress))) == ["127.0.0.1", "::1"]
    assert certificate.not_valid_before_utc < datetime.now(UTC)
    assert certificate.not_valid_after_utc > datetime.now(UTC) + timedelta(days=3000)


async def test_a_self_signed_server_speaks_tls() -> None:
    async with serving(tls.self_signed()) as port:
        pem = ssl.get_server_certificate(("127.0.0.1", port), timeout=BOUND_S)
        trusting = grpc.ssl_channel_credentials(pem.encode())
        assert await status(port, trusting) is grpc.StatusCode.UNIMPLEMENTED


async def test_a_server_shows_the_certificate_of_its_files(pair: tuple[Path, Path]) -> None:
    async with serving(tls.from_files(*pair, client_ca=None)) as port:
        trusting = grpc.ssl_channel_credentials(pair[0].read_bytes())
        assert await status(port, trusting) is grpc.StatusCode.UNIMPLEMENTED


async def test_with_a_client_authority_only_its_certificates_come_in(pair: tuple[Path, Path]) -> None:
    cert, key = (file.read_bytes() for file in pair)
    other_cert, other_key = tls.make_certificate(["localhost"])
    async with serving(tls.from_files(*pair, client_ca=pair[0])) as port:
        known = grpc.ssl_channel_credentials(cert, key, cert)
        assert await status(port, known) is grpc.StatusCode.UNIMPLEMENTED
        for stranger in ((None, None), (other_key, other_cert)):
            credentials = grpc.ssl_channel_credentials(cert, *stranger)
            assert await status(port, credentials) is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("missing", ["cert", "key", "client_ca"])
def test_a_file_that_is_not_there_is_an_os_error(pair: tuple[Path, Path], missing: str) -> None:
    files = {"cert": pair[0], "key": pair[1], "client_ca": pair[0]} | {missing: Path("/nonexistent.pem")}
    with pytest.raises(FileNotFoundError):
        tls.from_files(**files)
