"""A table that prints as aligned text or as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


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
            first, *others = zip(cells, widths, strict=True)
            set_right = (cell.rjust(width) for cell, width in others)
            return "  ".join((first[0].ljust(first[1]), *set_right)).rstrip()

        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
        return "\n".join([self.title, rule, line(self.head), rule, *map(line, self.rows), *self.notes])

    def markdown(self) -> str:
        """Markdown of the table, under its title."""

        def line(cells: Sequence[str]) -> str:
            return f"| {' | '.join(cells)} |"

        rule = line([":--", *("--:" for _ in self.head[1:])])
        body = [f"**{self.title}**", "", line(self.head), rule, *map(line, self.rows)]
        return "\n".join(body + [text for note in self.notes for text in ("", note)])


@dataclass(frozen=True)
class Column:
    """A column: the key of its values in every row, its head, and how a value is written."""

    key: str
    head: str
    write: Callable[[Any], str] = str


def table(
    title: str, columns: Sequence[Column], rows: Sequence[Mapping[str, Any]], notes: tuple[str, ...] = ()
) -> Table:
    """Table of ``rows``: each one's "name", then its values under ``columns``. None and missing values stay empty."""

    def cell(value: Any, column: Column) -> str:
        return "" if value is None else column.write(value)

    return Table(
        title,
        ("", *(column.head for column in columns)),
        tuple((row["name"], *(cell(row.get(column.key), column) for column in columns)) for row in rows),
        notes,
    )
