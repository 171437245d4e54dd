"""A field and its noise from readings: the likelihood, and the distance of a fit from the truth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hig_optax.problems import FieldSample, NoisyLikelihood

PROBLEM = NoisyLikelihood()


def truth(x):
    """The field and the logarithm of its noise, from their formulas."""
    x = np.asarray(x, np.float64)
    field = np.sin(3 * x[..., 0]) * np.cos(2 * x[..., 1])
    return np.stack([field, np.log(0.05 + 0.5 * x[..., 0] ** 2)], axis=-1)


def normal(y, m, log_spread):
    """Logarithm of the density of a normal distribution."""
    z = (y - m) / np.exp(log_spread)
    return -log_spread - z**2 / 2 - np.log(2 * np.pi) / 2


def test_readings_have_the_mean_and_the_spread_that_are_told():
    train, test = NoisyLikelihood(num_train=4000, num_test=4000).data(jax.random.key(0))
    fresh = PROBLEM.draw(jax.random.key(1), 3, train, 4000)
    for readings in (train, test, fresh):
        field, log_spread = truth(readings.x).T
        z = (np.asarray(readings.target) - field) / np.exp(log_spread)
        # Of 4000 normal numbers: mean and standard deviation are known to 0.016 and 0.011.
        np.testing.assert_allclose([z.mean(), z.std()], [0, 1], rtol=0, atol=0.06)
        middle = np.abs(readings.x[:, 0]) < 0.3
        assert abs(z[middle].std() / z[~middle].std() - 1) < 0.1
        assert np.abs(readings.x).max() <= 1


def test_the_loss_is_the_likelihood_of_the_reading_without_its_constant():
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        for m, log_spread, y in rng.normal(size=(8, 3)):
            sample = FieldSample(x=jnp.zeros(2), target=jnp.asarray(y))
            loss = PROBLEM.sample_loss(jnp.array([m, log_spread]), sample)
            expected = -normal(y, m, log_spread) - np.log(2 * np.pi) / 2
            np.testing.assert_allclose(loss, expected, rtol=1e-12)


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.1, 0.0), (0.0, 0.7), (-0.3, -0.4)])
def test_the_divergence_is_that_of_an_integral_and_zero_at_the_truth(shift):
    x = np.random.default_rng(1).uniform(-1, 1, (6, 2))
    rows = truth(x) + shift
    with jax.enable_x64(True):
        readings = FieldSample(jnp.asarray(x), jnp.zeros(6))
        found = np.asarray(jax.vmap(PROBLEM.divergence)(jnp.asarray(rows), readings))
    # Trapezoids, whose error falls faster than any power for what is smooth and vanishes at both ends.
    z = np.linspace(-12, 12, 2001)
    for kl, (m, log_spread), (field, log_noise) in zip(found, rows, truth(x), strict=True):
        y = field + np.exp(log_noise) * z
        p = normal(y, field, log_noise)
        expected = np.trapezoid(np.exp(p) * (p - normal(y, m, log_spread)), y)
        np.testing.assert_allclose(kl, expected, rtol=1e-9, atol=1e-14)
        assert (kl > 1e-3) == any(shift)


def test_the_divergence_is_what_the_mean_loss_is_above_its_least():
    size = 100_000
    with jax.enable_x64(True):
        readings = NoisyLikelihood(num_train=size, num_test=1).data(jax.random.key(0))[0]
        true = jnp.asarray(truth(readings.x))
        fit = true + jnp.array([0.05, 0.3])
        at_truth, at_fit, divergence = (
            np.asarray(jax.vmap(of)(rows, readings))
            for of, rows in (
                (PROBLEM.sample_loss, true),
                (PROBLEM.sample_loss, fit),
                (PROBLEM.divergence, fit),
            )
        )
    excess = at_fit - at_truth - divergence
    assert abs(np.mean(excess)) < 5 * np.std(excess) / size**0.5
    # E[log σ] + 1/2 by quadrature; the loss of the truth is a mean of numbers with a deviation near 1.
    nodes, weights = np.polynomial.legendre.leggauss(100)
    least = weights @ np.log(0.05 + 0.5 * nodes**2) / 2 + 0.5
    assert least < -1.29
    np.testing.assert_allclose(
        np.mean(at_truth), least, rtol=0, atol=5 * np.std(at_truth) / size**0.5
    )


def test_in_float32_the_truth_is_the_least_but_for_rounding():
    _, test = PROBLEM.data(jax.random.key(2))
    rows = jnp.stack([PROBLEM.mean(test.x), jnp.log(PROBLEM.spread(test.x))], axis=-1)
    np.testing.assert_allclose(jax.vmap(PROBLEM.divergence)(rows, test), 0, atol=1e-12)
    # e²ᵈ - 1 rounds by 6e-8 of 2 d, and d itself by 1e-7.
    near = jax.vmap(PROBLEM.divergence)(rows + jnp.array([0.0, 1e-2]), test)
    np.testing.assert_allclose(near, 1e-4, rtol=0.02)
