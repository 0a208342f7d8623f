"""`extproc sim`."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import click

from extproc.finite_float import FiniteFloat
from extproc.sim.config import DEFAULT_GPU, DEFAULT_MODEL, SimConfig
from extproc.sim.faults import METRICS_FAULTS, REQUEST_FAULTS, Faults
from extproc.sim.profiles import PROFILES
from extproc.sim.server import SimServer


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), required=True, help="0: any free port.")
@click.option(
    "--name", help="Sent as x-sim-server with every answer.  [default: sim-PORT, or sim with port 0]"
)
@click.option(
    "--model",
    "models",
    multiple=True,
    default=(DEFAULT_MODEL,),
    show_default=True,
    help="Served name; repeatable, the first is the one in the metrics.",
)
@click.option("--lora", "loras", multiple=True, help="Served LoRA adapter; repeatable.")
@click.option(
    "--gpu",
    type=click.Choice(list(PROFILES)),
    default=DEFAULT_GPU,
    show_default=True,
    help="Whose measured step times and KV memory it has.",
)
@click.option(
    "--speed",
    type=FiniteFloat(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="How many times faster than the GPU.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="For the lengths of answers.")
@click.option(
    "--max-num-seqs", type=click.IntRange(1), default=256, show_default=True, help="Requests in one batch."
)
@click.option(
    "--max-num-batched-tokens",
    type=click.IntRange(1),
    help="Tokens of one iteration.  [default: vLLM's for the GPU]",
)
@click.option(
    "--no-prefix-caching",
    "prefix_caching",
    is_flag=True,
    flag_value=False,
    default=True,
    help="Compute every prompt anew.",
)
@click.option(
    "--no-chunked-prefill",
    "chunked_prefill",
    is_flag=True,
    flag_value=False,
    default=True,
    help="Prompts whole and before all decoding, as vLLM's V0 by default.",
)
@click.option(
    "--enable-prompt-tokens-details", is_flag=True, help="Tell in `usage` how much of a prompt was cached."
)
@click.option(
    "--stream-interval",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Tokens of one event of a stream; the first is sent alone.",
)
@click.option(
    "--num-blocks",
    type=click.IntRange(1),
    help="KV-cache blocks of 16 tokens.  [default: what the GPU holds]",
)
@click.option(
    "--max-loras", type=click.IntRange(0), default=1, show_default=True, help="Adapters in one batch."
)
@click.option(
    "--lora-load",
    "lora_load_s",
    type=FiniteFloat(min=0),
    default=0.0,
    show_default=True,
    help="Seconds to bring an adapter into a slot.",
)
@click.option(
    "--max-model-len",
    type=click.IntRange(1),
    default=32_768,
    show_default=True,
    help="Tokens of prompt and answer.",
)
@click.option("--record-bodies", is_flag=True, help="Keep bodies up to 64 KiB for GET /sim/requests.")
@click.option("--metrics-fault", default="ok", help=f"One of {', '.join(METRICS_FAULTS)}; slow:SECONDS.")
@click.option(
    "--request-fault",
    default="ok",
    help=f"One of {', '.join(REQUEST_FAULTS)}; refuse:SECONDS, reset-mid-stream:TOKENS.",
)
@click.option("--latency", type=FiniteFloat(0, 3600), default=0.0, help="Seconds added before each answer.")
def sim(**options: Any) -> None:
    """A simulated vLLM server: OpenAI API with streaming, /metrics, /health, /v1/models.

    \b
    At run time:
      GET, PUT /sim/faults       {"metrics": "slow:2", "requests": "503", "latency_s": 0.1}
      GET, DELETE /sim/requests  the last 1000 requests seen
    """
    try:
        config = config_of(**options)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    asyncio.run(serve(config))


def config_of(
    metrics_fault: str, request_fault: str, latency: float, name: str | None, port: int, **options: Any
) -> SimConfig:
    """Of the command's options. ValueError: they cannot work."""
    faults = Faults(metrics=metrics_fault, requests=request_fault, latency_s=latency)
    name = name or (f"sim-{port}" if port else "sim")
    return SimConfig(faults=faults, name=name, port=port, **options)


async def serve(config: SimConfig) -> None:
    """Until SIGTERM or SIGINT; then at once."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    try:
        async with SimServer(config) as server:
            click.echo(f"listening on {server.url}")
            await stopped.wait()
    except OSError as error:
        raise click.ClickException(f"{config.host}:{config.port}: {error.strerror}") from None
