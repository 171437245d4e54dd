"""Directions and training against data of the method's authors, through this project's own physics.

The reference is a float64 evaluation of the authors' formulas; `golden/README.md` says how it was made, and
what the authors' own float32 code had for an error, which is the measure for ours.
"""

import golden_data
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from matrices import relative_error

import hig_optax

# What is compared to float32's last digits has to be compiled as for users; in float64 there is room.
AS_FOR_USERS = pytest.mark.usefixtures("compiled_as_for_users")

EXPONENTS = {-0.5: "0.5", -1.0: "1", 0.0: "0"}

# Relative error of the authors' float32 direction, by exponent.
AUTHORS_FLOAT32 = {
    "linear": {-0.5: 3.2e-6, -1.0: 1.3e-5, 0.0: 9.3e-7},
    "nonlinear": {-0.5: 3.6e-6, -1.0: 4.6e-6, 0.0: 1.8e-6},
    "quantum": {-0.5: 4.4e-3, -1.0: 5.9e-3, 0.0: 1.1e-3},
    "poisson": {-0.5: 3.3e-6, -1.0: 4.9e-6, 0.0: 2.4e-6},
}


# As many products as there are rows, but on the dipole, of whose 448 singular values 109 are kept.
NUM_MATVECS = {"linear": 32, "quantum": 150}

# The direct solvers round J once; of the matrix-free one each product rounds anew. On the dipole its error
# was 2.2 times the authors' with JAX 0.10.2 and 3.02 times with 0.12.0, from 130 products to 300 alike.
TIMES_AUTHORS = {"svd": 3, "gram": 3, "krylov": 4}

BY_NAME = pytest.mark.parametrize("name", golden_data.PROBLEMS)
# With so many products the matrix-free solver is slow to test; these two are the easiest and the hardest.
EVERYWHERE = pytest.mark.parametrize(
    ("name", "solver"),
    [(name, solver) for name in golden_data.PROBLEMS for solver in ("svd", "gram")]
    + [("linear", "krylov"), ("quantum", "krylov")],
)


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


def found_directions(name, dtype, solver, exact):
    """Direction in golden order, reference and spectrum, by exponent; one compilation for all.

    One solver and one form to a computation: with several of them side by side, on two cores, the CPU
    runtime of JAX 0.10.2 was seen to wait forever, all of its threads idle.
    """
    case = Case(name, dtype)
    loss_fn = case.rows_loss if exact else None

    @jax.jit
    def compute(params, batch, exponent):
        opt = hig_optax.scale_by_hig(
            case.problem.residual,
            loss_fn=loss_fn,
            exponent=exponent,
            rtol=case.rtol,
            solver=solver,
            num_matvecs=NUM_MATVECS[name] if solver == "krylov" else None,
        )
        grads = jax.grad(case.loss)(params, batch)
        return opt.update(grads, opt.init(params), params, batch=batch)

    for exponent, label in EXPONENTS.items():
        updates, state = compute(case.params, case.batch, jnp.asarray(exponent, dtype))
        reference = case.golden[f"upd_f64_k{label}"]
        spectrum = jax.tree.map(np.asarray, state.spectrum)
        yield exponent, np.asarray(golden_data.flat(updates)), reference, spectrum


@EVERYWHERE
@pytest.mark.parametrize("exact", [True, False], ids=["loss_fn", "gradient"])
def test_direction_in_float64(name, solver, exact):
    values = golden_data.load(name)["sv_f64"][:64]
    with jax.enable_x64(True):
        for _, direction, reference, spectrum in found_directions(name, jnp.float64, solver, exact):
            # The reference has J from another program, and the smallest of quantum's kept values is 1e-5 σ₁.
            assert relative_error(direction, reference) < (1e-5 if name == "quantum" else 1e-6)
            np.testing.assert_allclose(spectrum.singular_values[: values.size], values, rtol=1e-6)
            assert spectrum.is_finite
            if exact:
                assert spectrum.gradient_cosine == pytest.approx(1)


@AS_FOR_USERS
@EVERYWHERE
def test_direction_in_float32_with_loss_fn(name, solver):
    for exponent, direction, reference, _ in found_directions(name, jnp.float32, solver, True):
        bound = TIMES_AUTHORS[solver] * AUTHORS_FLOAT32[name][exponent]
        assert relative_error(direction, reference) < bound


@AS_FOR_USERS
@EVERYWHERE
def test_direction_in_float32_from_the_gradient(name, solver):
    eps = float(jnp.finfo(jnp.float32).eps)
    for exponent, direction, reference, spectrum in found_directions(
        name, jnp.float32, solver, False
    ):
        # The bound in the docstring of scale_by_hig, its ratio of norms taken as one.
        bound = 10 * eps * spectrum.condition ** (1 - exponent) / spectrum.gradient_kept**0.5
        assert relative_error(direction, reference) < bound


@BY_NAME
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
        np.testing.assert_allclose(losses * count, case.golden["loss_seq_hig_f64"], rtol=1e-9)
