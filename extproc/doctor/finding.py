"""What a check says, and what a check is."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator

from msgspec import Struct

from .setup import Setup


class Severity(enum.Enum):
    """How much it hurts; `serious` fails requests or sends them to the wrong pod, now or at the next load."""

    SERIOUS = "serious"
    WARNING = "warning"
    NOTE = "note"

    @property
    def rank(self) -> int:
        """0 is the worst."""
        return list(Severity).index(self)


class Line(Struct, frozen=True):
    """One line of YAML."""

    kind: str
    """Of the manifest (`ClientTrafficPolicy`), of Envoy's message (`Cluster`), or `config` for the router's file."""
    path: str
    """From the manifest's root or the message's: `spec.connection.bufferLimit`; `[]` stands for an entry of a list."""
    value: str
    """YAML."""


class Cure(Struct, frozen=True):
    """How to be rid of it."""

    gateway: tuple[Line, ...] = ()
    """In Envoy Gateway's manifests, where these can say it."""
    envoy: tuple[Line, ...] = ()
    """In Envoy's own config."""
    router: tuple[Line, ...] = ()
    """In the router's config file."""
    words: str = ""
    """What no line can say."""


class Found(Struct, frozen=True):
    """One place where the trap is."""

    where: str
    """`listener NAME`, `route VIRTUAL-HOST/NAME`, `cluster NAME`, `filter NAME`, `pool NAME` or `router`."""
    figure: str
    severity: Severity | None = None
    """Absent: the check's."""
    cure: Cure | None = None
    """Absent: the check's."""


class Check(Struct, frozen=True, kw_only=True):
    """Looks for one trap."""

    id: str
    severity: Severity
    """The usual one; what is found may be worse or better than that."""
    title: str
    why: str
    """Why it hurts LLM traffic, with what was measured."""
    cure: Cure
    needs_router: bool
    look: Callable[[Setup], Iterable[Found]]


Look = Callable[[Setup], Iterator[Found]]


def check(
    id: str, severity: Severity, title: str, why: str, cure: Cure, *, needs_router: bool = False
) -> Callable[[Look], Check]:
    """Makes a function that looks for a trap into the Check of it."""

    def wrap(look: Look) -> Check:
        return Check(
            id=id, severity=severity, title=title, why=why, cure=cure, needs_router=needs_router, look=look
        )

    return wrap


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} GiB"


def span(seconds: float) -> str:
    """Seconds for people."""
    return f"{seconds * 1000:.4g} ms" if 0 < seconds < 1 else f"{seconds:g} s"
