"""Getting one page, as seen through the scraper: what is sent, what is taken, and what is a failure."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from metrics_server import (
    BOUND_S,
    METRICS,
    PAGE,
    Heard,
    ModelServer,
    Responder,
    always,
    drip,
    endless,
    hang_up,
    http,
    never,
    scraper_for,
    serving,
    until,
)

from extproc.http_response import MAX_HEAD_BYTES, Failure
from extproc.scraper import MAX_PAGE_BYTES, Scraper


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
async def scraper(heard: Heard) -> AsyncIterator[Scraper]:
    async with scraper_for(heard) as scraper:
        yield scraper


async def test_a_page_is_read_again_and_again_over_one_connection(scraper: Scraper, heard: Heard) -> None:
    async with serving(always(http())) as server:
        target = server.target()
        await scraper.update([target])
        await until(lambda: len(heard.read) >= 5)
        await scraper.close()
    assert set(heard.read) == {(target, METRICS)}
    assert heard.failed == heard.faults == []
    assert server.connections == 1
    assert set(server.paths) == {"/metrics"}


async def test_a_connection_that_the_server_closes_between_two_scrapes_is_no_failure(
    scraper: Scraper, heard: Heard
) -> None:
    async def answer_and_close(_server: ModelServer, _path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(http())
        writer.close()

    async with serving(answer_and_close) as server:
        await scraper.update([server.target()])
        await until(lambda: len(heard.read) >= 3)
        await scraper.close()
    assert heard.failed == []
    assert server.connections >= 3


async def test_a_request_that_meets_the_closing_of_its_connection_is_sent_again(
    scraper: Scraper, heard: Heard
) -> None:
    async def answer_once(server: ModelServer, _path: str, writer: asyncio.StreamWriter) -> None:
        if len(server.paths) % 2:
            writer.write(http())
        else:
            writer.close()

    async with serving(answer_once) as server:
        await scraper.update([server.target()])
        await until(lambda: len(heard.read) >= 2)
        await scraper.close()
    assert heard.failed == []


async def test_a_chunked_page_is_read(scraper: Scraper, heard: Heard) -> None:
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (PAGE[:7], PAGE[7:40], PAGE[40:]))
    answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    async with serving(always(answer)) as server:
        target = server.target()
        await scraper.update([target])
        await until(lambda: len(heard.read) >= 2)
        await scraper.close()
    assert set(heard.read) == {(target, METRICS)}
    assert server.connections == 1


HEAD = f"not HTTP: no end of the headers within {MAX_HEAD_BYTES} bytes"
LARGE = f"the page is larger than {MAX_PAGE_BYTES} bytes"


@pytest.mark.parametrize(
    ("respond", "reason", "detail"),
    [
        (always(http(b"", "500 Internal Server Error")), "http_status", "HTTP 500"),
        (always(http(b"", "307 Moved", "location: /metrics/")), "http_status", "HTTP 307"),
        (always(http(PAGE, "404 Not Found")), "http_status", "HTTP 404"),
        (always(http(b"<html>")), "invalid", "vllm:num_requests_waiting is missing, or too large"),
        (always(http(b"\0\xff" * 1000)), "invalid", "vllm:num_requests_waiting is missing, or too large"),
        (always(b"SSH-2.0-OpenSSH_9.6\r\n"), "invalid", "not HTTP: no status line"),
        (
            always(b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n"),
            "invalid",
            "not HTTP: content-length is no number",
        ),
        (
            always(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"),
            "invalid",
            "not HTTP: no chunk size",
        ),
        (
            always(b"HTTP/1.1 200 OK\r\nx: " + b"y" * 20_000),
            "invalid",
            HEAD,
        ),
        (always(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n"), "too_large", LARGE),
        (always(http(b"\n" * (MAX_PAGE_BYTES + 1))), "too_large", LARGE),
        (endless, "too_large", LARGE),
        (never, "timeout", "no whole answer within 0.3 s"),
        (drip, "timeout", "no whole answer within 0.3 s"),
        (hang_up, "other", "the server closed the connection"),
    ],
    ids=lambda value: getattr(value, "__name__", None) or str(value)[:20],
)
async def test_what_gives_no_page_is_a_failure_with_its_reason(
    scraper: Scraper, heard: Heard, respond: Responder, reason: Failure, detail: str
) -> None:
    timeout_s = 0.3 if reason == "timeout" else BOUND_S
    async with serving(respond) as server:
        target = server.target(timeout_s=timeout_s)
        await scraper.update([target])
        await until(lambda: len(heard.failed) >= 2)
        await scraper.close()
    assert set(heard.failed) == {(target, reason, detail)}
    assert heard.read == heard.faults == []


async def test_a_server_that_says_close_gets_a_new_connection_each_time(
    scraper: Scraper, heard: Heard
) -> None:
    async with serving(always(http(PAGE, "200 OK", "connection: close"))) as server:
        await scraper.update([server.target()])
        await until(lambda: len(heard.read) >= 3)
        await scraper.close()
    assert heard.failed == []
    assert server.connections == len(server.paths)


async def test_a_page_without_a_length_ends_with_the_connection(scraper: Scraper, heard: Heard) -> None:
    async def respond(_server: ModelServer, _path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n" + PAGE)
        writer.close()

    async with serving(respond) as server:
        target = server.target()
        await scraper.update([target])
        await until(lambda: len(heard.read) >= 2)
        await scraper.close()
    assert set(heard.read) == {(target, METRICS)}


async def test_what_nobody_asked_for_is_never_taken_for_an_answer(scraper: Scraper, heard: Heard) -> None:
    forged = http(b"vllm:num_requests_waiting 0\nvllm:num_requests_running 0\n")
    async with serving(always(http() + forged)) as server:
        target = server.target()
        await scraper.update([target])
        await until(lambda: len(heard.read) >= 5)
        await scraper.close()
    assert set(heard.read) == {(target, METRICS)}


async def test_what_comes_while_nobody_asks_ends_the_connection(scraper: Scraper, heard: Heard) -> None:
    async def respond(server: ModelServer, _path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(http())
        if len(server.paths) == 1:
            await until(lambda: heard.read)
            writer.write(b"HTTP/1.1")

    async with serving(respond) as server:
        target = server.target(interval_s=0.3)
        await scraper.update([target])
        await until(lambda: len(heard.read) >= 3)
        await scraper.close()
    assert heard.failed == []
    assert server.connections == 2


async def test_an_answer_that_comes_after_the_timeout_is_not_taken_for_the_next(
    scraper: Scraper, heard: Heard
) -> None:
    async def respond(server: ModelServer, _path: str, writer: asyncio.StreamWriter) -> None:
        if server.connections == 1:
            await until(lambda: heard.failed)
            await asyncio.sleep(0.2)  # so that the next request is on its way
            writer.write(http(b"vllm:num_requests_waiting 0\nvllm:num_requests_running 0\n"))
        else:
            writer.write(http())

    async with serving(respond) as server:
        target = server.target(timeout_s=0.5)
        await scraper.update([target])
        await until(lambda: len(heard.read) >= 2)
        await scraper.close()
    assert heard.failed == [(target, "timeout", "no whole answer within 0.5 s")]
    assert set(heard.read) == {(target, METRICS)}
    assert server.connections == 2


async def test_the_largest_page_is_still_read(scraper: Scraper, heard: Heard) -> None:
    page = PAGE + b"\n" * (MAX_PAGE_BYTES - len(PAGE))
    async with serving(always(http(page))) as server:
        target = server.target(timeout_s=BOUND_S)
        await scraper.update([target])
        await until(lambda: heard.read)
    assert heard.read[0] == (target, METRICS)


async def test_a_renewed_token_is_read_after_the_old_one_was_refused(
    scraper: Scraper, heard: Heard, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("old\n")

    async def respond(server: ModelServer, _path: str, writer: asyncio.StreamWriter) -> None:
        good = "authorization: bearer new\r\n" in server.heads[-1].lower()
        writer.write(http() if good else http(b"", "401 Unauthorized"))

    async with serving(respond) as server:
        target = server.target(bearer_token_file=str(file))
        await scraper.update([target])
        await until(lambda: heard.failed)
        file.write_text("new\n")
        await until(lambda: heard.read)
        await scraper.close()
    assert {(why, words) for _, why, words in heard.failed} == {("http_status", "HTTP 401")}
    assert "authorization: bearer old\r\n" in server.heads[0].lower()


@pytest.mark.parametrize("content", [None, b"", b"two\nlines", b"x" * 70_000, b"\xff"])
async def test_a_file_without_a_token_is_a_failure_and_nothing_is_sent(
    scraper: Scraper, heard: Heard, tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    async with serving(always(http())) as server:
        await scraper.update([server.target(bearer_token_file=str(file))])
        await until(lambda: heard.failed)
        await scraper.close()
    _, reason, detail = heard.failed[0]
    assert reason == "other"
    assert detail.startswith("bearer_token_file: ")
    assert server.paths == heard.faults == []


@pytest.fixture(scope="module")
def self_signed(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    """A server's TLS settings with a certificate that nobody vouches for."""
    key, name, now = ec.generate_private_key(ec.SECP256R1()), x509.Name([]), datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now).not_valid_after(now + timedelta(days=1))
    encoding = serialization.Encoding.PEM
    pem = builder.sign(key, hashes.SHA256()).public_bytes(encoding)
    pem += key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file = tmp_path_factory.mktemp("tls") / "server.pem"
    file.write_bytes(pem)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(file)
    return context


async def test_a_page_is_read_over_tls_without_looking_at_the_certificate_where_so_wished(
    scraper: Scraper, heard: Heard, self_signed: ssl.SSLContext
) -> None:
    async with serving(always(http()), tls=self_signed) as server:
        target = server.target(scheme="https", insecure_skip_verify=True, timeout_s=BOUND_S)
        await scraper.update([target])
        await until(lambda: len(heard.read) >= 3)
        await scraper.close()
    assert set(heard.read) == {(target, METRICS)}
    assert server.connections == 1


async def test_a_certificate_that_nobody_vouches_for_is_a_failure(
    scraper: Scraper, heard: Heard, self_signed: ssl.SSLContext
) -> None:
    async with serving(always(http()), tls=self_signed) as server:
        await scraper.update([server.target(scheme="https", timeout_s=BOUND_S)])
        await until(lambda: heard.failed)
        await scraper.close()
    _, reason, detail = heard.failed[0]
    assert reason == "other"
    assert "certificate verify failed" in detail
    assert server.paths == []
