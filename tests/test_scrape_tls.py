"""Scraping over TLS whose certificates an authority of one's own has signed, with a token, on another port."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from kube_api.credentials import Authority
from metrics_server import METRICS, Heard, ModelServer, always, http, scraper_for, serving, until

from extproc.config import parse_config
from extproc.engines import SGLANG
from extproc.fleet import Fleet
from extproc.scraper import Scraper
from extproc.scraping import scrape_targets

TIMEOUT_S = 10.0


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
async def scraper(heard: Heard) -> AsyncIterator[Scraper]:
    async with scraper_for(heard) as scraper:
        yield scraper


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority("pods")


def showing(authority: Authority, directory: Path) -> ssl.SSLContext:
    """A server's TLS settings, with a certificate for pod.test and 127.0.0.1."""
    pair = authority.issue("pod", ExtendedKeyUsageOID.SERVER_AUTH, ("pod.test",))
    file = directory / "server.pem"
    file.write_bytes(pair.certificate + pair.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


async def test_a_certificate_of_the_authority_in_the_file_is_trusted(
    scraper: Scraper, heard: Heard, authority: Authority, tmp_path: Path
) -> None:
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(authority.pem)
    async with serving(always(http()), tls=showing(authority, tmp_path)) as server:
        by_address = server.target(scheme="https", ca_file=str(ca_file), timeout_s=TIMEOUT_S)
        by_name = server.target(
            scheme="https", ca_file=str(ca_file), server_name="pod.test", timeout_s=TIMEOUT_S
        )
        await scraper.update([by_address, by_name])
        await until(lambda: heard.reads_of(by_address) >= 2 and heard.reads_of(by_name) >= 2)
        await scraper.close()
    assert {metrics for _, metrics in heard.read} == {METRICS}
    assert heard.failed == heard.faults == []
    assert server.connections == 2


@pytest.mark.parametrize(
    ("signed_by_another", "server_name", "complaint"),
    [(True, None, "certificate verify failed"), (False, "other.test", "Hostname mismatch")],
)
async def test_another_authority_or_another_name_is_a_failure(
    scraper: Scraper,
    heard: Heard,
    authority: Authority,
    tmp_path: Path,
    signed_by_another: bool,
    server_name: str | None,
    complaint: str,
) -> None:
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(authority.pem)
    signer = Authority("strangers") if signed_by_another else authority
    async with serving(always(http()), tls=showing(signer, tmp_path)) as server:
        target = server.target(
            scheme="https", ca_file=str(ca_file), server_name=server_name, timeout_s=TIMEOUT_S
        )
        await scraper.update([target])
        await until(lambda: heard.failed)
        await scraper.close()
    assert complaint in heard.failed[0][2]
    assert server.paths == heard.read == heard.faults == []


async def test_any_certificate_is_taken_where_none_is_to_be_looked_at(
    scraper: Scraper, heard: Heard, authority: Authority, tmp_path: Path
) -> None:
    async with serving(always(http()), tls=showing(authority, tmp_path)) as server:
        target = server.target(scheme="https", insecure_skip_verify=True, timeout_s=TIMEOUT_S)
        await scraper.update([target])
        await until(lambda: heard.read or heard.failed)
    assert heard.failed == []


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
async def test_a_file_without_a_certificate_is_a_failure_until_it_has_one(
    scraper: Scraper, heard: Heard, authority: Authority, tmp_path: Path, content: bytes | None
) -> None:
    ca_file = tmp_path / "ca.pem"
    if content is not None:
        ca_file.write_bytes(content)
    async with serving(always(http()), tls=showing(authority, tmp_path)) as server:
        target = server.target(scheme="https", ca_file=str(ca_file), timeout_s=TIMEOUT_S)
        await scraper.update([target])
        await until(lambda: heard.failed)
        replace_file(ca_file, authority.pem)
        await until(lambda: heard.read)
        await scraper.close()
    _, reason, detail = heard.failed[0]
    assert reason == "other"
    assert detail.startswith("ca_file: ")
    assert heard.faults == []


async def test_a_renewed_authority_is_trusted_by_the_next_connection(
    scraper: Scraper, heard: Heard, authority: Authority, tmp_path: Path
) -> None:
    new, ca_file = Authority("new"), tmp_path / "ca.pem"
    ca_file.write_bytes(authority.pem)

    async def answer_and_close(_server: ModelServer, _path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(http(METRICS_PAGE, "200 OK", "connection: close"))
        await writer.drain()

    async with serving(answer_and_close, tls=showing(authority, tmp_path)) as server:
        target = server.target(scheme="https", ca_file=str(ca_file), timeout_s=TIMEOUT_S)
        await scraper.update([target])
        await until(lambda: heard.read)
    async with serving(answer_and_close, port=server.port, tls=showing(new, tmp_path)):
        await until(lambda: any("certificate verify failed" in detail for *_, detail in heard.failed))
        replace_file(ca_file, new.pem)
        reads = len(heard.read)
        await until(lambda: len(heard.read) > reads)
        await scraper.close()


METRICS_PAGE = b"vllm:num_requests_waiting 3.0\nvllm:num_requests_running 2.0\n"


def replace_file(file: Path, content: bytes) -> None:
    """As Kubernetes renews a mounted secret: another file takes its place."""
    new = file.with_suffix(".new")
    new.write_bytes(content)
    os.replace(new, file)


async def test_a_config_leads_to_a_page_over_tls_with_a_token_on_another_port_and_path(
    scraper: Scraper, heard: Heard, authority: Authority, tmp_path: Path
) -> None:
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    (tmp_path / "token").write_text("secret\n")
    page = b"sglang:num_queue_reqs 4\nsglang:num_running_reqs 1\n"
    async with serving(always(http(page)), tls=showing(authority, tmp_path)) as server:
        text = f"""
pools:
- name: p
  endpoints: ["127.0.0.1:9"]
  metrics: {{engine: sglang, path: /own, port: {server.port}, scheme: https, ca_file: {tmp_path}/ca.pem,
    server_name: pod.test, bearer_token_file: {tmp_path}/token, timeout_s: {TIMEOUT_S}}}
"""
        fleet = Fleet()
        fleet.apply(parse_config(text.encode()))
        (target,) = scrape_targets(fleet)
        await scraper.update([target])
        await until(lambda: heard.read)
        await scraper.close()
    assert target.names == SGLANG
    assert [(of.address, metrics.waiting) for of, metrics in heard.read[:1]] == [("127.0.0.1:9", 4)]
    assert server.paths[0] == "/own"
    assert "authorization: bearer secret\r\n" in server.heads[0].lower()
