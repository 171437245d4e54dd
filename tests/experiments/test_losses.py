import jax
import jax.numpy as jnp
import numpy as np

from hig_optax.experiments.losses import error_rows, measured_loss
from hig_optax.problems import LinearOscillators, NoisyLikelihood, QuantumDipole


def test_what_is_measured_is_the_loss():
    with jax.enable_x64(True):
        for problem in (QuantumDipole(num_steps=6), LinearOscillators()):
            params = problem.init(jax.random.key(0))
            sample = jax.tree.map(lambda x: x[0], problem.data(jax.random.key(1))[1])
            expected = problem.sample_loss(problem.residual(params, sample), sample)
            np.testing.assert_allclose(measured_loss(problem)(params, sample), expected, rtol=1e-12)


def test_a_small_infidelity_is_measured_in_float32():
    class Almost(QuantumDipole):
        """A state that misses its target by the parameters, but for a phase."""

        def residual(self, params, sample):
            return jnp.exp(0.3j).astype(jnp.complex64) * (sample.target + params)

    problem = Almost()
    sample = jax.tree.map(lambda x: x[0], problem.data(jax.random.key(0))[1])
    missed = 1e-5 * problem.eigenstate(4)
    loss = measured_loss(problem)(missed, sample)
    assert loss.dtype == jnp.float32
    # 1e-10, where the rounding of 1 - |overlap|² is 6e-8. The states' own is 1e-7 of the 1e-5.
    np.testing.assert_allclose(loss, 1e-10, rtol=0.02)


def test_of_a_likelihood_the_distance_from_the_truth_is_measured():
    problem = NoisyLikelihood()
    params = problem.init(jax.random.key(0))
    sample = jax.tree.map(lambda x: x[0], problem.data(jax.random.key(1))[1])
    expected = problem.divergence(problem.residual(params, sample), sample)
    assert measured_loss(problem)(params, sample) == expected > 0
    # What was read at the point does not matter.
    assert measured_loss(problem)(params, sample._replace(target=sample.target + 1)) == expected
    assert error_rows(problem) is None
