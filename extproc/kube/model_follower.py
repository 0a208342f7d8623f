"""Follows the objects that speak of models, in the namespaces of the InferencePools that are followed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from .ear import Ear, Report
from .feeds import Feed, Feeds
from .model_objects import (
    LLM_D_GROUP,
    X_GROUP,
    InferenceModel,
    InferenceModelRewrite,
    InferenceObjective,
    ModelObject,
)
from .models import ModelObjects
from .resource import Resource

KINDS: tuple[tuple[str, str, type[ModelObject]], ...] = (
    (X_GROUP, "v1alpha2", InferenceModel),
    (X_GROUP, "v1alpha1", InferenceModel),
    (LLM_D_GROUP, "v1alpha2", InferenceModelRewrite),
    (X_GROUP, "v1alpha2", InferenceModelRewrite),
    (LLM_D_GROUP, "v1alpha2", InferenceObjective),
    (X_GROUP, "v1alpha2", InferenceObjective),
)
"""(group, version, kind)."""


class _ModelEar(Ear[Any]):
    """Tells what asks for something else from what only has another status: we write to each object's ourselves."""

    def __init__(
        self, heard: Callable[[object], None], restated: Callable[[ModelObject], None], report: Report
    ) -> None:
        super().__init__(heard, heard, heard, report)
        self._restated = restated

    def changed(self, resource: Resource, obj: Any) -> None:
        before = self._objects.get(obj.metadata.name)
        if before is None or _claim(before) != _claim(obj):
            super().changed(resource, obj)
            return
        self._objects[obj.metadata.name] = obj
        self._restated(obj)


def _claim(obj: Any) -> tuple[object, ...]:
    """All of *obj* that what comes of it depends on."""
    meta = obj.metadata
    return meta.uid, meta.generation, meta.creation_timestamp, obj.spec


class ModelFollower:
    """What the API tells of models; `stop` it."""

    def __init__(
        self,
        namespaces: frozenset[str],
        feeds: Feeds,
        told: Callable[[], None],
        restated: Callable[[ModelObject], None],
        report: Report,
    ) -> None:
        """*told* of what changes what is asked for; *restated* of an object that asks for the same as before."""
        self.namespaces = namespaces
        self._told = told
        self._ears: list[_ModelEar] = []
        for namespace in sorted(namespaces):
            for group, version, kind in KINDS:
                ear = _ModelEar(self._heard, restated, report)
                self._ears.append(ear)
                ear.feed = feeds.start(Resource(group, version, kind.PLURAL, namespace, kind), ear)

    def _heard(self, _told: object) -> None:
        if self.told:
            self._told()

    def look(self) -> None:
        """A feed's state has changed: there may be nothing more to wait for."""
        self._heard(None)

    @property
    def told(self) -> bool:
        """Whether all collections were told, or may not be asked for."""
        return all(ear.settled for ear in self._ears)

    def objects(self) -> ModelObjects:
        """All that there are; one that the API has in two versions is there twice."""
        objects: list[ModelObject] = [each for ear in self._ears for each in ear.objects()]
        return ModelObjects(
            models=[each for each in objects if isinstance(each, InferenceModel)],
            rewrites=[each for each in objects if isinstance(each, InferenceModelRewrite)],
            objectives=[each for each in objects if isinstance(each, InferenceObjective)],
        )

    def feeds(self) -> Iterator[Feed]:
        for ear in self._ears:
            if ear.feed is not None:
                yield ear.feed

    def stop(self) -> None:
        """Nothing is told any more."""
        for feed in self.feeds():
            feed.stop()
