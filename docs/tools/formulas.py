"""Formulas of docstrings, plain text there, as TeX: blocks of their own, powers and indices in sentences."""

import re

_BLOCK = re.compile(r"(?<=\n\n) {4}(?! |>>>)(.*[=Σσ].*)(?=\n\n|\n?\Z)")
# A line of an example, which stays as it is; a power with brackets, or a singular value with its index.
_INLINE = re.compile(
    r"^ *(?:>>>|\.\.\.).*|\([^() ]*\)\^\([^()]*\)|\b\w\^\((?:[^()]|\([^()]*\))*\)|Σ\^\w|σ_(?:\w|\([^()]*\))",
    re.MULTILINE,
)
_LIST = re.compile(r"(?<=\n\n)(?: {4}\S.*? {2,}\S.*\n(?: {8,}\S.*\n)*){2,}")
_ITEM = re.compile(r"^ {4}(\S.*?) {2,}(\S.*(?:\n {8,}\S.*)*)\n", re.MULTILINE)
_WORDS = re.compile(r"(\s*)([A-Za-z]{2,}(?: [A-Za-z]{2,})*)(\s*)")
_SIGNS = {
    "ᵀ": r"^\top ",
    "²": "^2",
    "⁻¹": "^{-1}",
    "₁": "_1",
    "⊥": r"_\perp ",
    "·": r"\cdot ",
    "‖": r"\| ",
    "<=": r"\le ",
    ">": r"\gt ",
    "½": r"\tfrac12 ",
}


def formulas_set(text: str) -> str:
    """The docstring with its formulas between dollars, and a list of names and texts as such."""
    text = _LIST.sub(lambda block: _ITEM.sub(_as_bullet, block[0]), text)
    prose_and_blocks = _BLOCK.split(text)
    prose_and_blocks[::2] = [_INLINE.sub(_in_line, prose) for prose in prose_and_blocks[::2]]
    prose_and_blocks[1::2] = [f"$$\n{tex(block)}\n$$" for block in prose_and_blocks[1::2]]
    return "".join(prose_and_blocks)


def tex(formula: str) -> str:
    """A formula in plain text, such as ``V Σ^(κ-1) Uᵀ g``, as TeX."""
    for sign in ("^(", "_("):
        while sign in formula:
            formula = _braced(formula, formula.index(sign) + 1)
    parts = (_WORDS.sub(_as_words, part) for part in re.split(r" {3,}", formula))
    formula = r" \qquad ".join(parts)
    for sign, command in _SIGNS.items():
        formula = formula.replace(sign, command)
    return formula


def _braced(formula: str, start: int) -> str:
    """Braces in place of the brackets that open at ``start``."""
    depth = 0
    for i in range(start, len(formula)):
        depth += {"(": 1, ")": -1}.get(formula[i], 0)
        if depth == 0:
            return f"{formula[:start]}{{{formula[start + 1 : i]}}}{formula[i + 1 :]}"
    raise ValueError(f"No closing bracket in {formula!r}.")


def _in_line(found: re.Match) -> str:
    is_example = found[0].lstrip().startswith((">>>", "..."))
    return found[0] if is_example else f"${tex(found[0])}$"


def _as_words(found: re.Match) -> str:
    before, after = ("~" if space else "" for space in (found[1], found[3]))
    return f"{before}{{\\text{{{found[2]}}}}}{after}"


def _as_bullet(found: re.Match) -> str:
    return f"* **{found[1]}**: {' '.join(found[2].split())}\n"
