"""The HTTP port's token: who may change something, who may read, and what `extproc cordon` and `uncordon` say."""

from __future__ import annotations

import asyncio
import hmac
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
import structlog
from aiohttp import web
from click.testing import CliRunner, Result
from fleets import fleet
from prometheus_client import CollectorRegistry

from extproc import cordon_command as module
from extproc import logs
from extproc.cli import serve
from extproc.cordon_command import cordon, uncordon
from extproc.cordoning import Cordoning
from extproc.doctor import fetching
from extproc.explain_command import explain_command
from extproc.fleet import Fleet
from extproc.http_auth import MIN_TOKEN_LENGTH, BearerGuard
from extproc.http_server import HttpServer

TOKEN, NEXT = "a-token-of-some-length", "the-token-that-follows"
A, B = "10.0.0.1:80", "[2001:db8::2]:80"
CONFIG = f"pools: [{{name: p, endpoints: ['{A}', '{B}', {{address: '10.0.0.3:80', cordoned: true}}]}}]"
READS = ("/metrics", "/debug/state", "/debug/explain")


class Port:
    """A router's HTTP port, and what came of what was asked of it."""

    def __init__(self, url: str, of: Fleet, directory: Path) -> None:
        self.url = url
        self.fleet = of
        self.token_file = directory / "token"
        self.now = 0.0
        self.changes = 0
        self.denied = 0
        self.log_file = directory / "log"

    def changed(self) -> None:
        self.changes += 1

    def deny(self) -> None:
        self.denied += 1

    async def ask(
        self, method: str, path: str, token: str | None = None, scheme: str = "Bearer"
    ) -> tuple[int, str]:
        headers = {} if token is None else {"Authorization": f"{scheme} {token}"}
        async with (
            aiohttp.ClientSession() as client,
            client.request(method, self.url + path, headers=headers) as answer,
        ):
            return answer.status, await answer.text()

    async def status(self, *arguments: Any, **options: Any) -> int:
        return (await self.ask(*arguments, **options))[0]

    async def run(self, command: Any, *arguments: str) -> Result:
        """`extproc cordon …` as it is typed."""
        return await asyncio.to_thread(CliRunner().invoke, command, [*arguments, "--router", self.url])

    def cordoned(self) -> list[str]:
        return [endpoint.address for _, endpoint in self.fleet.endpoints() if endpoint.cordoned]


@asynccontextmanager
async def listening(
    directory: Path, *, token: str | None = TOKEN, reads: bool = False
) -> AsyncIterator[Port]:
    """A port whose token file holds *token*; None: it has no token file."""
    made = Port("", fleet(CONFIG), directory)
    with made.log_file.open("wb") as file:
        writer = logs.LineWriter(file.fileno())
        log = logs.configure(writer, "info", "json")
        cordoning = Cordoning(made.fleet, made.changed, log)
        guard = None
        if token is not None:
            made.token_file.write_text(token + "\n")
            guard = BearerGuard(made.token_file, lambda: made.now, made.deny, log)
        http = HttpServer(
            CollectorRegistry(), list, list, dict, lambda *_: [], cordoning, guard, guard_reads=reads
        )
        made.url = f"http://127.0.0.1:{await http.start('127.0.0.1', 0)}"
        try:
            yield made
        finally:
            await http.stop()
            writer.close()


# -- who may --------------------------------------------------------------------------------------------------


async def test_without_a_token_file_nobody_may_change_anything(tmp_path: Path) -> None:
    async with listening(tmp_path, token=None) as port:
        status, text = await port.ask("POST", f"/endpoints/{A}/cordon", TOKEN)
        assert (status, text) == (403, "only with a token: start the router with --http-token-file\n")
        assert port.cordoned() == ["10.0.0.3:80"]
        assert [await port.status("GET", path) for path in READS] == [200, 200, 200]


