"""Server credentials for gRPC: from files, or self-signed at start."""

from __future__ import annotations

import datetime
import ipaddress
import socket
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

VALID = datetime.timedelta(days=3650)
"""Nobody checks a self-signed certificate's dates, but some TLS stacks refuse one without an end."""


def from_files(cert: Path, key: Path, client_ca: Path | None) -> grpc.ServerCredentials:
    """Credentials of PEM files; with *client_ca*, clients must show a certificate that it signed.  Raises OSError."""
    authority = client_ca.read_bytes() if client_ca else None
    return grpc.ssl_server_credentials(
        [(key.read_bytes(), cert.read_bytes())],
        root_certificates=authority,
        require_client_auth=authority is not None,
    )


def self_signed() -> grpc.ServerCredentials:
    """A new key and certificate, for gateways that insist on TLS but check nothing."""
    cert, key = make_certificate(["localhost", socket.gethostname()])
    return grpc.ssl_server_credentials([(key, cert)])


def make_certificate(hosts: list[str]) -> tuple[bytes, bytes]:
    """(certificate, key), both PEM, for *hosts* and the loopback addresses."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "extproc")])
    now = datetime.datetime.now(datetime.UTC)
    names: list[x509.GeneralName] = [x509.DNSName(host) for host in hosts]
    names += [x509.IPAddress(ipaddress.ip_address(ip)) for ip in ("127.0.0.1", "::1")]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))  # clocks differ
        .not_valid_after(now + VALID)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), private
