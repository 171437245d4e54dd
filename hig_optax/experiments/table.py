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
        """Print for a person on a terminal, as Markdown elsewhere."""
        if not console.is_terminal:
            console.print(self.markdown(), markup=False, highlight=False, soft_wrap=True)
            return
        table = rich.table.Table(
            title=self.title,
            caption=self.note,
            caption_justify="left",
            box=SIMPLE_HEAD,
            pad_edge=False,
            collapse_padding=True,
        )
        for i, column in enumerate(self.columns):
            cells = [column, *(row[i] for row in self.rows)]
            longest = max(len(word) for cell in cells for word in cell.split())
            right = i > 0 and not self.prose
            table.add_column(column, justify="right" if right else "left", min_width=longest)
        for row in self.rows:
            cells = [cell if self.prose else cell.replace(" (", "\n(") for cell in row]
            table.add_row(*(cell.replace("**", "") for cell in cells))
        console.print(table)


def rate_in_words(settings: Mapping[str, Any]) -> str:
    """The learning rate of a method; those that look for each step's length have none."""
    rate = settings["learning_rate"]
    return "search" if rate is None else f"{rate:g}"


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
