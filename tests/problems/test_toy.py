import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hig_optax.problems import Toy, ToySample


@pytest.mark.parametrize("lam", [1.0, 0.01])
def test_the_loss_is_that_of_the_book(lam):
    problem = Toy(lam=lam)
    with jax.enable_x64(True):
        x = jnp.asarray(0.37)
        sample = ToySample(x, jnp.stack([jnp.sin(6 * x), jnp.cos(9 * x)]))
        params = problem.init(jax.random.key(0))
        y1, y2 = np.asarray(problem.control(params, sample))
        loss = problem.sample_loss(problem.residual(params, sample), sample)
    book = (y1 - np.sin(6 * 0.37)) ** 2 / 2 + (lam * y2 - np.cos(9 * 0.37)) ** 2 / 2
    np.testing.assert_allclose(loss, book, rtol=1e-14)


def test_the_factor_is_in_the_jacobian():
    problem = Toy(lam=0.01)
    sample = ToySample(jnp.zeros(()), jnp.zeros(2))
    J = jax.jacobian(problem.physics)(jnp.ones(2), sample)
    np.testing.assert_array_equal(J, np.diag(np.float32([1, 0.01])))


def test_the_output_is_an_affine_map_of_the_neurons():
    problem = Toy()
    params = problem.init(jax.random.key(0))
    sample = ToySample(jnp.asarray(0.5), jnp.zeros(2))
    neurons = problem.neurons(params, sample)
    assert neurons.shape == (7,)
    assert np.abs(neurons).max() < 1
    last = params["layers"][1]
    # Seven float32 products of order one.
    np.testing.assert_allclose(
        problem.control(params, sample), neurons @ last["kernel"] + last["bias"], atol=1e-6
    )


def test_points_lie_on_the_curve_and_cover_it():
    train, test = Toy().data(jax.random.key(0))
    for data in (train, test, Toy().draw(jax.random.key(1), 5, train, 128)):
        x, (first, second) = np.asarray(data.x), np.asarray(data.target).T
        assert -1 <= x.min() < -0.9
        assert 0.9 < x.max() <= 1
        # float32 sine and cosine of arguments up to 9.
        np.testing.assert_allclose(first, np.sin(6 * x), atol=2e-6)
        np.testing.assert_allclose(second, np.cos(9 * x), atol=2e-6)
    np.testing.assert_allclose(np.diff(test.x), 2 / 511, rtol=1e-3)  # float32 differences near 1


def test_the_name_tells_whether_the_factor_is_one():
    assert Toy().name == "toy"
    assert Toy(lam=1.0).name == "toy-balanced"
