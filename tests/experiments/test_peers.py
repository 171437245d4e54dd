"""Optimizers of other packages, as the experiments call them."""

import importlib
import importlib.metadata

import jax
import jax.numpy as jnp
import nlls_gram
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from hig_optax import problems
from hig_optax.experiments import __main__ as command
from hig_optax.experiments import methods, train
from hig_optax.experiments.losses import batch_rows

SMALL = problems.Poisson2D(num_interior=12, num_boundary=8, hidden=(6,))
PACKAGES = {"ssbroyden": "jinns", "geodesic-lm": "nlls_gram"}


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_that_is_missing_is_named_with_what_installs_it(name, monkeypatch, capsys):
    def missing(module):
        raise ModuleNotFoundError(name=module.partition(".")[0])

    monkeypatch.setattr(importlib, "import_module", missing)
    said = f"{PACKAGES[name]} is not installed: pip install 'hig-optax[peers]'."
    with pytest.raises(ValueError, match=said.replace("[", r"\[")):
        train.Trainer(SMALL, name)
    with pytest.raises(SystemExit):
        command.main(["compare", "toy", "--methods", name, "--cores", "0"])
    assert capsys.readouterr().err.endswith(f"error: {said}\n")


def test_a_package_that_is_there_but_broken_is_not_called_missing(monkeypatch):
    def broken(module):
        raise ModuleNotFoundError(name="something_else")

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(ModuleNotFoundError):
        train.Trainer(SMALL, "ssbroyden")


@pytest.mark.parametrize("name", PACKAGES)
def test_runs_tell_the_package_and_its_version(name):
    history = train.train(SMALL, name, 0, steps=2)
    package = PACKAGES[name].replace("_", "-")
    assert history.request["package"] == f"{package} {importlib.metadata.version(package)}"
    assert "package" not in train.train(SMALL, "adam", 0, steps=1).request


def test_broyden_steps_solve_a_quadratic_and_stay_there():
    class Line(problems.PhysicsInformed):
        """Rows that are linear in the parameters, with a solution."""

        name = "line"
        box = problems.Heat(num_interior=9, num_boundary=6).box

        @property
        def recommended(self):
            return {}

        def init(self, key):
            return {"a": jnp.ones(3)}

        def field(self, params, x):
            return jnp.dot(params["a"], jnp.stack([x[0], x[1], x[0] * x[1]]))

        def equation(self, field, x):
            return field(x) - self.given(x)

        def given(self, x):
            return 2 * x[0] - 3 * x[1]

        def solution(self):
            x = self.box.grid(*self.grid)
            return x, jax.vmap(self.given)(x)

    problem = Line(hidden=(1,), num_interior=9, num_boundary=6)
    history = train.train(problem, "ssbroyden", 0, steps=200)
    # Once the loss is down to rounding the line search finds nothing, and no number comes out of it.
    assert history.points[-1].relative_error < 1e-10
    np.testing.assert_allclose(history.params["a"], [2, -3, 0], atol=1e-9)


@pytest.mark.parametrize("fixed", [True, False])
def test_geodesic_steps_are_those_of_the_package(fixed):
    problem = problems.Poisson2D(num_interior=12, num_boundary=8, hidden=(6,), fixed_points=fixed)
    method = methods.get("geodesic-lm")
    settings = method.settings(problem)
    with jax.enable_x64(True):
        params = problem.init(jax.random.key(0))
        train_set, _ = problem.data(jax.random.key(1))
        optimizer = method.optimizer(problem, settings)
        state = optimizer.init(params)

        @jax.jit
        def ours(params, state, batch):
            updates, state = optimizer.update(None, state, params, batch=batch)
            return jax.tree.map(jnp.add, params, updates), state

        def residual(params, batch):
            return ravel_pytree(batch_rows(problem.residual, params, batch))[0]

        with jax.numpy_dtype_promotion("standard"):
            theirs = nlls_gram.LevenbergMarquardt(residual, cache_jacobian=False)
            their_params, their_state = params, theirs.init(params, train_set)
            their_update = jax.jit(theirs.update)
        losses = []
        for step in range(12):
            batch = problem.draw(jax.random.key(2), step, train_set)
            losses.append(float(problem.loss(params, batch)))
            params, state = ours(params, state, batch)
            with jax.numpy_dtype_promotion("standard"):
                their_params, their_state, _ = their_update(their_params, their_state, batch)
        # Equal formulas, but for what is kept of steps that were refused; rounding grows over twelve steps.
        ours_flat, theirs_flat = ravel_pytree(params)[0], ravel_pytree(their_params)[0]
        np.testing.assert_allclose(ours_flat, theirs_flat, rtol=1e-6, atol=1e-8)
    assert not fixed or losses[-1] < 0.5 * losses[0]


def test_an_unknown_solver_is_refused():
    with pytest.raises(ValueError, match=r"solver must be one of \['cholesky', 'gram-cg'\]"):
        train.Trainer(SMALL, "geodesic-lm", {"solver": "svd"})


def test_products_take_steps_downhill_too():
    history = train.train(SMALL, "geodesic-lm", 0, steps=20, settings={"solver": "gram-cg"})
    assert history.losses[-1] < 0.5 * history.losses[0]
