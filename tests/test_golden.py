"""Directions and training against data of the method's authors, through this project's own physics.

The reference is a float64 evaluation of the authors' formulas; `golden/README.md` says how it was made, and
what the authors' own float32 code had for an error, which is the measure for ours.
"""

import functools

import golden_data
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from matrices import relative_error

import hig_optax

EXPONENTS = {-0.5: "0.5", -1.0: "1", 0.0: "0"}

# Relative error of the authors' float32 direction, by exponent.
AUTHORS_FLOAT32 = {
    "linear": {-0.5: 3.2e-6, -1.0: 1.3e-5, 0.0: 9.3e-7},
    "nonlinear": {-0.5: 3.6e-6, -1.0: 4.6e-6, 0.0: 1.8e-6},
    "quantum": {-0.5: 4.4e-3, -1.0: 5.9e-3, 0.0: 1.1e-3},
    "poisson": {-0.5: 3.3e-6, -1.0: 4.9e-6, 0.0: 2.4e-6},
}


# Tests of one file share their compilations, so they go to one worker.
BY_NAME = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in golden_data.PROBLEMS],
)
BY_SOLVER = pytest.mark.parametrize("solver", ["svd", "gram"])


class Case:
    """A golden problem at its golden weights, in one precision."""

    def __init__(self, name, dtype):
        self.golden = golden_data.load(name)
        self.problem = golden_data.problem(name)
        self.params = golden_data.params(self.problem, self.golden, dtype)
        self.batch = golden_data.batch(self.problem, self.golden, dtype)
        self.rtol, self.learning_rate = float(self.golden["rcond"]), float(self.golden["lr"])

    def rows_loss(self, rows, batch):
        reduce = jnp.mean if self.problem.reduction == "mean" else jnp.sum
        return reduce(jax.vmap(self.problem.sample_loss)(rows, batch))

    def loss(self, params, batch):
        return self.rows_loss(jax.vmap(self.problem.residual, (None, 0))(params, batch), batch)


@functools.cache
def found_directions(name, dtype):
    """Directions in golden order and spectra, by (solver, with loss_fn, exponent)."""
    case = Case(name, dtype)
    variants = [(solver, exact) for solver in ("svd", "gram") for exact in (True, False)]

    def compute(params, batch, exponent):
        grads = jax.grad(case.loss)(params, batch)
        results = []
        for solver, exact in variants:
            loss_fn = case.rows_loss if exact else None
            opt = hig_optax.scale_by_hig(
                case.problem.residual,
                loss_fn=loss_fn,
                exponent=exponent,
                rtol=case.rtol,
                solver=solver,
            )
            updates, state = opt.update(grads, opt.init(params), params, batch=batch)
            results.append((updates, state.spectrum))
        return results

    # All in one computation, and all exponents at once: what they share is computed once.
    found = jax.jit(jax.vmap(compute, (None, None, 0)))(
        case.params, case.batch, jnp.asarray(list(EXPONENTS), dtype)
    )
    return {
        (*variant, exponent): (
            np.asarray(golden_data.flat(jax.tree.map(lambda x: x[i], updates))),  # noqa: B023
            jax.tree.map(lambda x: np.asarray(x[i]), spectrum),  # noqa: B023
        )
        for variant, (updates, spectrum) in zip(variants, found, strict=True)
        for i, exponent in enumerate(EXPONENTS)
    }


@BY_NAME
@BY_SOLVER
@pytest.mark.parametrize("exact", [True, False], ids=["loss_fn", "gradient"])
def test_direction_in_float64(name, solver, exact):
    with jax.enable_x64(True):
        found = found_directions(name, jnp.float64)
    golden = golden_data.load(name)
    values = golden["sv_f64"][:64]
    for exponent, label in EXPONENTS.items():
        direction, spectrum = found[solver, exact, exponent]
        # The reference has J from another program, and the smallest of quantum's kept values is 1e-5 σ₁.
        tolerance = 1e-5 if name == "quantum" else 1e-6
        assert relative_error(direction, golden[f"upd_f64_k{label}"]) < tolerance
        np.testing.assert_allclose(spectrum.singular_values[: values.size], values, rtol=1e-6)
        assert spectrum.is_finite
        if exact:
            assert spectrum.agreement == pytest.approx(1)


@BY_NAME
@BY_SOLVER
def test_direction_in_float32_with_loss_fn(name, solver):
    golden = golden_data.load(name)
    for exponent, label in EXPONENTS.items():
        direction, _ = found_directions(name, jnp.float32)[solver, True, exponent]
        error = relative_error(direction, golden[f"upd_f64_k{label}"])
        assert error < 3 * AUTHORS_FLOAT32[name][exponent]


@BY_NAME
@BY_SOLVER
def test_direction_in_float32_from_the_gradient(name, solver):
    golden = golden_data.load(name)
    for exponent, label in EXPONENTS.items():
        direction, spectrum = found_directions(name, jnp.float32)[solver, False, exponent]
        # The bound in the docstring of scale_by_hig.
        eps = float(jnp.finfo(jnp.float32).eps)
        bound = 10 * eps * spectrum.condition ** (1 - exponent) / spectrum.captured**0.5
        assert relative_error(direction, golden[f"upd_f64_k{label}"]) < bound


@pytest.mark.parametrize("name", ["linear", "nonlinear", "poisson"])
def test_ten_steps_in_float64(name):
    with jax.enable_x64(True):
        case = Case(name, jnp.float64)
        opt = hig_optax.hig(case.learning_rate, case.problem.residual, rtol=case.rtol)

        @jax.jit
        def train(params, batch):
            def step(carry, _):
                params, state = carry
                loss, grads = jax.value_and_grad(case.loss)(params, batch)
                updates, state = opt.update(grads, state, params, batch=batch)
                return (optax.apply_updates(params, updates), state), loss

            carry, losses = jax.lax.scan(step, (params, opt.init(params)), length=10)
            return jnp.append(losses, case.loss(carry[0], batch))

        losses = train(case.params, case.batch)
        # The file has the sum over the batch, whatever the loss that was differentiated.
        count = len(case.golden["y_target"]) if case.problem.reduction == "mean" else 1
        np.testing.assert_allclose(losses * count, case.golden["loss_seq_hig_f64"], rtol=1e-6)
