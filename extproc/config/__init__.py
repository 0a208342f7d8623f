"""The configuration file: its schema, its checks, and how it is read."""

from .load import load_file, parse_config
from .schema import Config

__all__ = ["Config", "load_file", "parse_config"]
