"""Tables inside pages that people write: each between two comments that mark its place."""

from collections.abc import Mapping
from pathlib import Path

from hig_optax.experiments import store
from hig_optax.experiments.table import Table


def write_into(page: Path, tables: Mapping[str, Table]) -> None:
    """Put each table in its place in a page; what stood there goes, all else stays.

    Args:
        page: A Markdown file.
        tables: Tables by the names of their places; see `marks`.

    Raises:
        ValueError: There is no such place.
    """
    text = page.read_text(encoding="utf-8")
    for name, table in tables.items():
        start, end = marks(name)
        if start not in text or end not in text:
            raise ValueError(f"{page} must hold the lines {start!r} and {end!r} around the table.")
        before, rest = text.split(start, 1)
        after = rest.split(end, 1)[1]
        text = f"{before}{start}\n\n{table.markdown()}\n{end}{after}"
    store.write_text(page, text)


def marks(name: str) -> tuple[str, str]:
    """The comments around a table.

    Example:
        >>> marks("contest: toy")
        ('<!-- contest: toy -->', '<!-- end of contest: toy -->')
    """
    return f"<!-- {name} -->", f"<!-- end of {name} -->"
