"""`extproc sim`."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator

import aiohttp
import pytest
from click.testing import CliRunner

from extproc.sim.command import config_of
from extproc.sim.command import sim as command


@contextlib.asynccontextmanager
async def started(*flags: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """The command in a process of its own, with the line it says."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "extproc.sim", *flags, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield process, (await process.stdout.readline()).decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_command_tells_its_address_and_ends_at_once_on_a_signal(number: signal.Signals) -> None:
    flags = ["--port", "0", "--name", "pod-9", "--model", "m", "--lora", "ad", "--request-fault", "stall"]
    async with started(*flags) as (process, line), aiohttp.ClientSession(line.split()[-1]) as client:
        assert re.fullmatch(r"listening on http://127\.0\.0\.1:\d+\n", line)
        assert (await client.get("/metrics")).headers["x-sim-server"] == "pod-9"
        stalled = asyncio.create_task(client.get("/v1/models"))
        while not (await (await client.get("/sim/requests")).json()):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        process.send_signal(number)
        output, _ = await process.communicate()
        assert (output, process.returncode) == (b"", 0)
        with pytest.raises(aiohttp.ClientError):
            await stalled


def test_its_options_say_how_the_engine_works() -> None:
    flags = ["--port", "0", "--no-prefix-caching", "--no-chunked-prefill", "--max-num-batched-tokens", "4096"]
    flags += ["--lora", "ad", "--lora-load", "0.5", "--enable-prompt-tokens-details"]
    plain, other = (config_of(**command.make_context("sim", args).params) for args in (flags[:2], flags))
    assert (plain.engine.prefix_caching, plain.engine.chunked_prefill) == (True, True)
    assert (plain.engine.max_num_batched_tokens, plain.enable_prompt_tokens_details) == (None, False)
    assert (other.engine.prefix_caching, other.engine.chunked_prefill) == (False, False)
    assert (other.engine.max_num_batched_tokens, other.enable_prompt_tokens_details) == (4096, True)
    assert other.engine.lora_load_s == 0.5


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "Missing option '--port'"),
        (["--port", "0", "--gpu", "abacus"], "'abacus' is not one of 'a100-llama-3-8b'"),
        (["--port", "0", "--speed", "0"], "'--speed': 0.0 is not in the range x>0."),
        (["--port", "0", "--max-num-seqs", "5000"], "max_num_seqs must be at most 2048"),
        (["--port", "0", "--lora-load", "-1"], "'--lora-load': -1.0 is not in the range x>=0."),
        (["--port", "0", "--max-model-len", "0"], "'--max-model-len': 0 is not in the range x>=1."),
        (["--port", "0", "--lora", "sim-model"], "every name only once"),
        (["--port", "0", "--lora", "a", "--max-loras", "0"], "max_loras must be at least 1"),
        (["--port", "0", "--metrics-fault", "odd"], "'odd': must be one of ok, slow"),
        (["--port", "0", "--latency", "-1"], "'--latency': -1.0 is not in the range 0<=x<=3600."),
    ],
)
def test_the_command_refuses_what_cannot_work(flags: list[str], message: str) -> None:
    result = CliRunner().invoke(command, flags)
    assert result.exit_code == 2
    assert message in result.output


def test_the_command_names_an_address_it_cannot_have() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = CliRunner().invoke(command, ["--port", str(port)])
        assert (result.exit_code, result.output) == (1, f"Error: 127.0.0.1:{port}: Address already in use\n")
