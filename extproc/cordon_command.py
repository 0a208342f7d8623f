"""`extproc cordon` and `extproc uncordon`: tell a running router which endpoint gets no new request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import aiohttp
import click
import msgspec
from yarl import URL

from .address import normalise
from .cordoning import Cordoned
from .token_option import bearer, token_option

F = TypeVar("F", bound=Callable[..., Any])

ASK_S = 10.0
"""A router that is this slow has other troubles."""
MAX_ANSWER_BYTES = 1024 * 1024
"""A pool that is told of takes a hundred bytes."""


def _options(command: F) -> F:
    router = click.option(
        "--router",
        default="http://127.0.0.1:9090",
        show_default=True,
        metavar="URL",
        help="The router's HTTP port.",
    )
    return click.argument("address", metavar="IP:PORT")(router(token_option(command)))


@click.command("cordon")
@_options
def cordon(address: str, router: str, token_file: Path | None) -> None:
    """Give an endpoint no new request; those that are there finish.

    \b
    kubectl -n llm port-forward pod/extproc-abc 9090 &
    extproc cordon 10.0.0.7:8000 --token-file token

    The router must run with --http-token-file; --token-file is that token, here.

    It is not chosen even where all others fail, until it is uncordoned or the router restarts. Each replica of the
    router has to be told; `cordoned: true` at the endpoint in the config file tells all.
    """
    told = _ask(address, router, token_file, "cordon")
    click.echo(f"{told.address} gets no new request from {router}; {told.in_flight} in flight may finish.")
    for pool in told.pools:
        end = "" if pool.serving else ": its requests are refused (503 no_endpoints)"
        click.echo(f"Pool {pool.name}: {pool.serving} of {pool.endpoints} endpoints are left{end}.")
    click.echo("Other replicas of the router have not been told.")


@click.command("uncordon")
@_options
def uncordon(address: str, router: str, token_file: Path | None) -> None:
    """Give an endpoint requests again that was cordoned by `extproc cordon`."""
    told = _ask(address, router, token_file, "uncordon")
    if told.cordoned == "config":
        raise click.ClickException(
            f"{told.address} is still cordoned, by the config: take `cordoned: true` out there"
        )
    if not told.pools:
        click.echo(f"{told.address} is no endpoint now; if it comes back, it gets requests from {router}.")
    for pool in told.pools:
        click.echo(f"{told.address} gets requests again from {router}, of pool {pool.name}.")


def _ask(address: str, router: str, token_file: Path | None, verb: str) -> Cordoned:
    try:
        address = normalise(address)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="IP:PORT") from None
    url = f"{router.rstrip('/')}/endpoints/{quote(address, safe='')}/{verb}"
    status, text = asyncio.run(_post(url, bearer(token_file)))
    if status != 200:
        hint = "" if token_file or status not in (401, 403) else " (see --token-file)"
        raise click.ClickException(
            f"{router} answered {status}: {text.decode(errors='replace').strip()}{hint}"
        )
    try:
        return msgspec.json.decode(text, type=Cordoned)
    except msgspec.MsgspecError as error:
        raise click.ClickException(f"{router} is no router: {error}") from None


async def _post(url: str, headers: dict[str, str]) -> tuple[int, bytes]:
    """(status, body), within ASK_S; a redirect is not followed, as the token is nobody else's."""
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(ASK_S)) as session,
            session.post(URL(url, encoded=True), headers=headers, allow_redirects=False) as response,
        ):
            return response.status, await response.content.read(MAX_ANSWER_BYTES)
    except TimeoutError:
        raise click.ClickException(f"{url}: no answer within {ASK_S:g} s") from None
    except (aiohttp.ClientError, ValueError) as error:
        raise click.ClickException(f"{url}: cannot be asked: {error or type(error).__name__}") from None
