"""Builds the API objects that speak of models, as a cluster tells them."""

from __future__ import annotations

from typing import Any

import msgspec

from extproc.config import Config, parse_config
from extproc.kube.model_objects import (
    LLM_D_GROUP,
    X_GROUP,
    InferenceModel,
    InferenceModelRewrite,
    InferenceObjective,
)
from extproc.kube.models import Merged, ModelObjects, PoolIdentity, merge

ONE = parse_config(b"pools: [{name: p, kubernetes: {inference_pool: pool}}]")
"""Pool `p`, which follows InferencePool `ns/pool`."""
TWO = parse_config(
    b"""
pools: [{name: p, kubernetes: {inference_pool: pool}}, {name: q, kubernetes: {inference_pool: other}}]
default_pool: p
"""
)
"""And pool `q`, which follows `ns/other`; models that are not listed go to `p`."""
POOLS = {"p": PoolIdentity("ns", "pool"), "q": PoolIdentity("ns", "other")}


def meta(name: str, age: int | None = 0, **more: Any) -> dict[str, Any]:
    """Metadata of an object that was made *age* hours before midnight; None: never stored."""
    created = None if age is None else f"2025-03-01T{24 - age:02}:00:00Z"
    return {"namespace": "ns", "name": name, "creationTimestamp": created, **more}


def ref(pool: str) -> dict[str, Any]:
    return {"name": pool}


def model(name: str, model_name: str, age: int = 1, pool: str = "pool", **more: Any) -> InferenceModel:
    """*more*: targetModels, criticality, poolRef, and `version`, `meta`."""
    version, metadata = more.pop("version", "v1alpha2"), more.pop("meta", {})
    spec = {"modelName": model_name, "poolRef": ref(pool), **more}
    text = {"apiVersion": f"{X_GROUP}/{version}", "metadata": meta(name, age, **metadata), "spec": spec}
    return msgspec.json.decode(msgspec.json.encode(text), type=InferenceModel)


def rewrite(
    name: str, *rules: dict[str, Any], age: int = 1, pool: str = "pool", group: str = LLM_D_GROUP
) -> InferenceModelRewrite:
    spec = {"poolRef": ref(pool), "rules": rules}
    text = {"apiVersion": f"{group}/v1alpha2", "metadata": meta(name, age), "spec": spec}
    return msgspec.json.decode(msgspec.json.encode(text), type=InferenceModelRewrite)


def rule(names: str = "", **targets: int | None) -> dict[str, Any]:
    """From *names* (none: any model) to *targets*, with weights."""
    return {
        "matches": [{"model": {"type": "Exact", "value": name}} for name in names.split()],
        "targets": [{"modelRewrite": name, "weight": weight} for name, weight in targets.items()],
    }


def objective(
    name: str, priority: int | None, pool: str = "pool", group: str = LLM_D_GROUP, age: int = 1
) -> InferenceObjective:
    spec = {"poolRef": ref(pool), "priority": priority}
    text = {"apiVersion": f"{group}/v1alpha2", "metadata": meta(name, age), "spec": spec}
    return msgspec.json.decode(msgspec.json.encode(text), type=InferenceObjective)


def merged(
    *objects: InferenceModel | InferenceModelRewrite | InferenceObjective, config: Config = ONE
) -> Merged:
    return merge(
        config,
        POOLS,
        ModelObjects(
            [each for each in objects if isinstance(each, InferenceModel)],
            [each for each in objects if isinstance(each, InferenceModelRewrite)],
            [each for each in objects if isinstance(each, InferenceObjective)],
        ),
    )


def told(of: Merged) -> dict[str, tuple[str, str, str]]:
    """By the object's name: (status, reason, message) of its condition."""
    return {
        each.object.name: (each.condition.status, each.condition.reason, each.condition.message)
        for each in of.verdicts
    }


def targets(of: Merged) -> dict[str, dict[str, int | None]]:
    """By model: the targets that the merged config gives it, with their weights."""
    return {
        each.name: {target.model: target.weight for target in each.targets or []} for each in of.config.models
    }
