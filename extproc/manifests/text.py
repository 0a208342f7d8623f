"""Kubernetes objects as YAML that says why: values can carry a comment."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import yaml
from msgspec import Struct

_PRINTABLE = r"[^\x00-\x1f\x7f-\xa0\u2028\u2029\ufeff\ud800-\udfff\ufffe\uffff]"
_LITERAL = re.compile(rf"(?! ){_PRINTABLE}+(\n+{_PRINTABLE}+)*\n?")
"""Text that a block (`|`) holds as it is: it begins with no space, ends with no empty line, and can be printed."""
_BREAKS = frozenset("\n\r\x85\u2028\u2029")
"""What YAML takes for the end of a line."""
WIDTH = 120
"""A comment that would reach further stands above its line."""
FLOW_WIDTH = 100
"""What fits, and holds no comment, is written on one line: `{name: extproc, namespace: default}`."""
FLOW_DEPTH = 3
"""As deep as a list of references; deeper nesting is unreadable on one line."""

Object = dict[str, Any]
"""A Kubernetes object; each value in it may be a `Why`."""


class Why(Struct, frozen=True):
    """A value, and the reason that is written beside it."""

    value: Any
    reason: str


def plain(value: Any) -> Any:
    """*value* without its comments: what a YAML parser makes of `document`."""
    match value:
        case Why():
            return plain(value.value)
        case Mapping():
            return {key: plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
    return value


def document(value: Object | Why) -> str:
    """One YAML document; a comment on the whole stands above it."""
    return "\n".join([*_above(value, 0), *_block(_bare(value), 0)]) + "\n"


def documents(values: Iterable[Object | Why]) -> str:
    """Several, each after a line `---` but the first."""
    return "---\n".join(document(value) for value in values)


def identity(value: Object | Why) -> tuple[str, str, str]:
    """(kind, namespace or "", name)."""
    bare = plain(value)
    return bare["kind"], bare["metadata"].get("namespace", ""), bare["metadata"]["name"]


def _bare(value: Any) -> Any:
    return value.value if isinstance(value, Why) else value


def _above(value: Any, indent: int) -> list[str]:
    if not isinstance(value, Why):
        return []
    mark = " " * indent + "# "
    return textwrap.wrap(value.reason, WIDTH - 10, initial_indent=mark, subsequent_indent=mark)


def _block(value: Any, indent: int) -> Iterator[str]:
    """The lines of a mapping or list that is not written on one line."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _entry(f"{' ' * indent}{_flow(key)}:", item, indent)
    else:
        for item in value:
            yield from _item(item, indent)


def _entry(start: str, item: Any, indent: int) -> Iterator[str]:
    bare = _bare(item)
    if isinstance(bare, str) and "\n" in bare and _LITERAL.fullmatch(bare):
        yield from [*_above(item, indent), f"{start} |{'' if bare.endswith(chr(10)) else '-'}"]
        yield from (" " * (indent + 2) + line if line else "" for line in bare.removesuffix("\n").split("\n"))
    elif _on_one_line(bare, indent):
        yield from _line(f"{start} {_flow(plain(bare))}", item, indent)
    else:
        yield from [*_above(item, indent), start]
        yield from _block(bare, indent if isinstance(bare, list | tuple) else indent + 2)


def _item(item: Any, indent: int) -> Iterator[str]:
    bare = _bare(item)
    if _on_one_line(bare, indent):
        yield from _line(f"{' ' * indent}- {_flow(plain(bare))}", item, indent)
        return
    yield from _above(item, indent)
    lines = _block(bare, indent + 2)
    for line in lines:
        if not line.startswith("#", indent + 2):
            yield f"{' ' * indent}- {line[indent + 2 :]}"
            break
        yield line.replace(" ", "", 2)  # what is said of the first entry stands above the dash
    yield from lines


def _line(line: str, item: Any, indent: int) -> list[str]:
    if not isinstance(item, Why):
        return [line]
    with_reason = f"{line}  # {item.reason}"
    return [with_reason] if len(with_reason) <= WIDTH else [*_above(item, indent), line]


def _on_one_line(value: Any, indent: int) -> bool:
    if not isinstance(value, Mapping | list | tuple) or not value:
        return True
    if _depth(value) > FLOW_DEPTH or any(_needs_lines(item) for item in _leaves(value)):
        return False
    return indent + len(_flow(plain(value))) <= FLOW_WIDTH


def _depth(value: Any) -> int:
    if isinstance(value, Why):
        return _depth(value.value)
    if not isinstance(value, Mapping | list | tuple):
        return 0
    items = value.values() if isinstance(value, Mapping) else value
    return 1 + max((_depth(item) for item in items), default=0)


def _leaves(value: Any) -> Iterator[Any]:
    """The scalars in *value*, keys too; of what carries a reason the `Why`."""
    if isinstance(value, Mapping):
        yield from value
        for item in value.values():
            yield from _leaves(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _needs_lines(leaf: Any) -> bool:
    return isinstance(leaf, Why) or (isinstance(leaf, str) and not _BREAKS.isdisjoint(leaf))


class _Dumper(yaml.SafeDumper):
    """Repeats what stands twice instead of inventing anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _flow(value: Any) -> str:
    """*value* on one line."""
    several_lines = isinstance(value, str) and not _BREAKS.isdisjoint(value)
    dumped: str = yaml.dump(
        value,
        Dumper=_Dumper,
        default_flow_style=True,
        default_style='"' if several_lines else None,
        width=float("inf"),
        sort_keys=False,
        allow_unicode=True,
    )
    return dumped.removesuffix("\n").removesuffix("...").removesuffix("\n")
