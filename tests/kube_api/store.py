"""What the played API server remembers: objects, one counter of revisions, and a window of past changes.

Source: https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from .resources import Kind
from .selectors import Matcher
from .status import expired_watch

FIRST_VERSION = 998
"""Not 0, and one digit is gained early: versions compared as text would come in the wrong order."""

_encode = msgspec.json.encode
Key = tuple[str, str]


def copied(obj: Any) -> Any:
    """A deep copy, and a proof that it is JSON."""
    return msgspec.json.decode(_encode(obj))


@dataclass(eq=False)
class Stored:
    """One revision of one object: never changed, encoded once a form."""

    kind: Kind
    content: dict[str, Any]
    """Without kind and apiVersion, which depend on the version that is asked for."""
    _encoded: dict[tuple[str, bool], bytes] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        metadata = self.content["metadata"]
        return (metadata.get("namespace", ""), metadata["name"])

    @property
    def revision(self) -> int:
        return int(self.content["metadata"]["resourceVersion"])

    def typed(self, version: str) -> dict[str, Any]:
        return {"kind": self.kind.name, "apiVersion": self.kind.api_version(version), **self.content}

    def json(self, version: str, typed: bool = True) -> bytes:
        """As a GET answers it; untyped, as items of a list of a built-in kind are."""
        form = (version, typed)
        if form not in self._encoded:
            self._encoded[form] = _encode(self.typed(version) if typed else self.content)
        return self._encoded[form]

    def at(self, revision: int) -> Stored:
        """The same content under another revision, as Kubernetes tells of what is deleted."""
        metadata = self.content["metadata"] | {"resourceVersion": str(revision)}
        return Stored(self.kind, self.content | {"metadata": metadata})


@dataclass(eq=False)
class Change:
    """One write. `before` is None for what began, `now` is None for what ended."""

    kind: Kind
    revision: int
    before: Stored | None
    now: Stored | None
    _lines: dict[tuple[str, str], bytes] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        stored = self.now or self.before
        assert stored
        return stored.key

    def seen(self, matches: Matcher) -> str:
        """The event's type for a watch with this selector: "" where it sees nothing of it."""
        was = self.before is not None and matches(self.before.content)
        now = self.now is not None and matches(self.now.content)
        return {(False, True): "ADDED", (True, True): "MODIFIED", (True, False): "DELETED"}.get(
            (was, now), ""
        )

    def line(self, event: str, version: str) -> bytes:
        """The event as one line, encoded once for all watches. Deleted is told with the last content seen."""
        form = (event, version)
        if form not in self._lines:
            stored = self.before.at(self.revision) if event == "DELETED" and self.before else self.now
            assert stored
            self._lines[form] = event_line(event, stored.json(version))
        return self._lines[form]


def event_line(event: str, json: bytes) -> bytes:
    return b'{"type":"' + event.encode() + b'","object":' + json + b"}\n"


class Store:
    """All objects; tells `on_change` of each write.

    Attributes:
        window: how many changes of a collection are remembered, as the server's watch cache does.
    """

    def __init__(self, on_change: Callable[[Change], None], window: int) -> None:
        self.version = FIRST_VERSION
        self.window = window
        self._on_change = on_change
        self._objects: dict[tuple[str, str], dict[Key, Stored]] = {}
        self._past: dict[tuple[str, str], deque[Change]] = {}
        self._forgotten: dict[tuple[str, str], int] = {}
        self._compacted = 0

    def get(self, kind: Kind, namespace: str, name: str) -> Stored | None:
        return self._objects.get(kind.key, {}).get((namespace, name))

    def select(self, kind: Kind, matches: Matcher) -> list[Stored]:
        """In the order of namespace and name, as etcd keeps them."""
        objects = self._objects.get(kind.key, {})
        return [objects[key] for key in sorted(objects) if matches(objects[key].content)]

    def write(self, kind: Kind, content: dict[str, Any]) -> Stored:
        """Puts this content under a new revision; a content that changes nothing writes nothing."""
        objects = self._objects.setdefault(kind.key, {})
        metadata = content["metadata"]
        key = (metadata.get("namespace", ""), metadata["name"])
        before = objects.get(key)
        if before:
            metadata = metadata | {"resourceVersion": before.content["metadata"]["resourceVersion"]}
            if content | {"metadata": metadata} == before.content:
                return before
        self.version += 1
        stamped = content | {"metadata": metadata | {"resourceVersion": str(self.version)}}
        objects[key] = Stored(kind, stamped)
        self._tell(Change(kind, self.version, before, objects[key]))
        return objects[key]

    def remove(self, kind: Kind, namespace: str, name: str) -> Stored:
        """KeyError where there is none."""
        before = self._objects.get(kind.key, {}).pop((namespace, name))
        self.version += 1
        self._tell(Change(kind, self.version, before, None))
        return before

    def _tell(self, change: Change) -> None:
        past = self._past.setdefault(change.kind.key, deque())
        past.append(change)
        while len(past) > self.window:
            self._forgotten[change.kind.key] = past.popleft().revision
        self._on_change(change)

    def since(self, kind: Kind, version: int) -> list[Change]:
        """The changes after a revision, oldest first.

        Raises:
            ApiError: 410, they are not remembered any more.
        """
        oldest = max(self._compacted, self._forgotten.get(kind.key, 0))
        if version < oldest:
            raise expired_watch(version, oldest)
        return [change for change in self._past.get(kind.key, ()) if change.revision > version]

    def compact(self) -> None:
        """Forgets the past. Something changes elsewhere first, so that no client's revision is the latest."""
        self.version += 1
        self._compacted = self.version
        self._past.clear()

    def remembers(self, version: int) -> bool:
        return version >= self._compacted

    def drop_kind(self, kind: Kind) -> None:
        """A CRD is taken away: its objects are deleted, one by one."""
        for namespace, name in sorted(self._objects.get(kind.key, {})):
            self.remove(kind, namespace, name)
