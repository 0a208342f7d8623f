"""From the text of a config file to a `Config`, or to all the faults in it."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import msgspec
import yaml

from ..errors import ConfigError, Fault
from . import checks, shape
from .schema import Config

MAX_FILE_BYTES = 16 * 1024 * 1024
"""Thousands of models fit; a ConfigMap holds 1 MiB."""


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key that stands twice: YAML forbids it, PyYAML lets the last one win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen and key != "<<":
                raise yaml.MarkedYAMLError(
                    problem=f"key {key!r} stands twice", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def parse_config(text: bytes) -> Config:
    """The config in *text* (YAML); raises ConfigError with every fault that was found."""
    if len(text) > MAX_FILE_BYTES:
        raise ConfigError([Fault("$", f"{len(text)} bytes; at most {MAX_FILE_BYTES} are read")])
    value = _parse_yaml(text)
    found = list(shape.faults(value, Config))
    if found:
        raise ConfigError(found)
    config = msgspec.convert(value, Config)
    found = list(checks.check(config))
    if found:
        raise ConfigError(found)
    return config


def load_file(path: Path) -> tuple[Config, bytes]:
    """(config, text) of the file at *path*; raises ConfigError."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ConfigError([Fault("$", f"cannot be read: {error.strerror or error}")]) from None
    return parse_config(text), text


def _parse_yaml(text: bytes) -> object:
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError([Fault("$", f"not YAML: {where}{error.problem or error.context}")]) from None
    except yaml.YAMLError as error:
        raise ConfigError([Fault("$", f"not YAML: {' '.join(str(error).split())}")]) from None
    except (RecursionError, ValueError) as error:  # absurd nesting, impossible dates
        raise ConfigError([Fault("$", f"not YAML: {type(error).__name__}: {error}")]) from None
