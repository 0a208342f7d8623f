"""What the gRPC port shows, tried with a real gRPC server and client on loopback; and how it is renewed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from certificate_files import DAY, Renewal, authority, certified, dated, pem, serving, shown, status
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from prometheus_client import CollectorRegistry

from extproc import logs, tls
from extproc.tls import CertificateFault, CertificateFiles, make_certificate
from extproc.tls_reload import CertificateWatcher


@pytest.fixture
def renewal(tmp_path: Path) -> Any:
    made: list[Renewal] = []

    def make(**options: Any) -> Renewal:
        made.append(Renewal(tmp_path, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


Make = Callable[..., Renewal]


# -- at start -------------------------------------------------------------------------------------------------


def test_a_made_certificate_holds_for_its_hosts_and_loopback_from_now_on() -> None:
    pem, _ = make_certificate(["localhost", "gateway"])
    certificate = x509.load_pem_x509_certificate(pem)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "gateway"]
    assert list(map(str, names.get_values_for_type(x509.IPAddress))) == ["127.0.0.1", "::1"]
    assert certificate.not_valid_before_utc < datetime.now(UTC)
    assert certificate.not_valid_after_utc > datetime.now(UTC) + timedelta(days=3000)


async def test_a_self_signed_server_speaks_tls() -> None:
    async with serving(tls.self_signed()) as port:
        trusting = grpc.ssl_channel_credentials(await shown(port))
        assert await status(port, trusting) is grpc.StatusCode.UNIMPLEMENTED


async def test_a_server_shows_the_certificate_of_its_files(renewal: Make) -> None:
    files = renewal()
    async with serving(files.watcher.credentials()) as port:
        trusting = grpc.ssl_channel_credentials(files.chain.read_bytes())
        assert await status(port, trusting) is grpc.StatusCode.UNIMPLEMENTED


async def test_who_trusts_only_the_root_is_shown_the_authority_between(renewal: Make) -> None:
    root, roots_name, roots_key = authority()
    between, betweens_name, betweens_key = authority(roots_name, roots_key)
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = certified(key.public_key(), betweens_key, betweens_name)
    files = renewal()
    files.put(leaf + between, pem(key, serialization.NoEncryption()))
    async with serving(files.watcher.credentials()) as port:
        await files.watcher.look()
        assert await status(port, grpc.ssl_channel_credentials(root)) is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("around", [b"", b"\0"], ids=["nothing", "NULs"])
async def test_a_client_authority_is_read_whatever_bytes_are_around_it(renewal: Make, around: bytes) -> None:
    known = make_certificate(["gateway"])
    files = renewal(client_ca=around + known[0] + around)
    async with serving(files.watcher.credentials()) as port:
        assert await _status_of(port, files, known) is grpc.StatusCode.UNIMPLEMENTED


async def test_with_a_client_authority_only_its_certificates_come_in(renewal: Make) -> None:
    known, other = make_certificate(["gateway"]), make_certificate(["gateway"])
    files = renewal(client_ca=known[0])
    async with serving(files.watcher.credentials()) as port:
        assert await _status_of(port, files, known) is grpc.StatusCode.UNIMPLEMENTED
        assert await _status_of(port, files, other) is grpc.StatusCode.UNAVAILABLE
        assert await _status_of(port, files, (None, None)) is grpc.StatusCode.UNAVAILABLE


async def _status_of(port: int, files: Renewal, client: tuple[bytes | None, bytes | None]) -> grpc.StatusCode:
    chain, key = client
    return await status(port, grpc.ssl_channel_credentials(files.chain.read_bytes(), key, chain))


@pytest.mark.parametrize("missing", ["tls.crt", "tls.key", "ca.crt"])
def test_a_file_that_is_not_there_at_start_is_an_os_error(tmp_path: Path, missing: str) -> None:
    with pytest.raises(FileNotFoundError, match=missing):
        _begin(tmp_path, lambda: (tmp_path / missing).unlink())


def _begin(directory: Path, spoil: Callable[[], object]) -> None:
    chain, key = make_certificate(["localhost"])
    for name, text in (("tls.crt", chain), ("tls.key", key), ("ca.crt", chain)):
        (directory / name).write_bytes(text)
    spoil()
    files = CertificateFiles(directory / "tls.crt", directory / "tls.key", directory / "ca.crt")
    CertificateWatcher(files, CollectorRegistry(), None)  # type: ignore[arg-type]


UNKNOWN_KEY = (
    b"-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VjBCIEIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n"
    b"-----END PRIVATE KEY-----\n"
)
"""Ed25519's, but for its algorithm: 1.3.101.99."""


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("tls.crt", b"", "no certificate in PEM"),
        (
            "tls.crt",
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "no certificate in PEM",
        ),
        ("tls.key", b"no key", "no private key in PEM without a password"),
        ("tls.key", make_certificate(["localhost"])[1], "not the key of"),
        (
            "tls.key",
            pem(ec.generate_private_key(ec.SECP256R1()), serialization.BestAvailableEncryption(b"password")),
            "no private key in PEM without a password",
        ),
        ("tls.key", UNKNOWN_KEY, "no private key in PEM without a password"),
        ("ca.crt", b"\xff", "no certificate in PEM"),
        ("ca.crt", b" " * (tls.MAX_FILE_BYTES + 1), "longer than"),
    ],
)
def test_files_that_hold_no_certificate_are_refused_at_start(
    tmp_path: Path, name: str, text: bytes, fault: str
) -> None:
    with pytest.raises(CertificateFault, match=f"{name}: {fault}"):
        _begin(tmp_path, lambda: (tmp_path / name).write_bytes(text))


