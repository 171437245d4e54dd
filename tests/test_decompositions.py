"""A batch of matrices is decomposed one after the other on a CPU, with the same results and derivatives."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hig_optax
from hig_optax import _decompositions as decompositions

BATCH = re.compile(r"custom_call @(lapack_\w+)\(.*?\) .*?: \((tensor<(?:\d+x){3,}\w+>)")


def symmetric(seed=0, size=4, number=3):
    A = jnp.asarray(np.random.default_rng(seed).normal(size=(number, size, size)))
    return A @ A.swapaxes(1, 2) + jnp.eye(size, dtype=A.dtype)


CASES = {
    "eigh": lambda A: decompositions.eigh(A)[0],
    "cholesky": decompositions.cholesky,
    "cho_solve": lambda A: decompositions.cho_solve(A, A[0]),
    "qr": lambda A: decompositions.qr(A)[1],
    "svd": lambda A: decompositions.svd(A)[1],
}


def batches(fun, *args):
    """LAPACK calls that get a batch."""
    text = jax.jit(fun).lower(*args).as_text()
    assert "lapack_" in text
    return BATCH.findall(text)


@pytest.mark.parametrize("name", CASES)
def test_a_batch_is_a_loop_of_single_ones(name):
    fun = CASES[name]
    with jax.enable_x64(True):
        A = symmetric()
        expected = jnp.stack([fun(a) for a in A])
        np.testing.assert_allclose(jax.jit(jax.vmap(fun))(A), expected, rtol=1e-12, atol=1e-12)
        assert batches(jax.vmap(fun), A) == []
        twice = jnp.stack([A, A])
        assert batches(jax.vmap(jax.vmap(fun)), twice) == []


def test_the_regular_expression_sees_batches():
    assert {name for name, _ in batches(jnp.linalg.cholesky, jnp.ones((3, 4, 4)))} == {
        "lapack_spotrf_ffi"
    }


@pytest.mark.parametrize("name", CASES)
def test_derivatives_are_those_of_jax(name):
    fun = CASES[name]
    with jax.enable_x64(True):
        A = symmetric(1)
        found = jax.grad(lambda A: jnp.sum(jax.vmap(fun)(A) ** 2))(A)
        step, direction = 1e-6, symmetric(2)
        ahead, behind = (jnp.sum(jax.vmap(fun)(A + s * direction) ** 2) for s in (step, -step))
        # Central differences: step² of truncation, ε/step of rounding.
        slope = (ahead - behind) / (2 * step)
        np.testing.assert_allclose(jnp.sum(found * direction), slope, rtol=1e-6)


def test_a_matrix_that_all_share_is_not_mapped():
    L, b = jnp.eye(3), jnp.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(jax.vmap(decompositions.cho_solve, (None, 0))(L, b), b)


@pytest.mark.parametrize(
    "make",
    [
        lambda f: hig_optax.hig(0.1, f, solver="svd"),
        lambda f: hig_optax.hig(0.1, f, solver="gram"),
        lambda f: hig_optax.adaptive_hig(f),
    ],
    ids=["svd", "gram", "adaptive_hig"],
)
def test_no_optimizer_decomposes_batches_in_an_ensemble(make):
    residual_fn = lambda w, x: jnp.tanh(w @ x)  # noqa: E731
    opt = make(residual_fn)
    ws, xs = jnp.ones((3, 4)), jnp.asarray(np.random.default_rng(0).normal(size=(3, 6, 4)), "f4")

    def step(w, x):
        grads = jax.grad(lambda w: jnp.mean(jax.vmap(residual_fn, (None, 0))(w, x) ** 2))(w)
        return opt.update(grads, opt.init(w), w, batch=x)

    assert batches(jax.vmap(step), ws, xs) == []
