"""A run killed at a random moment and started again ends as if nothing had happened, to the last bit."""

import multiprocessing
import random
import signal
import time

import killed_runs
import numpy as np
import pytest

PATIENCE = 60.0  # seconds, for whatever a process does
SAVES = ("saves/*", "out/*/runs/*.checkpoint/*")  # of the recipe, of the comparison
SAVE = 0.1  # seconds that a save and the steps before it take, about


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Start a function in a process of its own.

    The processes are forked from one that has imported JAX but not used it, and they share what they compile:
    a start costs a fraction of a second.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("compiled")))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["orbax.checkpoint", "hig_optax.experiments.compare"])

        def begin(function, folder):
            folder.mkdir(exist_ok=True)
            process = context.Process(target=function, args=(folder,))
            process.start()
            return process

        yield begin


def result(start, function, folder):
    """What a run leaves that is not killed, to the last bit, and where it took up an earlier one."""
    process = start(function, folder)
    process.join(PATIENCE)
    assert process.exitcode == 0
    with np.load(folder / "result.npz") as arrays:
        found = dict(arrays)
    began_at = int(found.pop("began_at"))
    return {name: (x.dtype, x.shape, x.tobytes()) for name, x in found.items()}, began_at


def kill(start, function, folder, moment):
    """Kill a run at a moment counted in its steps; False where it ended before."""
    process = start(function, folder)
    step, rest = divmod(moment, 1)
    until = time.monotonic() + PATIENCE
    while process.is_alive() and newest_save(folder) < step:
        assert time.monotonic() < until
        time.sleep(5e-3)
    time.sleep(rest * SAVE)
    process.kill()
    process.join(PATIENCE)
    return process.exitcode == -signal.SIGKILL and not (folder / "result.npz").exists()


def newest_save(folder):
    """The step of the newest complete save of a run; 0 where there is none."""
    names = [x.name for place in SAVES for x in folder.glob(place)]
    return max((int(name) for name in names if name.isdigit()), default=0)


def test_killed_runs_end_alike(start, tmp_path):
    """The loop of the recipe: parameters, optimizer state, key and position."""
    moments = random.Random(0)
    whole, _ = result(start, killed_runs.recipe, tmp_path / "whole")
    assert len(whole) > 15
    beginnings = []
    for i in range(3):
        folder, attempts = tmp_path / f"{i}", 0
        while not kill(start, killed_runs.recipe, folder, moments.uniform(0, killed_runs.STEPS)):
            attempts += 1
            folder = tmp_path / f"{i} again {attempts}"
        resumed, began_at = result(start, killed_runs.recipe, folder)
        assert resumed == whole
        beginnings.append(began_at)
    assert any(began_at > 0 for began_at in beginnings), beginnings


def test_a_comparison_killed_three_times_ends_alike(start, tmp_path):
    """Its run in progress: parameters, losses, views and looks."""
    moments = random.Random(1)
    whole, times = result(start, killed_runs.comparison, tmp_path / "whole")
    assert times == 0
    folder, kills = tmp_path / "killed", 0
    for third in range(3):
        moment = (third + moments.uniform(0, 1)) / 3 * killed_runs.STEPS
        kills += kill(start, killed_runs.comparison, folder, moment)
    resumed, times = result(start, killed_runs.comparison, folder)
    assert resumed == whole
    assert 0 < times <= kills <= 3
    assert not list(folder.glob("out/*/runs/*.checkpoint"))
