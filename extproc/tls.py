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
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.x509.oid import NameOID, PublicKeyAlgorithmOID
from msgspec import Struct

VALID = datetime.timedelta(days=3650)
"""Nobody checks a self-signed certificate's dates, but some TLS stacks refuse one without an end."""
MAX_FILE_BYTES = 4 * 1024 * 1024
"""A system's bundle of all authorities has a quarter of a megabyte; what is longer is the wrong file."""

# What BoringSSL, which is gRPC's TLS, can show.  It refuses all others when a connection comes, and says so to nobody.
KEYS = "RSA (not PSS) of 1024 bits or more, EC P-256, P-384 and P-521, Ed25519"
MIN_RSA_BITS = 1024
"""Below that no client would go on, and of 512 bits none could: TLS 1.3's signature does not fit in."""
MAX_RSA_EXPONENT = 2**33 - 1
"""BoringSSL's bound (crypto/rsa): a larger one makes checking a signature slow; all who sign take 65537."""
CURVES = ("secp256r1", "secp384r1", "secp521r1")
PRIME_FIELD = bytes.fromhex("06072a8648ce3d0101")
"""Is in a certificate whose curve is spelled out instead of named (RFC 3279, section 2.3.5)."""


class CertificateFault(RuntimeError):
    """The files hold nothing that could be shown; the message says which, and why."""


class Certificate(Struct, frozen=True):
    """What was read at one time, PEM."""

    chain: bytes
    key: bytes
    client_ca: bytes | None


class Identity(Struct, frozen=True):
    """What a `Certificate` comes to."""

    leaf: x509.Certificate
    configuration: grpc.ServerCertificateConfiguration


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

    def check(self, read: Certificate) -> Identity:
        """What clients are shown.  Raises CertificateFault.

        gRPC gets what was understood here, written anew: its own parser stumbles over other bytes around it, such as
        NULs and byte order marks.
        """
        chain = _certificates(read.chain, self.chain)
        key = self._private_key(read.key)
        if unfit := _unfit(chain[0]):
            raise CertificateFault(
                f"{self.chain}: gRPC cannot show this kind of key: {unfit}; allowed: {KEYS}"
            )
        if _public_bytes(key.public_key()) != _public_bytes(chain[0].public_key()):
            raise CertificateFault(f"{self.key}: not the key of {self.chain}")
        configuration = grpc.ssl_server_certificate_configuration(
            [(_private_bytes(key), _pem(chain))], self._authorities(read.client_ca)
        )
        return Identity(chain[0], configuration)

    def _private_key(self, text: bytes) -> PrivateKeyTypes:
        try:
            return serialization.load_pem_private_key(text, None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: it wants a password
            raise CertificateFault(f"{self.key}: no private key in PEM without a password: {error}") from None

    def _authorities(self, text: bytes | None) -> bytes | None:
        if self.client_ca is None or text is None:
            return None
        authorities = _certificates(text, self.client_ca)
        unfit = [_unfit(authority) for authority in authorities]
        if all(unfit):
            raise CertificateFault(
                f"{self.client_ca}: gRPC can check nobody by this kind of key: {unfit[0]}; allowed: {KEYS}"
            )
        return _pem(authorities)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        text = file.read(MAX_FILE_BYTES + 1)
    if len(text) > MAX_FILE_BYTES:
        raise CertificateFault(f"{path}: longer than {MAX_FILE_BYTES} bytes")
    return text


def _certificates(text: bytes, path: Path) -> list[x509.Certificate]:
    try:
        read = x509.load_pem_x509_certificates(text)
        for each in read:  # names are read only when asked for, and BoringSSL takes none that is damaged
            _ = each.subject, each.issuer
    except (ValueError, x509.InvalidVersion) as error:
        raise CertificateFault(f"{path}: no certificate in PEM: {error}") from None
    return read


def _unfit(certificate: x509.Certificate) -> str:
    """Why BoringSSL knows nothing to do with its key; empty: it does."""
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        return str(error)
    if isinstance(key, rsa.RSAPublicKey):
        return _unfit_rsa(key, certificate.public_key_algorithm_oid)
    if isinstance(key, ec.EllipticCurvePublicKey):
        if key.curve.name not in CURVES:
            return f"EC {key.curve.name}"
        return "EC, its curve spelled out" if PRIME_FIELD in certificate.tbs_certificate_bytes else ""
    return "" if isinstance(key, ed25519.Ed25519PublicKey) else type(key).__name__.removesuffix("PublicKey")


def _unfit_rsa(key: rsa.RSAPublicKey, algorithm: x509.ObjectIdentifier) -> str:
    if algorithm != PublicKeyAlgorithmOID.RSAES_PKCS1_v1_5:
        return "RSA-PSS"
    if key.key_size < MIN_RSA_BITS:
        return f"RSA of {key.key_size} bits"
    return "RSA with an exponent of more than 33 bits" if key.public_numbers().e > MAX_RSA_EXPONENT else ""


def _pem(certificates: list[x509.Certificate]) -> bytes:
    return b"".join(each.public_bytes(serialization.Encoding.PEM) for each in certificates)


def _public_bytes(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _private_bytes(key: PrivateKeyTypes) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
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
    return certificate.public_bytes(serialization.Encoding.PEM), _private_bytes(key)
