"""Reading Envoy's proto JSON: every field may be absent, and an absent one means its default.

A path is a row of keys; what is absent, or not of the kind asked for, is None (or empty), never an error: a dump comes
from any version of Envoy.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]


def get(node: Any, *path: str) -> Any:
    """What stands at *path*, or None."""
    for key in path:
        if not isinstance(node, dict):
            return None
        node = node.get(key)
    return node


def record(node: Any, *path: str) -> Json:
    found = get(node, *path)
    return found if isinstance(found, dict) else {}


def records(node: Any, *path: str) -> list[Json]:
    found = get(node, *path)
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def strings(node: Any, *path: str) -> list[str]:
    found = get(node, *path)
    return [item for item in found if isinstance(item, str)] if isinstance(found, list) else []


def text(node: Any, *path: str) -> str:
    found = get(node, *path)
    return found if isinstance(found, str) else ""


def flag(node: Any, *path: str) -> bool:
    return get(node, *path) is True


def number(node: Any, *path: str) -> float | None:
    """An integer or a float; 64-bit integers are strings in proto JSON."""
    found = get(node, *path)
    if isinstance(found, bool) or not isinstance(found, int | float | str):
        return None
    try:
        return float(found)
    except ValueError:
        return None


def whole(node: Any, *path: str) -> int | None:
    found = number(node, *path)
    return None if found is None else int(found)


def seconds(node: Any, *path: str) -> float | None:
    """A Duration: "0.200s"."""
    found = text(node, *path)
    try:
        return float(found[:-1]) if found.endswith("s") else None
    except ValueError:
        return None


def typed(node: Any) -> str:
    """The last part of an Any's type: `HttpConnectionManager`."""
    return text(node, "@type").rpartition(".")[2]


def each_typed(nodes: list[Json], kind: str) -> Iterator[Json]:
    """The `typed_config` of those extensions that are of this kind."""
    for node in nodes:
        if typed(config := record(node, "typed_config")) == kind:
            yield config
