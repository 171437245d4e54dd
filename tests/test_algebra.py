"""Every kind of Jacobian answers as the matrix that it stands for, in float32 and in float64 programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hig_optax._jacobian.beside import Beside
from hig_optax._jacobian.leaves import Chunked, Dense, Products
from hig_optax._jacobian.outer import Factors, Outer
from hig_optax._jacobian.strips import Strips, condensed_across, condensed_along, stacked


def factors(b, r, positions, dtype, seed=0):
    rng = np.random.default_rng(seed)
    a, delta = rng.normal(size=(b, positions, 4)), rng.normal(size=(b, r, positions, 5))
    return Factors(jnp.asarray(a, dtype), jnp.asarray(delta, dtype))


def strips_of(S, height):
    rows, length = S.shape

    def take(i):
        index = i * height + jnp.arange(height, dtype=jnp.int32)
        return jnp.where((index < rows)[:, None], S[jnp.minimum(index, rows - 1)], 0)

    return Strips.even(take, height=height, size=rows, length=length)


def dense(rng, dtype):
    return Dense(jnp.asarray(rng.normal(size=(13, 40)), dtype))


def in_many_strips(rng, dtype):
    return Dense(jnp.asarray(rng.normal(size=(515, 600)), dtype))


def outer(rng, dtype):
    blocks = factors(3, 2, 2, dtype), factors(7, 1, 1, dtype, 1)
    if isinstance(rng, Zeros):
        blocks = tuple(f._replace(a=0 * f.a) for f in blocks)
    return Outer(blocks)


def beside(rng, dtype):
    columns = np.random.default_rng(3).permutation(60)
    return Beside((dense(rng, dtype), outer(rng, dtype)), (columns[:40], columns[40:]))


def in_chunks(rng, dtype):
    """13 rows in strips of 4, the last of which is filled up."""
    return Chunked(strips_of(dense(rng, dtype).J, 4), are_rows=True, of=dtype)


def in_chunks_of_columns(rng, dtype):
    return Chunked(strips_of(dense(rng, dtype).J.T, 7), are_rows=False, of=dtype)


def of_two_blocks(rng, dtype):
    """Eight rows and five, in strips of three: neither divides, and the seam lies within."""
    J = dense(rng, dtype).J
    strips = stacked([strips_of(J[:8], 3), strips_of(J[8:], 3)])
    return Chunked(strips, are_rows=True, of=dtype)


def products(rng, dtype):
    J = dense(rng, dtype).J
    return Products(lambda x: J @ x, lambda w: w @ J, J.shape, dtype)


KINDS = [
    dense,
    in_many_strips,
    outer,
    beside,
    in_chunks,
    in_chunks_of_columns,
    of_two_blocks,
    products,
]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda f: f.__name__)
def test_it_is_the_matrix(kind, dtype):
    rng = np.random.default_rng(0)
    with jax.enable_x64(dtype == jnp.float64):
        J = kind(rng, dtype)
        matrix = np.asarray(J.matrix(), np.float64)
        m, n = J.shape
        assert (m, n) == matrix.shape
        assert J.dtype == dtype
        X, W = (rng.normal(size=(size, 2)).astype(dtype) for size in (n, m))
        sides = [(True, matrix, X)] + ([] if kind is outer else [(False, matrix.T, W)])
        found = jax.jit(lambda: [J.condense(jnp.asarray(x), by_rows=by) for by, _, x in sides])()
        # What is summed is summed in float64 in either program; sums of 600 products in another order.
        tolerance = 1e-12 * n
        if dtype == jnp.float32 and kind in (outer, beside):
            tolerance = (
                1e-4  # the matrix that it is held against was rounded when it was written out
            )
        for (_, S, x), condensed in zip(sides, found, strict=True):
            gram, image, unit = (as_float64(y) for y in condensed)
            assert np.frexp(unit)[0] == 0.5, "a power of two"
            np.testing.assert_allclose(gram * unit**2, S @ S.T, atol=tolerance)
            np.testing.assert_allclose(image * unit, S @ x, atol=tolerance)
        (pulled, *narrow) = jax.jit(
            lambda: (
                J.pull(wide(W)),
                J.matvec(jnp.asarray(X[:, 0])),
                J.rmatvec(jnp.asarray(W[:, 0])),
            )
        )()
        eps = float(jnp.finfo(dtype).eps)
        own = tolerance if kind is not products else 100 * eps
        np.testing.assert_allclose(as_float64(pulled), matrix.T @ W, atol=own)
        np.testing.assert_allclose(narrow[0], matrix @ X[:, 0], atol=20 * eps * n**0.5)
        np.testing.assert_allclose(narrow[1], matrix.T @ W[:, 0], atol=20 * eps * m**0.5)


def wide(W):
    from hig_optax._float64 import Wide

    return Wide.of(jnp.asarray(W))


def as_float64(x):
    data = np.asarray(x.data)
    return data if data.dtype == np.float64 else data.view(np.float64)[..., 0]


def test_rows_of_factors_are_outer_products_sample_by_sample():
    """Row i of sample s is a[s] ⊗ δ[s, i], raveled like the weight matrix (in, out)."""
    block = factors(3, 2, 1, jnp.float32)
    row = np.outer(block.a[2, 0], block.delta[2, 1, 0]).ravel()
    np.testing.assert_allclose(block.matrix()[2 * 2 + 1], row, rtol=1e-6)


@pytest.mark.parametrize("height", [2, 3, 7])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_strips_of_unequal_size(dtype, height):
    """A strip of zeros has no unit of its own, and units that differ are made one."""
    rng = np.random.default_rng(0)
    S, X, W = (rng.normal(size=shape).astype(dtype) for shape in ((7, 5), (5, 2), (7, 2)))
    S[:2] = 0
    S[3:] *= 64
    with jax.enable_x64(dtype == np.float64):
        strips = strips_of(jnp.asarray(S), height)
        along, across = jax.jit(
            lambda: (
                condensed_along(strips, jnp.asarray(X)),
                condensed_across(strips, jnp.asarray(W)),
            )
        )()
    for condensed, matrix, vectors in ((along, S, X), (across, S.T, W)):
        gram, image, unit = (as_float64(y) for y in condensed)
        assert 1 <= np.abs(S).max() / unit < 2
        matrix = matrix.astype(np.float64)
        np.testing.assert_allclose(gram * unit**2, matrix @ matrix.T, atol=1e-11)
        np.testing.assert_allclose(image * unit, matrix @ vectors, atol=1e-11)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_the_unit_shows_what_is_not_finite(bad):
    rng = np.random.default_rng(0)
    whole, two = dense(rng, jnp.float32), outer(rng, jnp.float32)
    J, (one, other) = whole.J.at[3, 5].set(bad), two.blocks
    columns = (np.arange(40), np.arange(40, 60))
    spoilt = [
        Dense(J),
        Chunked(strips_of(J, 4), are_rows=True, of=jnp.float32),
        Chunked(strips_of(J.T, 4), are_rows=False, of=jnp.float32),
        Outer((one._replace(a=one.a.at[1, 0, 2].set(bad)), other)),
        Outer((one, other._replace(delta=other.delta.at[1, 0, 0, 2].set(bad)))),
        Beside((Dense(J), two), columns),
        Beside((whole, Outer((one._replace(a=one.a.at[0, 0, 0].set(bad)), other))), columns),
    ]
    for J in spoilt:
        X = jnp.zeros((J.shape[1], 0))
        assert not np.isfinite(as_float64(J.condense(X, by_rows=True).unit))


@pytest.mark.parametrize("kind", [k for k in KINDS if k is not products], ids=lambda f: f.__name__)
def test_of_zeros_the_unit_is_a_number_to_divide_by(kind):
    J = kind(Zeros(), jnp.float32)
    sides = [True] if kind in (outer, beside) else [True, False]
    for by_rows in sides:
        X = jnp.zeros((J.shape[1 if by_rows else 0], 1))
        gram, image, unit = (as_float64(x) for x in J.condense(X, by_rows=by_rows))
        assert not gram.any()
        assert not image.any()
        assert unit == 1


class Zeros:
    """In place of a generator."""

    def normal(self, size):
        return np.zeros(size)