@pytest.mark.parametrize(
    ("token", "scheme", "status"),
    [
        (TOKEN, "Bearer", 200),
        (TOKEN, "bearer", 200),
        (TOKEN + " ", "Bearer", 200),
        (" " + TOKEN, "Bearer", 200),
        (None, "", 401),
        (NEXT, "Bearer", 401),
        (TOKEN[:-1], "Bearer", 401),
        (TOKEN + "x", "Bearer", 401),
        (TOKEN.upper(), "Bearer", 401),
        ("", "Bearer", 401),
        (TOKEN, "Basic", 401),
        (TOKEN, "", 401),
        ("\u00fc" * 40, "Bearer", 401),
    ],
)
async def test_only_with_the_token_something_is_changed(
    tmp_path: Path, token: str | None, scheme: str, status: int
) -> None:
    async with listening(tmp_path) as port:
        assert await port.status("POST", f"/endpoints/{A}/cordon", token, scheme) == status
        assert (A in port.cordoned(), port.changes, port.denied) == (
            (True, 1, 0) if status == 200 else (False, 0, 1)
        )


async def test_reading_stays_open_unless_it_is_told_otherwise(tmp_path: Path) -> None:
    async with listening(tmp_path) as port:
        assert [await port.status("GET", path) for path in READS] == [200, 200, 200]
    async with listening(tmp_path, reads=True) as port:
        assert [await port.status("GET", path) for path in READS] == [401, 401, 401]
        assert [await port.status("HEAD", path) for path in READS] == [401, 401, 401]
        assert [await port.status("GET", path, TOKEN) for path in READS] == [200, 200, 200]
        assert await port.status("GET", "/nothing/there") == 401


async def test_probes_are_open_whatever_else_is_not(tmp_path: Path) -> None:
    async with listening(tmp_path, reads=True) as port:
        assert [await port.status("GET", path) for path in ("/livez", "/readyz")] == [200, 200]
        assert [await port.status("GET", path) for path in ("/livez/", "/livez/../metrics", "//livez")] == [
            401
        ] * 3


# -- the file -------------------------------------------------------------------------------------------------


async def test_a_renewed_token_is_taken_at_once_and_the_old_one_no_longer(tmp_path: Path) -> None:
    async with listening(tmp_path, reads=True) as port:
        port.now = 5.0
        port.token_file.write_text(NEXT)
        assert await port.status("GET", "/metrics", NEXT) == 200
        assert await port.status("GET", "/metrics", TOKEN) == 401


async def test_an_old_token_ends_within_a_second_though_nobody_shows_the_new_one(tmp_path: Path) -> None:
    async with listening(tmp_path, reads=True) as port:
        port.token_file.write_text(NEXT)
        port.now = 0.9
        assert await port.status("GET", "/metrics", TOKEN) == 200
        port.now = 1.0
        assert await port.status("GET", "/metrics", TOKEN) == 401


async def test_guessing_does_not_have_the_file_read_more_than_once_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with listening(tmp_path, reads=True) as port:
        port.now = 5.0
        reads = []
        opened = Path.open
        monkeypatch.setattr(Path, "open", lambda path, *mode: reads.append(path) or opened(path, *mode))
        assert [await port.status("GET", "/metrics", f"guess-{number}") for number in range(20)] == [401] * 20
        assert reads == [port.token_file]


async def test_a_file_that_is_gone_lets_nobody_in_and_one_that_is_back_does(tmp_path: Path) -> None:
    async with listening(tmp_path, reads=True) as port:
        port.token_file.unlink()
        port.now = 1.0
        assert await port.ask("GET", "/metrics", TOKEN) == (503, "the token file cannot be read\n")
        assert await port.status("GET", "/livez") == 200
        port.token_file.write_text("short")
        assert await port.status("GET", "/metrics", "short") == 503
        assert port.denied == 2
        port.token_file.write_text(TOKEN)
        assert await port.status("GET", "/metrics", TOKEN) == 200


async def test_what_is_wrong_with_the_file_is_told_once(tmp_path: Path) -> None:
    async with listening(tmp_path, reads=True) as port:
        for text in ("", "short", TOKEN, "short"):
            port.token_file.write_text(text)
            port.now += 1.0
            for _ in range(3):
                await port.status("GET", "/metrics", TOKEN)
    lines = [json.loads(line) for line in port.log_file.read_text().splitlines()]
    assert [(line["level"], line["event"]) for line in lines] == [("error", "token_file_faulty")] * 3
    none, short = (
        "holds no bearer token (one line of visible ASCII)",
        "holds a token of fewer than 16 characters",
    )
    assert [line["fault"] for line in lines] == [
        f"{port.token_file} {fault}" for fault in (none, short, short)
    ]


