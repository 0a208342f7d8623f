"""The same objects as a directory for `kubectl apply -k`, whole or on top of a base."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from os.path import relpath
from pathlib import Path
from typing import Any

import yaml

from .plan import CONFIG_FILE, ManifestError, Plan
from .text import Object, Why, document, identity, plain

KUSTOMIZATION = "kustomization.yaml"
Files = dict[str, str]
"""Text by file name."""


def files(plan: Plan, objects: Sequence[Object | Why], base: Path | None, directory: Path) -> Files:
    """What *directory* holds: one file an object, the config, and a kustomization that names them.

    With *base*, a directory that this function made, its objects are not repeated: what differs becomes a patch.
    Raises ManifestError.
    """
    known = {} if base is None else _objects_of(base)
    names = _file_names(objects)
    made: Files = {}
    resources = [] if base is None else [relpath(base, directory)]
    patches = []
    for value, name in zip(objects, names, strict=True):
        key = identity(value)
        if key[0] == "ConfigMap":
            if base is None or _config_of(base) != plan.config_text:
                made[CONFIG_FILE] = plan.config_text
        elif key not in known:
            made[name] = document(value)
            resources.append(name)
        elif known[key] != plain(value):
            made[f"patch-{name}"] = document(value)
            patches.append({"path": f"patch-{name}"})
    _check_base(base, known, objects)
    generator = [_generator(plan, base)] if CONFIG_FILE in made else []
    made[KUSTOMIZATION] = document(_kustomization(resources, patches, generator))
    return made


def write(directory: Path, contents: Files) -> None:
    """Raises ManifestError where a file cannot be written."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in contents.items():
            (directory / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ManifestError(f"--output {directory}: {error.strerror or error}") from None


def _kustomization(resources: list[str], patches: list[Any], generator: list[Any]) -> Object:
    made: Object = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": resources,
    }
    if patches:
        made["patches"] = patches
    if generator:
        made["configMapGenerator"] = generator
    return made


def _generator(plan: Plan, base: Path | None) -> Object:
    keep = "we notice an edit ourselves: a new name would restart every replica"
    return {
        "name": plan.name,
        "namespace": plan.namespace,
        **({} if base is None else {"behavior": "replace"}),
        "files": [CONFIG_FILE],
        "options": {"disableNameSuffixHash": Why(True, keep), "labels": plan.labels},
    }


def _file_names(objects: Sequence[Object | Why]) -> list[str]:
    """A kind's only object is called like the kind, others by their names too."""
    keys = [identity(value) for value in objects]
    kinds = Counter(kind for kind, _, _ in keys)
    pairs = Counter((kind, name) for kind, _, name in keys)
    made = []
    for kind, namespace, name in keys:
        parts = [kind.lower()]
        if kinds[kind] > 1:
            parts += [namespace, name] if pairs[kind, name] > 1 else [name]
        made.append("-".join(parts) + ".yaml")
    return made


def _objects_of(base: Path) -> dict[tuple[str, str, str], Any]:
    """The objects in the files of *base*."""
    found: dict[tuple[str, str, str], Any] = {}
    try:
        kustomization = yaml.safe_load((base / KUSTOMIZATION).read_text(encoding="utf-8"))
        for name in kustomization["resources"]:
            for value in yaml.safe_load_all((base / name).read_text(encoding="utf-8")):
                found[identity(value)] = value
    except OSError as error:
        raise ManifestError(f"--base {base}: {error.strerror or error}") from None
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ManifestError(f"--base {base}: not what --output writes: {reason}") from None
    return found


def _config_of(base: Path) -> str:
    try:
        return (base / CONFIG_FILE).read_text(encoding="utf-8")
    except OSError as error:
        raise ManifestError(f"--base {base}: {error.strerror or error}") from None


def _check_base(
    base: Path | None, known: dict[tuple[str, str, str], Any], objects: Sequence[Object | Why]
) -> None:
    """A base can only be added to."""
    wanted = {identity(value) for value in objects}
    for kind, namespace, name in sorted(set(known) - wanted):
        raise ManifestError(
            f"--base {base}: has {kind} {namespace}/{name}, which does not belong to these objects"
        )
