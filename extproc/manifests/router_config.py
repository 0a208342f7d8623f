"""The config that goes with pools of which no config file speaks."""

from __future__ import annotations

import enum
from typing import Any

from msgspec import Struct, structs

from ..config.load import parse_config
from ..config.schema import Config, KubernetesConfig, PoolConfig
from .plan import Target
from .text import Object, Why, document

FALLBACKS = 2
"""A pod may refuse, and the next one too; more would walk through a failing pool at the client's cost."""


def generated(
    services: list[PoolConfig], found: Config | None, namespace: str, target: Target, inline: bool
) -> tuple[Config, str]:
    """(config, text) of pools that are *services* and of those *found* in documents.

    *inline*: pods and models of the documents go into the config, for clusters that know no InferencePool; else the
    config names the InferencePools, and what the cluster says of them counts.
    """
    others = [] if found is None else [_found(pool, namespace, inline) for pool in found.pools]
    fallbacks = 0 if target == "ai-gateway" else FALLBACKS
    pools = [structs.replace(pool, fallback_endpoints=fallbacks) for pool in (*services, *others)]
    config = Config(pools)
    if inline and found is not None:
        config = structs.replace(config, models=found.models, objectives=found.objectives)
    text = document(_lines(config, target))
    return parse_config(text.encode()), text


def _found(pool: PoolConfig, namespace: str, inline: bool) -> PoolConfig:
    """*pool* of a document, which has a selector and ports."""
    source = pool.kubernetes or KubernetesConfig()
    elsewhere = source.namespace if source.namespace != namespace else None
    if inline:
        source = structs.replace(source, namespace=elsewhere)
    else:
        source = KubernetesConfig(inference_pool=pool.name, namespace=elsewhere)
    return structs.replace(pool, kubernetes=source)


def _lines(config: Config, target: Target) -> Object:
    why = "pods that follow the chosen one in the pin; each retry takes the next"
    if target == "ai-gateway":
        why = "this gateway takes one endpoint, and answers 503 to a list"
    made: Object = _given(config)
    for pool, lines in zip(config.pools, made["pools"], strict=True):
        lines["fallback_endpoints"] = Why(pool.fallback_endpoints, why)
    if len(config.pools) > 1:
        made["default_pool"] = Why(None, "requests for models that nobody lists are refused; or name a pool")
    return made


def _given(value: Any) -> Any:
    """A config as a file would say it: what is not the default."""
    match value:
        case Struct():
            fields = structs.fields(type(value))
            pairs = [(field.name, getattr(value, field.name), _default(field)) for field in fields]
            return {name: _given(item) for name, item, default in pairs if item != default}
        case enum.Enum():
            return value.value
        case list() | tuple():
            return [_given(item) for item in value]
    return value


def _default(field: structs.FieldInfo) -> Any:
    return field.default_factory() if callable(field.default_factory) else field.default
