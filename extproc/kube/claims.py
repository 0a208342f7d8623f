"""Who has an address: two pods can claim the same one (both on their node's network, or one took over the other's)."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from itertools import chain

from ..member import Member

Owner = tuple[str, ...]
"""Whose endpoints they are; by this they are ordered."""


class Claims:
    """Members by owner; at an address only the claim of the lowest rank counts."""

    def __init__(self) -> None:
        self._by_owner: dict[Owner, tuple[Member, ...]] = {}
        self._order: list[Owner] = []
        self._by_address: dict[str, list[tuple[str, Owner, Member]]] = {}
        """(rank, owner, member), sorted."""
        self._contested: set[str] = set()
        """Addresses that several claim."""
        self._members: tuple[Member, ...] | None = ()
        """What `members` answered last; None: it has changed since."""

    def put(self, owner: Owner, rank: str, members: Sequence[Member]) -> bool:
        """Replaces what *owner* claims (addresses unlike each other); answers whether `members` changed by that."""
        old = self._by_owner.get(owner, ())
        touched = dict.fromkeys(member.address for member in (*old, *members))
        before = [self._holder(address) for address in touched]
        for member in old:
            self._withdraw(owner, member.address)
        for member in members:
            claims = self._by_address.setdefault(member.address, [])
            insort(claims, (rank, owner, member))
            if len(claims) > 1:
                self._contested.add(member.address)
        self._store(owner, tuple(members))
        if before == [self._holder(address) for address in touched]:
            return False
        self._members = None
        return True

    def holds(self, owner: Owner, address: str) -> bool:
        """Whether *owner* claims *address* and has it."""
        claims = self._by_address.get(address)
        return claims is not None and claims[0][1] == owner

    def members(self) -> tuple[Member, ...]:
        """Those that have their address, by owner, each owner's in the order that it gave."""
        if self._members is None:
            claimed = chain.from_iterable(map(self._by_owner.__getitem__, self._order))
            self._members = tuple(claimed if not self._contested else filter(self._has_its_address, claimed))
        return self._members

    def _has_its_address(self, member: Member) -> bool:
        return self._by_address[member.address][0][2] is member

    def _holder(self, address: str) -> tuple[Owner, Member] | None:
        claims = self._by_address.get(address)
        return None if claims is None else claims[0][1:]

    def _withdraw(self, owner: Owner, address: str) -> None:
        left = [claim for claim in self._by_address[address] if claim[1] != owner]
        if len(left) < 2:
            self._contested.discard(address)
        if left:
            self._by_address[address] = left
        else:
            del self._by_address[address]

    def _store(self, owner: Owner, members: tuple[Member, ...]) -> None:
        if members and owner not in self._by_owner:
            insort(self._order, owner)
        elif not members and owner in self._by_owner:
            del self._order[bisect_left(self._order, owner)]
        if members:
            self._by_owner[owner] = members
        else:
            self._by_owner.pop(owner, None)
