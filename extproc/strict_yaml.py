"""Reads YAML and refuses what is doubtful: a key that stands twice, a key that is no word, tags of other programs.

And what is meant to do harm: a few lines of which aliases make millions, nesting without end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import yaml

from .errors import ConfigError, Fault

T = TypeVar("T")
MERGE_TAG = "tag:yaml.org,2002:merge"
MAX_LEVELS: Final = 64
"""A config needs less than ten.  PyYAML looks at all that are open for each bracket more."""
MAX_ALIASED: Final = 10_000
ALIASED_FACTOR: Final = 10
"""Values that aliases stand for, written out: so many at least, or so many times those that are written.  It is these
that the checks walk through; without a limit 5 KB of aliases in lists of aliases are a minute and gigabytes."""


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key that stands twice: YAML forbids it, PyYAML lets the last one win.

    Not the C loader: absurd nesting makes that one overflow the stack, which ends the process.
    """

    def __init__(self, stream: bytes) -> None:
        super().__init__(stream)
        self._levels = 0
        self._written = 0
        self._aliased = 0
        self._sizes: dict[str, int] = {}
        """Values under each anchor, written out; without one that is not complete."""

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            self._count_alias(event)
            return super().compose_node(parent, index)
        self._levels += 1
        if self._levels > MAX_LEVELS:
            raise _too_deep(event.start_mark)
        before = self._written + self._aliased
        self._written += 1
        self._sizes.pop(event.anchor, None)  # an earlier document's
        node = super().compose_node(parent, index)
        self._sizes[event.anchor] = self._written + self._aliased - before
        self._levels -= 1
        return node

    def fetch_flow_collection_start(self, token: Any) -> None:
        """Here, too: the scanner looks ahead a thousand brackets before the first is composed."""
        if self.flow_level >= MAX_LEVELS:
            raise _too_deep(self.get_mark())
        super().fetch_flow_collection_start(token)

    def _count_alias(self, event: Any) -> None:
        if event.anchor in self.anchors and event.anchor not in self._sizes:
            raise yaml.MarkedYAMLError(
                problem="an alias inside of what it stands for", problem_mark=event.start_mark
            )
        self._aliased += self._sizes.get(event.anchor, 0)
        if self._aliased > MAX_ALIASED + ALIASED_FACTOR * self._written:
            raise yaml.MarkedYAMLError(problem="aliases make too much of it", problem_mark=event.start_mark)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Checked here, before merge keys (`<<`) put the keys of others beside those that stand in the file."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key must be a word", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key {_short(key.value)} stands twice", problem_mark=key.start_mark
                )
            if key.tag == MERGE_TAG and not isinstance(value, yaml.MappingNode):
                raise yaml.MarkedYAMLError(problem="<< takes one mapping", problem_mark=key.start_mark)
            seen.add(key.value)
        return node


def _too_deep(mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(
        problem="nested too deeply; a config needs less than ten levels", problem_mark=mark
    )


def parse(text: bytes) -> object:
    """The one document in *text*; raises ConfigError."""
    return _parsed(lambda: yaml.load(text, Loader=_StrictLoader))


def parse_all(text: bytes) -> list[object]:
    """The documents in *text*; raises ConfigError."""
    return _parsed(lambda: list(yaml.load_all(text, Loader=_StrictLoader)))


def _parsed(read: Callable[[], T]) -> T:
    try:
        return read()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise _not_yaml(f"{where}{error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise _not_yaml(str(error)) from None
    except Exception as error:  # PyYAML lets out whatever its constructors meet: `!!bool x` is a KeyError
        raise _not_yaml(f"a value does not fit its tag ({type(error).__name__}: {error})") from None


def _not_yaml(text: str) -> ConfigError:
    return ConfigError([Fault("$", f"not YAML: {' '.join(text.split())}")])


def _short(word: str) -> str:
    return repr(word if len(word) <= 60 else word[:57] + "...")
