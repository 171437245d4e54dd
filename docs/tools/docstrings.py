"""Docstrings as the reference shows them: examples as code, formulas as TeX, public names as links."""

import re
import sys
from pathlib import Path
from typing import Any

import griffe

import hig_optax

sys.path.insert(0, str(Path(__file__).parent))
from formulas import formulas_set

PUBLIC = {name: f"hig_optax.{name}" for name in hig_optax.__all__}
PUBLIC |= {
    name: f"hig_optax.baselines.{name}"
    for name in ("gauss_newton", "levenberg_marquardt", "spring")
}


class Docstrings(griffe.Extension):
    """Rewrites each docstring before it is parsed."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called for every module, class, function and attribute."""
        del kwargs
        if obj.docstring is not None:
            obj.docstring.value = rewritten(obj.docstring.value)


def rewritten(text: str) -> str:
    """The docstring in the words of the parser: it knows `Examples`, and makes boxes of other titles."""
    text = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
    for title in ("Notes", "References"):
        text = re.sub(rf"^{title}:\n((?:    .*\n?|\n)+)", _as_text(title), text, flags=re.MULTILINE)
    text = formulas_set(text)
    return re.sub(r"(?<!`)`(?:hig_optax\.)?(?:baselines\.)?(\w+)((?:\.\w+)?)`(?!`)", _linked, text)


def _as_text(title: str) -> Any:
    def section(found: re.Match) -> str:
        body = re.sub(r"^    ", "", found[1], flags=re.MULTILINE)
        return f"**{title}**\n\n{body}"

    return section


def _linked(found: re.Match) -> str:
    name, field = found[1], found[2]
    if name not in PUBLIC:
        return found[0]
    return f"[`{name}{field}`][{PUBLIC[name]}{field}]"
