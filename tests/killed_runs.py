"""What the processes of test_killed.py run, and what they leave behind if they are not killed before."""

import importlib.util
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from hig_optax.experiments import checkpoint
from hig_optax.experiments.budget import Budget
from hig_optax.experiments.compare import compare
from hig_optax.problems import Toy

RECIPE = Path(__file__).parents[1] / "recipes" / "checkpoint.py"
STEPS = 8


def recipe(folder):
    """The loop of the recipe, saved every other step: parameters, state, key and position at the end."""
    spec = importlib.util.spec_from_file_location("recipe", RECIPE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    losses = module.main(steps=STEPS, folder=folder / "saves", every=2)
    with ocp.CheckpointManager(folder / "saves") as manager:
        now = manager.restore(STEPS, args=ocp.args.StandardRestore())
    now["key"] = jax.random.key_data(now["key"])
    leave(folder, now, began_at=STEPS - len(losses))


def comparison(folder):
    """A comparison, whose run in progress is saved at every look: parameters, losses and looks at the end."""
    checkpoint.EVERY_SECONDS = 0.0
    toy = Toy(num_train=64, num_test=8)
    (run,) = compare(toy, ["adaptive-hig"], [0], Budget(steps=STEPS), out=folder / "out").histories
    if run.params is not None:  # else it was done before and is only read
        looks = [[p.test_loss, p.last_loss, *(p.singular_values or ())] for p in run.points]
        leave(folder, [run.params, run.losses, dict(run.views), looks], began_at=run.resumed)


def leave(folder, result, began_at):
    arrays = [np.asarray(x, getattr(x, "dtype", float)) for x in jax.tree.leaves(result)]
    np.savez(folder / "result.npz", *arrays, began_at=began_at)
