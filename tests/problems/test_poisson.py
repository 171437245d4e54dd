import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hig_optax.problems import Poisson, PoissonSample
from hig_optax.problems.poisson import laplacian, smooth_noise

PROBLEM = Poisson()


@pytest.mark.parametrize(("p", "q"), [(1, 1), (2, 5), (8, 8)])
def test_sines_are_eigenfields_of_the_laplacian(p, q):
    i = np.arange(1, 9)
    field = np.sin(np.pi * p * i / 9)[:, None] * np.sin(np.pi * q * i / 9)
    eigenvalue = 2 * np.cos(np.pi * p / 9) + 2 * np.cos(np.pi * q / 9) - 4
    with jax.enable_x64(True):
        # A sum of five numbers of order one.
        np.testing.assert_allclose(laplacian(jnp.asarray(field)), eigenvalue * field, atol=1e-14)


def test_the_laplacian_of_a_point_is_its_stencil_cut_at_the_edge():
    expected = np.zeros((8, 8))
    expected[0, 3], expected[1, 3], expected[0, 2], expected[0, 4] = -4, 1, 1, 1
    np.testing.assert_array_equal(laplacian(jnp.zeros((8, 8)).at[0, 3].set(1.0)), expected)


def test_every_field_has_mean_zero_and_deviation_one():
    fields = np.asarray(smooth_noise(jax.random.key(0), 100, 8))
    assert fields.shape == (100, 8, 8)
    # Sums of 64 float32 numbers of order one.
    np.testing.assert_allclose(fields.mean(axis=(1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(fields.std(axis=(1, 2)), 1, atol=1e-6)


def test_amplitudes_fall_with_the_square_of_the_wave_number():
    fields = np.asarray(smooth_noise(jax.random.key(0), 4000, 8))
    # Scaling each field to deviation 1 divides all its modes by one number; as ratios of modes
    # within a field it drops out, in the mean over fields all but.
    power = np.mean(np.abs(np.fft.fft2(fields)) ** 2, axis=0)
    k2 = np.add.outer(np.fft.fftfreq(8) ** 2, np.fft.fftfreq(8) ** 2)
    assert power[0, 0] < 1e-9
    diagonal = np.arange(1, 4)
    falloff = power[diagonal, diagonal] / power[1, 1]
    # Relative error of a mean power over 4000 fields: about 2 %; the scaling adds a few.
    np.testing.assert_allclose(falloff, (k2[1, 1] / k2[diagonal, diagonal]) ** 2, rtol=0.15)


def test_neither_axis_is_preferred():
    fields = np.asarray(smooth_noise(jax.random.key(1), 4000, 8))
    power = np.mean(np.abs(np.fft.fft2(fields)) ** 2, axis=0)
    np.testing.assert_allclose(power[0, 1], power[1, 0], rtol=0.1)  # 2 % of statistical error


def test_the_target_is_the_laplacian_of_the_field():
    _, test = PROBLEM.data(jax.random.key(0))
    assert test.target.shape == (256, 8, 8)
    # Values up to 10 in float32.
    np.testing.assert_allclose(test.target, jax.vmap(laplacian)(test.field), atol=1e-5)


def test_the_training_set_does_not_matter_to_a_draw():
    train, test = PROBLEM.data(jax.random.key(0))
    key = jax.random.key(1)
    jax.tree.map(
        np.testing.assert_array_equal,
        PROBLEM.draw(key, 3, train, 4),
        PROBLEM.draw(key, 3, test, 4),
    )


def test_the_true_field_leaves_no_residual_and_the_loss_is_half_the_square():
    _, test = PROBLEM.data(jax.random.key(0))
    one = PoissonSample(target=test.target[0], field=test.field[0])
    rows = PROBLEM.physics(one.field, one) - one.target
    np.testing.assert_allclose(rows, 0, atol=1e-5)  # values up to 10 in float32
    assert PROBLEM.sample_loss(jnp.full((8, 8), 0.5), one) == 8.0
    assert PROBLEM.reduction == "sum"
