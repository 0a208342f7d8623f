"""All commands by their names."""

from __future__ import annotations

import click

from extproc import cli
from extproc.benchmark.command import bench
from extproc.cordon_command import cordon, uncordon
from extproc.demo.command import demo
from extproc.doctor.command import doctor
from extproc.explain_command import explain_command
from extproc.manifests.command import manifests
from extproc.sim.command import sim

COMMANDS: dict[str, click.Command] = {
    **cli.cli.commands,
    "manifests": manifests,
    "doctor": doctor,
    "cordon": cordon,
    "uncordon": uncordon,
    "explain": explain_command,
    "bench": bench,
    "sim": sim,
    "demo": demo,
}
