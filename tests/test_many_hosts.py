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
        module.main(STEPS, folder)
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]


def test_two_processes_of_which_one_is_killed_end_where_one_does(tmp_path, capsys):
    """That a resumed run ends with the same bits as one that nobody disturbed: `killed_hosts.py`."""
    settings, folder = {"steps": STEPS, "JAX_ENABLE_X64": "1"}, tmp_path / "killed"
    workers = killed_hosts.start(folder, **settings)
    was_running, seconds, _ = killed_hosts.kill_one(workers, 0, folder, delay=0.0)
    assert was_running
    assert seconds < 60
    saved = killed_hosts.latest(folder)
    assert 0 < saved < STEPS
    resumed = killed_hosts.finish(killed_hosts.start(folder, **settings))
    expected = alone(tmp_path / "alone", capsys)
    assert [line.split(":")[0] for line in expected] == [f"step {i}" for i in (10, 20, 30, 40)]
    assert [x.split(":")[0] for x in resumed] == [x.split(":")[0] for x in expected[saved // 10 :]]
    # Eight devices against two processes of one each: rounding, 40 steps later.
    assert float(resumed[-1].split()[-1]) == pytest.approx(
        float(expected[-1].split()[-1]), rel=1e-7
    )
