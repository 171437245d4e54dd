"""The direction against float64, on spectra as wide as those of training through physics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matrices import direction, planted, relative_error

from hig_optax._jacobian.choices import choose_solver
from hig_optax._solvers.direction import half_inverse_direction

pytestmark = pytest.mark.usefixtures("compiled_as_for_users")

J = planted((96, 400), np.logspace(0, -7, 96))
G = np.random.default_rng(1).normal(size=96)

# Errors measured for a float32 J with its Gram matrix in float64, and for float64 throughout; see the table
# of the README. A factor of 3 allows for another matrix and another summation order.
FLOAT32 = {1e-2: 2.6e-7, 1e-3: 2.6e-6, 1e-4: 2.8e-5, 1e-6: 2e-3}
FLOAT64 = {1e-2: 4e-13, 1e-3: 5e-11, 1e-4: 5e-9, 1e-6: 2e-5}

# Settings are traced, so that one compilation serves all their values.
jitted = jax.jit(half_inverse_direction, static_argnames=("solver", "max_rank"))


def error(dtype, rtol, *, solver="auto", with_cotangent=True, exponent=-0.5):
    A, g = jnp.asarray(J, dtype), jnp.asarray(G, dtype)
    solver = choose_solver(solver, dtype=jnp.dtype(dtype), rtol=rtol)
    numbers = {"exponent": exponent, "rtol": rtol, "atol": 0.0, "damping": 0.0}
    found = jitted(
        A,
        g @ A,
        g if with_cotangent else None,
        **{name: jnp.asarray(value, dtype) for name, value in numbers.items()},
        max_rank=None,
        solver=solver,
    )
    # σ = logspace passes no cut closer than 8 %, so the reference keeps the same ones.
    return relative_error(found.direction, direction(J, G, exponent, rtol=rtol))


@pytest.mark.parametrize("rtol", FLOAT32)
def test_auto_in_a_float32_program(rtol):
    assert error(jnp.float32, rtol) < 3 * FLOAT32[rtol]


@pytest.mark.parametrize("rtol", FLOAT64)
def test_auto_in_a_float64_program(rtol):
    with jax.enable_x64(True):
        assert error(jnp.float64, rtol) < 3 * FLOAT64[rtol]


# The same for solver="svd", which works in the dtype of J; the README's table shows both.
SVD_FLOAT32 = {1e-2: 2e-6, 1e-3: 8e-6, 1e-4: 1e-4, 1e-6: 1e-2}
SVD_FLOAT64 = {1e-2: 7e-15, 1e-3: 3e-14, 1e-4: 4e-13, 1e-6: 4e-11}


@pytest.mark.parametrize("rtol", SVD_FLOAT32)
def test_svd_in_either_program(rtol):
    assert error(jnp.float32, rtol, solver="svd") < 3 * SVD_FLOAT32[rtol]
    with jax.enable_x64(True):
        assert error(jnp.float64, rtol, solver="svd") < 3 * SVD_FLOAT64[rtol]


@pytest.mark.parametrize("rtol", [1e-8, 1e-10, 0.0])
def test_auto_in_a_float64_program_below_what_a_gram_matrix_can(rtol):
    with jax.enable_x64(True):
        assert choose_solver("auto", dtype=jnp.dtype(jnp.float64), rtol=rtol) == "svd"
        assert error(jnp.float64, rtol) < 1e-8  # ε·1e7 = 2e-9, all 96 values kept


@pytest.mark.parametrize("with_cotangent", [True, False], ids=["cotangent", "gradient"])
@pytest.mark.parametrize("exponent", [0.0, -0.5, -1.0])
@pytest.mark.parametrize("rtol", [1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize(("solver", "c"), [("svd", 50), ("gram", 10)])
def test_documented_bound(solver, c, dtype, rtol, exponent, with_cotangent):
    """error <= c ε σ₁ f(σ_k) ‖g‖ / (σ_k - σ_(k+1)), as the docstring of scale_by_hig says."""
    s = np.logspace(0, -7, 96)
    last, cut = s[s > rtol][-1], s[s <= rtol][0]
    bound = c * np.finfo(dtype).eps * last**exponent * np.linalg.norm(G) / (last - cut)
    if solver == "gram":
        bound *= 1 + np.finfo(float).eps / np.finfo(dtype).eps / last
    length = np.linalg.norm(direction(J, G, exponent, rtol=rtol))
    settings = {"solver": solver, "with_cotangent": with_cotangent, "exponent": exponent}
    with jax.enable_x64(dtype == jnp.float64):
        assert error(dtype, rtol, **settings) < bound / length
