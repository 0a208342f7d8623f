"""A cluster's certificates, kubeconfig files and service account directories."""

from __future__ import annotations

import base64
import ipaddress
import os
import ssl
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

HOSTS = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
ADDRESSES = ("127.0.0.1", "::1")
VALID_FOR = timedelta(hours=2)
"""Longer than any test."""


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as PEM."""

    certificate: bytes
    key: bytes


class Authority:
    """A certificate authority, made anew, that signs the server's and the clients' certificates."""

    def __init__(self, name: str = "kubernetes") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        use = x509.KeyUsage(True, False, False, False, False, True, False, False, False)
        builder = self._builder(self._name, self._key).add_extension(x509.BasicConstraints(True, None), True)
        certificate = builder.add_extension(use, True).sign(self._key, hashes.SHA256())
        self.pem = certificate.public_bytes(serialization.Encoding.PEM)

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        begin = datetime.now(UTC) - timedelta(minutes=5)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name)
        builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = builder.add_extension(signer, False)
        return builder.not_valid_before(begin).not_valid_after(begin + VALID_FOR)

    def issue(self, name: str, usage: x509.ObjectIdentifier, hosts: tuple[str, ...] = ()) -> Pair:
        """A certificate for these host names and for loopback, or for a client where there are none."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), False)
        if hosts:
            names: list[x509.GeneralName] = [x509.DNSName(host) for host in hosts]
            names += [x509.IPAddress(ipaddress.ip_address(address)) for address in ADDRESSES]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
        certificate = builder.sign(self._key, hashes.SHA256())
        key_pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return Pair(certificate.public_bytes(serialization.Encoding.PEM), key_pem)

    def client(self, name: str = "kubernetes-admin") -> Pair:
        return self.issue(name, ExtendedKeyUsageOID.CLIENT_AUTH)

    def server_context(self) -> ssl.SSLContext:
        """Asks for a client certificate, as Kubernetes does, and lets those in that have none."""
        pair = self.issue("kube-apiserver", ExtendedKeyUsageOID.SERVER_AUTH, HOSTS)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_verify_locations(cadata=self.pem.decode())
        context.verify_mode = ssl.CERT_OPTIONAL
        with tempfile.TemporaryDirectory() as directory:
            both = Path(directory) / "both.pem"
            both.write_bytes(pair.certificate + pair.key)
            context.load_cert_chain(both)
        return context


def _data(pem: bytes) -> str:
    return base64.b64encode(pem).decode()


def kubeconfig(
    server: str,
    authority: Authority | None,
    *,
    token: str | None = None,
    token_file: Path | str | None = None,
    client: Pair | None = None,
    namespace: str | None = "llm",
    insecure: bool = False,
) -> dict[str, Any]:
    """A kubeconfig with two contexts: the one that is current, and one that leads nowhere."""
    cluster: dict[str, Any] = {"server": server}
    if insecure:
        cluster["insecure-skip-tls-verify"] = True
    elif authority:
        cluster["certificate-authority-data"] = _data(authority.pem)
    user: dict[str, Any] = {}
    user |= {"token": token} if token else {}
    user |= {"tokenFile": str(token_file)} if token_file else {}
    if client:
        user |= {"client-certificate-data": _data(client.certificate), "client-key-data": _data(client.key)}
    context = {"cluster": "test", "user": "tester"} | ({"namespace": namespace} if namespace else {})
    nowhere = {"name": "nowhere", "cluster": {"server": "https://nowhere.invalid"}}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "preferences": {},
        "clusters": [nowhere, {"name": "test", "cluster": cluster}],
        "users": [{"name": "nobody", "user": {}}, {"name": "tester", "user": user}],
        "contexts": [
            {"name": "nowhere", "context": {"cluster": "nowhere", "user": "nobody"}},
            {"name": "test", "context": context},
        ],
        "current-context": "test",
    }


def write_kubeconfig(path: Path, config: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    path.chmod(0o600)


def write_service_account(directory: Path, token: str, ca_pem: bytes, namespace: str) -> None:
    """token, ca.crt and namespace as the kubelet projects them: links through `..data`, which is exchanged at one
    stroke, so that a second call plays a rotation."""
    directory.mkdir(parents=True, exist_ok=True)
    versioned = Path(tempfile.mkdtemp(prefix="..", dir=directory))
    for name, content in (("token", token.encode()), ("ca.crt", ca_pem), ("namespace", namespace.encode())):
        (versioned / name).write_bytes(content)
        if not (directory / name).is_symlink():
            (directory / name).symlink_to(Path("..data") / name)
    fresh = directory / "..data_tmp"
    fresh.symlink_to(versioned.name)
    os.replace(fresh, directory / "..data")
