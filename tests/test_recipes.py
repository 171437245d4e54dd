"""Every recipe runs and learns, and from Adam to HIG at most three lines of a loop change."""

import difflib
import importlib.util
import inspect
import re
from pathlib import Path

import jax
import pytest

RECIPES = Path(__file__).parents[1] / "recipes"
SCRIPTS = sorted(path.stem for path in RECIPES.glob("*.py"))
FRAMEWORKS = ["equinox_loop", "flax_linen", "flax_nnx", "optax_loop"]
SIMULATORS = ["jaxley_fit", "mjx_pendulum", "phiflow_heat"]
STEPS = 60
# What other people's packages warn of, of themselves, when they are imported or called.
pytestmark = pytest.mark.filterwarnings("ignore::Warning:(phi|phiml|jaxley)[.]")


@pytest.fixture(autouse=True)
def x64_as_before():
    """One of the recipes switches it on."""
    before = jax.config.jax_enable_x64
    yield
    jax.config.update("jax_enable_x64", before)


def load(path):
    for package in re.findall(r"^(?:import|from) (\w+)", path.read_text(), flags=re.MULTILINE):
        pytest.importorskip(package)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(path, **settings):
    with jax.numpy_dtype_promotion("standard"):  # as a reader's program has it
        module = load(path)
        return module, module.main(steps=STEPS, **settings)


@pytest.mark.filterwarnings("ignore:Using `field:UserWarning")  # jinns, with a newer equinox
@pytest.mark.parametrize("name", SCRIPTS)
def test_recipes_learn(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where the checkpoints go
    module, losses = run(RECIPES / f"{name}.py")
    assert losses[-1] < (1e-6 if name in SIMULATORS else 0.1) * losses[0]
    if name in ("parameter_study", "blocks"):
        assert len(module.TRACES) == 1


@pytest.mark.parametrize("name", FRAMEWORKS + SIMULATORS)
def test_the_loops_with_adam_run(name):
    _, losses = run(RECIPES / "adam" / f"{name}.py")
    assert losses[-1] < losses[0]
    if name in SIMULATORS:
        # Within as many steps those with HIG lower it a million times (above).
        assert losses[-1] > 1e-4 * losses[0]


def changed(name):
    """The lines that go and come from Adam to HIG, but for empty ones."""
    adam, hig = ((RECIPES / at / f"{name}.py").read_text().splitlines() for at in ("adam", "."))
    diff = difflib.unified_diff(adam, hig, lineterm="", n=0)
    return [
        line
        for line in diff
        if line[:1] in ("+", "-") and line[:3] not in ("+++", "---") and line[1:].strip()
    ]


@pytest.mark.parametrize("name", FRAMEWORKS + SIMULATORS)
def test_at_most_three_lines_change(name):
    # What stands beside the loop, and can be copied as it is, is no change of the loop.
    helper = ""
    if name == "flax_linen":
        helper = inspect.getsource(load(RECIPES / f"{name}.py").apply_gradients)
    beside = [f"+{line}" for line in helper.splitlines()]
    assert len(beside) <= 4
    added = [line for line in changed(name) if line.startswith("+") and line not in beside]
    removed = [line for line in changed(name) if line.startswith("-")]
    assert 2 <= len(added) <= 3
    assert len(removed) <= len(added)
    assert sum("batch=batch" in line for line in added) == 1
    shown = "\n".join(["```diff", *changed(name), "```"])
    assert shown in (RECIPES / "README.md").read_text()


def test_every_loop_with_adam_is_compared():
    assert {path.stem for path in (RECIPES / "adam").glob("*.py")} == {*FRAMEWORKS, *SIMULATORS}


def test_logging_and_stopping(capsys):
    seen = []
    _, losses = run(RECIPES / "log_and_stop.py", log=seen.append, every=5)
    assert len(losses) < STEPS
    assert [entry["step"] for entry in seen] == list(range(0, len(losses), 5))
    assert all(entry["rank"] > 0 for entry in seen)


def test_the_readme_names_every_recipe():
    text = (RECIPES / "README.md").read_text()
    assert {name for name in SCRIPTS if f"]({name}.py)" not in text} == set()


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.py")), ids=lambda p: p.stem)
def test_recipes_are_short(path):
    loop = path.read_text().split('if __name__ == "__main__":')[0]  # what follows is a command line
    assert len(loop.splitlines()) <= (75 if path.stem == "many_hosts" else 65)
