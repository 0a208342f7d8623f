"""`extproc doctor`: what it prints, what it answers to programs, and its exit code."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from click.testing import CliRunner, Result
from doctor_pages import PODS, Pages
from rich.text import Text

from extproc.doctor import fetching
from extproc.doctor.checks import CHECKS
from extproc.doctor.command import doctor

NOBODY = "http://127.0.0.1:1"


@asynccontextmanager
async def both(pages: Pages, dump: object = None) -> AsyncIterator[tuple[str, str]]:
    """URLs of an Envoy and a router that answer with these pages; *dump* instead of Envoy's own."""
    envoy, router = web.Application(), web.Application()
    asked = {
        "/config_dump": dump or pages.config_dump,
        "/clusters": pages.clusters_page,
        "/stats": pages.stats_page,
        "/server_info": pages.info,
    }
    for path, page in asked.items():
        envoy.router.add_get(path, _answer(page))
    if pages.state is not None:
        router.router.add_get("/debug/state", _answer(pages.state))
    async with TestServer(envoy) as one, TestServer(router) as other:
        yield str(one.make_url("")).rstrip("/"), str(other.make_url("/"))


def _answer(page: object) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response(page)

    return answer


async def run(*arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, doctor, arguments)


async def told(pages: Pages, *more: str) -> Result:
    async with both(pages) as (envoy, router):
        return await run("--envoy", envoy, "--router", router, *more)


async def test_without_a_trap_it_says_so_and_what_it_looked_at() -> None:
    result = await told(Pages())

    assert result.exit_code == 0
    assert re.match(r"Envoy http://127\.0\.0\.1:\d+  ·  router http://127\.0\.0\.1:\d+/\n", result.output)
    assert " ".join(" ".join(result.output.splitlines()[1:]).split()) == (
        "Looked at 1 listener, 2 routes (2 served by ext_proc), 2 clusters (1 of model servers), 1 ext_proc filter, "
        f"0 counters, 1 pool with 2 endpoints at the router. No trap found by {len(CHECKS)} checks."
    )


async def test_a_trap_is_shown_with_place_reason_and_line() -> None:
    pages = Pages()
    pages.listener["per_connection_buffer_limit_bytes"] = 32768

    result = await told(pages)

    assert result.exit_code == 1
    assert "serious  Envoy buffers less than the router takes  (buffer-limit)" in result.output
    assert "listener llm: 32 KiB for route all/entry; the router takes bodies of 32 MiB" in result.output
    assert "Envoy Gateway: ClientTrafficPolicy  spec.connection.bufferLimit: 64Mi" in result.output
    assert "Envoy: Listener  per_connection_buffer_limit_bytes: 67108864" in result.output
    assert result.output.splitlines()[-1] == f"1 serious, 0 warnings, 0 notes, by {len(CHECKS)} checks."
    assert "\x1b" not in result.output


async def test_the_worst_comes_first() -> None:
    pages = Pages()
    pages.info["command_line_options"]["drain_time"] = "60s"
    pages.manager["stream_idle_timeout"] = "300s"
    pages.rule["route"]["timeout"] = "15s"

    result = await told(pages, "--json")

    findings = json.loads(result.output)["findings"]
    assert [(finding["severity"], finding["id"]) for finding in findings] == [
        ("serious", "route-timeout"),
        ("warning", "stream-idle-timeout"),
        ("note", "drain-time"),
    ]


async def test_warnings_alone_are_no_failure() -> None:
    pages = Pages()
    pages.manager["stream_idle_timeout"] = "300s"

    result = await told(pages)

    assert result.exit_code == 0
    assert result.output.splitlines()[-1] == f"0 serious, 1 warning, 0 notes, by {len(CHECKS)} checks."


async def test_many_places_are_counted_and_all_are_in_the_json() -> None:
    pages = Pages()
    for number in range(8):
        route = {"name": f"r{number}", "match": {"prefix": "/"}, "route": {"cluster": "pods"}}
        pages.more_routes.append(route)

    text, machine = await told(pages), await told(pages, "--json")

    assert "… and 3 more: see --json" in text.output
    assert len(json.loads(machine.output)["findings"][0]["found"]) == 8


