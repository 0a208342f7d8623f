"""Reads YAML and refuses what is doubtful: a key that stands twice, a key that is no word, tags of other programs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import yaml

from .errors import ConfigError, Fault

T = TypeVar("T")
MERGE_TAG = "tag:yaml.org,2002:merge"


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key that stands twice: YAML forbids it, PyYAML lets the last one win.

    Not the C loader: absurd nesting makes that one overflow the stack, which ends the process.
    """

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
    except RecursionError:
        raise _not_yaml("nested too deeply; a config needs less than ten levels") from None
    except Exception as error:  # PyYAML lets out whatever its constructors meet: `!!bool x` is a KeyError
        raise _not_yaml(f"a value does not fit its tag ({type(error).__name__}: {error})") from None


def _not_yaml(text: str) -> ConfigError:
    return ConfigError([Fault("$", f"not YAML: {' '.join(text.split())}")])


def _short(word: str) -> str:
    return repr(word if len(word) <= 60 else word[:57] + "...")
