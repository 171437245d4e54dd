"""Tables that are printed with rich and kept as Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import rich.table
from rich.box import SIMPLE_HEAD
from rich.console import Console


@dataclass(frozen=True)
class Table:
    """A table of strings; `prose` if they are words rather than numbers.

    Example:
        >>> print(Table("Losses", ("method", "loss"), (("hig", "1e-8"),), note="One seed.").markdown())
        ### Losses
        <BLANKLINE>
        | method | loss |
        |:--|--:|
        | hig | 1e-8 |
        <BLANKLINE>
        One seed.
        <BLANKLINE>
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    prose: bool = False

    def markdown(self, level: int = 3) -> str:
        """As Markdown: the first column to the left, the numbers to the right; prose to the left.

        Args:
            level: Of the heading.
        """
        lines = [
            f"| {' | '.join(self.columns)} |",
            "|:--|" + (":--|" if self.prose else "--:|") * (len(self.columns) - 1),
            *(
                f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
                for row in self.rows
            ),
        ]
        note = [self.note, ""] if self.note else []
        return "\n".join([f"{'#' * level} {self.title}", "", *lines, "", *note])

    def show(self, console: Console) -> None:
        """Print for a person on a terminal, as Markdown elsewhere.

        Where the terminal is too narrow for all columns, rows and columns change places; where it is too
        narrow for that as well, each row is a list. No number is ever cut.
        """
        if not console.is_terminal:
            console.print(self.markdown(), markup=False, highlight=False, soft_wrap=True)
            return
        for columns, rows in ((self.columns, self.rows), self._turned()):
            if widths := _widths(columns, self._cells(rows), console.width):
                console.print(self._grid(columns, rows, widths))
                break
        else:
            self._show_lists(console)
        if self.note:
            console.print(self.note, markup=False, highlight=False, style="italic")

    def _cells(self, rows: Sequence[Sequence[str]]) -> list[list[str]]:
        """Rows as they are printed: a range stands below its median."""
        told = [[cell.replace("**", "") for cell in row] for row in rows]
        return told if self.prose else [[x.replace(" (", "\n(") for x in row] for row in told]

    def _grid(
        self, columns: Sequence[str], rows: Sequence[Sequence[str]], widths: Sequence[int]
    ) -> rich.table.Table:
        table = rich.table.Table(
            title=self.title, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True
        )
        for i, (column, width) in enumerate(zip(columns, widths, strict=True)):
            right = i > 0 and not self.prose
            table.add_column(column, justify="right" if right else "left", width=width)
        for row in self._cells(rows):
            table.add_row(*row)
        return table

    def _turned(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Columns and rows, with a column for each row."""
        columns = (self.columns[0], *(row[0].replace("**", "") for row in self.rows))
        names = enumerate(self.columns[1:])
        return columns, [(name, *(row[i + 1] for row in self.rows)) for i, name in names]

    def _show_lists(self, console: Console) -> None:
        console.print(self.title, style="italic", markup=False, highlight=False)
        for first, *others in self.rows:
            console.print(first.replace("**", ""), style="bold", markup=False, highlight=False)
            for name, cell in zip(self.columns[1:], others, strict=True):
                console.print(f"  {name}: {cell.replace('**', '')}", markup=False, highlight=False)


def _widths(columns: Sequence[str], rows: Sequence[Sequence[str]], room: int) -> list[int] | None:
    """Widths of columns that fit into so many characters without cutting a word; None where none do.

    Example:
        >>> _widths(("method", "test loss"), [["hig", "1e-8"]], 80)
        [6, 9]
        >>> _widths(("method", "test loss"), [["hig", "1e-8"]], 14)
        [6, 4]
    """
    cells = [[column, *(row[i] for row in rows)] for i, column in enumerate(columns)]
    least = [max(len(word) for cell in some for word in (cell.split() or [""])) for some in cells]
    widths = [max(len(line) for cell in some for line in cell.split("\n")) for some in cells]
    between = 2 * len(columns)  # two blanks from one to the next, and one at either end
    while sum(widths) + between > room:
        slack = [width - short for width, short in zip(widths, least, strict=True)]
        if not any(slack):
            return None
        widths[int(np.argmax(slack))] -= 1
    return widths


def rate_in_words(settings: Mapping[str, Any]) -> str:
    """The learning rate of a method; those that look for each step's length have none."""
    rate = settings["learning_rate"]
    return "search" if rate is None else f"{rate:g}"


def seeds_in_words(seeds: Sequence[int]) -> str:
    """The seeds, as a range where they are many and follow one another.

    Example:
        >>> seeds_in_words([0, 1, 2]), seeds_in_words(range(10, 20))
        ('0, 1, 2', '10 to 19')
    """
    if len(seeds) > 3 and list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))


def over_seeds(values: Sequence[float], spec: str) -> str:
    """The median and, of several values, their range.

    Example:
        >>> over_seeds([3.0, 1.0, 2.0], ".1f"), over_seeds([5.0], ".1f")
        ('2.0 (1.0 to 3.0)', '5.0')
    """
    x = np.asarray(values, dtype=float)
    if x.size == 1:
        return format(x[0], spec)
    # A run that blew up must drag the median with it, not drop out of it.
    x = np.where(np.isnan(x), np.inf, x)
    return f"{np.median(x):{spec}} ({x.min():{spec}} to {x.max():{spec}})"
