"""What was told of a collection, as far as needed to know which event is news.

Relied on: within a collection resourceVersions are decimal numbers that grow with every change (Kubernetes promises it
from 1.35, and etcd has always given them so), an event's object carries the version of its change, a deletion's too,
and what happens after a list has a greater version than the list.  Versions that are no numbers are compared for
equality alone: what is equal was told before, anything else is taken for news.

A uid alone cannot say it: an object that leaves a watch's selector is told as DELETED, and may come back.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

MAX_DELETED = 10_000
"""Deletions that are remembered.  What comes late comes within seconds: at 50 deletions a second, this is minutes."""

Key = tuple[str, str]


def newer(version: str, than: str) -> bool:
    """Whether a change of *version* came after *than*."""
    if version.isdecimal() and than.isdecimal():
        return _size(version) > _size(than)
    return version != than


def _size(version: str) -> tuple[int, str]:
    """What orders decimal numbers of any length; `int` refuses those of more than 4,300 digits."""
    digits = version.lstrip("0")
    return len(digits), digits


class Known:
    """The objects of one collection: name, uid and version of each."""

    def __init__(self, version: str = "") -> None:
        self.version = version
        """Of the list, and then of the newest event or bookmark: where a watch goes on."""
        self._listed = version
        self._objects: dict[Key, tuple[str, str]] = {}
        self._deleted: OrderedDict[str, str] = OrderedDict()

    def __len__(self) -> int:
        return len(self._objects)

    def add(self, meta: Any) -> None:
        """An item of the list."""
        self._objects[_key(meta)] = (meta.uid, meta.resource_version)

    def reached(self, version: str) -> None:
        """A bookmark, or an event: everything up to here was told."""
        if version and newer(version, self.version):
            self.version = version

    def put(self, meta: Any) -> bool:
        """An object was added or modified; whether that is news."""
        if not self._follows(meta):
            return False
        uid, version = self._objects.get(_key(meta), ("", ""))
        if version and not newer(meta.resource_version, version):
            return False
        if uid and uid != meta.uid:
            self._bury(uid, meta.resource_version)
        self._objects[_key(meta)] = (meta.uid, meta.resource_version)
        return True

    def delete(self, meta: Any) -> bool:
        """An object was deleted, or became unreadable; whether it was there."""
        if not self._follows(meta):
            return False
        uid, version = self._objects.get(_key(meta), ("", ""))
        if uid == meta.uid and newer(version, meta.resource_version):
            return False
        self._bury(meta.uid, meta.resource_version)
        if not version or uid != meta.uid:
            return False
        del self._objects[_key(meta)]
        return True

    def _follows(self, meta: Any) -> bool:
        """Whether it came after the list, and after its object's deletion."""
        version = meta.resource_version
        return newer(version, self._listed) and newer(version, self._deleted.get(meta.uid, ""))

    def _bury(self, uid: str, version: str) -> None:
        self._deleted[uid] = version
        self._deleted.move_to_end(uid)
        if len(self._deleted) > MAX_DELETED:
            self._deleted.popitem(last=False)


def _key(meta: Any) -> Key:
    return (meta.namespace, meta.name)
