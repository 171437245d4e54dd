"""Several processes, one run: `recipes/many_hosts.py`, undisturbed and killed."""

import importlib.util
from pathlib import Path

import jax
import killed_hosts
import pytest

# In a process of its own, like what needs several devices: it starts others, and all want a core.
pytestmark = pytest.mark.devices

RECIPE = Path(__file__).parents[1] / "recipes" / "many_hosts.py"
STEPS = 40


def alone(folder, capsys):
    """The same in this process, on all of its devices: the lines that it prints."""
    spec = importlib.util.spec_from_file_location("many_hosts", RECIPE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        module.main(10, folder)
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]


def test_two_processes_do_what_one_does_and_resume_when_one_is_killed(tmp_path, capsys):
    settings = {"steps": STEPS, "JAX_ENABLE_X64": "1"}
    undisturbed = killed_hosts.finish(killed_hosts.start(tmp_path / "undisturbed", **settings))
    assert [line.split(":")[0] for line in undisturbed] == [f"step {i}" for i in (10, 20, 30, 40)]

    # Eight devices against two: rounding, ten steps later.
    (line,) = alone(tmp_path / "alone", capsys)
    first = float(undisturbed[0].split()[-1])
    assert float(line.split()[-1]) == pytest.approx(first, rel=1e-9)

    folder = tmp_path / "killed"
    workers = killed_hosts.start(folder, **settings)
    was_running, seconds, _ = killed_hosts.kill_one(workers, 0, folder, delay=0.0)
    assert was_running
    assert seconds < 60
    assert 0 < killed_hosts.latest(folder) < STEPS
    resumed = killed_hosts.finish(killed_hosts.start(folder, **settings))
    assert resumed[-1] == undisturbed[-1]
