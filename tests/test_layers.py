"""Imports run one way, and importing the package loads what it needs and no more."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "hig_optax"

# Each module may import those of lower rank. Modules of one rank do not know each other.
RANKS = [
    {"_types", "_cost", "_traffic"},
    {
        "_filters",
        "_float64",
        "_linen",
        "_residual",
        "_batch",
        "_settings",
        "_states",
        "_taps",
        "_options",
        "_weights",
        "_wrappers",
        "_control",
    },
    {"_columns", "_plan", "_krylov", "_blocks", "_devices"},
    {"_shares", "_svd", "_slices", "_mesh"},
    {"_gram", "_jacobian"},
    {"_row_blocks", "_direction"},
    {"_sliced", "_krylov_direction"},
    {"_spread"},
    {"_report", "_step"},
    {"_planning"},
    {"_accumulate", "_transform", "_adaptive", "_spring", "_sip"},
]
OPTAX_MAY_BE_IMPORTED_BY = {
    "_accumulate",
    "_transform",
    "_adaptive",
    "_spring",
    "_columns",
    "_wrappers",
}


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


def core_imports(path: Path) -> set[str]:
    names = {
        name.removeprefix("hig_optax.").split(".")[0]
        for name in imported(path)
        if "hig_optax" in name
    }
    return {name for name in names if (PACKAGE / f"{name}.py").exists()}


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("_[a-z]*.py")), ids=lambda p: p.stem)
def test_core_imports_run_one_way(path):
    rank = next((i for i, names in enumerate(RANKS) if path.stem in names), None)
    assert rank is not None, f"{path.stem} has no rank"
    below = set().union(*RANKS[:rank])
    assert core_imports(path) <= below
    if path.stem not in OPTAX_MAY_BE_IMPORTED_BY:
        assert not any(name.split(".")[0] == "optax" for name in imported(path))


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
    import hig_optax

    public = {name for name in vars(hig_optax) if not name.startswith("_")}
    modules = {p.stem for p in PACKAGE.iterdir()} | {
        "jaxtyping"
    }  # checked annotations bring the latter
    assert public - modules == {
        "STATIC_ARGS",
        "AccumulateState",
        "Option",
        "Plan",
        "AdaptiveHigState",
        "ScaleByHigState",
        "Spectrum",
        "accumulate",
        "adaptive_hig",
        "apply_gradients",
        "hig",
        "plan",
        "scale_by_hig",
        "weighted_residual",
    }


def test_every_public_name_is_in_the_api_reference():
    import hig_optax

    page = (PACKAGE.parent / "docs" / "api.md").read_text()
    for module in (hig_optax, hig_optax.baselines):
        for name, value in vars(module).items():
            where = getattr(value, "__module__", "hig_optax.")
            if name.startswith("_") or (module is hig_optax.baselines and where != module.__name__):
                continue
            if name.islower() and not callable(value):
                continue  # modules
            assert f"::: {module.__name__}.{name}\n" in page, name
