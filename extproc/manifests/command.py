"""`extproc manifests`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import click

_DIRECTORY = click.Path(path_type=Path, file_okay=False)
PARTS = ("all", "router", "gateway")


class _Service(click.ParamType[tuple[str, tuple[str, int]]]):
    """`[POOL=]NAME:PORT`."""

    name = "[pool=]name:port"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, tuple[str, int]]:
        match = re.fullmatch(r"(?:([^=]+)=)?([a-z][-a-z0-9]{0,62}):(\d{1,5})", value)
        if match is None or not 1 <= int(match[3]) <= 65535:
            self.fail(
                f"{value!r} is not [POOL=]NAME:PORT, with a Service's name and a port of 1..65535", param, ctx
            )
        return match[1] or "", (match[2], int(match[3]))


@click.command()
@click.argument("pools", nargs=-1, metavar="[POOL]...")
@click.option(
    "-f", "--file", "files", type=click.Path(allow_dash=True), multiple=True,
    help="An InferencePool with its InferenceModels, or a config file; - is stdin; repeatable.",
)  # fmt: skip
@click.option(
    "--gateway", metavar="[NS/]NAME", help="The Gateway.  [default: what the pool's attach-to says]"
)
@click.option(
    "--port", type=click.IntRange(1, 65535), help="Its listener's.  [default: what attach-to says, or all]"
)
@click.option(
    "--for", "target", type=click.Choice(["envoy-gateway", "ai-gateway", "istio"]), default="envoy-gateway",
    show_default=True, help="The last two speak InferencePool: we are their endpoint picker.",
)  # fmt: skip
@click.option(
    "--service", "services", type=_Service(), multiple=True, metavar="[POOL=]NAME:PORT",
    help="The Service over the pool's pods that is there already; repeatable.",
)  # fmt: skip
@click.option(
    "--inline",
    is_flag=True,
    help="Pods and models of FILE go into our config; needs no CRDs.",
)
@click.option("--namespace", help="Ours and the route's.  [default: the InferencePool's, or default]")
@click.option("--name", default="extproc", show_default=True, help="Of our objects.")
@click.option(
    "--image", default="extproc:latest", show_default=True, help="None is published yet: name your own."
)
@click.option("--replicas", type=click.IntRange(1, 100), default=2, show_default=True, help="Of the router.")
@click.option(
    "--path-prefix", "path_prefixes", multiple=True, default=("/v1",), show_default=True, help="Repeatable."
)
@click.option(
    "--envoy-namespace",
    help="Where the gateway's Envoys run.  [default: envoy-gateway-system; with istio the Gateway's]",
)
@click.option("--with-gateway", is_flag=True, help="The Gateway and its GatewayClass too.")
@click.option(
    "--fail-open",
    is_flag=True,
    help="Answers outlive a router that dies; leans on the header removal in the ClientTrafficPolicy.",
)
@click.option("--service-monitor", is_flag=True, help="A ServiceMonitor for the Prometheus operator.")
@click.option(
    "--otlp-endpoint",
    metavar="URL",
    help="Of an OpenTelemetry collector, with its port: traces and metrics go there.",
)
@click.option("--part", type=click.Choice(PARTS), default="all", show_default=True, help="Ours, or the rest.")
@click.option("--output", type=_DIRECTORY, help="A directory for kustomize instead of stdout.")
@click.option(
    "--base", type=_DIRECTORY, help="A directory that --output made, whose objects are not repeated."
)
def manifests(
    files: tuple[str, ...],
    services: tuple[tuple[str, tuple[str, int]], ...],
    part: str,
    output: Path | None,
    base: Path | None,
    **options: Any,
) -> None:
    """Print every Kubernetes object that a gateway needs to work with us, with a reason at each line.

    POOL is a Service over model servers.  To apply: extproc manifests ... | kubectl apply -f -
    """
    from . import checks, documents, kustomize, objects, planning, text
    from .plan import ManifestError

    if base is not None and output is None:
        raise click.UsageError("--base goes with --output")
    try:
        found = documents.read([(name, _text(name)) for name in files])
        plan = planning.make(planning.Wish(services=_by_pool(services), **options), found)
        made = objects.of(plan, part)
        if output is None:
            click.echo(text.documents(made), nl=False)
        else:
            kustomize.write(output, kustomize.files(plan, made, base, output))
    except ManifestError as error:
        click.echo(str(error), err=True)
        sys.exit(1)
    for line in checks.warnings(plan):
        click.echo(f"note: {line}", err=True)


def _text(name: str) -> bytes:
    """What the file holds; `-` is stdin.  Raises ManifestError."""
    from .plan import ManifestError

    try:
        with click.open_file(name, "rb") as file:
            text: bytes = file.read()
    except OSError as error:
        raise ManifestError(f"{name}: cannot be read: {error.strerror or error}") from None
    return text


def _by_pool(services: tuple[tuple[str, tuple[str, int]], ...]) -> dict[str, tuple[str, int]]:
    """Raises ManifestError where a pool stands twice."""
    from .plan import ManifestError

    made: dict[str, tuple[str, int]] = {}
    for pool, service in services:
        if pool in made:
            raise ManifestError(f"--service: {pool or 'the pool'} stands twice")
        made[pool] = service
    return made
