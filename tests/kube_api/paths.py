"""What the paths and queries of Kubernetes' API mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .resources import Kind
from .status import bad_request


@dataclass(frozen=True)
class Target:
    """What a path names."""

    group: str
    version: str
    namespace: str
    plural: str
    name: str
    subresource: str


def target_of(path: str) -> Target | None:
    """/api/v1/... and /apis/GROUP/VERSION/...; None for every other path."""
    parts = path.strip("/").split("/")
    if parts[0] == "api" and len(parts) >= 3:
        group, version, rest = "", parts[1], parts[2:]
    elif parts[0] == "apis" and len(parts) >= 4:
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        return None
    namespace = ""
    if rest[0] == "namespaces" and len(rest) >= 3:
        namespace, rest = rest[1], rest[2:]
    plural, name, subresource = ([*rest, "", ""])[:3]
    return Target(group, version, namespace, plural, name, subresource)


def verb_of(method: str, target: Target, query: Mapping[str, str]) -> str:
    """The verb that RBAC knows it by."""
    if method != "GET":
        return {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}.get(method, "")
    if target.name:
        return "get"
    return "watch" if query.get("watch") in ("1", "true") else "list"


def named(target: Target, query: Mapping[str, str]) -> str:
    """The object's name, as RBAC sees it: of a list or watch, that which its field selector asks for."""
    for text in query.get("fieldSelector", "").split(","):
        field, equals, value = text.partition("=")
        if not target.name and equals and field == "metadata.name":
            return value.removeprefix("=")
    return target.name


def number_of(text: str) -> int:
    """A query parameter that is a number."""
    if text and not text.isdecimal():
        raise bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax')
    return int(text or 0)


def revision_of(text: str, kind: Kind) -> int:
    """ "" is 0."""
    if text and not text.isdecimal():
        raise bad_request(
            f'{kind.qualified}: invalid resource version "{text}": strconv.ParseUint: invalid syntax'
        )
    return int(text or 0)
