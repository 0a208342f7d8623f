"""From the text of a config file to a `Config`, or to all the faults in it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from .. import strict_yaml
from ..errors import ConfigError, Fault
from . import checks, shape
from .schema import Config

MAX_FILE_BYTES = 16 * 1024 * 1024
"""Thousands of models fit; a ConfigMap holds 1 MiB."""


def parse_config(text: bytes) -> Config:
    """The config in *text* (YAML); raises ConfigError with every fault that was found."""
    if len(text) > MAX_FILE_BYTES:
        raise ConfigError([Fault("$", f"too long; at most {MAX_FILE_BYTES} bytes are allowed")])
    value = strict_yaml.parse(text)
    found = list(shape.faults(value, Config))
    if found:
        raise ConfigError(found)
    config = msgspec.convert(value, Config)
    found = list(checks.check(config))
    if found:
        raise ConfigError(found)
    return config


def read_file(path: Path) -> bytes:
    """The text at *path*, cut off behind the first byte too many; raises ConfigError."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else None
        raise ConfigError([Fault("$", f"cannot be read: {reason or error}")]) from None
