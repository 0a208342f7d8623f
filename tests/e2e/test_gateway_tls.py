"""Envoy reaches the service over TLS: with a certificate made at start, with files, and with client certificates."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from stack import BUFFERED, QUICK_STOP, client_of, eventually, one_pool, running, running_service
from upstream import EchoUpstream

from extproc.demo.bootstrap import POOL
from extproc.demo.envoy import Envoy
from extproc.demo.service import Service
from extproc.tls import make_certificate

pytestmark = pytest.mark.envoy

Files = dict[str, dict[str, str]]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Certificate and key files of the server, of a gateway and of a stranger."""
    return {name: _files(tmp_path, name) for name in ("server", "gateway", "stranger")}


def _files(directory: Path, name: str) -> dict[str, str]:
    certificate, key = directory / f"{name}.crt", directory / f"{name}.key"
    certificate_pem, key_pem = make_certificate(["extproc.test"])
    certificate.write_bytes(certificate_pem)
    key.write_bytes(key_pem)
    return {"crt": str(certificate), "key": str(key)}


def tls_context(trusted: dict[str, str] | None = None, shown: dict[str, str] | None = None) -> dict[str, Any]:
    """How Envoy connects: whom it trusts (None: anyone), and which certificate it shows."""
    common: dict[str, Any] = {"alpn_protocols": ["h2"]}
    if trusted:
        common["validation_context"] = {"trusted_ca": {"filename": trusted["crt"]}}
    if shown:
        pair = {"certificate_chain": {"filename": shown["crt"]}, "private_key": {"filename": shown["key"]}}
        common["tls_certificates"] = [pair]
    kind = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
    context = {"@type": kind, "sni": "extproc.test", "common_tls_context": common}
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


async def status_of_a_chat(
    directory: Path, flags: Sequence[str], *sockets: dict[str, Any] | None
) -> list[int]:
    """The status of a chat through an Envoy a transport socket (None: plain text), all before one service."""
    statuses = []
    async with AsyncExitStack() as exits:
        upstream = await exits.enter_async_context(EchoUpstream())
        settings = one_pool([upstream.address])
        service = await exits.enter_async_context(running_service(settings, directory, *QUICK_STOP, *flags))
        for number, transport_socket in enumerate(sockets):
            envoy = gateway(directory, upstream, service, transport_socket, f"envoy-{number}")
            async with running(envoy), client_of(envoy) as client:
                statuses.append(await chat(client))
    return statuses


def gateway(
    directory: Path,
    upstream: EchoUpstream,
    service: Service,
    transport_socket: dict[str, Any] | None,
    name: str,
) -> Envoy:
    """An Envoy that connects to the service by *transport_socket*; None: in plain text."""
    pools = {POOL: [upstream.address]}
    envoy = Envoy(BUFFERED.bootstrap, directory, pools=pools, ext_proc=service.grpc, name=name)
    if transport_socket is not None:
        bootstrap = yaml.safe_load(envoy.config_file.read_text())
        clusters = bootstrap["static_resources"]["clusters"]
        next(c for c in clusters if c["name"] == "extproc")["transport_socket"] = transport_socket
        envoy.config_file.write_text(yaml.safe_dump(bootstrap))
    return envoy


async def chat(client: aiohttp.ClientSession) -> int:
    async with client.post("/v1/chat/completions", json={"model": "m", "messages": []}) as response:
        return response.status


async def test_a_certificate_made_at_start_serves_a_gateway_that_checks_nothing(tmp_path: Path) -> None:
    flags = ["--tls-self-signed"]

    assert await status_of_a_chat(tmp_path, flags, tls_context(), None) == [200, 503]


async def test_a_gateway_that_checks_gets_through_where_it_trusts_the_certificate(
    tmp_path: Path, files: Files
) -> None:
    flags = ["--tls-cert", files["server"]["crt"], "--tls-key", files["server"]["key"]]

    sockets = [tls_context(files["server"]), tls_context(files["stranger"])]
    assert await status_of_a_chat(tmp_path, flags, *sockets) == [200, 503]


async def test_only_gateways_with_a_certificate_of_the_client_authority_get_through(
    tmp_path: Path, files: Files
) -> None:
    flags = ["--tls-cert", files["server"]["crt"], "--tls-key", files["server"]["key"]]
    flags += ["--tls-client-ca", files["gateway"]["crt"]]

    sockets = [tls_context(files["server"], shown) for shown in (files["gateway"], files["stranger"], None)]
    assert await status_of_a_chat(tmp_path, flags, *sockets) == [200, 503, 503]


async def test_a_certificate_is_renewed_under_open_streams_and_new_connections_get_it(
    tmp_path: Path, files: Files
) -> None:
    """Each gateway that comes trusts one of the two certificates, and shows one that the service asks for."""
    server, renewed = files["server"], _files(tmp_path, "renewed")
    flags = [*QUICK_STOP, "--tls-cert", server["crt"], "--tls-key", server["key"]]
    flags += ["--tls-client-ca", files["gateway"]["crt"]]
    old = dict(server, crt=str(tmp_path / "old.crt"))
    Path(old["crt"]).write_bytes(Path(server["crt"]).read_bytes())

    async with AsyncExitStack() as exits:
        enter = exits.enter_async_context
        upstream = await enter(EchoUpstream())
        service = await enter(running_service(one_pool([upstream.address]), tmp_path, *flags))
        early = gateway(tmp_path, upstream, service, tls_context(old, files["gateway"]), "early")
        client = await enter(client_of(await enter(running(early))))
        answer = await enter(client.post("/v1/chat/completions?gated", json={"model": "m", "stream": True}))
        assert answer.status == 200

        for name in ("key", "crt"):
            Path(server[name]).write_bytes(Path(renewed[name]).read_bytes())
        await eventually(lambda: [e for e in service.log() if e["event"] == "certificate_renewed"], bool)

        assert service.state()["open_streams"] == 1
        assert await chat(client) == 200  # on the connection that is there
        statuses = []
        for number, (trusted, by) in enumerate(
            [(renewed, "gateway"), (old, "gateway"), (renewed, "stranger")]
        ):
            late = gateway(tmp_path, upstream, service, tls_context(trusted, files[by]), f"late-{number}")
            async with running(late), client_of(late) as other:
                statuses.append(await chat(other))
        assert statuses == [200, 503, 503]
        upstream.gate.set()
        assert (await answer.read()).endswith(b"data: [DONE]\n\n")
        assert [e["event"] for e in service.log() if e["level"] == "error"] == []
