"""An optimizer that brings its batch along."""

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

import hig_optax

X = jnp.array([1.0, 2.0, 3.0])


def residual_fn(w, x):
    return x * w - 1.0


def loss_fn(w, x):
    return jnp.mean(jax.vmap(residual_fn, (None, 0))(w, x) ** 2)


def test_the_step_is_that_on_the_batch():
    opt, w = hig_optax.adaptive_hig(residual_fn), jnp.array(0.1)
    bound = hig_optax.with_batch(opt, X)
    grads, state = jax.grad(loss_fn)(w, X), opt.init(w)
    chex.assert_trees_all_equal(bound.init(w), state)
    wanted = opt.update(grads, state, w, batch=X)
    chex.assert_trees_all_equal(bound.update(grads, state, w), wanted)
    chex.assert_trees_all_equal(bound.update(grads, state, params=w), wanted)
    # What else a trainer passes on is no harm.
    chex.assert_trees_all_equal(bound.update(grads, state, w, value=1.0), wanted)


def test_a_batch_that_is_passed_takes_its_place():
    opt, w = hig_optax.hig(1.0, residual_fn), jnp.array(0.1)
    other = X[:2]
    grads = jax.grad(loss_fn)(w, other)
    wanted = opt.update(grads, opt.init(w), w, batch=other)
    chex.assert_trees_all_equal(
        hig_optax.with_batch(opt, X).update(grads, opt.init(w), w, batch=other), wanted
    )


def test_a_wrapper_without_extra_arguments_is_served():
    opt = hig_optax.with_batch(hig_optax.hig(0.5, residual_fn, exponent=-1.0), X)
    ahead = optax.lookahead(opt, sync_period=2, slow_step_size=0.5)
    w = jnp.array(0.1)
    params = optax.LookaheadParams(fast=w, slow=w)
    with jax.numpy_dtype_promotion("standard"):  # Optax's own lookahead mixes dtypes
        updates, _ = ahead.update(jax.grad(loss_fn)(w, X), ahead.init(params), params)
    assert updates.fast != 0


def test_what_is_no_optimizer_is_refused():
    with pytest.raises(
        TypeError, match=r"optimizer must be an optax.GradientTransformation, got function"
    ):
        hig_optax.with_batch(residual_fn, X)
