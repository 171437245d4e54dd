import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hig_optax._float64 import float64_island


@float64_island
def half_solve(K, g):
    """K^(-1/2) g, with a K too ill-conditioned for float32; and a count of another dtype."""
    w, U = jnp.linalg.eigh(K)
    return U @ ((U.T @ g) / jnp.sqrt(w)), jnp.sum(w > 0, dtype=jnp.int32)


def reference(K, g):
    w, U = np.linalg.eigh(np.asarray(K, np.float64))
    return U @ ((U.T @ np.asarray(g, np.float64)) / np.sqrt(w))


def cases(count=5, n=4):
    rng = np.random.default_rng(0)
    Q = np.linalg.qr(rng.normal(size=(count, n, n)))[0]
    # A float32 eigh of these loses every digit of the smallest eigenvalue; their float32 entries do not.
    A = Q * np.logspace(0, -2, n)
    K = (A @ np.swapaxes(A, 1, 2)).astype(np.float32)
    return jnp.asarray(K), jnp.asarray(rng.normal(size=(count, n)), jnp.float32)


NESTINGS = {
    "vmap(jit)": lambda f: jax.vmap(jax.jit(f)),
    "jit(vmap)": lambda f: jax.jit(jax.vmap(f)),
    "vmap(scan)": lambda f: jax.vmap(
        lambda K, g: jax.lax.scan(lambda _, x: (0, f(*x)), 0, (K[None], g[None]))[1][0][0]
    ),
    "jit(vmap(scan))": lambda f: jax.jit(NESTINGS["vmap(scan)"](f)),
    "vmap(cond)": lambda f: jax.vmap(
        lambda K, g: jax.lax.cond(g[0] < 9, lambda: f(K, g)[0], lambda: g)
    ),
    "vmap(checkpoint)": lambda f: jax.vmap(jax.checkpoint(f)),
    "lax.map": lambda f: lambda K, g: jax.lax.map(lambda x: f(*x), (K, g)),
    "lax.map(batch_size)": lambda f: (
        lambda K, g: jax.lax.map(lambda x: f(*x), (K, g), batch_size=2)
    ),
    "loop": lambda f: lambda K, g: jnp.stack([f(*x)[0] for x in zip(K, g, strict=True)]),
}


@pytest.mark.parametrize("nesting", NESTINGS)
def test_island_in_every_nesting(nesting):
    K, g = cases()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a truncation to float32 would only warn
        out = NESTINGS[nesting](half_solve)(K, g)
    out = out[0] if isinstance(out, tuple) else out
    assert out.dtype == jnp.float32
    expected = np.stack([reference(*x) for x in zip(K, g, strict=True)])
    # Condition 1e4: a float32 eigh would be off by about 1e4 * 6e-8 = 6e-4 of the largest entry.
    np.testing.assert_allclose(out, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_island_under_two_vmaps_with_one_shared_argument():
    K, g = cases()
    out = jax.vmap(jax.vmap(jax.jit(half_solve), (None, 0)), (0, None))(K, g)[0]
    expected = np.stack([[reference(k, x) for x in g] for k in K])
    np.testing.assert_allclose(out, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_island_leaves_no_setting_behind():
    half_solve(*(x[0] for x in cases()))
    assert not jax.config.jax_enable_x64
    assert jnp.ones(2).dtype == jnp.float32


def test_island_keeps_other_dtypes():
    K, g = cases()
    assert half_solve(K[0], g[0])[1].dtype == jnp.int32


@pytest.mark.parametrize("transform", [jax.grad, jax.jacfwd, lambda f: jax.jit(jax.grad(f))])
def test_differentiating_the_island_is_a_clear_error(transform):
    K, g = cases()
    with pytest.raises(
        TypeError, match=r"cannot be differentiated in a float32 program(.|\n)*jax_enable_x64"
    ):
        transform(lambda g: half_solve(K[0], g)[0].sum())(g[0])


def test_differentiating_in_a_float64_program():
    K, g = cases()
    with jax.enable_x64(True):
        K64, g64 = (jnp.asarray(np.asarray(x[0]), jnp.float64) for x in (K, g))
        gradient = jax.grad(lambda g: half_solve(K64, g)[0].sum())(g64)
        expected = reference(K64, np.ones(g64.size))  # the map is linear and symmetric
        np.testing.assert_allclose(gradient, expected, rtol=1e-9)
