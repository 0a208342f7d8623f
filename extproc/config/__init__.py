"""The configuration file: its schema, its checks, and how it is read."""

from .load import parse_config
from .schema import Config

__all__ = ["Config", "parse_config"]
