"""Every fault in the shape of a value against the schema's types, each with its path.

msgspec stops at the first fault and does not say which keys are allowed; an operator wants all of them at once.
Only structure (structs, lists, mappings, unions of structs) is walked here; leaves are left to msgspec.
"""

from __future__ import annotations

import datetime
import difflib
import enum
import re
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
    item_kind = _item_kind(value, members)
    if structs and isinstance(value, Mapping):
        yield from _struct_faults(value, structs, path)
    elif structs and len(structs) == len(members):
        yield Fault(path, f"expected a mapping, got {_shown(value)}")
    elif item_kind is None or not value:
        yield from _own_fault(value, kind, path)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _own_fault(key, str, f"{path}{_step(key)}")
            yield from faults(item, item_kind, f"{path}{_step(key)}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from faults(item, item_kind, f"{path}[{index}]")


def _members(kind: Any) -> list[Any]:
    union = get_origin(kind) in (types.UnionType, Union)
    return [m for m in get_args(kind) if m is not UnsetType] if union else [kind]


def _item_kind(value: object, members: list[Any]) -> Any:
    """What the items of *value* must be, where it is a list or mapping and may be one; else None."""
    for member in members:
        origin = get_origin(member)
        if origin in (list, dict) and isinstance(value, origin):
            return get_args(member)[-1]
    return None


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
        yield Fault(f"{path}.{tag_field}", f"{_shown(tag)} is unknown{_near(tag, tags)}; allowed: {allowed}")
    else:
        yield from _field_faults(value, tags[tag], path)


def _field_faults(value: Mapping[Any, Any], struct: type[Struct], path: str) -> Iterator[Fault]:
    known = {field.encode_name: field for field in fields(struct)}
    tag_field = struct.__struct_config__.tag_field
    names = [*known] if tag_field is None else [tag_field, *known]
    for key in value:
        if key not in names:
            allowed = ", ".join(names)
            yield Fault(path + _step(key), f"unknown key{_near(str(key), known)}; allowed: {allowed}")
    for name, field in known.items():
        if name in value:
            yield from faults(value[name], field.type, f"{path}.{name}")
        elif field.required:
            yield Fault(f"{path}.{name}", "missing, it is required")


def _own_fault(value: object, kind: Any, path: str) -> Iterator[Fault]:
    if isinstance(value, str) and _SURROGATE.search(value):
        yield Fault(path, f"expected text, got a lone surrogate in {_shown(value)}")
        return
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        hint = "; put it in quotes" if str in _members(kind) and isinstance(value, _SCALARS) else ""
        yield Fault(path, f"expected {_allowed(kind)}, got {_shown(value)}{hint}")


_SURROGATE = re.compile("[\ud800-\udfff]")
"""YAML's escapes can write one; it fits into no header, metric or JSON answer."""
_SCALARS = (bool, int, float, datetime.date)
"""What YAML makes of an unquoted `yes`, `1`, `1.10` or `2026-01-31`."""
_NAMES: dict[Any, str] = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    type(None): "nothing",
    list: "a list",
    dict: "a mapping",
}


def _allowed(kind: Any) -> str:
    """What a value of type *kind* may be, in the words of those who write YAML."""
    return " or ".join(_allowed_member(member) for member in _members(kind))


def _allowed_member(kind: Any) -> str:
    if get_origin(kind) is Annotated:
        bare, *metas = get_args(kind)
        return next((meta.description for meta in metas if meta.description), None) or " ".join(
            [_allowed(bare), *(limit for meta in metas for limit in _limits(meta))]
        )
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return "one of " + ", ".join(str(item.value) for item in kind)
    return _NAMES.get(get_origin(kind) or kind, "a mapping")


def _limits(meta: msgspec.Meta) -> Iterator[str]:
    if meta.gt is not None:
        yield f"above {meta.gt}"
    if meta.ge is not None:
        yield f"from {meta.ge}"
    if meta.le is not None:
        yield f"up to {meta.le}"
    if meta.min_length is not None:
        yield f"of at least {meta.min_length}"


def _shown(value: object) -> str:
    """*value* as a message can quote it: on one line, and short whatever it holds."""
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case int() if value.bit_length() > 256:  # of some, Python refuses to make a decimal
            return "a huge integer"
        case list():
            return "a list" if value else "an empty list"
        case Mapping():
            return "a mapping"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _step(key: object) -> str:
    """One step of a path; a key that is no plain word is quoted, so that a fault stays on its line."""
    text = key if isinstance(key, str) else _shown(key)
    return f".{text}" if re.fullmatch(r"[\w./-]{1,80}", text) else f"[{_shown(text)}]"


def _near(word: str, known: Mapping[Any, object]) -> str:
    close = difflib.get_close_matches(word, [str(name) for name in known], n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
