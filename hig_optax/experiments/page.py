"""Tables inside pages that people write: each between two comments that mark its place."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from hig_optax.experiments import store
from hig_optax.experiments.table import Table


def write_into(page: Path, tables: Mapping[str, Table]) -> None:
    """Put each table in its place in a page; what stood there goes, all else stays.

    Args:
        page: A Markdown file.
        tables: Tables by the names of their places; see `marks`.

    Raises:
        ValueError: As `check`.
    """
    check(page, list(tables))
    text = page.read_text(encoding="utf-8")
    for name, table in tables.items():
        start, end = marks(name)
        before, rest = text.split(start, 1)
        after = rest.split(end, 1)[1]
        text = f"{before}{start}\n\n{table.markdown()}\n{end}{after}"
    store.write_text(page, text)


def check(page: Path, names: Sequence[str]) -> None:
    """Refuse a page without a place for each of these tables, before hours are spent on them.

    Raises:
        ValueError: There is no such page, it is a folder or no text, or a place is missing or ends before it
            starts.
    """
    if not page.is_file():
        what = "a folder" if page.is_dir() else "missing"
        raise ValueError(f"--into must be a page that is there, got {page}, which is {what}.")
    try:
        text = page.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"--into must be a Markdown page, got {page}, which is no text.") from None
    for name in names:
        start, end = marks(name)
        if start not in text or end not in text.split(start, 1)[1]:
            raise ValueError(
                f"{page} must hold the lines {start!r} and {end!r}, in this order, around the table."
            )


def marks(name: str) -> tuple[str, str]:
    """The comments around a table.

    Example:
        >>> marks("contest: toy")
        ('<!-- contest: toy -->', '<!-- end of contest: toy -->')
    """
    return f"<!-- {name} -->", f"<!-- end of {name} -->"
