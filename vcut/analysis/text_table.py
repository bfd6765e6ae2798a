"""A table that prints as aligned text or as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """``rows`` under a ``head``; the first column is set left, the others right. ``notes`` follow below."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        widths = [max(map(len, column)) for column in zip(self.head, *self.rows, strict=True)]

        def line(cells: Sequence[str]) -> str:
            first, *others = (cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in _widths(cells))
            return "  ".join((first, *others)).rstrip()

        def _widths(cells: Sequence[str]) -> enumerate[tuple[str, int]]:
            return enumerate(zip(cells, widths, strict=True))

        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
        return "\n".join([self.title, rule, line(self.head), rule, *map(line, self.rows), *self.notes])

    def markdown(self) -> str:
        """As a Markdown table under its title."""

        def line(cells: Sequence[str]) -> str:
            return f"| {' | '.join(cells)} |"

        rule = line([":--", *("--:" for _ in self.head[1:])])
        body = [f"**{self.title}**", "", line(self.head), rule, *map(line, self.rows)]
        return "\n".join(body + [text for note in self.notes for text in ("", note)])
