"""How states and reports show themselves: the numbers that matter, in a line; in a notebook, as a table."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

MOST = 4
"""Entries of a vector that are shown."""


def named(record: Any, **shown: str) -> str:
    """A NamedTuple as Python writes it, its arrays in a few digits or by their shapes.

    Nothing here looks at values that are not there: traced, donated, or on other hosts.

    Args:
        record: A NamedTuple.
        shown: Texts of fields that are to be shown otherwise.
    """
    texts = {name: short(value) for name, value in record._asdict().items()} | shown
    return f"{type(record).__name__}({', '.join(f'{k}={x}' for k, x in texts.items() if x)})"


def short(x: Any) -> str:
    """A field of a state in few words.

    Example:
        >>> short(np.float32(0.12345)), short(np.arange(9.0)), short({"a": np.zeros(3), "b": np.ones(2)})
        ('0.123', '[0, 1, 2, 3, ... 9]', '<2 arrays, 5 numbers>')
    """
    if x is None or hasattr(x, "_fields") or isinstance(x, str):
        return repr(x)
    if isinstance(x, tuple) and any(hasattr(part, "_fields") for part in x):  # of a chain
        return f"({', '.join(map(short, x))})"
    if isinstance(x, Mapping) and all(np.ndim(leaf) == 0 for leaf in jax.tree.leaves(x)):
        return "{" + ", ".join(f"{name}: {short(value)}" for name, value in x.items()) + "}"
    if not hasattr(x, "dtype") and not isinstance(x, bool | int | float):
        leaves = jax.tree.leaves(x)
        return f"<{len(leaves)} arrays, {sum(np.size(leaf) for leaf in leaves)} numbers>"
    if (values := there(x)) is None or values.ndim > 1:
        return f"{x.dtype}{list(x.shape)}"
    if values.ndim == 0:
        return _digits(values[()])
    dots = f", ... {values.size}" if values.size > MOST else ""
    return f"[{', '.join(map(_digits, values[:MOST]))}{dots}]"


def there(x: Any) -> np.ndarray | None:
    """The values of an array; None where there are none to look at."""
    if isinstance(x, jax.core.Tracer):
        return None
    if isinstance(x, jax.Array):
        is_key = jax.numpy.issubdtype(x.dtype, jax.dtypes.extended)
        if is_key or x.is_deleted() or not x.is_fully_addressable:
            return None
    elif not isinstance(x, np.ndarray | np.generic | bool | int | float):
        return None
    return np.asarray(x)


def unpadded(x: Any) -> Any:
    """A vector without the zeros that fill up its end."""
    values = there(x)
    if values is None or values.ndim != 1:
        return x
    return values[: int(np.max(np.flatnonzero(values), initial=-1)) + 1]


def table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    """An HTML table."""

    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(x)}</{tag}>" for x in cells) + "</tr>"

    body = "".join(line(row, "td") for row in rows)
    above = f"<thead>{line(head, 'th')}</thead>" if head else ""
    return f"<table><caption>{html.escape(caption)}</caption>{above}<tbody>{body}</tbody></table>"


def _digits(x: Any) -> str:
    return str(x) if isinstance(x, bool | np.bool_ | int | np.integer) else f"{x:.3g}"
