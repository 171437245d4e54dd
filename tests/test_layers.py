"""Imports run one way, and importing the package loads what it needs and no more."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "hig_optax"

# What each folder or module at the top may import: those before it. Within a folder no circles.
ORDER = [
    "_shown",
    "_types",
    "_eager",
    "_float64",
    "_decompositions",
    "_moved",
    "_inputs",
    "_devices",
    "_jacobian",
    "_solvers",
    "_planning",
    "_optimizers",
    "_diagnosis",
    "baselines",
    "__init__",
]
APART = {"problems", "experiments"}
OPTAX_MAY_BE_IMPORTED_BY = {"_inputs/columns", "_inputs/mask", "_inputs/wrappers", "baselines"}
MOST_LINES, MOST_LINES_OF_A_FUNCTION = 300, 60
CORE = [p for p in sorted(PACKAGE.rglob("*.py")) if p.relative_to(PACKAGE).parts[0] not in APART]


def imported(path: Path) -> set[str]:
    """Full names of the modules that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def place(path: Path) -> str:
    """The folder or module at the top that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def module_name(path: Path) -> str:
    parts = ("hig_optax", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts).removesuffix(".__init__")


def of_package(path: Path) -> set[str]:
    """The modules of the package that a file imports, a folder standing for its `__init__`."""
    names = {module_name(p) for p in PACKAGE.rglob("*.py")}
    found = {name for name in imported(path) if name in names}
    # "from hig_optax.a import b" names both a and a.b where b is a module.
    return {n for n in found if not any(m.startswith(f"{n}.") for m in found)}


def test_no_folder_is_missed():
    found = {place(p) for p in PACKAGE.rglob("*.py")}
    assert found == {*ORDER, *APART}


@pytest.mark.parametrize("path", CORE, ids=lambda p: module_name(p))
def test_core_imports_run_one_way(path):
    own = place(path)
    below = ORDER[: ORDER.index(own)]
    for name in of_package(path) - {"hig_optax"}:
        other = name.split(".")[1]
        assert other in below or (other == own and path.name != "__init__.py"), name
    stem = str(path.relative_to(PACKAGE).with_suffix(""))
    if (
        own not in ("_optimizers", *OPTAX_MAY_BE_IMPORTED_BY)
        and stem not in OPTAX_MAY_BE_IMPORTED_BY
    ):
        assert not any(name.split(".")[0] == "optax" for name in imported(path))


def test_no_circles():
    graph = {module_name(p): of_package(p) for p in PACKAGE.rglob("*.py")}
    while graph:
        ends = {name for name, needs in graph.items() if not needs & set(graph)}
        assert ends, f"these import each other: {sorted(graph)}"
        graph = {name: needs for name, needs in graph.items() if name not in ends}


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_folders_import_one_way(path):
    """The core knows neither problems nor experiments; problems do not know the core; experiments use
    public names only.
    """
    folder = path.relative_to(PACKAGE).parts[0]
    for name in imported(path):
        if not name.startswith("hig_optax"):
            continue
        parts = name.split(".")[1:]
        if folder == "problems":
            assert parts[:1] == ["problems"], name
        elif folder == "experiments":
            private = [p for p in parts if p.startswith("_") and not p.startswith("__")]
            assert not private, name
        else:
            assert not parts or parts[0] not in ("problems", "experiments"), name


def test_import_is_light():
    code = "import sys, hig_optax; print(*sorted({n.split('.')[0] for n in sys.modules}))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert "optax" in loaded.split()
    assert not {"flax", "matplotlib", "rich", "equinox", "orbax"} & set(loaded.split())


def test_public_names():
    """`__all__` is what can be reached without an underscore, modules aside, and all of it is there."""
    import hig_optax

    public = {name for name in vars(hig_optax) if not name.startswith("_")}
    modules = {p.stem for p in PACKAGE.iterdir()} | {
        "jaxtyping"
    }  # checked annotations bring the latter
    assert len(set(hig_optax.__all__)) == len(hig_optax.__all__)
    assert public - modules == set(hig_optax.__all__) - {"baselines"}
    assert {"adaptive_hig", "hig", "scale_by_hig", "plan", "Spectrum", "baselines"} <= set(
        hig_optax.__all__
    )


def test_every_public_name_is_in_the_reference():
    import hig_optax

    pages = "\n".join(p.read_text() for p in (PACKAGE.parent / "docs" / "reference").glob("*.md"))
    names = [f"hig_optax.{name}" for name in hig_optax.__all__ if name != "baselines"]
    for name, value in vars(hig_optax.baselines).items():
        home = getattr(value, "__module__", "")
        if name.startswith("_") or not callable(value):
            continue
        if home in ("hig_optax.baselines", "hig_optax._optimizers.spring"):
            names.append(f"hig_optax.baselines.{name}")
    assert len(names) > len(hig_optax.__all__) + 2
    assert [name for name in names if f"::: {name}\n" not in pages] == []


def test_the_version_stands_in_one_place():
    import hig_optax

    project = (PACKAGE.parent / "pyproject.toml").read_text()
    assert 'dynamic = ["version"]' in project
    assert hig_optax.__version__ not in project
    changes = (PACKAGE.parent / "CHANGELOG.md").read_text()
    assert changes.split("\n## ")[1].startswith(hig_optax.__version__)


@pytest.mark.parametrize("path", CORE, ids=module_name)
def test_modules_can_be_read_at_a_sitting(path):
    """At most 300 lines a module, and 60 a function, without its docstring and what is defined within."""
    assert len(path.read_text().splitlines()) <= MOST_LINES, path.name
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            assert own_lines(node) <= MOST_LINES_OF_A_FUNCTION, f"{path.name}: {node.name}"


def own_lines(function: ast.FunctionDef) -> int:
    def length(node):
        return node.end_lineno - node.lineno + 1

    inner = [x for x in ast.walk(function) if isinstance(x, ast.FunctionDef) and x is not function]
    outermost = [x for x in inner if not any(x in ast.walk(y) and x is not y for y in inner)]
    docstring = length(function.body[0]) if ast.get_docstring(function) else 0
    signature = function.body[0].lineno - function.lineno
    return length(function) - signature - docstring - sum(map(length, outermost))
