"""`extproc doctor`: asks, diagnoses, prints."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import click
import msgspec
from rich.console import Console

from ..token_option import bearer, token_option
from .checks import CHECKS
from .diagnosis import Diagnosis, diagnose
from .fetching import FetchError, fetch
from .finding import Severity
from .screen import show

PIPE_WIDTH = 120
"""Columns where there is no terminal to ask."""
SERIOUS, NO_ENVOY = 1, 2
"""Exit codes."""


@click.command("doctor")
@click.option(
    "--envoy",
    default="http://127.0.0.1:19000",
    show_default=True,
    metavar="URL",
    help="Envoy's admin port; the default is Envoy Gateway's.",
)
@click.option(
    "--router",
    default="http://127.0.0.1:9090",
    show_default=True,
    metavar="URL",
    help="The router's HTTP port; '' for none.",
)
@click.option(
    "--filter",
    "wanted",
    default="",
    metavar="TEXT",
    help="Part of the name of the router's ext_proc filter or cluster, where there are several.",
)
@token_option
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def doctor(envoy: str, router: str, wanted: str, token_file: Path | None, as_json: bool) -> None:
    """What in Envoy's settings hurts LLM traffic, and the line that cures it.

    \b
    kubectl -n envoy-gateway-system port-forward deploy/ENVOY 19000 &
    kubectl -n llm port-forward deploy/extproc 9090 &
    extproc doctor

    Nothing is changed: pages of both are read. Exit code 0: nothing serious; 1: something; 2: Envoy was not reached.
    """
    try:
        fetched = asyncio.run(fetch(envoy, router, wanted, bearer(token_file)))
    except FetchError as error:
        click.echo(f"Envoy cannot be asked: {error}", err=True)
        sys.exit(NO_ENVOY)
    told = diagnose(CHECKS, fetched.setup, envoy, router, fetched.no_router)
    click.echo(_as_json(told) if as_json else _as_text(told), nl=False)
    sys.exit(SERIOUS if told.count(Severity.SERIOUS) else 0)


def _as_json(told: Diagnosis) -> str:
    return msgspec.json.format(msgspec.json.encode(told), indent=2).decode() + "\n"


def _as_text(told: Diagnosis) -> str:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    with console.capture() as capture:
        show(console, told)
    return "".join(line.rstrip() + "\n" for line in capture.get().splitlines())
