"""Runs `extproc manifests` as an operator does, and reads what it prints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from click.testing import CliRunner

from extproc.manifests.command import manifests

GUIDE = Path(__file__).parent.parent / "k8s" / "examples" / "qwq-32b" / "pool.yaml"
"""The InferencePool and InferenceModel of the ACK guide."""
Object = dict[str, Any]


def printed(*args: str, stdin: str | None = None) -> str:
    """The YAML; fails where the command does."""
    result = CliRunner().invoke(manifests, args, input=stdin)
    assert (result.exit_code, result.exception) == (0, None), result.output
    return result.stdout


def notes(*args: str, stdin: str | None = None) -> list[str]:
    """What it says beside the YAML."""
    result = CliRunner().invoke(manifests, args, input=stdin)
    assert result.exit_code == 0, result.output
    return result.stderr.splitlines()


def refused(*args: str, stdin: str | None = None) -> str:
    """The message with which it exits 1."""
    result = CliRunner().invoke(manifests, args, input=stdin)
    assert (result.exit_code, result.stdout) == (1, ""), result.output
    return result.stderr.rstrip("\n")


def objects(*args: str, stdin: str | None = None) -> list[Object]:
    return list(yaml.load_all(printed(*args, stdin=stdin), Loader=yaml.CSafeLoader))


def of_kind(made: list[Object], kind: str, name: str | None = None) -> Object:
    """The only one of *kind* (called *name*)."""
    found = [each for each in made if each["kind"] == kind and name in (None, each["metadata"]["name"])]
    assert len(found) == 1, f"{len(found)} {kind} {name or ''}"
    return found[0]


def config_of(made: list[Object]) -> Any:
    return yaml.safe_load(of_kind(made, "ConfigMap")["data"]["router.yaml"])