def test_a_file_of_the_greatest_length_is_read(tmp_path: Path) -> None:
    (chain := tmp_path / "c").write_bytes(make_certificate(["localhost"])[0].ljust(tls.MAX_FILE_BYTES))
    assert len(CertificateFiles(chain, chain).read().chain) == tls.MAX_FILE_BYTES


def test_an_expired_certificate_will_do_at_start_as_there_are_gateways_that_look_at_no_dates_and_is_told(
    tmp_path: Path,
) -> None:
    now = datetime.now(UTC)
    files = Renewal(tmp_path, pair=dated(now - 2 * DAY, now - DAY))
    assert (files.expiry, files.successful) == (int((now - DAY).timestamp()), 1)
    (told,) = files.close()
    assert told["event"] == "certificate_out_of_date"
    assert f"{files.chain}: the certificate ended at " in told["fault"]


# -- renewed --------------------------------------------------------------------------------------------------


async def test_new_connections_get_the_renewed_certificate_and_open_streams_go_on(renewal: Make) -> None:
    files = renewal()
    before = files.chain.read_bytes()
    credentials = grpc.ssl_channel_credentials(before)
    async with serving(files.watcher.credentials()) as port:
        async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
            stream = channel.stream_stream("/test/Echo")()
            await stream.write(b"before")
            assert await stream.read() == b"before"

            after, key = dated(datetime.now(UTC) - DAY, datetime.now(UTC) + DAY)
            files.put(after, key)
            for _ in range(2):
                await files.watcher.look()

            assert await shown(port) == after
            await stream.write(b"after")
            assert await stream.read() == b"after"
            await stream.done_writing()
            assert await stream.read() is grpc.aio.EOF
            another = channel.stream_stream("/test/Echo")()  # on the connection that is there
            await another.write(b"more")
            assert await another.read() == b"more"
            await another.done_writing()
        assert [await shown(port) for _ in range(3)] == [after] * 3
        assert await status(port, credentials) is grpc.StatusCode.UNAVAILABLE
    (line,) = files.close()
    ends = x509.load_pem_x509_certificate(after).not_valid_after_utc
    assert (line["event"], line["expires"], files.expiry) == (
        "certificate_renewed",
        ends.isoformat(),
        ends.timestamp(),
    )


async def test_files_that_did_not_change_change_nothing(renewal: Make) -> None:
    files = renewal()
    for _ in range(3):
        await files.watcher.look()
    assert (files.successful, files.close()) == (1, [])


