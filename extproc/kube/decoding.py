"""Decodes what lists and watches bring, object by object: one that cannot be read harms no other."""

from __future__ import annotations

from typing import Any

from msgspec import DecodeError, Raw, Struct
from msgspec.json import Decoder

from .failures import MAX_DETAIL, Action, KubeError, Malformed, Status, failure
from .objects import Lenient, Nullable
from .resource import Resource

TYPES = frozenset(("ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"))
UNREADABLE = (DecodeError, RecursionError, ValueError)
"""What msgspec raises: too deep for it is a RecursionError, bytes that are no UTF-8 a ValueError."""


class Meta(Lenient, frozen=True):
    """What of its metadata is needed to follow an object."""

    name: Nullable[str] = ""
    namespace: Nullable[str] = ""
    uid: Nullable[str] = ""
    resource_version: Nullable[str] = ""


class _Bare(Struct):
    metadata: Meta


class Event(Struct):
    """A line of a watch."""

    type: str
    object: Raw


class Item(Struct):
    """An object, or why it cannot be read."""

    obj: Any
    meta: Any
    """The object's own, or as much of it as can be read."""
    error: str = ""
    name: str = ""
    """Of what cannot be read, with its namespace where all namespaces are followed."""


_event = Decoder(Event)
_bare = Decoder(_Bare)
_status = Decoder(Status)


class ObjectDecoder:
    """For one collection."""

    def __init__(self, resource: Resource) -> None:
        self._resource = resource
        self._decoder: Decoder[Any] = Decoder(resource.kind)

    def item(self, raw: Raw) -> Item:
        try:
            obj = self._decoder.decode(raw)
        except UNREADABLE as error:
            meta = _meta(raw)
            everywhere = self._resource.namespace is None and meta.namespace
            name = f"{meta.namespace}/{meta.name}" if everywhere else meta.name
            return Item(None, meta, str(error)[:MAX_DETAIL], name)
        return Item(obj, obj.metadata)

    def event(self, line: bytes) -> Event:
        """Raises Malformed."""
        try:
            event = _event.decode(line)
        except UNREADABLE as error:
            raise self.malformed(error) from None
        if event.type not in TYPES:
            raise self.malformed(f"an event of type {event.type[:20]!r}")
        return event

    def bookmark(self, raw: Raw) -> str:
        """Its resourceVersion.  Raises Malformed where it has none."""
        version = _meta(raw).resource_version
        if not version:
            raise self.malformed("a bookmark without resourceVersion")
        return version

    def failure(self, raw: Raw) -> KubeError:
        """What an event of type ERROR says."""
        try:
            code = _status.decode(raw).code or 500
        except UNREADABLE as error:
            return self.malformed(error)
        return failure(Action("watch", self._resource), code, bytes(raw))

    def malformed(self, why: object) -> Malformed:
        """For what makes the whole watch untrustworthy."""
        return Malformed(f"cannot watch {self._resource}: {why}"[:MAX_DETAIL])


def _meta(raw: Raw) -> Meta:
    try:
        return _bare.decode(raw).metadata
    except UNREADABLE:
        return Meta()
