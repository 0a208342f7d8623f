"""Labels of nodes, carried over to the endpoints that run there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from .claims import Owner
from .objects import Node

NOTHING: Mapping[str, str] = {}


class NodeLabels:
    """The *wanted* labels of every node, and who runs where.  Of no wanted labels, nothing is kept."""

    def __init__(self, wanted: Iterable[str]) -> None:
        self.wanted = frozenset(wanted)
        self._labels: dict[str, dict[str, str]] = {}
        self._users: dict[str, dict[Owner, None]] = {}

    def of(self, node: str) -> Mapping[str, str]:
        """The wanted labels of *node*; none where it is not known yet."""
        return self._labels.get(node, NOTHING)

    def move(self, user: Owner, old: str, new: str) -> None:
        """*user* runs on the node *new* from now on, no longer on *old*; "" is nowhere."""
        if old == new or not self.wanted:
            return
        if old:
            users = self._users[old]
            del users[user]
            if not users:
                del self._users[old]
        if new:
            self._users.setdefault(new, {})[user] = None

    def listed(self, nodes: Iterable[Node]) -> Sequence[Owner]:
        """*nodes* are all that there are; answers whose labels changed by that."""
        found = {node.metadata.name: self._read(node) for node in nodes} if self.wanted else {}
        return [
            user
            for name in (*found, *(name for name in self._labels if name not in found))
            for user in self._set(name, found.get(name, {}))
        ]

    def changed(self, node: Node) -> Sequence[Owner]:
        """A node is new, or as it says now; answers whose labels changed by that."""
        return self._set(node.metadata.name, self._read(node)) if self.wanted else ()

    def deleted(self, node: Node) -> Sequence[Owner]:
        return self._set(node.metadata.name, {})

    def _read(self, node: Node) -> dict[str, str]:
        return {name: value for name, value in node.metadata.labels.items() if name in self.wanted}

    def _set(self, name: str, labels: dict[str, str]) -> Sequence[Owner]:
        if labels == self._labels.get(name, NOTHING):
            return ()
        if labels:
            self._labels[name] = labels
        else:
            del self._labels[name]
        return tuple(self._users.get(name, ()))
