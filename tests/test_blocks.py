"""J in blocks: every operation equals that of the matrix written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hig_optax._jacobian.blocks import Blocks, Dense, Outer, symmetric_product


def blocks(b, r, positions, seed=0):
    rng = np.random.default_rng(seed)
    return Blocks(
        (
            Dense(jnp.asarray(rng.normal(size=(b * r, 3)))),
            Outer(
                jnp.asarray(rng.normal(size=(b, positions, 4))),
                jnp.asarray(rng.normal(size=(b, r, positions, 5))),
            ),
            Dense(jnp.asarray(rng.normal(size=(b * r, 1)))),
        )
    )


@pytest.mark.parametrize(("b", "r"), [(1, 1), (3, 2), (40, 7)])
@pytest.mark.parametrize("positions", [1, 2, 3])
def test_blocks_are_the_matrix(b, r, positions):
    rng = np.random.default_rng(1)
    with jax.enable_x64(True):
        J = blocks(b, r, positions)
        matrix = np.asarray(J.written_out())
        assert J.shape == matrix.shape == (b * r, 3 + 20 + 1)
        assert J.dtype == matrix.dtype
        x, w = (jnp.asarray(rng.normal(size=size)) for size in matrix.shape[::-1])
        np.testing.assert_allclose(J.gram(), matrix @ matrix.T, atol=1e-12)
        np.testing.assert_allclose(J.matvec(x), matrix @ x, atol=1e-12)
        np.testing.assert_allclose(J.rmatvec(w), matrix.T @ w, atol=1e-12)
        assert np.abs(matrix).max() <= J.largest() <= 100 * np.abs(matrix).max()
        np.testing.assert_allclose(J.divided(jnp.asarray(4.0)).written_out(), matrix / 4)
        assert not np.asarray(J.zero_unless(jnp.asarray(False)).written_out()).any()


def test_outer_products_are_written_out_sample_by_sample():
    """Row i of sample s is a[s] ⊗ δ[s, i], raveled like the weight matrix (in, out)."""
    with jax.enable_x64(True):
        block = blocks(3, 2, 1).blocks[1]
        row = np.outer(block.a[2, 0], block.delta[2, 1, 0]).ravel()
        np.testing.assert_allclose(block.written_out()[2 * 2 + 1], row)


@pytest.mark.parametrize("shape", [(1, 3), (7, 200), (255, 200), (256, 130), (259, 129), (600, 11)])
def test_symmetric_product(shape):
    A = np.random.default_rng(0).normal(size=shape)
    with jax.enable_x64(True):
        found = np.asarray(symmetric_product(jnp.asarray(A)))
    np.testing.assert_allclose(found, A @ A.T, atol=2e-13)
    np.testing.assert_array_equal(found, found.T)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_largest_shows_what_is_not_finite(bad):
    J = blocks(3, 2, 1)
    dense, outer, last = J.blocks
    spoilt = [
        Blocks((Dense(dense.J.at[0, 0].set(bad)), outer, last)),
        Blocks((dense, outer._replace(a=outer.a.at[1, 0, 2].set(bad)), last)),
        Blocks((dense, outer._replace(delta=outer.delta.at[1, 0, 0, 2].set(bad)), last)),
    ]
    assert not any(np.isfinite(J.largest()) for J in spoilt)