@pytest.mark.parametrize(
    "text", ["", "short", "x" * 15, "two words of some length", "no\x00text-of-some-length"]
)
def test_a_file_without_a_token_that_could_serve_is_refused_at_start(tmp_path: Path, text: str) -> None:
    (tmp_path / "token").write_text(text)
    with pytest.raises(RuntimeError, match="holds"):
        BearerGuard(tmp_path / "token", time.monotonic, list, structlog.get_logger())


def asking(authorization: str) -> Any:
    """A request, as far as the guard looks at it."""
    return SimpleNamespace(headers={"Authorization": authorization})


def test_who_shows_no_token_or_another_is_told_what_to_show_and_the_shortest_will_do(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("x" * MIN_TOKEN_LENGTH)
    denied: list[None] = []
    guard = BearerGuard(tmp_path / "token", lambda: 0.0, lambda: denied.append(None), structlog.get_logger())
    for shown in ("", "Bearer y", "Bearer \udcff"):
        with pytest.raises(web.HTTPUnauthorized) as refused:
            guard.check(asking(shown))
        assert refused.value.headers["WWW-Authenticate"] == 'Bearer realm="extproc"'
    assert len(denied) == 3
    guard.check(asking("Bearer " + "x" * MIN_TOKEN_LENGTH))
    assert len(denied) == 3


async def test_tokens_are_compared_in_constant_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda *both: compared.append(both) or compare(*both))
    async with listening(tmp_path, reads=True) as port:
        await port.status("GET", "/metrics", NEXT)
        assert compared == [(NEXT.encode(), TOKEN.encode())]


# -- the commands ---------------------------------------------------------------------------------------------


async def test_the_command_cordons_and_says_what_is_left(tmp_path: Path) -> None:
    async with listening(tmp_path) as port:
        ((_, endpoint),) = port.fleet.at(A)
        endpoint.acquire()
        ran = await port.run(cordon, A, "--token-file", str(port.token_file))
        assert (ran.exit_code, ran.output) == (
            0,
            f"{A} gets no new request from {port.url}; 1 in flight may finish.\n"
            "Pool p: 1 of 3 endpoints are left.\n"
            "Other replicas of the router have not been told.\n",
        )
        ran = await port.run(cordon, "[2001:DB8:0::2]:80", "--token-file", str(port.token_file))
        assert ran.output.splitlines()[1] == (
            "Pool p: 0 of 3 endpoints are left: its requests are refused (503 no_endpoints)."
        )
        assert (port.cordoned(), port.changes) == ([A, B, "10.0.0.3:80"], 2)
        ran = await port.run(uncordon, A, "--token-file", str(port.token_file))
        assert (ran.exit_code, ran.output) == (0, f"{A} gets requests again from {port.url}, of pool p.\n")
        assert (port.cordoned(), port.changes) == ([B, "10.0.0.3:80"], 3)


async def test_the_token_file_may_come_from_the_environment(tmp_path: Path) -> None:
    async with listening(tmp_path) as port:
        environment = {"EXTPROC_HTTP_TOKEN_FILE": str(port.token_file)}
        arguments = [A, "--router", port.url + "/"]
        ran = await asyncio.to_thread(CliRunner().invoke, cordon, arguments, env=environment)
        assert (ran.exit_code, port.cordoned()) == (0, [A, "10.0.0.3:80"])


async def test_what_the_config_cordons_the_command_says_it_cannot_take_back(tmp_path: Path) -> None:
    async with listening(tmp_path) as port:
        ran = await port.run(uncordon, "10.0.0.3:80", "--token-file", str(port.token_file))
        assert (ran.exit_code, ran.output) == (
            1,
            "Error: 10.0.0.3:80 is still cordoned, by the config: take `cordoned: true` out there\n",
        )


