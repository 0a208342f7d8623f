"""A KV cache of single blocks, as plain as can be, to hold the fast one against."""

from __future__ import annotations

from dataclasses import dataclass, field

from extproc.sim.kv_cache import Contents


@dataclass(eq=False)
class Block:
    content: int | None = None
    refs: int = 0
    met: bool = False
    """Whether another sequence came to it."""


@dataclass(eq=False)
class Taken:
    """A sequence in the plain pool."""

    contents: list[int]
    blocks: list[Block]
    hits: int
    copies: list[Block] = field(default_factory=list)
    """What others have of its contents, where its own have no name."""


class Pool:
    """vLLM's BlockPool and KVCacheManager in their own words, with one block for each content.

    (vLLM keeps copies: of the last block of a prompt that is cached up to its end, and of what two sequences
    generate alike. Here the first is computed in place, and of the second the later ones lose their name.)
    """

    def __init__(self, num_blocks: int) -> None:
        self.queue = [Block() for _ in range(num_blocks)]
        self.cached: dict[int, Block] = {}

    def touch(self, block: Block) -> None:
        if not block.refs:
            self.queue.remove(block)
        block.refs += 1
        block.met = True

    def new(self, count: int) -> list[Block]:
        taken, self.queue = self.queue[:count], self.queue[count:]
        for block in taken:
            if block.content is not None:
                self.cached.pop(block.content, None)
            block.content, block.refs, block.met = None, 1, False
        return taken

    def admit(self, contents: list[int], full: int, total: int, spare: int = 0) -> Taken | None:
        found = []
        for content in contents[:full]:
            if content not in self.cached:
                break
            found.append(self.cached[content])
        if total - len(found) + sum(not block.refs for block in found) + spare > len(self.queue):
            return None
        for block in found:
            self.touch(block)
        taken = Taken(contents, found + self.new(total - len(found)), len(found))
        for block, content in list(zip(taken.blocks, contents, strict=False))[len(found) : full]:
            block.content = content
            self.cached[content] = block
        return taken

    def leave(self, taken: Taken, full: int) -> None:
        for number, block in enumerate(taken.blocks):
            if number >= full and block.content is not None and not block.met:
                del self.cached[block.content]
                block.content = None
            elif number < full and block.content is None:
                self.name(taken, number)
        blanks = [block for block in taken.blocks[full:] if block.content is None]
        nameless = [block for block in taken.blocks[:full] if block.content is None]
        named = {block.content: block for block in [*taken.blocks, *taken.copies]}
        chain = [named[content] for content in taken.contents if content in named]
        for block in [*nameless, *reversed(chain)]:
            block.refs -= 1
            if not block.refs:
                self.queue.append(block)
        self.queue[:0] = blanks

    def name(self, taken: Taken, number: int) -> None:
        if number >= len(taken.contents):
            return
        content = taken.contents[number]
        if content in self.cached:
            self.touch(self.cached[content])
            taken.copies.append(self.cached[content])
        else:
            self.cached[content] = taken.blocks[number]
            taken.blocks[number].content = content


class Texts:
    """Contents of token texts: the same beginnings have the same integers."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def contents(self, text: str) -> list[int]:
        beginnings = [text[: end + 1] for end in range(len(text))]
        return [self.numbers.setdefault(beginning, len(self.numbers)) for beginning in beginnings]


def ranges(numbers: list[int], pieces: int) -> Contents:
    """As ranges, of at most `pieces` numbers each."""
    found: list[range] = []
    for number in numbers:
        if found and found[-1].stop == number and len(found[-1]) < pieces:
            found[-1] = range(found[-1].start, number + 1)
        else:
            found.append(range(number, number + 1))
    return tuple(found)
