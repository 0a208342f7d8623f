"""Which labels the result of a PromQL expression has, by those of the series in it: a small type checker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import promql_parser as promql

Labels = frozenset[str]
SETS = ("and", "or", "unless")


class Mismatch(AssertionError):
    """The expression names what is not there, or matches series that never fit."""


def labels(expression: str, known: Mapping[str, Labels]) -> Labels | None:
    """Of its result; None: a scalar.  *known*: labels by the names of series.  Raises Mismatch."""
    return _labels(promql.parse(expression), known)


def selectors(expression: str) -> list[promql.VectorSelector]:
    """All in it."""
    found: list[promql.VectorSelector] = []

    def visit(node: promql.Expr) -> None:
        if isinstance(node, promql.MatrixSelector):
            found.append(node.vector_selector)
        elif isinstance(node, promql.VectorSelector):
            found.append(node)

    promql.walk(promql.parse(expression), visit)
    return list({str(each): each for each in found}.values())


def _labels(node: Any, known: Mapping[str, Labels]) -> Labels | None:
    match node:
        case promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
            return _labels(node.expr, known)
        case promql.NumberLiteral():
            return None
        case promql.MatrixSelector():
            return _labels(node.vector_selector, known)
        case promql.VectorSelector():
            return _selected(node, known)
        case promql.AggregateExpr():
            return _aggregated(node, known)
        case promql.Call():
            return _called(node, known)
        case promql.BinaryExpr():
            return _combined(node, known)
    raise Mismatch(f"what is {type(node).__name__}?")


def _selected(node: promql.VectorSelector, known: Mapping[str, Labels]) -> Labels:
    if node.name is None or node.name not in known:
        raise Mismatch(f"no series {node.name}")
    there = known[node.name]
    unknown = {matcher.name for matcher in node.matchers.matchers} - there
    if unknown:
        raise Mismatch(f"{node.name} has no label {', '.join(sorted(unknown))}")
    return there


def _aggregated(node: promql.AggregateExpr, known: Mapping[str, Labels]) -> Labels:
    inner = _labels(node.expr, known)
    assert inner is not None
    if node.modifier is None:
        return frozenset()
    named = frozenset(node.modifier.labels)
    if named - inner:
        raise Mismatch(f"{node.expr.prettify()} has no label {', '.join(sorted(named - inner))}")
    return named if node.modifier.type == promql.AggModifierType.By else inner - named


def _called(node: promql.Call, known: Mapping[str, Labels]) -> Labels | None:
    inner = [found for found in (_labels(each, known) for each in node.args) if found is not None]
    match node.func.name:
        case "scalar" | "time":
            return None
        case "vector" | "absent":
            return frozenset()
        case "histogram_quantile":
            if "le" not in inner[0]:
                raise Mismatch(f"no buckets: {node.prettify()}")
            return inner[0] - {"le"}
    return inner[0]


def _combined(node: promql.BinaryExpr, known: Mapping[str, Labels]) -> Labels | None:
    left, right = _labels(node.lhs, known), _labels(node.rhs, known)
    if left is None or right is None:
        return right if left is None else left
    matched = _matched(node, left, right)
    if str(node.op) in SETS:
        return left & right if str(node.op) == "or" else left
    card = node.modifier.card if node.modifier else promql.VectorMatchCardinality.OneToOne
    more = frozenset((node.modifier.group_labels if node.modifier else None) or ())
    if card == promql.VectorMatchCardinality.ManyToOne:
        return left | _there(more, right)
    if card == promql.VectorMatchCardinality.OneToMany:
        return right | _there(more, left)
    return matched


def _matched(node: promql.BinaryExpr, left: Labels, right: Labels) -> Labels:
    """The labels by which both sides are matched."""
    matching = node.modifier.matching if node.modifier else None
    if matching is not None:
        on = frozenset(matching.labels)
        return _there(on, left) and _there(on, right)
    if left != right and str(node.op) != "or":
        raise Mismatch(f"{sorted(left)} never match {sorted(right)}: {node.prettify()}")
    return left


def _there(named: Labels, labels: Labels) -> Labels:
    if named - labels:
        raise Mismatch(f"no label {', '.join(sorted(named - labels))}")
    return named
