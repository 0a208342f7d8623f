"""`extproc explain`: reads a state and a request, asks `explaining`, and prints what it says."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import click
import msgspec
from rich.console import Console

from . import config_file, intake
from .address import hints, normalise
from .body import BodyReader
from .errors import ConfigError, Rejected
from .explain_screen import show
from .explaining import Question, cache, explain, synthetic_prefix, what_would_change
from .intake import Reading
from .jsonscan import InvalidJson
from .prompt import read_prompt
from .request import InferenceRequest, Prompt
from .restoring import NOW, StateError, parse, restore
from .scheduling.affinity import PrefixHashScorer
from .state import State
from .token_option import bearer, token_option

T = TypeVar("T")

FETCH_S = 10.0
"""A router that is this slow has other troubles; `/debug/state` of 1,000 endpoints takes a tenth of a second."""
MAX_STATE_BYTES = 64 * 1024 * 1024
"""Of 10,000 endpoints and as many adapters it has 20 MB."""
PIPE_WIDTH = 140
"""Columns where there is no terminal to ask: the table of a profile with four scorers fits."""

Header = tuple[str, str]


class _Header(click.ParamType[Header]):
    name = "'name: value'"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Header:
        name, colon, rest = value.partition(":")
        if not colon or not name.strip():
            self.fail(f"{value!r} is not 'name: value'", param, ctx)
        return name.strip().lower(), rest.strip()


class _Cached(click.ParamType[tuple[str, int]]):
    name = "ip:port=tokens"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        address, _, tokens = value.rpartition("=")
        try:
            return normalise(address), int(tokens)
        except ValueError as error:
            self.fail(f"{value!r} is not IP:PORT=TOKENS ({error})", param, ctx)


@click.command("explain")
@click.option("--state", "source", required=True, metavar="URL|FILE", help="/debug/state, live or saved.")
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Decide by this config instead of the state's.",
)
@click.option("--request", "body", type=click.Path(path_type=Path, dir_okay=False), help="A body (JSON).")
@click.option("--model", help="Instead of a body: the model that it names.")
@click.option(
    "--prompt-tokens",
    type=click.IntRange(0, 10_000_000),
    help="With --model: the prompt's length.  [default: 0]",
)
@click.option("--header", "headers", multiple=True, type=_Header(), help="Of the request; repeat for more.")
@click.option("--subset", help="A subset hint: ip or ip:port, joined by commas.")
@click.option(
    "--cached",
    multiple=True,
    type=_Cached(),
    help="Tokens of the prompt that an endpoint has in its cache, as /debug/explain tells; repeat for more.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of what is drawn: target, ties.")
@token_option
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def explain_command(
    source: str,
    config: Path | None,
    body: Path | None,
    model: str | None,
    prompt_tokens: int | None,
    headers: Sequence[Header],
    subset: str | None,
    cached: Sequence[tuple[str, int]],
    seed: int,
    token_file: Path | None,
    as_json: bool,
) -> None:
    """Why a request goes where it goes, and what would change that.

    \b
    extproc explain --state http://127.0.0.1:9090/debug/state --model qwq --prompt-tokens 2000
    extproc explain --state saved.json --request body.json --header 'x-user-id: ann' --config new.yaml

    Nobody's request is touched: the state is read, and decided on here. What the router knows of cached prompts is
    not part of a state: give it with --cached.
    """
    if (body is None) is (model is None):
        raise click.UsageError("give either --request or --model")
    if body is not None and prompt_tokens is not None:
        raise click.UsageError("--prompt-tokens goes with --model; a body tells its own")
    request = _read_request(body) if body is not None else _made_up(model, prompt_tokens or 0)
    request.headers, request.subset = dict(headers), hints(subset)
    state = _read_state(source, token_file)
    try:
        text = _explained(state, config, request, cached, seed, as_json=as_json, made_up=body is None)
    except Rejected as rejection:
        raise click.ClickException(rejection.message) from None
    except StateError as error:
        raise click.ClickException(f"{source}: {error}") from None
    click.echo(text, nl=False)


def _explained(
    state: State,
    config: Path | None,
    request: InferenceRequest,
    cached: Sequence[tuple[str, int]],
    seed: int,
    *,
    as_json: bool,
    made_up: bool,
) -> str:
    question = Question(restore(state, _read_config(config) if config else None), request, NOW, seed)
    _cache(question, cached)
    explanation = explain(question)
    changes = what_would_change(question, explanation)
    notes = _notes(state, question, explanation.pool, explanation.profile, made_up=made_up)
    if as_json:
        told = {**msgspec.to_builtins(explanation), "changes": changes, "notes": notes}
        return msgspec.json.format(msgspec.json.encode(told), indent=2).decode() + "\n"
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    with console.capture() as capture:
        show(console, explanation, changes, notes)
    return capture.get()


def _notes(state: State, question: Question, pool: str, profile: str | None, *, made_up: bool) -> list[str]:
    """What the explanation cannot know."""
    notes = []
    for queue in state.queues:
        if queue.pool == pool and (waiting := queue.critical + queue.standard):
            notes.append(f"{waiting} requests wait with the router, {queue.critical} of them critical.")
    scorers = question.router.config.profile(profile).scorers if profile else []
    if made_up and any(isinstance(scorer, PrefixHashScorer) for scorer in scorers):
        notes.append("The prompt is made up: `prefix-hash` prefers another endpoint for each real one.")
    return notes


def _cache(question: Question, cached: Sequence[tuple[str, int]]) -> None:
    if not cached:
        return
    pool = question.draw().pool
    unknown = [address for address, _ in cached if address not in pool.by_address]
    if unknown:
        raise click.BadParameter(f"{unknown[0]} is not in pool {pool.name}", param_hint="--cached")
    cache(question, {pool.by_address[address]: tokens for address, tokens in cached})


def _made_up(model: str | None, tokens: int) -> InferenceRequest:
    return InferenceRequest({}, model, prompt=Prompt(tokens, synthetic_prefix(tokens)))


def _read_request(file: Path) -> InferenceRequest:
    body = _read_file(file)
    reader = BodyReader()
    try:
        for _ in reader.feed(body):
            pass
        model = intake.model(Reading.MODEL, _finished(reader.finish()))
    except (InvalidJson, Rejected) as error:
        raise click.ClickException(f"{file}: {error}") from None
    return InferenceRequest({}, model, len(body), _finished(read_prompt(reader)))


def _finished(turns: Generator[None, None, T]) -> T:
    while True:
        try:
            next(turns)
        except StopIteration as stop:
            result: T = stop.value
            return result


def _read_config(file: Path) -> Any:
    try:
        return config_file.load(file)[0]
    except ConfigError as error:
        raise click.ClickException("\n".join(f"{file}: {fault}" for fault in error.faults)) from None


def _read_state(source: str, token_file: Path | None) -> State:
    is_url = source.startswith(("http://", "https://"))
    text = asyncio.run(_fetch(source, bearer(token_file))) if is_url else _read_file(Path(source))
    try:
        return parse(text)
    except StateError as error:
        raise click.ClickException(f"{source}: {error}") from None


def _read_file(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise click.ClickException(f"{file}: cannot be read: {reason}") from None


async def _fetch(url: str, headers: dict[str, str]) -> bytes:
    """The page, all of it within FETCH_S; a redirect is not followed, as a token is nobody else's."""
    text = bytearray()
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(FETCH_S)) as session,
            session.get(url, headers=headers, allow_redirects=False) as response,
        ):
            if response.status != 200:
                hint = " (see --token-file)" if response.status == 401 else ""
                raise click.ClickException(f"{url}: answered {response.status}{hint}")
            async for piece in response.content.iter_any():
                text += piece
                if len(text) > MAX_STATE_BYTES:
                    raise click.ClickException(f"{url}: longer than {MAX_STATE_BYTES} bytes")
    except TimeoutError:
        raise click.ClickException(f"{url}: no answer within {FETCH_S:g} s") from None
    except (aiohttp.ClientError, ValueError) as error:
        raise click.ClickException(f"{url}: cannot be read: {error or type(error).__name__}") from None
    return bytes(text)
