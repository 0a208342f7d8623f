"""Takes endpoints out of service at run time, and puts them back, by the operator's word."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct

from .endpoint import Endpoint
from .fleet import Fleet
from .logs import Logger
from .pool import Pool


class PoolLeft(Struct, frozen=True):
    """A pool, and how many of its endpoints may get new requests."""

    name: str
    endpoints: int
    serving: int


class Cordoned(Struct, frozen=True):
    """How it stands with an address now."""

    address: str
    cordoned: str | None
    """`config`, `command`, or None: it gets requests."""
    in_flight: int
    """Requests there that finish."""
    pools: list[PoolLeft]
    """That have an endpoint there; empty: it was cordoned before, and is gone."""


class Cordoning:
    """What the HTTP port does for `extproc cordon` and `extproc uncordon`."""

    def __init__(self, fleet: Fleet, changed: Callable[[], object], log: Logger) -> None:
        """*changed* is called when other endpoints than before may get requests."""
        self._fleet = fleet
        self._changed = changed
        self._log = log

    def cordon(self, address: str) -> Cordoned | None:
        """*address*, normalised, gets no new request; None: nobody is there."""
        found = self._fleet.cordon(address)
        return self._told("endpoint_cordoned", address, found) if found else None

    def uncordon(self, address: str) -> Cordoned | None:
        """Takes that back, unless the config says so; None: nobody is there or was."""
        found = self._fleet.uncordon(address)
        return None if found is None else self._told("endpoint_uncordoned", address, found)

    def _told(self, event: str, address: str, found: Sequence[tuple[Pool, Endpoint]]) -> Cordoned:
        self._changed()
        told = Cordoned(
            address,
            cordoned=next((e.cordoned for _, e in found if e.cordoned), None),
            in_flight=sum(endpoint.in_flight for _, endpoint in found),
            pools=[_left(pool) for pool, _ in found],
        )
        self._log.info(
            event, endpoint=address, pools=[pool.name for pool, _ in found], cordoned=told.cordoned
        )
        return told


def _left(pool: Pool) -> PoolLeft:
    serving = sum(endpoint.cordoned is None for endpoint in pool.endpoints)
    return PoolLeft(pool.name, len(pool.endpoints), serving)
