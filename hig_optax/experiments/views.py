"""What is recorded of a network in training besides its losses, for the figures of its problem.

Three kinds of views, as named arrays: of the data alone, at every look, and at the two ends of a run.
A problem without views needs nothing here.
"""

from collections.abc import Mapping
from functools import partial, singledispatch
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hig_optax.problems import (
    Batch,
    LinearOscillators,
    NonlinearOscillators,
    Params,
    PhysicsInformed,
    Poisson,
    QuantumDipole,
    Toy,
)

Shown = dict[str, Any]

PROBE = 0.55  # where in the toy's test set, as a share of it, lies the point whose path is kept
MAX_TIMES = 129  # of the dipole's time steps so many are kept
MAX_PIXELS = 64  # of a solution in the plane, along an axis


@singledispatch
def of_data(problem: Any, test: Batch) -> Shown:
    """What the data show, whatever the network does."""
    del problem, test
    return {}


@singledispatch
def at_looks(problem: Any, params: Params, test: Batch) -> Shown:
    """What is recorded at every look."""
    del problem, params, test
    return {}


@singledispatch
def at_ends(problem: Any, params: Params, test: Batch) -> Shown:
    """What is recorded before the first step and after the last one."""
    del problem, params, test
    return {}


class Recorder:
    """Gathers the views of one run."""

    def __init__(self, problem: Any, test: Batch) -> None:
        self._problem, self._test = problem, test
        self._looks: list[Shown] = []
        self._before: Shown = {}

    def look(self, params: Params) -> None:
        """Record the network as it is now; the first call is the one before training."""
        if not self._looks:
            self._before = _at_ends(self._problem, params, self._test)
        self._looks.append(_at_looks(self._problem, params, self._test))

    def record(self) -> dict[str, Any]:
        """Everything so far, as nested dicts of arrays."""
        return {"looks": _stacked(self._looks), "before": self._before}

    def take_up(self, record: Mapping[str, Any]) -> None:
        """Go on from the `record` of another recorder of the same run."""
        looks, self._before = record["looks"], record["before"]
        count = len(next(iter(looks.values()), [None]))
        self._looks = [{name: x[i] for name, x in looks.items()} for i in range(count)]

    def views(self, params: Params) -> dict[str, np.ndarray]:
        """All views at the end of the run, by name.

        Those of every look have a leading axis of looks, those of the ends one of length 2: before
        and after.
        """
        ends = [self._before, _at_ends(self._problem, params, self._test)]
        shown = {**of_data(self._problem, self._test), **_stacked(self._looks), **_stacked(ends)}
        return {name: np.asarray(array) for name, array in shown.items()}


def _stacked(views: list[Shown]) -> Shown:
    return {name: np.stack([view[name] for view in views]) for name in views[0]}


@partial(jax.jit, static_argnums=0)
def _at_looks(problem: Any, params: Params, test: Batch) -> Shown:
    return at_looks(problem, params, test)


@partial(jax.jit, static_argnums=0)
def _at_ends(problem: Any, params: Params, test: Batch) -> Shown:
    return at_ends(problem, params, test)


@of_data.register
def _(problem: Toy, test: Batch) -> Shown:
    del problem
    return {"curve": test.target[::4], "target": test.target[_probe(test)]}


@at_looks.register
def _(problem: Toy, params: Params, test: Batch) -> Shown:
    neurons = jax.vmap(problem.neurons, in_axes=(None, 0))(params, test)
    sample = jax.tree.map(lambda leaf: leaf[_probe(test)], test)
    return {
        "neuron_mean": jnp.mean(neurons, axis=0),
        "neuron_std": jnp.std(neurons, axis=0),
        "path": problem.physics(problem.control(params, sample), sample),
    }


@at_ends.register
def _(problem: Toy, params: Params, test: Batch) -> Shown:
    y = jax.vmap(lambda s: problem.physics(problem.control(params, s), s))(test)
    return {"fit": y[::4], "component_errors": jnp.mean((y - test.target) ** 2, axis=0)}


def _probe(test: Batch) -> int:
    return round(PROBE * (len(test.target) - 1))


@of_data.register(LinearOscillators)
@of_data.register(NonlinearOscillators)
def _(problem: LinearOscillators | NonlinearOscillators, test: Batch) -> Shown:
    del problem
    return {"target": test.target[0]}


@at_ends.register(LinearOscillators)
@at_ends.register(NonlinearOscillators)
def _(problem: LinearOscillators | NonlinearOscillators, params: Params, test: Batch) -> Shown:
    sample = _first(test)
    control = problem.control(params, sample)
    trajectory = problem.trajectory(control, sample)
    # Views are stored with few digits: what is small beside them is recorded by itself.
    miss = jnp.linalg.norm(trajectory[-1] - sample.target)
    return {"control": control, "trajectory": trajectory, "miss": miss}


@of_data.register
def _(problem: QuantumDipole, test: Batch) -> Shown:
    del problem
    return {"target": _density(test.target[0])}


@at_ends.register
def _(problem: QuantumDipole, params: Params, test: Batch) -> Shown:
    sample = _first(test)
    control = problem.control(params, sample)
    every = -(-problem.num_steps // (MAX_TIMES - 1))
    return {
        "control": control,
        "density": _density(problem.trajectory(control, sample))[::every],
        "overlap": 1 - problem.sample_loss(problem.physics(control, sample), sample),
    }


def _density(psi: jax.Array) -> jax.Array:
    return jnp.abs(psi) ** 2


@of_data.register
def _(problem: Poisson, test: Batch) -> Shown:
    del problem
    return {"target": test.target[0], "solution": test.field[0]}


@at_ends.register
def _(problem: Poisson, params: Params, test: Batch) -> Shown:
    field = problem.control(params, _first(test))
    return {"field": field, "error": field - test.field[0]}


@of_data.register
def _(problem: PhysicsInformed, test: Batch) -> Shown:
    x, u = _picture(problem, test)
    return {"solution": u, "corners": x[jnp.array([0, -1]), jnp.array([0, -1]), :2]}


@at_ends.register
def _(problem: PhysicsInformed, params: Params, test: Batch) -> Shown:
    x, solution = _picture(problem, test)
    u = jax.vmap(jax.vmap(lambda x: jnp.atleast_1d(problem.field(params, x))[0]))(x)
    return {"field": u, "error": u - solution}


def _picture(problem: PhysicsInformed, test: Batch) -> tuple[jax.Array, jax.Array]:
    """A plane of points and the solution there, thinned."""
    x, u = problem.picture(test)
    thin = tuple(slice(None, None, -(-size // MAX_PIXELS)) for size in u.shape)
    return x[thin], u[thin]


def _first(test: Batch) -> Batch:
    return jax.tree.map(lambda leaf: leaf[0], test)
