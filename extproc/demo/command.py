"""`extproc demo`."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable

import aiohttp
import click
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from extproc.demo.plan import ALIAS
from extproc.demo.process import StartError
from extproc.demo.run import Demo, Options
from extproc.demo.screen import Screen
from extproc.demo.servers import DEFAULT_SPEED, Servers
from extproc.finite_float import FiniteFloat

MAX_WIDTH = 100
"""Columns: longer lines are hard to read; in a pipe there is no terminal to ask, and no table is wider."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

INTERRUPTED = 130
"""What a shell reports for a program that Ctrl-C ended."""


@click.command()
@click.option("--keep", is_flag=True, envvar="KEEP", help="Stay up at the end until Ctrl-C, to try by hand.")
@click.option(
    "--seconds", type=FiniteFloat(0.5, 600), default=10.0, show_default=True, help="Of mixed traffic."
)
@click.option(
    "--burst", type=click.IntRange(1, 5000), default=300, show_default=True, help="Requests in the burst."
)
@click.option("--seed", type=int, default=1, show_default=True, help="Of the traffic.")
@click.option(
    "--speed",
    type=FiniteFloat(0.1, 50),
    default=DEFAULT_SPEED,
    show_default=True,
    help="Of the pods, 1: real.",
)
def demo(keep: bool, seconds: float, burst: int, seed: int, speed: float) -> None:
    """A real Envoy, three simulated model servers, and extproc between them: see what goes where, and why.

    Takes a minute and a half. Ends with status 1 if anything fails.
    """
    console = Console(highlight=False)
    console.width = min(console.width, MAX_WIDTH) if console.is_terminal else MAX_WIDTH
    options = Options(mixed_s=seconds, burst_requests=burst, seed=seed)
    try:
        sys.exit(asyncio.run(_run(console, options, Servers(speed), keep)))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(INTERRUPTED)


async def _run(console: Console, options: Options, servers: Servers, keep: bool) -> int:
    """The exit status."""
    ignore_signals = _end_on_signals()
    failed = True
    try:
        await _start(console, servers)
        _introduce(console, servers)
        demonstration = Demo(servers, Screen(console, servers.pods), options)
        await demonstration.run()
        failed = bool(demonstration.failed)
        if not failed:
            await _say_goodbye(console, servers, keep)
    except asyncio.CancelledError:
        failed = False
        raise
    except (StartError, aiohttp.ClientError) as error:
        console.print(Text(f"\n The demo failed: {_reason(servers, error)}", style="red"))
    finally:
        ignore_signals()  # stopping takes a second
        await servers.stop()
        if failed:
            console.print(f"\n Configs and logs: {servers.directory}", soft_wrap=True)
        else:
            servers.remove_files()
    return 1 if failed else 0


def _end_on_signals() -> Callable[[], None]:
    """The first signal ends the demo, an impatient second one changes nothing; answers what makes all be ignored.

    SIGINT too: what asyncio does by itself breaks into whatever runs when the second one comes.
    """
    task = asyncio.current_task()
    assert task is not None
    running = [task]

    def end() -> None:
        if running:
            running.pop().cancel()

    def ignore() -> None:
        running.clear()
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    for number in SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, end)
    return ignore


async def _start(console: Console, servers: Servers) -> None:
    what = "starting three model servers, extproc and Envoy …"
    if console.is_terminal:
        with console.status(what):
            await servers.start()
    else:
        console.print(what)
        await servers.start()


def _reason(servers: Servers, error: Exception) -> str:
    """A process that ended explains the connections that broke."""
    try:
        servers.check_running()
    except StartError as cause:
        return str(cause)
    return str(error)


def _introduce(console: Console, servers: Servers) -> None:
    console.print(
        Text("\n extproc", style="bold cyan"), "sends each LLM request to the pod that is best for it\n"
    )
    console.print(
        "   client ──▶ Envoy ──▶ pod-1  qwq-32b\n"
        "                │       pod-2  qwq-32b\n"
        "                │       pod-3  qwq-32b, and qwq-32b-v2 as a canary\n"
        "                ▼\n"
        "             extproc   reads the request, says which pod\n"
    )
    note = f"Pods are simulated (vLLM on four A10), {servers.speed:g} times as fast as real ones. All else is real."
    console.print(Padding(Text(note, style="dim"), (0, 0, 0, 3), expand=False))


async def _say_goodbye(console: Console, servers: Servers, keep: bool) -> None:
    curl = f"""curl {servers.envoy.listen}/v1/chat/completions -d \\
     '{{"model": "{ALIAS}", "messages": [{{"role": "user", "content": "Who are you?"}}], "max_tokens": 8}}'"""
    console.print()
    if not keep:
        console.print(Text(" To try it by hand: make demo KEEP=1 (or extproc demo --keep), and then"))
        console.print(Text(f"\n   {curl}\n"), soft_wrap=True)
        return
    console.print(Text(f" All of it stays up until Ctrl-C. Try:\n\n   {curl}\n"), soft_wrap=True)
    for what, where in (
        ("what extproc knows", f"{servers.service.http}/debug/state"),
        ("its metrics", f"{servers.service.http}/metrics"),
        ("its config (change a weight: it is read again)", servers.service.config_file),
        ("its log, a line a request", servers.service.err),
        ("Envoy's access log", servers.envoy.out),
    ):
        console.print(Text(f"   {what}: {where}"), soft_wrap=True)
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.Event().wait()
