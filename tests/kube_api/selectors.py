"""Label and field selectors, as the API's query parameters write them.

Source: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from .resources import Kind
from .status import bad_request

Matcher = Callable[[dict[str, Any]], bool]
Labels = Mapping[str, str]

_SET = re.compile(r"^(?P<key>[^\s!=,()]+)\s+(?P<op>in|notin)\s*\((?P<values>[^()]*)\)$")
_EQUAL = re.compile(r"^(?P<key>[^\s!=,()]+)\s*(?P<op>==|=|!=)\s*(?P<value>[^\s!=,()]*)$")
_EXISTS = re.compile(r"^(?P<no>!?)\s*(?P<key>[^\s!=,()]+)$")
_OUTSIDE_BRACKETS = re.compile(r",(?![^()]*\))")


def matcher(kind: Kind, label_selector: str, field_selector: str) -> Matcher:
    """Whether an object belongs to both selectors.

    Raises:
        ApiError: 400, a selector cannot be read or names a field that Kubernetes does not select by.
    """
    by_label = [
        _requirement(text.strip()) for text in _OUTSIDE_BRACKETS.split(label_selector) if text.strip()
    ]
    by_field = [_field_requirement(kind, text.strip()) for text in field_selector.split(",") if text.strip()]

    def matches(obj: dict[str, Any]) -> bool:
        labels = obj["metadata"].get("labels") or {}
        return all(one(labels) for one in by_label) and all(one(obj) for one in by_field)

    return matches


def _requirement(text: str) -> Callable[[Labels], bool]:
    if found := _SET.match(text):
        key, values = found["key"], {value.strip() for value in found["values"].split(",")}
        if found["op"] == "in":
            return lambda labels: key in labels and labels[key] in values
        return lambda labels: labels.get(key) not in values
    if found := _EQUAL.match(text):
        key, value = found["key"], found["value"]
        if found["op"] == "!=":
            return lambda labels: labels.get(key) != value
        return lambda labels: labels.get(key) == value
    if found := _EXISTS.match(text):
        key, wanted = found["key"], not found["no"]
        return lambda labels: (key in labels) is wanted
    raise bad_request(f'unable to parse requirement: found {text!r}, expected: "=", "!=", "==", "in", notin"')


_METADATA = {"metadata.name": ("metadata", "name"), "metadata.namespace": ("metadata", "namespace")}
_OF_PODS = {
    "spec.nodeName": ("spec", "nodeName"),
    "spec.restartPolicy": ("spec", "restartPolicy"),
    "spec.schedulerName": ("spec", "schedulerName"),
    "spec.serviceAccountName": ("spec", "serviceAccountName"),
    "status.phase": ("status", "phase"),
    "status.podIP": ("status", "podIP"),
}


def _field_requirement(kind: Kind, text: str) -> Matcher:
    fields = _METADATA | (_OF_PODS if kind.plural == "pods" else {})
    found = _EQUAL.match(text)
    if not found:
        raise bad_request(f"invalid selector: '{text}'; can't understand '{text}'")
    if found["key"] not in fields:
        raise bad_request(
            f'Unable to find "{kind.qualified}" that match: field label not supported: {found["key"]}'
        )
    (outer, inner), value, wanted = fields[found["key"]], found["value"], found["op"] != "!="
    return lambda obj: ((obj.get(outer, {}).get(inner) or "") == value) is wanted