async def test_a_program_gets_everything() -> None:
    pages = Pages(state=None)
    del pages.rule["route"]["timeout"]

    result = await told(pages, "--json")

    answer = json.loads(result.output)
    assert result.exit_code == 1
    assert answer["router"] is None
    assert answer["looked_at"] == {
        "listeners": 1,
        "routes": 2,
        "served_routes": 2,
        "clusters": 2,
        "pool_clusters": 1,
        "ext_proc_filters": 1,
        "stats": 0,
        "router_pools": 0,
        "router_endpoints": 0,
    }
    assert {entry["id"] for entry in answer["not_made"]} == {c.id for c in CHECKS if c.needs_router}
    assert "answered 404" in answer["not_made"][0]["reason"]
    [finding] = answer["findings"]
    assert finding["found"] == [
        {"where": "route all/qwq", "figure": "timeout 15 s (none is set: Envoy's default)"}
    ]
    assert finding["cure"]["gateway"] == [
        {"kind": "BackendTrafficPolicy", "path": "spec.timeout.http.requestTimeout", "value": "0s"}
    ]
    assert finding["cure"]["envoy"] == [{"kind": "Route", "path": "route.timeout", "value": "0s"}]


async def test_without_a_router_it_names_what_it_did_not_look_for() -> None:
    async with both(Pages()) as (envoy, _):
        result = await run("--envoy", envoy, "--router", NOBODY)

    assert result.exit_code == 0
    needed = ", ".join(check.id for check in CHECKS if check.needs_router)
    output = " ".join(result.output.split())
    assert output.startswith(f"Envoy {envoy} · router {NOBODY}/debug/state: cannot be read: ")
    assert f"Not looked for (router {NOBODY}/debug/state: cannot be read: " in output
    assert f"): {needed}." in output


async def test_no_router_at_all_is_a_choice() -> None:
    async with both(Pages()) as (envoy, _):
        result = await run("--envoy", envoy, "--router", "")

    assert "Not looked for (no router was named)" in result.output
    assert result.output.startswith(f"Envoy {envoy}  ·  no router was named\n")


async def test_a_router_that_wants_a_token_is_told_as_such() -> None:
    async def refuse(request: web.Request) -> web.Response:
        raise web.HTTPUnauthorized

    guarded = web.Application()
    guarded.router.add_get("/debug/state", refuse)
    async with both(Pages()) as (envoy, _), TestServer(guarded) as server:
        router = str(server.make_url("")).rstrip("/")
        result = await run("--envoy", envoy, "--router", router)
        told = json.loads((await run("--envoy", envoy, "--router", router, "--json")).output)

    why = f"router {router}/debug/state: answered 401 (see --token-file)"
    assert result.output.splitlines()[0] == f"Envoy {envoy}  ·  {why}"
    assert (told["router"], told["no_router"]) == (None, why)


async def test_something_else_on_the_routers_port_is_told() -> None:
    async with both(Pages()) as (envoy, _), both(Pages(state={"pools": 7})) as (_, router):
        result = await run("--envoy", envoy, "--router", router)

    assert result.exit_code == 0
    assert "/debug/state: not a router's state: Expected `array`, got `int`" in " ".join(
        result.output.split()
    )


async def test_an_envoy_that_is_not_there_is_exit_code_2() -> None:
    result = await run("--envoy", NOBODY)

    assert result.exit_code == 2
    assert result.output.startswith("Envoy cannot be asked: http://127.0.0.1:1/")


async def test_another_server_instead_of_an_envoy_is_exit_code_2() -> None:
    async with both(Pages()) as (_, router):
        result = await run("--envoy", router)
        no_url = await run("--envoy", "localhost")

    assert (result.exit_code, no_url.exit_code) == (2, 2)
    assert "answered 404" in result.output
    assert "localhost/" in no_url.output


async def test_a_dump_that_is_none_is_exit_code_2() -> None:
    async with both(Pages(), dump={"status": "ok"}) as (envoy, _):
        result = await run("--envoy", envoy)

    assert result.exit_code == 2
    assert "not an Envoy's admin port: its /config_dump has no `configs`" in result.output


async def test_a_page_without_end_is_exit_code_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "MAX_BYTES", 100)

    result = await told(Pages())

    assert result.exit_code == 2
    assert result.output.endswith(": longer than 100 bytes\n")


async def test_only_the_named_filter_is_looked_at() -> None:
    result = await told(Pages(), "--filter", "another")

    assert result.exit_code == 1
    assert "(no-ext-proc)" in result.output


async def test_narrow_terminals_get_narrow_text() -> None:
    pages = Pages()
    pages.hosts["pods"] = [PODS[0]]
    async with both(pages) as (envoy, router):
        runner = CliRunner(env={"COLUMNS": "60", "FORCE_COLOR": "1"})
        result = await asyncio.to_thread(
            runner.invoke, doctor, ["--envoy", envoy, "--router", router], color=True
        )

    assert "\x1b[" in result.output
    assert max(len(line) for line in _plain(result.output).splitlines()[1:]) <= 60


def _plain(text: str) -> str:
    return Text.from_ansi(text).plain
