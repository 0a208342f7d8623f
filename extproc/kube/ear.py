"""Takes in what a feed tells and keeps it, so that what cannot be read any more is known to be gone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from .feeds import Feed
from .resource import Resource

T = TypeVar("T")

Report = Callable[[Resource, str, str], None]
"""Told of (resource, name of the object, what is wrong with it)."""


class Ear(Generic[T]):
    """A `reflector.Listener` that passes on what it hears as `listed`, `changed` and `deleted`."""

    def __init__(
        self,
        listed: Callable[[Sequence[T]], None],
        changed: Callable[[T], None],
        deleted: Callable[[T], None],
        report: Report,
    ) -> None:
        self._listed = listed
        self._changed = changed
        self._deleted = deleted
        self._report = report
        self._objects: dict[str, T] = {}
        self.unreadable: dict[str, str] = {}
        """What is wrong with those that cannot be read, by name."""
        self.feed: Feed | None = None
        """Set by whoever started it."""
        self.heard = False
        """Whether the collection was told once."""

    def objects(self) -> Sequence[T]:
        """Those that there are."""
        return list(self._objects.values())

    @property
    def settled(self) -> bool:
        """Whether there is nothing to wait for: it was told, or may not be asked."""
        return self.heard or (self.feed is not None and self.feed.status.state == "forbidden")

    def listed(self, _resource: Resource, objects: list[Any]) -> None:
        self._objects = {_name(each): each for each in objects}
        self.unreadable = {}
        self.heard = True
        self._listed(objects)

    def changed(self, _resource: Resource, obj: Any) -> None:
        self._objects[_name(obj)] = obj
        self.unreadable.pop(_name(obj), None)
        self._changed(obj)

    def deleted(self, _resource: Resource, obj: Any) -> None:
        self._objects.pop(_name(obj), None)
        self._deleted(obj)

    def malformed(self, resource: Resource, name: str, error: str) -> None:
        self._report(resource, name, error)
        self.unreadable[name] = error
        known = self._objects.pop(name, None)
        if known is not None:
            self._deleted(known)


def _name(obj: Any) -> str:
    return str(obj.metadata.name)