async def test_a_secret_that_the_kubelet_swaps_is_noticed(tmp_path: Path) -> None:
    """It renames a link to a directory two levels above what the flags name."""
    versions = [make_certificate(["localhost"]) for _ in range(2)]
    for number, (chain, key) in enumerate(versions):
        (tmp_path / f"..{number}").mkdir()
        (tmp_path / f"..{number}" / "tls.crt").write_bytes(chain)
        (tmp_path / f"..{number}" / "tls.key").write_bytes(key)
    (tmp_path / "..data").symlink_to("..0")
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    files = CertificateFiles(tmp_path / "tls.crt", tmp_path / "tls.key")
    with (tmp_path / "log").open("wb") as file:
        writer = logs.LineWriter(file.fileno())
        watcher = CertificateWatcher(files, CollectorRegistry(), logs.configure(writer, "info", "json"))
        async with serving(watcher.credentials()) as port:
            assert await shown(port) == versions[0][0]
            (tmp_path / "..data_tmp").symlink_to("..1")
            (tmp_path / "..data_tmp").rename(tmp_path / "..data")
            await watcher.look()
            assert await shown(port) == versions[1][0]
        writer.close()


async def test_a_renewed_client_authority_lets_in_whom_it_signed_and_nobody_else(renewal: Make) -> None:
    old, new = make_certificate(["gateway"]), make_certificate(["gateway"])
    files = renewal(client_ca=old[0])
    async with serving(files.watcher.credentials()) as port:
        files.client_ca.write_bytes(new[0])
        await files.watcher.look()
        assert await _status_of(port, files, new) is grpc.StatusCode.UNIMPLEMENTED
        assert await _status_of(port, files, old) is grpc.StatusCode.UNAVAILABLE
        assert await _status_of(port, files, (None, None)) is grpc.StatusCode.UNAVAILABLE


NOW = datetime.now(UTC)
OTHER = make_certificate(["localhost"])
FAULTY = {
    "another's key": (OTHER[0], make_certificate(["localhost"])[1], "not the key of"),
    "no PEM": (b"garbage", OTHER[1], "no certificate in PEM"),
    "nothing": (b"", b"", "no certificate in PEM"),
    "expired": (*dated(NOW - 2 * DAY, NOW - DAY), "tls.crt: the certificate ended at "),
    "not yet valid": (*dated(NOW + DAY, NOW + 2 * DAY), "tls.crt: the certificate begins only at "),
}


@pytest.mark.parametrize("what", FAULTY)
async def test_a_faulty_renewal_keeps_the_old_certificate_and_is_told_once_until_it_is_mended(
    renewal: Make, what: str
) -> None:
    files = renewal()
    before, key = files.chain.read_bytes(), files.key.read_bytes()
    chain, other, fault = FAULTY[what]
    async with serving(files.watcher.credentials()) as port:
        files.put(chain, other)
        for _ in range(4):
            await files.watcher.look()
        assert (await shown(port), files.successful) == (before, 0)
        files.put(before, key)
        await files.watcher.look()
        assert (await shown(port), files.successful) == (before, 1)
        files.put(*OTHER)
        await files.watcher.look()
        assert (await shown(port), files.successful) == (OTHER[0], 1)
    failed, renewed = files.close()
    assert (failed["event"], fault in failed["fault"]) == ("certificate_reload_failed", True)
    assert renewed["event"] == "certificate_renewed"


async def test_what_was_mended_has_to_last_again_before_it_is_told_again(renewal: Make) -> None:
    files = renewal()
    before = files.chain.read_bytes(), files.key.read_bytes()
    for looks in (2, 1, 2):
        files.put(*OTHER[:1], before[1])
        for _ in range(looks):
            await files.watcher.look()
        assert files.successful == (0 if looks == 2 else 1)
        files.put(*before)
        await files.watcher.look()
        assert files.successful == 1
    assert [line["event"] for line in files.close()] == ["certificate_reload_failed"] * 2


async def test_a_file_that_vanishes_keeps_the_old_certificate(renewal: Make) -> None:
    files = renewal()
    before = files.chain.read_bytes()
    async with serving(files.watcher.credentials()) as port:
        files.key.unlink()
        for _ in range(2):
            await files.watcher.look()
        assert (await shown(port), files.successful) == (before, 0)
    (line,) = files.close()
    assert "No such file" in line["fault"]


async def test_a_renewal_that_is_seen_half_written_is_no_fault(renewal: Make) -> None:
    files = renewal()
    chain, key = make_certificate(["localhost"])
    async with serving(files.watcher.credentials()) as port:
        files.chain.write_bytes(chain)
        await files.watcher.look()
        assert files.successful == 1
        files.key.write_bytes(key)
        await files.watcher.look()
        assert (await shown(port), files.successful) == (chain, 1)
    assert [line["event"] for line in files.close()] == ["certificate_renewed"]
