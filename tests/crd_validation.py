"""What an API server checks in an object before it stores it: the schema of its kind, and the CRD's CEL rules.

Structural: unknown fields, types, enums, patterns, required fields, ranges, lengths; defaults are filled in first, as
CEL rules look at them.  Rules that compare with an earlier version (`oldSelf`) do not apply to what is created.
"""

from __future__ import annotations

import copy
import functools
import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SCHEMAS = Path(__file__).parent / "data" / "crds"
TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "null": type(None),
}
CEL_RESERVED = frozenset(
    ("true", "false", "null", "in", "as", "for", "function", "if", "import", "namespace", "return")
)
"""Words of the language that fields of our schemas are called, too."""
Schema = dict[str, Any]


class CelRules:
    """Evaluates rules, each compiled once, and remembers how many."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its parser generator
            import celpy

        self._celpy = celpy
        self._environment = celpy.Environment()
        self._programs: dict[str, Any] = {}
        self.evaluated = 0
        self.not_evaluated: set[str] = set()

    def holds(self, rule: str, value: Any) -> bool:
        """True also where the rule cannot be evaluated, which is remembered."""
        try:
            if rule not in self._programs:
                self._programs[rule] = self._environment.program(self._environment.compile(rule))
            result = self._programs[rule].evaluate({"self": self._celpy.json_to_cel(value)})
            if isinstance(result, Exception):
                raise result
        except Exception as error:
            self.not_evaluated.add(f"{rule}: {error!r}")
            return True
        self.evaluated += 1
        return bool(result)


@functools.cache
def cel_rules() -> CelRules:
    """One for all tests: compiling is what takes time."""
    return CelRules()


@functools.cache
def custom_kinds() -> dict[tuple[str, str], Path]:
    """The schema file of each (apiVersion, kind)."""
    found = {}
    for path in SCHEMAS.glob("*_*_*.json"):
        group, kind, version = path.stem.split("_")
        found[f"{group}/{version}", kind] = path
    return found


@functools.cache
def _custom_schema(path: Path) -> Schema:
    schema: Schema = json.loads(path.read_text())["schema"]
    schema["properties"]["metadata"] = {"$ref": "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}
    return schema


@functools.cache
def _core() -> dict[str, Any]:
    core: dict[str, Any] = json.loads((SCHEMAS / "kubernetes-1.37.json").read_text())
    return core


def has_schema(document: dict[str, Any]) -> bool:
    return _schema_of(document) is not None


def _schema_of(document: dict[str, Any]) -> Schema | None:
    key = document["apiVersion"], document["kind"]
    if key in custom_kinds():
        return _custom_schema(custom_kinds()[key])
    name = _core()["kinds"].get(" ".join(key))
    return None if name is None else {"$ref": name}


def errors(document: dict[str, Any]) -> list[str]:
    """Why an API server would refuse *document*; empty: it would not."""
    schema = _schema_of(document)
    if schema is None:
        return [f"no schema for {document['apiVersion']} {document['kind']}"]
    whole = copy.deepcopy(document)
    _fill_defaults(schema, whole)
    name = f"{document['kind']}/{document['metadata']['name']}"
    # Like an API server: rules are asked about objects of the right shape only.
    return list(_errors(schema, whole, name)) or list(_rule_errors(schema, whole, name))


def _resolved(schema: Schema) -> Schema:
    while "$ref" in schema:
        schema = _core()["definitions"][schema["$ref"]]
    return schema


def _fill_defaults(schema: Schema, value: Any) -> None:
    schema = _resolved(schema)
    if isinstance(value, dict):
        for name, inner in schema.get("properties", {}).items():
            if name not in value and "default" in _resolved(inner):
                value[name] = copy.deepcopy(_resolved(inner)["default"])
        for name, item in value.items():
            _fill_defaults(_of_field(schema, name) or {}, item)
    elif isinstance(value, list):
        for item in value:
            _fill_defaults(schema.get("items", {}), item)


def _of_field(schema: Schema, name: str) -> Schema | None:
    """The schema of a field; None: it is unknown."""
    if name in schema.get("properties", {}):
        return schema["properties"][name]
    more = schema.get("additionalProperties")
    if isinstance(more, dict):
        return more
    free = more is True or schema.get("x-kubernetes-preserve-unknown-fields") or not schema
    return {} if free else None


def _errors(schema: Schema, value: Any, path: str) -> Iterator[str]:
    schema = _resolved(schema)
    if schema.get("x-kubernetes-int-or-string"):
        if not isinstance(value, int | str) or isinstance(value, bool):
            yield f"{path}: {value!r} is neither integer nor string"
            return
    elif "oneOf" in schema and not any(_fits_type(option, value) for option in schema["oneOf"]):
        yield f"{path}: {value!r} is of no type that is allowed"
        return
    elif not _fits_type(schema, value):
        yield f"{path}: {value!r} is no {schema['type']}"
        return
    for part in (schema, *schema.get("allOf", [])):
        yield from _value_errors(part, value, path)
    if isinstance(value, dict):
        yield from _field_errors(schema, value, path)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _errors(schema.get("items", {}), item, f"{path}[{index}]")


def _rule_errors(schema: Schema, value: Any, path: str) -> Iterator[str]:
    schema = _resolved(schema)
    for rule in schema.get("x-kubernetes-validations", []):
        if "oldSelf" not in rule["rule"] and not cel_rules().holds(rule["rule"], _for_cel(schema, value)):
            yield f"{path}: {rule.get('message') or rule['rule']}"
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _rule_errors(_of_field(schema, name) or {}, item, f"{path}.{name}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _rule_errors(schema.get("items", {}), item, f"{path}[{index}]")


def _fits_type(schema: Schema, value: Any) -> bool:
    wanted = schema.get("type")
    if wanted is None:
        return True
    names = wanted if isinstance(wanted, list) else [wanted]
    if isinstance(value, bool):
        return "boolean" in names
    return any(isinstance(value, TYPES[name]) for name in names)


def _value_errors(schema: Schema, value: Any, path: str) -> Iterator[str]:
    if "enum" in schema and value not in schema["enum"]:
        yield f"{path}: {value!r} is none of {schema['enum']}"
    if isinstance(value, str):
        if "pattern" in schema and not re.search(schema["pattern"], value):
            yield f"{path}: {value!r} does not match {schema['pattern']}"
        yield from _size_errors(schema, len(value), "Length", path)
    elif isinstance(value, list):
        yield from _size_errors(schema, len(value), "Items", path)
        if schema.get("x-kubernetes-list-type") == "set" and len(set(map(repr, value))) < len(value):
            yield f"{path}: an item stands twice"
        keys = schema.get("x-kubernetes-list-map-keys")
        if keys and len({tuple(item.get(key) for key in keys) for item in value}) < len(value):
            yield f"{path}: {', '.join(keys)} stands twice"
    elif isinstance(value, dict):
        yield from _size_errors(schema, len(value), "Properties", path)
    elif isinstance(value, int | float) and not schema.get("minimum", value) <= value <= schema.get(
        "maximum", value
    ):
        yield f"{path}: {value} is out of range"


def _size_errors(schema: Schema, size: int, what: str, path: str) -> Iterator[str]:
    if size < schema.get(f"min{what}", size) or size > schema.get(f"max{what}", size):
        yield f"{path}: {size} is out of the range of its size"


def _field_errors(schema: Schema, value: dict[str, Any], path: str) -> Iterator[str]:
    for name in schema.get("required", []):
        if name not in value:
            yield f"{path}: {name} is missing"
    for name, item in value.items():
        inner = _of_field(schema, name)
        if inner is None:
            yield f"{path}: unknown field {name}"
        else:
            yield from _errors(inner, item, f"{path}.{name}")


def _for_cel(schema: Schema, value: Any) -> Any:
    """*value* with the fields of its schema spelled as CEL must spell them."""
    schema = _resolved(schema)
    if isinstance(value, list):
        return [_for_cel(schema.get("items", {}), item) for item in value]
    if not isinstance(value, dict):
        return value
    declared = schema.get("properties", {})
    return {
        (f"__{name}__" if name in declared and name in CEL_RESERVED else name): _for_cel(
            _of_field(schema, name) or {}, item
        )
        for name, item in value.items()
    }
