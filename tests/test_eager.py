"""Outside of a trace a step compiles nothing anew, and does what the compiled one does."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hig_optax
from hig_optax._eager import cond, while_loop


def residual_fn(w, x):
    return jnp.tanh(w @ x) - 0.3


def loss(w, xs):
    return jnp.mean(jax.vmap(residual_fn, (None, 0))(w, xs) ** 2)


OPTIMIZERS = {
    "hig": lambda: hig_optax.hig(0.1, residual_fn),
    "adaptive_hig": lambda: hig_optax.adaptive_hig(residual_fn),
    "accumulate": lambda: hig_optax.accumulate(
        hig_optax.hig(0.1, residual_fn), every=2, example_batch=jnp.ones((6, 4))
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_later_calls_compile_nothing_and_agree_with_jit(name, caplog):
    opt = OPTIMIZERS[name]()
    w, xs = jnp.ones(4), jnp.asarray(np.random.default_rng(0).normal(size=(6, 4)), "f4")
    grads = jax.grad(loss)(w, xs)
    state = compiled = opt.init(w)
    step = jax.jit(opt.update)
    for number in range(5):
        with jax.log_compiles(number > 2), caplog.at_level(logging.WARNING):
            updates, state = opt.update(grads, state, w, batch=xs)
        expected, compiled = step(grads, compiled, w, batch=xs)
        np.testing.assert_allclose(updates, expected, rtol=1e-4, atol=1e-7)
        assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, compiled)
        assert jax.tree.map(jnp.result_type, state) == jax.tree.map(jnp.result_type, compiled)
    assert [r.message for r in caplog.records if "Finished XLA compilation" in r.message] == []


def test_branches_and_loops_are_those_of_jax():
    def both(n):
        doubled = while_loop(lambda n: n < 5, lambda n: 2 * n, n)
        return cond(doubled > 8, lambda: doubled, lambda: -doubled)

    for n in range(1, 8):
        assert both(jnp.int32(n)) == jax.jit(both)(jnp.int32(n))
    taken = []
    cond(jnp.asarray(True), lambda: taken.append("yes"), lambda: taken.append("no"))
    assert taken == ["yes"]
