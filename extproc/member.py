"""One endpoint of a pool's membership, as a config or a cluster names it."""

from __future__ import annotations

from msgspec import Struct


class Member(Struct, frozen=True):
    """Where a model server is, and what it carries."""

    address: str
    """`ip:port`, IPv6 in brackets, normalised."""
    labels: dict[str, str] = {}
    uid: str = ""
    """Of its pod; "" for a static one.  The same address with another uid is another server."""
    max_in_flight: int | None = None
    """None: the pool's."""
    cordoned: bool = False
