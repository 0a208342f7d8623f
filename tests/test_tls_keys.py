"""What is checked of certificate files is what gRPC shows: none that it cannot show counts as in force."""

from __future__ import annotations

import base64
import contextlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from certificate_files import Renewal, certificate_of, certified, serving, shown
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from prometheus_client import CollectorRegistry

from extproc.tls import KEYS, CertificateFault, CertificateFiles, make_certificate
from extproc.tls_reload import CertificateWatcher

DATA = Path(__file__).parent / "data/certificates"
FIT: dict[str, Callable[[], Any]] = {
    "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "P-521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
    "RSA 2048": lambda: rsa.generate_private_key(65537, 2048),
    "RSA 1024": lambda: rsa.generate_private_key(65537, 1024),
    "RSA with an exponent of 3": lambda: rsa.generate_private_key(3, 2048),
}
UNFIT: dict[str, Callable[[], Any]] = {
    "EC secp224r1": lambda: ec.generate_private_key(ec.SECP224R1()),
    "EC secp256k1": lambda: ec.generate_private_key(ec.SECP256K1()),
    "EC brainpoolP256r1": lambda: ec.generate_private_key(ec.BrainpoolP256R1()),
    "Ed448": ed448.Ed448PrivateKey.generate,
    "DSA": lambda: dsa.generate_private_key(1024),
}
RECORDED = {
    "rsa-512": "RSA of 512 bits",
    "rsa-pss": "RSA-PSS",
    "rsa-long-exponent": "RSA with an exponent of more than 33 bits",
    "explicit-curve": "EC, its curve spelled out",
    "prime192v3": "Curve 1.2.840.10045.3.1.3 is not supported",
}
GOOD_CHAIN, GOOD_KEY = make_certificate(["localhost"])
DER = x509.load_pem_x509_certificate(GOOD_CHAIN).public_bytes(serialization.Encoding.DER)
_POINT = (serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
POINT = serialization.load_pem_private_key(GOOD_KEY, None).public_key().public_bytes(*_POINT)
DAMAGED = {
    "a version that there is not": (
        DER.replace(b"\xa0\x03\2\1\2", b"\xa0\x03\2\1\1"),
        "no certificate in PEM: 1 is not a valid X509",
    ),
    "an issuer that is not UTF-8": (
        DER.replace(b"\x0c\x07extproc", b"\x0c\x07\xffxtproc", 1),
        "no certificate in PEM: ",
    ),
    "a name that is not UTF-8": (
        b"\x0c\x07\xffxtproc".join(DER.rsplit(b"\x0c\x07extproc", 1)),
        "no certificate in PEM: ",
    ),
    "a point that is not on the curve": (
        DER.replace(POINT, b"\4" + bytes(64)),
        "gRPC cannot show this kind of key: ",
    ),
}


def refused(what: str) -> tuple[bytes, bytes, str]:
    """(chain, key, what is said of them)."""
    if what in DAMAGED:
        der, fault = DAMAGED[what]
        text = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"
        return text, GOOD_KEY, fault
    said = f"gRPC cannot show this kind of key: {RECORDED.get(what, what)}; allowed: {KEYS}"
    if what in RECORDED:
        return (DATA / f"{what}.crt").read_bytes(), GOOD_KEY, said
    return (*certificate_of(UNFIT[what]()), said)


def begin(chain: Path, key: Path, client_ca: Path | None = None) -> CertificateWatcher:
    return CertificateWatcher(CertificateFiles(chain, key, client_ca), CollectorRegistry(), None)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", FIT)
async def test_a_key_that_is_allowed_is_shown_after_a_renewal_and_from_the_start(
    tmp_path: Path, kind: str
) -> None:
    chain, key = certificate_of(FIT[kind]())
    with contextlib.closing(Renewal(tmp_path)) as files:
        async with serving(files.watcher.credentials()) as port:
            files.put(chain, key)
            await files.watcher.look()
            assert (await shown(port), files.successful) == (chain, 1)
        async with serving(begin(files.chain, files.key).credentials()) as port:
            assert await shown(port) == chain


@pytest.mark.parametrize("what", [*UNFIT, *RECORDED, *DAMAGED])
async def test_what_grpc_cannot_show_is_told_at_start_and_never_takes_the_place_of_what_it_shows(
    tmp_path: Path, what: str
) -> None:
    chain, key, fault = refused(what)
    with contextlib.closing(Renewal(tmp_path)) as files:
        before = files.chain.read_bytes()
        async with serving(files.watcher.credentials()) as port:
            files.put(chain, key)
            for _ in range(2):
                await files.watcher.look()
            assert (await shown(port), files.successful) == (before, 0)
        with pytest.raises(CertificateFault, match=re.escape(f"{files.chain}: {fault}")):
            begin(files.chain, files.key)
        (line,) = files.close()
    assert line["fault"].startswith(f"{files.chain}: {fault}")


def test_only_the_key_of_the_first_certificate_has_to_be_one_that_grpc_shows(tmp_path: Path) -> None:
    unfit, _ = certificate_of(UNFIT["EC secp224r1"]())
    files = CertificateFiles(tmp_path / "c", tmp_path / "k")
    files.key.write_bytes(GOOD_KEY)
    files.chain.write_bytes(GOOD_CHAIN + unfit)
    files.check(files.read())
    files.chain.write_bytes(unfit + GOOD_CHAIN)
    with pytest.raises(CertificateFault, match="cannot show this kind of key: EC secp224r1"):
        files.check(files.read())


@pytest.mark.parametrize(
    ("bits", "exponent", "fault"),
    [
        (1024, 2**33 - 1, "not the key of"),
        (1024, 2**33 + 1, "RSA with an exponent of more than 33 bits"),
        (1023, 65537, "RSA of 1023 bits"),
    ],
)
def test_rsa_ends_where_boringssl_ends(tmp_path: Path, bits: int, exponent: int, fault: str) -> None:
    public = rsa.RSAPublicNumbers(exponent, 2 ** (bits - 1) + 1).public_key()
    files = CertificateFiles(tmp_path / "c", tmp_path / "k")
    files.chain.write_bytes(certified(public, ec.generate_private_key(ec.SECP256R1())))
    files.key.write_bytes(GOOD_KEY)
    with pytest.raises(CertificateFault, match=fault):
        files.check(files.read())


@pytest.mark.parametrize(
    "change",
    [
        lambda text: b"\0" + text + b"\0",
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: text.replace(b"\n", b"\r"),
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: b"  " + text.replace(b"\n", b"\n  "),
        lambda text: b"subject=CN = localhost\n" + text + b"notes",
    ],
    ids=["NULs", "byte order mark", "CR", "CR LF", "indented", "text around"],
)
async def test_bytes_around_the_pem_change_nothing(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    with contextlib.closing(Renewal(tmp_path)) as files:
        async with serving(files.watcher.credentials()) as port:
            files.put(change(GOOD_CHAIN), change(GOOD_KEY))
            await files.watcher.look()
            assert (await shown(port), files.successful) == (GOOD_CHAIN, 1)


def test_a_client_authority_none_of_whose_keys_verifies_anybody_is_refused(tmp_path: Path) -> None:
    (chain := tmp_path / "c").write_bytes(GOOD_CHAIN)
    (key := tmp_path / "k").write_bytes(GOOD_KEY)
    unfit, _ = certificate_of(UNFIT["EC secp224r1"]())
    (authority := tmp_path / "ca").write_bytes(unfit)
    with pytest.raises(
        CertificateFault,
        match=re.escape(
            f"{authority}: gRPC can check nobody by this kind of key: EC secp224r1; allowed: {KEYS}"
        ),
    ):
        begin(chain, key, authority)
    authority.write_bytes(unfit + GOOD_CHAIN)
    begin(chain, key, authority)


async def test_whatever_else_goes_wrong_with_a_renewal_the_old_certificate_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def odd(_: bytes) -> Any:
        raise KeyError("odd")

    with contextlib.closing(Renewal(tmp_path)) as files:
        before = files.chain.read_bytes()
        async with serving(files.watcher.credentials()) as port:
            with monkeypatch.context() as patched:
                patched.setattr(x509, "load_pem_x509_certificates", odd)
                files.put(GOOD_CHAIN, GOOD_KEY)
                for _ in range(2):
                    await files.watcher.look()
                assert (await shown(port), files.successful) == (before, 0)
            await files.watcher.look()
            assert (await shown(port), files.successful) == (GOOD_CHAIN, 1)
        failed, renewed = files.close()
    assert (failed["fault"], renewed["event"]) == ("KeyError: 'odd'", "certificate_renewed")
