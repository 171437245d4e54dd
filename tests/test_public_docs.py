"""The documentation of a public name has arguments, shapes, units, errors, an example and the source."""

import ast
import inspect
import operator
import re
from pathlib import Path

import pytest

import hig_optax

REFERENCE = sorted((Path(__file__).parents[1] / "docs" / "reference").glob("*.md"))
API = "\n".join(path.read_text() for path in REFERENCE)
# tests/test_layers.py holds that the pages name all there are.
PUBLIC = {
    name: operator.attrgetter(name.removeprefix("hig_optax."))(hig_optax)
    for name in re.findall(r"^::: (hig_optax\.\S+)$", API, flags=re.MULTILINE)
    if name not in ("hig_optax.STATIC_ARGS", "hig_optax.SYMPTOMS")
}
FUNCTIONS = {name: value for name, value in PUBLIC.items() if inspect.isfunction(value)}
OURS = {
    "hig_optax.plan",
    "hig_optax.accumulate",
    "hig_optax.diagnose",
}  # no methods of the literature
STATES = {name: value for name, value in PUBLIC.items() if inspect.isclass(value)}


def section(text, title):
    """The indented lines below a title."""
    found = re.search(rf"^{title}:\n((?:[ ]+.*\n|\n)+)", text + "\n", flags=re.MULTILINE)
    return "" if found is None else found[1]


def test_nothing_is_forgotten():
    assert set(FUNCTIONS) | set(STATES) == set(PUBLIC)
    assert len(FUNCTIONS) >= 10
    assert len(STATES) >= 3


def is_told(parameter, name):
    """Whether a setting is described, by a function or by the one that it names for the others."""
    text = inspect.getdoc(FUNCTIONS[name])
    if re.search(rf"^    (\*\*)?{parameter}: \S", section(text, "Args"), flags=re.MULTILINE):
        return True
    other = re.search(r"settings that are not described here are those of `([\w.]+)`", text)
    if other is None:
        return False
    full = other[1] if "." in other[1] else f"hig_optax.{other[1]}"
    return parameter in inspect.signature(FUNCTIONS[full]).parameters and is_told(parameter, full)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name):
    text = inspect.getdoc(FUNCTIONS[name])
    for parameter in inspect.signature(FUNCTIONS[name]).parameters:
        assert is_told(parameter, name), parameter
    for title in ("Returns", "Raises") if name in OURS else ("Returns", "Raises", "References"):
        assert section(text, title).strip(), title
    assert ">>> " in section(text, "Example")
    # Either units of its own, or those of the function that it refers to.
    assert re.search(
        r"\bunits?\b|dimensionless|bytes|(As in|those of) `", text, flags=re.IGNORECASE
    )
    assert re.search(r"\([a-z]+, ?[a-z.]*\)|(As in|those of) `", text), "no shapes"


@pytest.mark.parametrize("name", STATES)
def test_states(name):
    state = STATES[name]
    text = inspect.getdoc(state)
    named = [f"hig_optax.{word}" for word in re.findall(r"`(\w+)`", text)]
    assert ">>> " in section(text, "Example") or set(named) & set(FUNCTIONS)
    (tree,) = ast.parse(inspect.getsource(state)).body
    for field, after in zip(tree.body, [*tree.body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign):
            is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            assert is_text, f"{field.target.id} has no text"
            annotation = ast.unparse(field.annotation)
            assert "Array" not in annotation or re.search(r"(Float|Int|Bool)\[", annotation)
