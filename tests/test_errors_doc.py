"""docs/errors.md names every error of the core, and none that it does not raise; a test provokes each."""

import ast
import contextlib
import importlib
import inspect
import re
import traceback
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "hig_optax"
LABORATORY = {"problems", "experiments"}
SOURCES = [
    path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.relative_to(PACKAGE).parts[0] not in LABORATORY
]
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
def test_every_row_is_an_error_of_the_source(fragment):
    assert any(occurs(fragment, message) for _, message in MESSAGES)


def raise_statements():
    """(file, first and last line, message) of every error that the core raises by itself."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                yield str(path), node.lineno, node.end_lineno, ast.unparse(node.exc)


def provoking_tests():
    """Calls of all tests that expect an error: (function, arguments)."""
    for path in sorted((ROOT / "tests").glob("test_*.py")):
        if path == Path(__file__) or path.stem == "test_optax_contract":
            continue
        if "pytest.raises" not in path.read_text():
            continue
        for name, function in vars(importlib.import_module(path.stem)).items():
            if not name.startswith("test_") or not inspect.isfunction(function):
                continue
            if "raises(" not in source_with_helpers(function) or marked(function, "devices"):
                continue
            for arguments in expanded(function):
                yield function, arguments


def source_with_helpers(function):
    """Its source, and that of the functions of its module that it names."""
    module = inspect.getmodule(function)
    names = [vars(module).get(name) for name in function.__code__.co_names]
    helpers = [f for f in names if inspect.isfunction(f) and f.__module__ == module.__name__]
    return "".join(map(inspect.getsource, [function, *helpers]))


def marked(function, name):
    return any(mark.name == name for mark in getattr(function, "pytestmark", []))


def expanded(function):
    """The arguments of each case of a parametrized test."""
    cases = [{}]
    for mark in getattr(function, "pytestmark", []):
        if mark.name != "parametrize":
            continue
        names, values = mark.args
        several = not isinstance(names, str)
        rows = [value if several else (value,) for value in values]
        names = names if several else (names,)
        cases = [case | dict(zip(names, row, strict=True)) for case in cases for row in rows]
    return cases


def site(error):
    """Where the core raised an error: (file, line) of the last frame, if that is the core's."""
    *_, (frame, line) = traceback.walk_tb(error.__traceback__)
    return frame.f_code.co_filename, line


def test_every_error_is_observed(monkeypatch):
    """Each raise statement of the core is reached by a test that holds its message."""
    seen = set()
    plain = pytest.raises

    @contextlib.contextmanager
    def recording(*args, **kwargs):
        with plain(*args, **kwargs) as info:
            yield info
        error = info.value
        while error is not None:
            seen.add(site(error))
            error = error.__cause__

    monkeypatch.setattr(pytest, "raises", recording)
    inputs = 0
    for function, arguments in provoking_tests():
        with pytest.MonkeyPatch.context() as patch:
            if "monkeypatch" in inspect.signature(function).parameters:
                arguments = arguments | {"monkeypatch": patch}
            function(**arguments)
        inputs += 1
    missed = [
        (name, first, message)
        for name, first, last, message in raise_statements()
        if not any(file == name and first <= line <= last for file, line in seen)
    ]
    assert missed == []
    assert inputs > 100
