"""Which endpoints of a pool probably have a prompt's beginning in their KV cache.

A radix tree laid flat: the hash of a beginning covers all that comes before, so that a run of hashes that only ever
came together is one `_Run`, found by its first hash wherever in a prompt it stands.  A run knows who got it, and
how many tokens that endpoint had written to its cache then (its stamp).  An endpoint's cache is taken as LRU: what
was last used more than its capacity of tokens ago is gone.  It is an estimate; a wrong one costs a prefill.

Of the many objects none is tracked by the garbage collector: a full collection would stall the event loop.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from struct import pack
from typing import Generic, TypeVar

from msgspec import Struct

from .request import CHECKPOINTS

Holder = TypeVar("Holder", bound=Hashable)

DEFAULT_MAX_BYTES = 128 * 2**20
"""Runs of 1,000 endpoints whose caches hold 400,000 tokens each, in prompts of 3,000 new tokens."""
GENERATIONS = 4
GENERATION_S = 600.0
"""What was not used for three to four times as long is forgotten: of all reuses of a conversation's beginning
99 % come within 25 minutes, 90 % within 8 (Mooncake's trace); in Alibaba's, 80 % within 10."""
DRAIN = 8
"""So many runs of a dropped generation are freed with each insert, which adds three at most: freed at once they
would stall the event loop for some 10 ms."""

RUN_BYTES = 296
"""Of a run: itself 48, its bytes object 48, its key 48, its stamp 32, and up to 120 in a dict that just grew."""
HOLDER_BYTES = 160
"""Of each holder where there are several: an integer, and up to 120 in a dict that just grew."""
HASH_BYTES = 8


class _Run(Struct, gc=False):
    """Hashes that follow each other, and who got all of them."""

    hashes: bytes
    """Each HASH_BYTES, little-endian."""
    slot: int
    """The only holder, where `stamps` is None."""
    stamp: int
    stamps: dict[int, int] | None = None
    """Slot to stamp where there was ever more than one holder."""

    def size_bytes(self) -> int:
        stamps = self.stamps
        return RUN_BYTES + len(self.hashes) + (HOLDER_BYTES * len(stamps) if stamps else 0)


class PrefixIndex(Generic[Holder]):
    """Beginnings of prompts and who got them, in `max_bytes` of memory at most.

    Runs stand in generations, the newest first; one that is used moves to the newest, the oldest is dropped.
    """

    def __init__(self, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self._generation_bytes = max_bytes // (GENERATIONS + 1)  # one more is being freed
        self._generations: list[dict[int, _Run]] = [{} for _ in range(GENERATIONS)]
        self._dropped: dict[int, _Run] = {}
        self._newest_bytes = 0
        self._opened_at = 0.0
        self._slots: dict[Holder, int] = {}
        self._holders: list[Holder | None] = []
        self._counted: list[int] = []
        """By slot: tokens ever written, with corrections."""
        self._written: list[int] = []
        """By slot: the most that `_counted` ever was: stamps of one slot never go back, whoever owns it."""
        self._floors: list[int] = []
        """By slot: the lowest stamp that is still in the cache."""
        self._free: list[int] = []

    def __len__(self) -> int:
        """How many runs there are, those with it that are being freed."""
        return sum(map(len, (*self._generations, self._dropped)))

    def keep(self, holders: Iterable[Holder]) -> None:
        """Set who can hold: those that were there before keep what they have."""
        wanted = dict.fromkeys(holders)
        for holder in [each for each in self._slots if each not in wanted]:
            self.forget(holder)
            slot = self._slots.pop(holder)
            self._holders[slot] = None
            self._free.append(slot)
        for holder in wanted:
            if holder not in self._slots:
                self._add(holder)

    def _add(self, holder: Holder) -> None:
        if self._free:
            slot = self._free.pop()
            self._holders[slot] = holder
        else:
            slot = len(self._holders)
            self._holders.append(holder)
            self._counted.append(0)
            self._written.append(0)
            self._floors.append(0)
        self._slots[holder] = slot

    def forget(self, holder: Holder) -> None:
        """*holder* has nothing any more (it was restarted)."""
        slot = self._slots.get(holder)
        if slot is not None:
            self._written[slot] += 1
            self._counted[slot] = self._floors[slot] = self._written[slot]

    def wrote(self, holder: Holder, tokens: int, capacity_tokens: int) -> None:
        """So many *tokens* were written to the cache of *holder*, which holds *capacity_tokens*.

        Less than 0 takes back what was counted too early.
        """
        slot = self._slots.get(holder)
        if slot is not None:
            self._counted[slot] += tokens
            self._written[slot] = max(self._written[slot], self._counted[slot])
            self._floors[slot] = max(self._floors[slot], self._written[slot] - capacity_tokens)

    def match(self, prefix: Sequence[int], salt: int = 0) -> dict[Holder, int]:
        """Of each that holds some of it, how many tokens of the beginning *prefix* it has.

        *prefix* holds 64-bit hashes at CHECKPOINTS; *salt* (64 bits) keeps models apart.
        """
        keys = [key ^ salt for key in prefix]
        path = self._path(keys)
        found: dict[Holder, int] = {}
        holders, floors, total = self._holders, self._floors, len(self._slots)
        for run, end in reversed(path):
            tokens = CHECKPOINTS[end - 1]
            stamps = {run.slot: run.stamp} if run.stamps is None else run.stamps
            for slot, stamp in stamps.items():
                if stamp >= floors[slot] and (holder := holders[slot]) not in found:
                    found[holder] = tokens  # type: ignore[index]  # a slot without holder has no valid stamp
            if len(found) == total:
                break
        return found

    def _path(self, keys: list[int]) -> list[tuple[_Run, int]]:
        """The runs that *keys* begin with, and up to which of them (exclusive) each goes."""
        packed = _pack(keys)
        path, at = [], 0
        while at < len(keys):
            key = keys[at]
            for generation in self._generations:
                run = generation.get(key)
                if run is not None:
                    break
            else:
                break
            at += _common(run.hashes, packed, at)
            path.append((run, at))
        return path

    def insert(self, prefix: Sequence[int], holder: Holder, now: float, salt: int = 0) -> None:
        """*holder* gets a prompt that begins with *prefix*.  Arguments as for `match`; *now* in seconds."""
        slot = self._slots.get(holder)
        if slot is None:
            return
        self._age(now)
        keys = [key ^ salt for key in prefix]
        packed = _pack(keys)
        stamp = self._written[slot]
        run, at = None, 0
        while at < len(keys):
            found = self._take(keys[at])
            if found is None:
                self._append(run, keys[at], packed[at * HASH_BYTES :], slot, stamp)
                return
            run = found
            count = _common(run.hashes, packed, at)
            if count * HASH_BYTES < len(run.hashes):
                self._split(run, count)
            self._hold(run, slot, stamp)
            at += count

    def _take(self, key: int) -> _Run | None:
        """The run that begins with *key*, now in the newest generation."""
        newest = self._generations[0]
        run = newest.get(key)
        if run is not None:
            return run
        for generation in self._generations[1:]:
            run = generation.pop(key, None)
            if run is not None:
                newest[key] = run
                self._newest_bytes += run.size_bytes()
                return run
        return None

    def _split(self, run: _Run, count: int) -> None:
        """Leave the first *count* hashes in *run*; the rest is a run of its own."""
        cut = count * HASH_BYTES
        stamps = None if run.stamps is None else dict(run.stamps)
        rest = _Run(run.hashes[cut:], run.slot, run.stamp, stamps)
        run.hashes = run.hashes[:cut]
        self._generations[0][int.from_bytes(rest.hashes[:HASH_BYTES], "little")] = rest
        self._newest_bytes += rest.size_bytes() - len(rest.hashes)

    def _hold(self, run: _Run, slot: int, stamp: int) -> None:
        if run.stamps is None:
            if run.slot == slot:
                run.stamp = stamp
                return
            run.stamps = {run.slot: run.stamp}
            self._newest_bytes += HOLDER_BYTES
        if slot not in run.stamps:
            self._newest_bytes += HOLDER_BYTES
        run.stamps[slot] = stamp

    def _append(self, run: _Run | None, key: int, hashes: bytes, slot: int, stamp: int) -> None:
        """*hashes*, of which *key* is the first, come after *run*, which nobody else need hold with them."""
        if run is not None and run.stamps is None:
            run.hashes += hashes  # what else follows its old end is still found by its own first hash
            self._newest_bytes += len(hashes)
        else:
            run = self._generations[0][key] = _Run(hashes, slot, stamp)
            self._newest_bytes += run.size_bytes()

    def _age(self, now: float) -> None:
        for _ in range(min(DRAIN, len(self._dropped))):
            self._dropped.popitem()
        if self._newest_bytes < self._generation_bytes and now - self._opened_at < GENERATION_S:
            return
        self._dropped = self._generations.pop()
        self._generations.insert(0, {})
        self._newest_bytes, self._opened_at = 0, now


def _pack(keys: list[int]) -> bytes:
    return pack(f"<{len(keys)}Q", *keys)


def _common(hashes: bytes, packed: bytes, at: int) -> int:
    """How many of *hashes* stand in *packed* from index *at* on; the first is known to."""
    if packed.startswith(hashes, at * HASH_BYTES):
        return len(hashes) // HASH_BYTES
    low, high = 1, min(len(hashes), len(packed) - at * HASH_BYTES) // HASH_BYTES
    while low < high:  # equal at one place: equal before, as a hash covers all before it
        middle = (low + high + 1) // 2
        start = (middle - 1) * HASH_BYTES
        begin = at * HASH_BYTES + start
        if hashes[start : start + HASH_BYTES] == packed[begin : begin + HASH_BYTES]:
            low = middle
        else:
            high = middle - 1
    return low
