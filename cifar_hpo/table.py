"""A table as text: a `Table` is drawn for a terminal or written as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cifar_hpo.printable import printable

if TYPE_CHECKING:
    import rich.table

FOLDED = ("configuration", "state")
"""Columns whose text may be long and is folded on a terminal."""


@dataclass(frozen=True)
class Table:
    """Column names, and for each row a text for each column."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def to_markdown(self) -> str:
        """A Markdown table; `|` in a cell, which would end it, becomes `/`."""
        lines = []
        for cells in (self.columns, ["---"] * len(self.columns), *self.rows):
            line = " | ".join(cell.replace("|", "/") for cell in cells)
            lines.append(f"| {line} |")
        return "\n".join(lines)

    def to_rich(self) -> rich.table.Table:
        """For a terminal; only what is long is folded."""
        import rich.table
        from rich.text import Text

        drawn = rich.table.Table(box=None, pad_edge=False, header_style="bold")
        for column in self.columns:
            drawn.add_column(Text(printable(column)), no_wrap=column not in FOLDED)
        for row in self.rows:
            # As it is: rich would take [flip,shift] for markup.
            drawn.add_row(*(Text(printable(cell)) for cell in row))
        return drawn
