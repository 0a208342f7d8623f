"""YAML with comments: what is read back is what was written, and each reason stands beside its value."""

from __future__ import annotations

from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from extproc.manifests.text import Why, document, documents, plain

TEXTS = st.one_of(
    st.text(max_size=12),
    st.text("ab: -#'\"\n {[,", max_size=12),
    st.sampled_from(
        ["yes", "1", "1.10", "null", "~", "", "a\n\nb\n", " a\n", "a\n ", "a:\tb\nc", "2026-01-31", "\x85\n"]
    ),
)
SCALARS = st.one_of(TEXTS, st.integers(), st.booleans(), st.none())
REASONS = st.text("because of it # : ", min_size=1, max_size=200)


def _maybe_why(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(values, st.builds(Why, values, REASONS))


TREES = st.recursive(
    _maybe_why(SCALARS),
    lambda inner: _maybe_why(
        st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4))
    ),
    max_leaves=12,
)


@given(st.dictionaries(TEXTS, TREES, min_size=1, max_size=4))
def test_what_is_read_back_is_what_was_written(tree: dict[str, Any]) -> None:
    assert yaml.safe_load(document(tree)) == plain(tree)


def test_a_short_reason_stands_behind_and_a_long_one_above() -> None:
    long = "because " * 15
    assert document({"a": Why(1, "why"), "b": Why(2, long)}) == (
        f"a: 1  # why\n# {' '.join(['because'] * 13)}\n# because because\nb: 2\n"
    )


def test_what_is_short_and_has_no_reason_is_one_line() -> None:
    assert document({"spec": {"ports": [{"name": "http", "port": 80}], "none": [], "on": "yes"}}) == (
        "spec: {ports: [{name: http, port: 80}], none: [], 'on': 'yes'}\n"
    )


def test_the_reason_of_an_items_first_field_stands_above_the_item() -> None:
    tree = {"rules": [{"from": Why([{"a": {"b": Why(1, "x")}}], "where Envoy runs"), "ports": [1]}]}
    assert document(tree) == ("rules:\n# where Envoy runs\n- from:\n  - a:\n      b: 1  # x\n  ports: [1]\n")


def test_text_of_several_lines_is_a_block() -> None:
    assert document({"data": {"f": Why("a: 1\n\n  b\n", "ours")}}) == (
        "data:\n  # ours\n  f: |\n    a: 1\n\n      b\n"
    )


def test_documents_are_divided() -> None:
    assert documents([{"a": 1}, Why({"b": 2}, "second")]) == "a: 1\n---\n# second\nb: 2\n"
