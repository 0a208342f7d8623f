"""What the gRPC port shows: a certificate of files, or one that is made at start."""

from __future__ import annotations

import datetime
import ipaddress
import socket
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from msgspec import Struct

VALID = datetime.timedelta(days=3650)
"""Nobody checks a self-signed certificate's dates, but some TLS stacks refuse one without an end."""
MAX_FILE_BYTES = 4 * 1024 * 1024
"""A system's bundle of all authorities has a quarter of a megabyte; what is longer is the wrong file."""


class CertificateFault(RuntimeError):
    """The files hold nothing that could be shown; the message says which, and why."""


class Certificate(Struct, frozen=True):
    """What was read at one time, PEM."""

    chain: bytes
    key: bytes
    client_ca: bytes | None

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([(self.key, self.chain)], self.client_ca)


class CertificateFiles(Struct, frozen=True):
    """Where somebody else puts the certificate, e.g. a Secret that cert-manager renews."""

    chain: Path
    key: Path
    client_ca: Path | None = None
    """Clients must show a certificate that one of these authorities signed; None: any client is welcome."""

    def read(self) -> Certificate:
        """Raises OSError, CertificateFault."""
        authority = _read(self.client_ca) if self.client_ca else None
        return Certificate(_read(self.chain), _read(self.key), authority)

    def check(self, read: Certificate) -> x509.Certificate:
        """The certificate that *read* shows to clients.  Raises CertificateFault."""
        leaf = _certificates(read.chain, self.chain)[0]
        try:
            key = serialization.load_pem_private_key(read.key, None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: it wants a password
            raise CertificateFault(f"{self.key}: no private key in PEM without a password: {error}") from None
        if _public_bytes(key.public_key()) != _public_bytes(leaf.public_key()):
            raise CertificateFault(f"{self.key}: not the key of {self.chain}")
        if self.client_ca is not None and read.client_ca is not None:
            _certificates(read.client_ca, self.client_ca)
        return leaf


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        text = file.read(MAX_FILE_BYTES + 1)
    if len(text) > MAX_FILE_BYTES:
        raise CertificateFault(f"{path}: longer than {MAX_FILE_BYTES} bytes")
    return text


def _certificates(text: bytes, path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(text)
    except ValueError as error:
        raise CertificateFault(f"{path}: no certificate in PEM: {error}") from None


def _public_bytes(key: object) -> bytes:
    made: bytes = key.public_bytes(  # type: ignore[attr-defined]  # every kind of public key has it
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return made


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