@pytest.mark.parametrize("command", [cordon, uncordon])
async def test_an_address_that_nobody_has_is_an_error(tmp_path: Path, command: Any) -> None:
    async with listening(tmp_path) as port:
        ran = await port.run(command, "10.0.0.9:80", "--token-file", str(port.token_file))
        assert (ran.exit_code, ran.output) == (
            1,
            f"Error: {port.url} answered 404: 10.0.0.9:80 is no endpoint of any pool\n",
        )
        assert port.changes == 0


async def test_the_command_says_what_is_wrong_with_its_words_or_the_router(tmp_path: Path) -> None:
    async with listening(tmp_path) as port:
        ran = await port.run(cordon, "vllm-0:80")
        assert (ran.exit_code, "'vllm-0:80' is not IP:PORT" in ran.output) == (2, True)
        ran = await port.run(cordon, A)
        assert ran.output == f"Error: {port.url} answered 401: a bearer token is needed (see --token-file)\n"
        ran = await port.run(cordon, A, "--token-file", str(tmp_path / "nowhere"))
        assert (ran.exit_code, ran.output.startswith("Error: --token-file: ")) == (1, True)
        (blank := tmp_path / "blank").write_text("\n")
        ran = await port.run(cordon, A, "--token-file", str(blank))
        fault = f"{blank} holds no bearer token (one line of visible ASCII)"
        assert (ran.exit_code, ran.output) == (1, f"Error: --token-file: {fault}\n")
        assert port.cordoned() == ["10.0.0.3:80"]
    ran = await port.run(cordon, A)
    assert (
        ran.exit_code,
        ran.output.startswith(f"Error: {port.url}/endpoints/10.0.0.1%3A80/cordon: cannot be asked: "),
    ) == (
        1,
        True,
    )


async def test_the_command_waits_for_no_router_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ASK_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        ran = await asyncio.to_thread(CliRunner().invoke, cordon, [A, "--router", url])
    assert (ran.exit_code, ran.output) == (
        1,
        f"Error: {url}/endpoints/10.0.0.1%3A80/cordon: no answer within 0.05 s\n",
    )


async def test_an_address_that_is_none_is_refused(tmp_path: Path) -> None:
    async with listening(tmp_path) as port:
        for address in ("10.0.0.1", "localhost:80", "x" * 5000):
            assert await port.status("POST", f"/endpoints/{address}/cordon", TOKEN) == 400
        assert await port.status("POST", f"/endpoints/{A}/drop", TOKEN) == 404
        assert await port.status("GET", f"/endpoints/{A}/cordon") == 405
        assert port.changes == 0


# -- those who read -------------------------------------------------------------------------------------------


async def test_explain_and_doctor_show_the_token_where_reads_are_protected(tmp_path: Path) -> None:
    async with listening(tmp_path, reads=True) as port:
        source = ["--state", f"{port.url}/debug/state", "--model", "m"]
        ran = await asyncio.to_thread(CliRunner().invoke, explain_command, source)
        assert ran.output == f"Error: {port.url}/debug/state: answered 401 (see --token-file)\n"
        known = [*source, "--token-file", str(port.token_file)]
        ran = await asyncio.to_thread(CliRunner().invoke, explain_command, known)
        assert ran.output.startswith(
            f"Error: {port.url}/debug/state: it is no state as /debug/state tells it"
        )

        why = [
            (await _ask_router(port.url, token))[1] for token in ({}, {"Authorization": f"Bearer {TOKEN}"})
        ]
        assert why == [f"router {port.url}/debug/state: answered 401 (see --token-file)", ""]


async def _ask_router(router: str, token: dict[str, str]) -> tuple[Any, str]:
    async with aiohttp.ClientSession() as session:
        return await fetching._ask_router(session, router, token)


def test_reads_are_protected_by_nothing_where_there_is_no_token_file(tmp_path: Path) -> None:
    ran = CliRunner().invoke(serve, ["--config", str(tmp_path / "router.yaml"), "--http-protect-reads"])
    assert (ran.exit_code, ran.output.splitlines()[-1]) == (
        2,
        "Error: --http-protect-reads needs --http-token-file",
    )
