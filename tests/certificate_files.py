"""Certificate files that are renewed, and a real gRPC server that shows them."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519
from prometheus_client import CollectorRegistry

from extproc import logs
from extproc.tls import CertificateFiles, make_certificate
from extproc.tls_reload import CertificateWatcher

BOUND_S = 20.0
DAY = timedelta(days=1)


async def echo(messages: AsyncIterator[bytes], _: object) -> AsyncIterator[bytes]:
    async for message in messages:
        yield message


@asynccontextmanager
async def serving(credentials: grpc.ServerCredentials) -> AsyncIterator[int]:
    server = grpc.aio.server()
    methods = {"Echo": grpc.stream_stream_rpc_method_handler(echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", methods),))
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield port
    finally:
        await server.stop(0)


async def status(port: int, credentials: grpc.ChannelCredentials) -> grpc.StatusCode:
    """How a call ends: UNIMPLEMENTED came through TLS (there is no such method), UNAVAILABLE did not."""
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/none/None")(b"", timeout=BOUND_S)
    return caught.value.code()


async def shown(port: int) -> bytes:
    """The certificate that a new connection gets."""
    text = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", port), timeout=BOUND_S)
    return text.encode()


def dated(begins: datetime, ends: datetime) -> tuple[bytes, bytes]:
    """(certificate, key), both PEM."""
    return certificate_of(ec.generate_private_key(ec.SECP256R1()), begins, ends)


def certificate_of(
    key: Any, begins: datetime | None = None, ends: datetime | None = None
) -> tuple[bytes, bytes]:
    """(certificate, key), both PEM, valid now unless it is said otherwise."""
    return certified(key.public_key(), key, begins=begins, ends=ends), pem(key, serialization.NoEncryption())


def certified(
    public: Any,
    issuer: Any,
    issuers_name: x509.Name | None = None,
    begins: datetime | None = None,
    ends: datetime | None = None,
) -> bytes:
    """The certificate of the key *public*, PEM, signed by the key *issuer*."""
    begins, ends = begins or datetime.now(UTC) - DAY, ends or datetime.now(UTC) + DAY
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    number = x509.random_serial_number()
    builder = x509.CertificateBuilder(issuers_name or name, name, public, number, begins, ends)
    hosts = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
    named = builder.add_extension(x509.SubjectAlternativeName(hosts), critical=False)
    hashes_itself = isinstance(issuer, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey)
    certificate = named.sign(issuer, None if hashes_itself else hashes.SHA256())
    return certificate.public_bytes(serialization.Encoding.PEM)


def authority(issuer: x509.Name | None = None, issuers_key: Any = None) -> tuple[bytes, x509.Name, Any]:
    """(certificate in PEM, name, key) of one that may sign certificates, itself signed by *issuer* if there is one."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "below" if issuer else "above")])
    begins, ends = datetime.now(UTC) - DAY, datetime.now(UTC) + DAY
    public, number = key.public_key(), x509.random_serial_number()
    builder = x509.CertificateBuilder(issuer or name, name, public, number, begins, ends)
    may_sign = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    certificate = may_sign.sign(issuers_key or key, hashes.SHA256())
    return certificate.public_bytes(serialization.Encoding.PEM), name, key


def pem(key: Any, encryption: Any) -> bytes:
    text: bytes = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    return text


class Renewal:
    """Certificate files, and the watcher over them, which looks when it is told."""

    def __init__(
        self, directory: Path, *, client_ca: bytes | None = None, pair: tuple[bytes, bytes] | None = None
    ) -> None:
        self.chain, self.key = directory / "tls.crt", directory / "tls.key"
        self.client_ca = directory / "ca.crt"
        self.put(*(pair or make_certificate(["localhost"])))
        if client_ca is not None:
            self.client_ca.write_bytes(client_ca)
        self._log = directory / "log"
        self._file = self._log.open("wb")
        self._writer = logs.LineWriter(self._file.fileno())
        self.registry = CollectorRegistry()
        files = CertificateFiles(self.chain, self.key, self.client_ca if client_ca is not None else None)
        self.watcher = CertificateWatcher(files, self.registry, logs.configure(self._writer, "info", "json"))

    def put(self, chain: bytes, key: bytes) -> None:
        self.chain.write_bytes(chain)
        self.key.write_bytes(key)

    @property
    def successful(self) -> float | None:
        return self.registry.get_sample_value("extproc_tls_last_reload_successful")

    @property
    def expiry(self) -> float | None:
        return self.registry.get_sample_value("extproc_tls_certificate_expiry_timestamp_seconds")

    def close(self) -> list[dict[str, Any]]:
        """What was logged; nothing is after that."""
        self._writer.close()
        self._file.close()
        return [json.loads(line) for line in self._log.read_bytes().splitlines()]
