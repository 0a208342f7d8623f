"""Markdown pages of the project: their code blocks, words, tables, links and headings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parent.parent
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_SPAN = re.compile(r"`([^`]+)`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced piece of text."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Page:
    path: Path

    def __str__(self) -> str:
        return str(self.path.relative_to(ROOT))

    @cached_property
    def text(self) -> str:
        return self.path.read_text()

    @cached_property
    def blocks(self) -> list[Block]:
        return [
            Block(str(self), self.text.count("\n", 0, found.start()) + 1, found[1], found[2])
            for found in _BLOCK.finditer(self.text)
        ]

    @cached_property
    def prose(self) -> str:
        """Without code blocks."""
        return _BLOCK.sub("", self.text)

    @cached_property
    def spans(self) -> list[str]:
        """Inline code, each on one line."""
        return [" ".join(found.split()) for found in _SPAN.findall(self.prose)]

    @cached_property
    def links(self) -> list[str]:
        return _LINK.findall(_SPAN.sub("", self.prose))

    @cached_property
    def anchors(self) -> set[str]:
        """Of its headings, as GitHub makes them."""
        return {_slug(heading) for heading in _HEADING.findall(self.prose)}

    def table(self, heading: str) -> list[list[str]]:
        """The cells of the first table below *heading*, without its head."""
        below = self.prose.split(f"\n{heading}\n", 1)[1]
        rows = re.search(r"(?:^\|.*\n)+", below, re.MULTILINE)
        assert rows is not None
        return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[0].splitlines()[2:]]

    def rows(self) -> Iterator[str]:
        """The lines of all tables."""
        yield from (line for line in self.prose.splitlines() if line.startswith("|"))


def _slug(heading: str) -> str:
    plain = re.sub(r"[`*]|\]\([^)]*\)|\[", "", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def pages() -> list[Page]:
    """All that users read."""
    return [
        Page(path)
        for path in (ROOT / "README.md", ROOT / "k8s/README.md", *sorted((ROOT / "docs").glob("*.md")))
    ]


PAGES = {str(page): page for page in pages()}
"""By their paths from the project's root."""


def page(name: str) -> Page:
    """A page of `docs/`."""
    return PAGES[f"docs/{name}.md"]
