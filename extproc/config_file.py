"""Reads a config file: our own YAML, or Kubernetes objects as they stand."""

from __future__ import annotations

from pathlib import Path

from . import strict_yaml
from .config import Config, parse_config
from .config.load import MAX_FILE_BYTES, read_file
from .kube.documents import is_documents, read_documents


def parse(text: bytes) -> Config:
    """The config in *text*; raises ConfigError with every fault that was found."""
    if b"apiVersion" in text and len(text) <= MAX_FILE_BYTES:
        documents = strict_yaml.parse_all(text)
        if is_documents(documents):
            return read_documents(documents)
    return parse_config(text)


def load(path: Path) -> tuple[Config, bytes]:
    """(config, text) of the file at *path*; raises ConfigError."""
    text = read_file(path)
    return parse(text), text
