"""How commands print: a line as it is, neither coloured by its words nor broken; tables whole.

A table that is too wide for a terminal is split into several, each with the names of the rows: no
digit and no column is left out. Where there is no terminal it is printed as wide as it is.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

LINE_PERIOD_S = 15.0  # between lines of progress where there is no terminal
PLAIN: dict[str, Any] = {"markup": False, "highlight": False, "soft_wrap": True}

PIPE_WIDTH = 400  # columns, where nothing says how many there are


def standard() -> Console:
    """For standard output: as wide as the terminal, or as COLUMNS says; in a pipe or a file wide
    enough for any table."""
    known = sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdecimal()
    return Console(width=None if known else PIPE_WIDTH)


@dataclass(frozen=True)
class Grid:
    """A table as text. The first column names the row; columns in `prose` (the first is one of
    them) may be broken between words, all others hold numbers and are never broken."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    prose: frozenset[int] = frozenset({0})
    styles: dict[tuple[int, int], str] = field(default_factory=dict)  # (row, column) -> style

    def add(self, *cells: str) -> None:
        """A row; raises ValueError where it has not a cell a column."""
        if len(cells) != len(self.columns):
            raise ValueError(f"{len(cells)} cells in a table of {len(self.columns)} columns")
        self.rows.append(cells)


_GAP = 2  # between columns; one of it right of the last


def print_grid(console: Console, grid: Grid) -> None:
    """Whole, or split by columns where it is too wide."""
    least = [_least_width(grid, column) for column in range(len(grid.columns))]
    groups = _groups(least, console.width + 1)
    for group in groups:
        again = "" if group is groups[0] else " (continued)"
        console.print(_table(grid, group, least, again), "")


def _least_width(grid: Grid, column: int) -> int:
    """Of the longest line, or of the longest word where lines may be broken."""
    cells = [grid.columns[column], *(row[column] for row in grid.rows)]
    parts = [part for cell in cells for part in _parts(cell, column in grid.prose)]
    return max(map(cell_len, parts), default=0)


def _parts(cell: str, prose: bool) -> list[str]:
    return cell.split() if prose else cell.split("\n")


def _groups(least: Sequence[int], room: int) -> list[list[int]]:
    """Columns that stand side by side, always with the first one. Where the longest word of that
    leaves no room for the widest of the others, words are broken."""
    needed = [width + _GAP for width in least]
    name = min(needed[0], max(room - max(needed[1:], default=0), _GAP + 1))
    groups = [[0]]
    left = room - name
    for column in range(1, len(least)):
        if needed[column] > left and len(groups[-1]) > 1:
            groups.append([0])
            left = room - name
        groups[-1].append(column)
        left -= needed[column]
    return groups


def _table(grid: Grid, columns: Sequence[int], least: Sequence[int], again: str) -> Table:
    table = Table(
        title=Text(grid.title + again),
        title_justify="left",
        title_style="bold",
        header_style="dim",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    for column in columns:
        prose = column in grid.prose
        table.add_column(
            Text(grid.columns[column]),
            justify="left" if prose else "right",
            width=None if prose else least[column],
            no_wrap=not prose,
            overflow="fold",
            vertical="bottom",
        )
    for number, row in enumerate(grid.rows):
        table.add_row(*(Text(row[i], style=grid.styles.get((number, i), "")) for i in columns))
    return table
