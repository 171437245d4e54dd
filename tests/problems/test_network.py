import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from hig_optax.problems import DenseNetwork


@pytest.mark.parametrize(
    ("activation", "function"), [("tanh", np.tanh), ("relu", lambda x: np.maximum(x, 0))]
)
def test_layers_are_affine_maps_and_the_last_one_is_linear(activation, function):
    network = DenseNetwork((3, 5, 4, 2), activation)
    with jax.enable_x64(True):
        params = network.init(jax.random.key(0))
        x = np.linspace(-2, 2, 3)
        layers = [jax.tree.map(np.asarray, params["layers"][i]) for i in range(3)]
        h = x
        for layer in layers[:-1]:
            h = function(h @ layer["kernel"] + layer["bias"])
        # The same few float64 products in another order.
        np.testing.assert_allclose(network.hidden(params, jnp.asarray(x)), h, rtol=1e-13)
        expected = h @ layers[-1]["kernel"] + layers[-1]["bias"]
        np.testing.assert_allclose(network.apply(params, jnp.asarray(x)), expected, rtol=1e-13)


def test_kernels_start_glorot_uniform_and_biases_at_zero():
    params = DenseNetwork((200, 300, 100), "tanh").init(jax.random.key(0))
    for layer, (fan_in, fan_out) in zip(
        params["layers"].values(), [(200, 300), (300, 100)], strict=True
    ):
        bound = np.sqrt(6 / (fan_in + fan_out))
        kernel = np.asarray(layer["kernel"])
        assert kernel.shape == (fan_in, fan_out)
        assert np.abs(kernel).max() <= bound
        # 30000 or more uniform numbers: their variance is known to about half a percent.
        np.testing.assert_allclose(kernel.var(), bound**2 / 3, rtol=0.03)
        np.testing.assert_array_equal(layer["bias"], np.zeros(fan_out))


def test_another_key_gives_other_weights_and_the_same_key_the_same():
    network = DenseNetwork((2, 3), "tanh")
    first, again, other = (
        network.init(jax.random.key(k))["layers"][0]["kernel"] for k in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_parameters_are_plain_containers():
    params = DenseNetwork((2, 3, 1), "relu").init(jax.random.key(0))
    assert type(params) is dict
    assert list(params["layers"]) == [0, 1]
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(params))


def test_applying_leaves_the_parameters_alone():
    network = DenseNetwork((2, 3, 1), "tanh")
    params = network.init(jax.random.key(0))
    before = jax.tree.map(np.array, params)
    network.apply(jax.tree.map(lambda leaf: 2 * leaf, params), jnp.ones(2))
    network.apply(params, jnp.ones(2))
    jax.tree.map(np.testing.assert_array_equal, before, params)


@pytest.mark.parametrize("widths", [(), (3,), (3, 0, 2)])
def test_widths_that_make_no_network_are_refused(widths):
    with pytest.raises(ValueError, match="widths"):
        DenseNetwork(widths, "tanh")


def test_an_unknown_activation_is_refused():
    # The annotation refuses it first where annotations are checked, as they are in tests.
    with pytest.raises((ValueError, jaxtyping.TypeCheckError), match="'gelu'"):
        DenseNetwork((1, 1), "gelu")
