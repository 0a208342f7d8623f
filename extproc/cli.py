"""The commands: `extproc serve | check | cordon | uncordon | manifests | doctor | explain | bench | sim | demo`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from . import __version__, config_file
from .errors import ConfigError
from .finite_float import FiniteFloat

F = TypeVar("F", bound=Callable[..., Any])


class _Address(click.ParamType[str]):
    """`host:port`; port 0 takes a free one."""

    name = "host:port"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        host, colon, port = value.rpartition(":")
        if not host or not colon or not port.isascii() or not port.isdecimal() or int(port) > 65535:
            self.fail(f"{value!r} is not HOST:PORT with a port of 0..65535", param, ctx)
        return value


def _flag(name: str, *names: str, **options: Any) -> Callable[[F], F]:
    """An option that can also come from the environment, as EXTPROC_<FLAG>."""
    environment = "EXTPROC_" + name.removeprefix("--").upper().replace("-", "_")
    return click.option(name, *names, envvar=environment, show_envvar=True, show_default=True, **options)


_FILE = click.Path(path_type=Path, dir_okay=False)
LOG_LEVELS = ("debug", "info", "warning", "error")
DRAIN_DELAY = "On SIGTERM: seconds of accepting while not ready, for Envoy to notice."
DRAIN_TIMEOUT = "Then: seconds for open streams to end; what is undecided after them gets 503 shutting_down."


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="extproc")
def cli() -> None:
    """Routes LLM inference requests behind Envoy (external processing)."""


@cli.command()
@_flag("--config", type=_FILE, required=True, help="The config file (YAML).")
@_flag("--grpc-address", type=_Address(), default="0.0.0.0:9002", help="Where Envoy connects.")
@_flag("--http-address", type=_Address(), default="0.0.0.0:9090", help="Metrics, probes, debug.")
@_flag("--log-level", type=click.Choice(LOG_LEVELS), default="info", help="The least that is logged.")
@_flag(
    "--log-format",
    type=click.Choice(["json", "console"]),
    default="json",
    help="Of stderr: JSON, or for people.",
)
@_flag("--tls-cert", type=_FILE, help="PEM certificate of the gRPC port.")
@_flag("--tls-key", type=_FILE, help="PEM key of the gRPC port.")
@_flag("--tls-client-ca", type=_FILE, help="PEM authority that clients' certificates must come from.")
@_flag("--tls-self-signed", is_flag=True, help="Make a certificate at start.")
@_flag("--http-token-file", type=_FILE, help="Bearer token for what changes something: extproc cordon.")
@_flag("--http-protect-reads", is_flag=True, help="The token for /metrics and /debug, too.")
@_flag("--drain-delay", "drain_delay_s", type=FiniteFloat(min=0), default=10.0, help=DRAIN_DELAY)
@_flag("--drain-timeout", "drain_timeout_s", type=FiniteFloat(min=0), default=600.0, help=DRAIN_TIMEOUT)
@_flag("--otlp-endpoint", metavar="URL", help="OpenTelemetry collector; else $OTEL_EXPORTER_OTLP_ENDPOINT.")
@_flag("--kubeconfig", type=_FILE, help="Where no service account is; else $KUBECONFIG, ~/.kube/config.")
def serve(**flags: Any) -> None:
    """Run the service."""
    if (flags["tls_cert"] is None) is not (flags["tls_key"] is None):
        raise click.UsageError("--tls-cert and --tls-key go together")
    if flags["tls_client_ca"] and not flags["tls_cert"]:
        raise click.UsageError("--tls-client-ca needs --tls-cert and --tls-key")
    if flags["tls_self_signed"] and flags["tls_cert"]:
        raise click.UsageError("--tls-self-signed excludes --tls-cert")
    if flags["http_protect_reads"] and not flags["http_token_file"]:
        raise click.UsageError("--http-protect-reads needs --http-token-file")
    from . import app
    from .options import Options

    sys.exit(app.serve(Options(**flags)))


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
def check(file: Path) -> None:
    """Validate a config FILE: exit 0, or 1 with one line a fault."""
    try:
        config, _ = config_file.load(file)
    except ConfigError as error:
        for fault in error.faults:
            click.echo(f"{file}: {fault}", err=True)
        sys.exit(1)
    endpoints = sum(len(pool.members()) for pool in config.pools)
    followed = sum(pool.kubernetes is not None for pool in config.pools)
    pools = _counted(len(config.pools), "pool") + (f" ({followed} in the cluster)" if followed else "")
    models = _counted(len(config.models), "model")
    click.echo(f"{file}: valid; {pools}, {_counted(endpoints, 'endpoint')}, {models}")


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def main() -> None:
    """The console script."""
    from .benchmark.command import bench
    from .cordon_command import cordon, uncordon
    from .demo.command import demo
    from .doctor.command import doctor
    from .explain_command import explain_command
    from .manifests.command import manifests
    from .sim.command import sim

    cli.add_command(bench)
    cli.add_command(sim)
    cli.add_command(demo)
    cli.add_command(explain_command)
    cli.add_command(manifests)
    cli.add_command(doctor)
    cli.add_command(cordon)
    cli.add_command(uncordon)
    cli()
