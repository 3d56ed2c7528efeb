"""Tables of text on a terminal, whole: one that is too wide is split into several, each with the
names of the rows; no digit and no column is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True)
class Grid:
    """A table as text. Its first `names` columns name the row and may be broken between words; all
    others hold numbers and are never broken."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    names: int = 1
    styles: dict[tuple[int, int], str] = field(default_factory=dict)  # (row, column) -> style

    def add(self, *cells: str) -> None:
        """A row; raises ValueError where it has not a cell a column."""
        if len(cells) != len(self.columns):
            raise ValueError(f"{len(cells)} cells in a table of {len(self.columns)} columns")
        self.rows.append(cells)


_GAP = 2  # between columns; one of it right of the last


def print_grid(console: Console, grid: Grid) -> None:
    """Whole, or split by columns where it is too wide."""
    columns = range(len(grid.columns))
    least = [_widest(grid, column, words=column < grid.names) for column in columns]
    natural = [_widest(grid, column, words=False) for column in range(grid.names)]
    room = console.width + 1  # a gap behind the last column would not matter
    groups = _groups(least, grid.names, room)
    for group in groups:
        numbers = [least[column] for column in group[grid.names :]]
        left = room - sum(numbers) - _GAP * len(group)
        widths = [*_shared(least[: grid.names], natural, left), *numbers]
        again = "" if group is groups[0] else " (continued)"
        console.print(_table(grid, dict(zip(group, widths, strict=True)), again), "")


def _widest(grid: Grid, column: int, words: bool) -> int:
    """Of the lines of a column, or of its words."""
    cells = [grid.columns[column], *(row[column] for row in grid.rows)]
    parts = [part for cell in cells for part in (cell.split() if words else cell.split("\n"))]
    return max(1, *map(cell_len, parts))


def _groups(least: Sequence[int], names: int, room: int) -> list[list[int]]:
    """Columns that stand side by side, always with those that name the row. Where their longest
    words leave no room for the widest of the others, words are broken."""
    needed = [width + _GAP for width in least]
    widest = max(needed[names:], default=0)
    name = min(sum(needed[:names]), max(room - widest, names * (1 + _GAP)))
    groups = [list(range(names))]
    left = room - name
    for column in range(names, len(least)):
        if needed[column] > left and len(groups[-1]) > names:
            groups.append(list(range(names)))
            left = room - name
        groups[-1].append(column)
        left -= needed[column]
    return groups


def _shared(least: Sequence[int], natural: Sequence[int], room: int) -> list[int]:
    """Widths that fill `room` or less: lines whole, else words whole, else the longest broken."""
    widths = list(least)
    while sum(widths) > room and max(widths) > 1:
        widths[widths.index(max(widths))] -= 1
    for i, width in enumerate(natural):
        widths[i] += max(0, min(width - widths[i], room - sum(widths)))
    return widths


def _table(grid: Grid, widths: Mapping[int, int], again: str) -> Table:
    table = Table(
        title=Text(grid.title + again),
        title_justify="left",
        title_style="bold",
        header_style="dim",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    for column, width in widths.items():
        table.add_column(
            Text(grid.columns[column]),
            justify="left" if column < grid.names else "right",
            width=width,
            overflow="fold",
            vertical="bottom",
        )
    for number, row in enumerate(grid.rows):
        table.add_row(*(Text(row[i], style=grid.styles.get((number, i), "")) for i in widths))
    return table
