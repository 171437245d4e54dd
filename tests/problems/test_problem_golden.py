"""Forward pass, loss and Jacobian against reference data of independent programs."""

import functools

import golden_data
import jax
import jax.numpy as jnp
import numpy as np
import pytest

# Largest relative error, in the 2-norm. float64: both programs round differently, over up to 384
# steps. float32: about three times what was measured. The quantum cotangent is -2 ⟨t,y⟩ t with an
# overlap of about 0.005 that remains from sums of order one, hence its loss of digits.
TOLERANCES = {
    ("linear", np.float64): {"y": 1e-14, "loss": 1e-14, "dLdy": 1e-14, "J": 1e-14},
    ("nonlinear", np.float64): {"y": 1e-14, "loss": 1e-14, "dLdy": 1e-14, "J": 2e-14},
    ("poisson", np.float64): {"y": 1e-14, "loss": 1e-14, "dLdy": 1e-14, "J": 1e-14},
    ("quantum", np.float64): {"y": 1e-12, "loss": 1e-14, "dLdy": 5e-12, "J": 1e-12},
    ("linear", np.float32): {"y": 1e-6, "loss": 2e-6, "dLdy": 2e-6, "J": 1e-6},
    ("nonlinear", np.float32): {"y": 1e-6, "loss": 2e-6, "dLdy": 2e-6, "J": 4e-6},
    ("poisson", np.float32): {"y": 1e-6, "loss": 1e-6, "dLdy": 1e-6, "J": 2e-6},
    ("quantum", np.float32): {"y": 2e-5, "loss": 1e-7, "dLdy": 2e-3, "J": 2e-5},
}
case = pytest.mark.parametrize(
    ("name", "dtype"), TOLERANCES, ids=[f"{name}-{dtype.__name__}" for name, dtype in TOLERANCES]
)


def assert_close(actual, expected, tolerance):
    actual, expected = np.asarray(actual, np.float64).ravel(), expected.ravel()
    assert np.linalg.norm(actual - expected) <= tolerance * np.linalg.norm(expected)


@functools.cache
def _setup(name, dtype):
    golden = golden_data.load(name)
    problem = golden_data.problem(name)
    params = golden_data.params(problem, golden, dtype)
    return problem, params, golden_data.batch(problem, golden, dtype), golden


@case
def test_forward_pass_and_loss(name, dtype):
    with jax.enable_x64(dtype == np.float64):
        problem, params, batch, golden = _setup(name, dtype)

        @jax.jit
        def forward(params, batch):
            control = jax.vmap(problem.control, in_axes=(None, 0))(params, batch)
            y = jax.vmap(problem.physics)(control, batch)
            rows = jax.vmap(problem.residual, in_axes=(None, 0))(params, batch)
            losses = jax.vmap(problem.sample_loss)(rows, batch)
            return control, golden_data.rows(y), rows, losses

        @jax.jit
        def cotangent(rows):
            reduce = jnp.mean if problem.reduction == "mean" else jnp.sum
            g = jax.grad(lambda rows: reduce(jax.vmap(problem.sample_loss)(rows, batch)))(rows)
            # JAX gives ∂L/∂Re - i ∂L/∂Im.
            return golden_data.rows(jnp.conj(g))

        control, y, rows, losses = forward(params, batch)
        tolerance = TOLERANCES[name, dtype]
        # TensorFlow's float32 network.
        np.testing.assert_allclose(control, golden["net_out"], atol=1e-6)
        assert_close(y, golden["y_pred_f64"], tolerance["y"])
        assert_close(losses, golden["loss_per_sample_f64"], tolerance["loss"])
        assert_close(cotangent(rows), golden["dLdy_f64"], tolerance["dLdy"])


@case
def test_product_of_the_jacobian_and_a_vector(name, dtype):
    with jax.enable_x64(dtype == np.float64):
        problem, params, batch, golden = _setup(name, dtype)

        @jax.jit
        def forward(params, v):
            residual = jax.vmap(problem.residual, in_axes=(None, 0))
            return golden_data.rows(jax.jvp(lambda p: residual(p, batch), (params,), (v,))[1])

        v = np.random.RandomState(0).standard_normal(golden_data.flat(params).size)
        Jv = forward(params, golden_data.unflat(v, problem, dtype))
        assert_close(Jv, golden["J_times_v"], TOLERANCES[name, dtype]["J"])


@pytest.mark.parametrize("name", golden_data.PROBLEMS)
def test_jacobian_by_reverse_mode(name):
    with jax.enable_x64(True):
        problem, params, batch, golden = _setup(name, np.float64)
        tolerance = TOLERANCES[name, np.float64]["J"]

        @jax.jit
        def jacobian(params, batch):
            def rows(params, sample):
                return golden_data.rows(problem.residual(params, sample))

            J = golden_data.flat(jax.vmap(jax.jacrev(rows), in_axes=(None, 0))(params, batch))
            return J.reshape(-1, J.shape[-1])

        if "J_f64" in golden:
            assert_close(jacobian(params, batch), golden["J_f64"], tolerance)
        else:
            J = np.asarray(jacobian(params, jax.tree.map(lambda leaf: leaf[:1], batch)))
            # The product adds its own rounding, a sum over all parameters.
            assert_close(J @ J.T, golden["gram_f64_sample0"], 3 * tolerance)
