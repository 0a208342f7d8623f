"""The KV cache of one engine: blocks that sequences share, and which of the unused ones go first.

Behaves as vLLM's block pool (vllm/v1/core/block_pool.py) does block by block. Here blocks that follow each other and
are in the same state are one *run*, so that a sequence costs as much as it has forks, not blocks. That works because
a block's content stands for all before it: what is cached is always a tree that grows from its roots.

It differs where vLLM keeps one content in two blocks. The last block of a prompt that is cached up to its end is
computed in place. And what sequences generate is cached when they leave; if it is there by then, theirs is worthless.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

Contents = tuple[range, ...]
"""What stands in a sequence's full blocks, in their order: one integer a block, as ranges (of step 1) that follow
each other. Equal integers: the blocks and all before them are equal. Blocks beyond are like no others."""


class Run:
    """Cached blocks with the contents `start` to `stop`, one behind the other, used by the same sequences."""

    __slots__ = ("index", "met", "parent", "refs", "start", "stop")

    def __init__(self, index: dict[int, Run], parent: Run | None, start: int, stop: int, refs: int) -> None:
        self.index = index
        self.parent = parent
        """What stands before it in every sequence."""
        self.start = start
        self.stop = stop
        self.refs = refs
        """Sequences that use it; with 0 it is in the free queue."""
        self.met = False
        """Whether another sequence than its first came to it, which makes it computed."""


class Held:
    """The blocks of one sequence."""

    __slots__ = ("contents", "hits", "index", "leaf", "named")

    def __init__(self, contents: Contents, index: dict[int, Run]) -> None:
        self.contents = contents
        self.index = index
        self.leaf: Run | None = None
        """The last run of those it uses; the others are its parents."""
        self.named = 0
        """Blocks in these runs. The others have no name: nobody else can use them."""
        self.hits = 0
        """Of those, how many were there before."""


class KvCache:
    """Blocks of one engine. `free` counts those that no sequence uses, cached ones included."""

    def __init__(self, num_blocks: int, prefix_caching: bool = True) -> None:
        self.free = num_blocks
        self._prefix_caching = prefix_caching
        self._blank = num_blocks
        """Free blocks with nothing in them that anybody could use: taken first."""
        self._unused: OrderedDict[Run, None] = OrderedDict()
        """The free queue behind the blank ones: runs without users, taken from the first, each from its end."""
        self._nameless: dict[int, Run] = {}
        """Stands for the index of runs whose contents are like no others."""
        self._indexes: dict[str | None, dict[int, Run]] = {}
        """Runs by their first content; for each adapter apart, as what it computes differs."""

    def admit(
        self, contents: Contents, full: int, total: int, spare: int = 0, lora: str | None = None
    ) -> Held | None:
        """Take `total` blocks for a sequence, `full` of which its tokens fill; None: not so many are free.

        What is cached is shared. The rest of the full blocks is there for others from now on: vLLM names blocks
        when it schedules their tokens, and admits nobody else before the last of these are.
        `spare`: so many blocks must stay free.
        """
        if not self._prefix_caching:
            return self._admit_nameless(contents, total, spare)
        index = self._indexes.get(lora)
        if index is None:
            index = self._indexes[lora] = {}
        parts = cut(contents, 0, full)
        met, matched, at = follow(index, parts)
        cached_unused = sum([run.stop - run.start for run in met if not run.refs])
        if met and not met[-1].refs:
            cached_unused -= met[-1].stop - at
        if total - matched + cached_unused + spare > self.free:
            return None
        held = Held(contents, index)
        held.hits = held.named = matched
        if met:
            held.leaf = self._use(met, at)
        self.take(total - matched)
        self._name(held, parts, matched)
        return held

    def cached(self, contents: Contents, full: int, lora: str | None = None) -> int:
        """How many of the first `full` blocks are cached."""
        index = self._indexes.get(lora)
        return follow(index, cut(contents, 0, full))[1] if index and self._prefix_caching else 0

    def take(self, count: int) -> None:
        """Take blocks for what sequences generate; at most `free`."""
        self.free -= count
        count -= self._blank
        if count <= 0:
            self._blank = -count
            return
        self._blank = 0
        unused = self._unused
        while count:
            run = next(iter(unused))
            size = run.stop - run.start
            if size > count:
                run.stop -= count
                return
            del unused[run]
            if run.index is not self._nameless:
                del run.index[run.start]
            count -= size

    def leave(self, held: Held, full: int, total: int) -> None:
        """Give back the `total` blocks of a sequence; `full` of them hold computed tokens all through.

        Of what it generated, full blocks are cached too. Its last blocks are the first to be taken again.
        """
        named = held.named
        if not self._prefix_caching:
            self._add_blank(total)
        elif full < named:
            self._drop_uncomputed(held, named - full)
            self._add_blank(total - named)
        else:
            kept = self._keep_generated(held, full)
            self._add_blank(total - full)
            self._add_nameless(full - named - kept)
        self._unuse(held.leaf)

    def _admit_nameless(self, contents: Contents, total: int, spare: int) -> Held | None:
        if total + spare > self.free:
            return None
        self.take(total)
        return Held(contents, self._nameless)

    def _use(self, met: list[Run], at: int) -> Run:
        """Take part in runs that follow each other, in the last of them up to `at`; the last one."""
        last = met[-1]
        if at < last.stop:
            # the upper part is new, so that whoever uses the lower part still does, with its place in the queue
            last.parent = Run(last.index, last.parent, last.start, at, last.refs)
            last.index[last.start] = last.parent
            last.index[at] = last
            last.start = at
            if not last.refs:
                # not in the queue yet: it would leave it at once
                self._unused[last.parent] = None
            met[-1] = last = last.parent
        for run in met:
            if not run.refs:
                del self._unused[run]
                self.free -= run.stop - run.start
            run.refs += 1
            run.met = True
        return last

    def _name(self, held: Held, parts: list[range], matched: int) -> int:
        """Make runs of the sequence's own blocks, with `parts` but for the first `matched`; how many blocks."""
        index, leaf, named = held.index, held.leaf, 0
        for part in parts:
            if matched >= len(part):
                matched -= len(part)
                continue
            start, stop, matched = part.start + matched, part.stop, 0
            named += stop - start
            if leaf is not None and leaf.stop == start and not leaf.met:
                leaf.stop = stop  # it is the sequence's own, with nothing behind it
            else:
                leaf = index[start] = Run(index, leaf, start, stop, 1)
        held.leaf = leaf
        held.named += named
        return named

    def _keep_generated(self, held: Held, full: int) -> int:
        """Cache what was generated, up to block `full`; how many of the sequence's own blocks that takes."""
        parts = cut(held.contents, held.named, full)
        met, matched, at = follow(held.index, parts)
        if met:
            held.leaf = self._use(met, at)
        return self._name(held, parts, matched)

    def _drop_uncomputed(self, held: Held, count: int) -> None:
        """Forget the last `count` blocks, up to those that others met too."""
        while count and (run := held.leaf) and not run.met:
            size = min(count, run.stop - run.start)
            run.stop -= size
            count -= size
            self._add_blank(size)
            if run.stop == run.start:
                del run.index[run.start]
                held.leaf = run.parent

    def _unuse(self, run: Run | None) -> None:
        while run is not None:
            run.refs -= 1
            if not run.refs:
                self._unused[run] = None
                self.free += run.stop - run.start
            run = run.parent

    def _add_blank(self, count: int) -> None:
        self._blank += count
        self.free += count

    def _add_nameless(self, count: int) -> None:
        """Full blocks that nobody will ask for: vLLM cannot know, and keeps them as long as any."""
        if count:
            self._unused[Run(self._nameless, None, 0, count, 0)] = None
            self.free += count


def cut(contents: Contents, first: int, last: int) -> list[range]:
    """Blocks number `first` up to `last`, in as few ranges as can be."""
    parts: list[range] = []
    for part in contents:
        if last <= 0 or first >= last:
            break
        size = len(part)
        if first < size:
            start = part.start + first if first > 0 else part.start
            stop = part.start + last if last < size else part.stop
            if parts and parts[-1].stop == start:
                parts[-1] = range(parts[-1].start, stop)
            elif size:
                parts.append(range(start, stop))
        first -= size
        last -= size
    return parts


def follow(index: dict[int, Run], parts: Iterable[range]) -> tuple[list[Run], int, int]:
    """The cached runs that `parts` leads through; how many of its blocks these hold; and the content behind the
    last of them, which is within the last run or its end."""
    met: list[Run] = []
    matched = at = stop = 0
    for part in parts:
        wanted = part.start
        while wanted < part.stop:
            if at == stop:
                found = index.get(wanted)
                if found is None:
                    return met, matched, at
                met.append(found)
                at, stop = wanted, found.stop
            elif at != wanted:
                return met, matched, at
            size = min(part.stop, stop) - wanted
            at += size
            wanted += size
            matched += size
    return met, matched, at
