"""Files as an operator has them: Kubernetes YAML with InferencePools and their models, or a config of ours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from .. import strict_yaml
from ..config.load import MAX_FILE_BYTES, parse_config
from ..config.schema import Config
from ..errors import ConfigError
from ..kube import documents
from ..kube.objects import InferencePoolV1, ObjectMeta
from .plan import ManifestError


class Attachment(Struct, frozen=True):
    """Where an InferencePool wants to be reached."""

    where: str
    """Who says so, for messages."""
    to: documents.AttachTo


class Documents(Struct):
    """What the files hold."""

    pools: Config | None = None
    """The InferencePools with their models, each with its selector and ports."""
    attachments: list[Attachment] = []
    config: Config | None = None
    config_text: str = ""


def read(files: list[tuple[str, bytes]]) -> Documents:
    """What *files* (name, text) hold; raises ManifestError."""
    found = Documents()
    objects: list[object] = []
    names = []
    for name, text in files:
        values = _values(name, text)
        if documents.is_documents(values):
            objects += values
            names.append(name)
        elif found.config is not None:
            raise ManifestError(f"{name}: a second config; one is allowed")
        else:
            found.config, found.config_text = _config(name, text)
    if objects:
        _read_objects(", ".join(names), objects, found)
    return found


def _values(name: str, text: bytes) -> list[object]:
    if len(text) > MAX_FILE_BYTES:
        raise ManifestError(f"{name}: too long; at most {MAX_FILE_BYTES} bytes are allowed")
    try:
        return strict_yaml.parse_all(text)
    except ConfigError as error:
        raise _named(name, error) from None


def _config(name: str, text: bytes) -> tuple[Config, str]:
    try:
        return parse_config(text), text.decode()
    except ConfigError as error:
        raise _named(name, error) from None
    except UnicodeDecodeError:  # YAML may be UTF-16 as well
        raise ManifestError(f"{name}: not UTF-8, as a ConfigMap's text must be") from None


def _read_objects(name: str, objects: list[object], found: Documents) -> None:
    try:
        found.pools = documents.read_documents(objects)
    except ConfigError as error:
        raise _named(name, error) from None
    for value in _inference_pools(objects):
        metadata = msgspec.convert({**value["metadata"], "creationTimestamp": None}, ObjectMeta)
        where = f"{name}: InferencePool {metadata.name}"
        try:
            attach_to = documents.attach_to(InferencePoolV1(metadata))
        except ConfigError as error:
            raise _named(where, error) from None
        if attach_to is not None:
            found.attachments.append(Attachment(where, attach_to))


def _inference_pools(values: list[Any]) -> Iterator[dict[str, Any]]:
    for value in values:
        if isinstance(value, dict) and value.get("kind") == "List":
            yield from _inference_pools(value["items"])
        elif isinstance(value, dict) and value.get("kind") == "InferencePool":
            yield value


def _named(name: str, error: ConfigError) -> ManifestError:
    return ManifestError("\n".join(f"{name}: {fault}" for fault in error.faults))
