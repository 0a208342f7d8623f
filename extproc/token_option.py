"""`--token-file` of the commands that ask a running router."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from .token_file import TokenFile

F = TypeVar("F", bound=Callable[..., Any])


def token_option(command: F) -> F:
    """Adds the option; the command gets `token_file`."""
    return click.option(
        "--token-file",
        type=click.Path(path_type=Path, dir_okay=False),
        envvar="EXTPROC_HTTP_TOKEN_FILE",
        show_envvar=True,
        help="The token of the router's --http-token-file.",
    )(command)


def bearer(token_file: Path | None) -> dict[str, str]:
    """The header that shows the token; none without a file.  Raises ClickException."""
    if token_file is None:
        return {}
    try:
        return {"Authorization": f"Bearer {TokenFile(str(token_file)).token(0.0)}"}
    except (OSError, ValueError) as error:
        raise click.ClickException(f"--token-file: {error}") from None
