"""docs/errors.md names every error of the core, and none that the core does not raise or no test provokes."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [*sorted((ROOT / "hig_optax").glob("_[a-z]*.py")), ROOT / "hig_optax" / "baselines.py"]
GAP = "…"


def text(node, names):
    """A message with a gap wherever a value is put in."""
    if isinstance(node, ast.Name) and node.id in names:
        return text(names[node.id], names)
    if isinstance(node, ast.JoinedStr):
        return "".join(text(value, names) for value in node.values)
    if isinstance(node, ast.FormattedValue):
        return text(node.value, names) if isinstance(node.value, ast.Name) else GAP
    return node.value if isinstance(node, ast.Constant) else GAP


def messages():
    found = []
    for path in SOURCES:
        for function in ast.walk(ast.parse(path.read_text())):
            if not isinstance(function, ast.FunctionDef):
                continue
            names = {
                node.targets[0].id: node.value
                for node in ast.walk(function)
                if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
                if isinstance(node.value, (ast.JoinedStr, ast.Constant))
            }
            found += [
                (path.name, text(node.exc.args[0], names))
                for node in ast.walk(function)
                if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args
            ]
    return sorted(set(found))


def fragments():
    table = (ROOT / "docs" / "errors.md").read_text().split("## What never raises")[0]
    return re.findall(r"^\| `(.+?)` \|", table, flags=re.MULTILINE)


def occurs(fragment, message):
    return re.search(".*".join(map(re.escape, fragment.split(GAP))), message, flags=re.DOTALL)


MESSAGES, FRAGMENTS = messages(), fragments()
CATCH_ALL = f"{GAP} must be {GAP}, got {GAP}"


def test_there_is_something_to_compare():
    assert len(MESSAGES) > 40
    assert len(FRAGMENTS) > 40


@pytest.mark.parametrize(("file", "message"), MESSAGES, ids=lambda x: x[:40])
def test_every_error_is_in_the_table(file, message):
    named = [f for f in FRAGMENTS if f != CATCH_ALL and occurs(f, message)]
    assert named or message == f"{GAP} must be {GAP}, got {GAP}.", message


@pytest.mark.parametrize("fragment", FRAGMENTS)
def test_every_row_is_an_error_that_a_test_provokes(fragment):
    assert any(occurs(fragment, message) for _, message in MESSAGES)
    tests = "".join(
        p.read_text() for p in (ROOT / "tests").glob("test_*.py") if p != Path(__file__)
    )
    plain = re.sub(r"\\(.)", r"\1", tests)  # the regular expressions of pytest.raises
    pieces = [piece.strip() for piece in fragment.split(GAP) if piece.strip(" ,.(")]
    assert all(piece in plain for piece in pieces)
