import jax.numpy as jnp
import numpy as np
import pytest

from hig_optax._solvers.filters import cut, gradient_weights

S = jnp.array([4.0, 2.0, 1.0, 0.5, 0.0])


@pytest.mark.parametrize(
    ("settings", "rank", "cutoff"),
    [
        ({"rtol": 0.0, "atol": 0.0}, 4, 0.0),
        ({"rtol": 0.25, "atol": 0.0}, 2, 1.0),  # strictly above: 1.0 itself is cut
        ({"rtol": 0.25, "atol": 1.5}, 2, 1.5),
        ({"rtol": 0.0, "atol": 0.0, "floor": 0.3}, 2, 1.2),
        ({"rtol": 0.0, "atol": 0.0, "max_rank": 3}, 3, 0.0),
        ({"rtol": 0.0, "atol": 5.0}, 0, 5.0),
        ({"rtol": jnp.float32(jnp.nan), "atol": 0.0}, 0, np.nan),
    ],
)
def test_cut(settings, rank, cutoff):
    keep, used = cut(S, **{"floor": 0.0, **settings})
    assert keep.sum() == rank
    assert not keep[rank:].any()
    np.testing.assert_allclose(used, cutoff, rtol=1e-6)


def test_zero_spectrum_keeps_nothing():
    keep, cutoff = cut(jnp.zeros(3), rtol=1e-6, atol=0.0, floor=1e-7)
    assert not keep.any()
    assert cutoff == 0


@pytest.mark.parametrize("exponent", [1.0, 0.0, -0.5, -0.75, -1.0])
@pytest.mark.parametrize("damping", [0.0, 0.1])
def test_weights_are_the_formula(exponent, damping):
    keep = S > 0.6
    weights = gradient_weights(S, keep, exponent=exponent, damping=damping)
    expected = (np.array(S[:3]) ** 2 + damping) ** ((exponent - 1) / 2)
    np.testing.assert_allclose(
        weights[:3], expected, rtol=1e-6
    )  # a few float32 roundings of a power
    np.testing.assert_array_equal(weights[3:], 0)
