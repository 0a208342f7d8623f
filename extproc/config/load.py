"""From the text of a config file to a `Config`, or to all the faults in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import yaml

from ..errors import ConfigError, Fault
from . import checks, shape
from .schema import Config

MAX_FILE_BYTES = 16 * 1024 * 1024
"""Thousands of models fit; a ConfigMap holds 1 MiB."""
MERGE_TAG = "tag:yaml.org,2002:merge"


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key that stands twice: YAML forbids it, PyYAML lets the last one win.

    Not the C loader: absurd nesting makes that one overflow the stack, which ends the process.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Checked here, before merge keys (`<<`) put the keys of others beside those that stand in the file."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key must be a word", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key {_short(key.value)} stands twice", problem_mark=key.start_mark
                )
            if key.tag == MERGE_TAG and not isinstance(value, yaml.MappingNode):
                raise yaml.MarkedYAMLError(problem="<< takes one mapping", problem_mark=key.start_mark)
            seen.add(key.value)
        return node


def parse_config(text: bytes) -> Config:
    """The config in *text* (YAML); raises ConfigError with every fault that was found."""
    if len(text) > MAX_FILE_BYTES:
        raise ConfigError([Fault("$", f"too long; at most {MAX_FILE_BYTES} bytes are allowed")])
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
    text = read_file(path)
    return parse_config(text), text


def read_file(path: Path) -> bytes:
    """The text at *path*, cut off behind the first byte too many; raises ConfigError."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else None
        raise ConfigError([Fault("$", f"cannot be read: {reason or error}")]) from None


def _parse_yaml(text: bytes) -> object:
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise _not_yaml(f"{where}{error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise _not_yaml(str(error)) from None
    except RecursionError:
        raise _not_yaml("nested too deeply; a config needs less than ten levels") from None
    except Exception as error:  # PyYAML lets out whatever its constructors meet: `!!bool x` is a KeyError
        raise _not_yaml(f"a value does not fit its tag ({type(error).__name__}: {error})") from None


def _not_yaml(text: str) -> ConfigError:
    return ConfigError([Fault("$", f"not YAML: {' '.join(text.split())}")])


def _short(word: str) -> str:
    return repr(word if len(word) <= 60 else word[:57] + "...")
