"""Every fault in the shape of a value against the schema's types, each with its path.

msgspec stops at the first fault and does not say which keys are allowed; an operator wants all of them at once.
Only structure (structs, lists, unions of structs) is walked here; leaves are left to msgspec.
"""

from __future__ import annotations

import difflib
import enum
import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
from msgspec import Struct, UnsetType
from msgspec.structs import fields

from ..errors import Fault


def faults(value: object, kind: Any, path: str = "$") -> Iterator[Fault]:
    """What keeps *value* from being a *kind*."""
    bare = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    members = _members(bare)
    structs = [member for member in members if isinstance(member, type) and issubclass(member, Struct)]
    if structs and isinstance(value, Mapping):
        yield from _struct_faults(value, structs, path)
    elif structs and len(structs) == len(members):
        yield Fault(path, f"expected a mapping, got {_kind_of(value)}")
    elif get_origin(bare) is list and isinstance(value, list):
        yield from _own_fault([], kind, path) if not value else ()
        for index, item in enumerate(value):
            yield from faults(item, get_args(bare)[0], f"{path}[{index}]")
    elif any(get_origin(member) is list for member in members) and isinstance(value, list):
        yield from faults(value, next(m for m in members if get_origin(m) is list), path)
    else:
        yield from _own_fault(value, kind, path)


def _members(kind: Any) -> list[Any]:
    union = get_origin(kind) in (types.UnionType, Union)
    return [m for m in get_args(kind) if m is not UnsetType] if union else [kind]


def _struct_faults(value: Mapping[Any, Any], structs: list[type[Struct]], path: str) -> Iterator[Fault]:
    tag_field = structs[0].__struct_config__.tag_field
    if tag_field is None:
        yield from _field_faults(value, structs[0], path)
        return
    tags = {struct.__struct_config__.tag: struct for struct in structs}
    allowed = ", ".join(sorted(map(str, tags)))
    tag = value.get(tag_field)
    if not isinstance(tag, str):
        yield Fault(f"{path}.{tag_field}", f"missing or no string; allowed: {allowed}")
    elif tag not in tags:
        yield Fault(f"{path}.{tag_field}", f"{tag!r} is unknown{_near(tag, tags)}; allowed: {allowed}")
    else:
        yield from _field_faults({k: v for k, v in value.items() if k != tag_field}, tags[tag], path)


def _field_faults(value: Mapping[Any, Any], struct: type[Struct], path: str) -> Iterator[Fault]:
    known = {field.encode_name: field for field in fields(struct)}
    for key in value:
        if key not in known:
            allowed = ", ".join(known) or "none"
            yield Fault(f"{path}.{key}", f"unknown key{_near(str(key), known)}; allowed: {allowed}")
    for name, field in known.items():
        if name in value:
            yield from faults(value[name], field.type, f"{path}.{name}")
        elif field.required:
            yield Fault(f"{path}.{name}", "missing, it is required")


def _own_fault(value: object, kind: Any, path: str) -> Iterator[Fault]:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        text, _, inner = str(error).partition(" - at `")
        suffix = inner.removesuffix("`").removeprefix("$") if inner else ""
        allowed = _allowed(kind)
        if allowed and not suffix:
            yield Fault(path, f"expected {allowed}, got {_shown(value)}")
            return
        got = "" if ", got" in text or isinstance(value, Mapping | list) else f", got {_shown(value)}"
        yield Fault(path + suffix, text[:1].lower() + text[1:] + got)


def _allowed(kind: Any) -> str:
    """What a leaf may be, where its type says so better than msgspec's error; else ""."""
    for member in _members(kind):
        if get_origin(member) is Annotated:
            texts = [meta.description for meta in get_args(member)[1:] if isinstance(meta, msgspec.Meta)]
            if texts and texts[0]:
                return texts[0]
        if get_origin(member) is Literal:
            return "one of " + ", ".join(map(str, get_args(member)))
        if isinstance(member, type) and issubclass(member, enum.Enum):
            return "one of " + ", ".join(str(item.value) for item in member)
    return ""


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _kind_of(value: object) -> str:
    return {list: "a list", str: "a string", type(None): "nothing"}.get(type(value), _shown(value))


def _near(word: str, known: Mapping[Any, object]) -> str:
    close = difflib.get_close_matches(word, [str(name) for name in known], n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
