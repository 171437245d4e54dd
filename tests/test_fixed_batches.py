"""A batch that stays the same is recognised, and solved to the rounding of the arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from matrices import planted, relative_error

import hig_optax
from hig_optax._jacobian.leaves import Dense
from hig_optax._optimizers import adaptive_step, steady
from hig_optax._optimizers.control import FIXED_AFTER, count_repeats
from hig_optax._solvers import cholesky, gram
from hig_optax._solvers.formula import Numbers, Scaling

X = jnp.linspace(-1.0, 1.0, 24)


def network(w, x):
    return jnp.tanh(x * w["a"] + w["b"]) @ w["c"]


def residual(w, x):
    """u'' = -9 sin 3x, by tangents of tangents, as of a small PINN: one row."""

    def slope(x):
        return jax.jvp(lambda x: network(w, x), (x,), (jnp.ones_like(x),))[1]

    bent = jax.jvp(slope, (x,), (jnp.ones_like(x),))[1]
    return jnp.stack([bent / 9 + jnp.sin(3 * x), network(w, x) - jnp.sin(3 * x)])


def start(seed, neurons, dtype):
    a, b, c = jax.random.normal(jax.random.key(seed), (3, neurons), dtype)
    return {"a": 2 * a, "b": b, "c": c / neurons}


def loss_fn(w, batch):
    return jnp.sum(jax.vmap(residual, (None, 0))(w, batch) ** 2)


def run(opt, w, batches):
    """States of a run, one after another, by scan."""

    def step(carry, batch):
        w, state = carry
        updates, state = opt.update(jax.grad(loss_fn)(w, batch), state, w, batch=batch)
        return (optax.apply_updates(w, updates), state), state

    (w, _), states = jax.jit(lambda w: jax.lax.scan(step, (w, opt.init(w)), batches))(w)
    return w, states


def same(number, dtype):
    return jnp.broadcast_to(X.astype(dtype), (number, X.size))


@pytest.mark.parametrize("neurons", [8, 40], ids=["m > n", "m < n"])
def test_it_is_solved_to_rounding(neurons):
    with jax.enable_x64(True):
        w = start(0, neurons, jnp.float64)
        _, found = run(hig_optax.adaptive_hig(residual), w, same(150, jnp.float64))
        # As the settings for batches that change have it, and no acceleration.
        changing = {"exponent": -0.5, "momentum": 0.0, "max_relative_step": None, "patience": None}
        opt = hig_optax.adaptive_hig(residual, **changing)
        _, before = run(opt, w, same(150, jnp.float64))
        found, before = jax.device_get((found, before))
    assert np.all(np.diff(found.loss) <= 0), "no step raises the loss"
    assert found.loss[-1] < 1e-2 * before.loss[-1]
    # The first two steps do not know yet.
    np.testing.assert_array_equal(found.repeats, np.arange(150))


def test_in_float32_it_ends_at_what_float32_resolves():
    _, found = run(
        hig_optax.adaptive_hig(residual), start(0, 40, jnp.float32), same(150, jnp.float32)
    )
    # At the end the same rows are rounded one way in a trial and another with their derivatives.
    assert np.all(np.diff(found.loss) <= 1e-12)
    # Rows of order one have a rounding of 1e-7, second derivatives some tens of that: 48 squares of 3e-6.
    assert found.loss[-1] < 5e-10


def test_a_run_may_change_from_one_to_the_other():
    """Fresh points, then fixed ones, then fresh ones again: known within two steps, at once when it ends."""
    fresh = jax.random.uniform(jax.random.key(1), (10, X.size), minval=-1.0)
    batches = jnp.concatenate([fresh, same(10, jnp.float32), fresh + 1e-3])
    _, found = run(hig_optax.adaptive_hig(residual), start(0, 40, jnp.float32), batches)
    is_fixed = np.asarray(found.repeats) >= FIXED_AFTER
    np.testing.assert_array_equal(is_fixed, [False] * 12 + [True] * 8 + [False] * 10)
    assert np.all(np.diff(found.loss[10:20]) <= 0)
    assert np.all(found.spectrum.is_finite)


def test_seeds_together_are_each_alone():
    opt = hig_optax.adaptive_hig(residual)

    def losses(seed):
        return run(opt, start(seed, 8, jnp.float32), same(12, jnp.float32))[1].loss

    together = jax.jit(jax.vmap(losses))(jnp.arange(3))
    for seed in range(3):
        # Batched products sum in another order, and twelve steps carry that on.
        np.testing.assert_allclose(together[seed], losses(seed), rtol=2e-2)


def test_residuals_without_forward_rule_are_not_accelerated():
    @jax.custom_vjp
    def sine(x):
        return jnp.sin(x)

    sine.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (g * jnp.cos(x),))

    def reverse_only(w, x):
        return sine(network(w, x)) - jnp.sin(3 * x)

    opt = hig_optax.adaptive_hig(reverse_only)
    w = start(0, 8, jnp.float32)
    state, step = opt.init(w), jax.jit(opt.update)
    for _ in range(6):
        grads = jax.grad(lambda w: jnp.sum(jax.vmap(reverse_only, (None, 0))(w, X) ** 2))(w)
        updates, state = step(grads, state, w, batch=X)
        w = optax.apply_updates(w, updates)
    assert state.repeats == 5
    assert state.accepted


@pytest.mark.parametrize(
    ("repeats", "loss", "excess", "expected", "number", "found"),
    [
        (0, 1.0, 1.0, 1.0, 1, 1),
        (1, 1.0, 1.0, 1.0 + 1e-5, 2, 2),
        (1, 1.0, 1.0, 1.01, 2, 0),  # not yet sure, and not the same
        (2, 1.0, 1.0, 1.009, 3, 3),  # rows that are rounding
        (2, 1.0, 1.0, 1.1, 3, 0),
        (5, np.nan, np.nan, 1.0, 6, 0),
        (0, 0.0, 0.0, 0.0, 0, 0),  # before the first step nothing was expected
        (1, 1000.0, 1.0, 1000.1, 2, 0),  # other samples, under a loss that is far from zero
        (1, -1000.0, 1.0, -1000.0002, 2, 2),  # rounding of such a loss
        (
            2,
            -2.4,
            4000.0,
            -2.3,
            3,
            0,
        ),  # other samples, under an energy that is straight in some rows
    ],
)
def test_repeats(repeats, loss, excess, expected, number, found):
    losses = map(jnp.float32, (loss, excess, expected))
    assert count_repeats(jnp.int32(repeats), *losses, jnp.int32(number)) == found


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("neurons", [8, 40], ids=["m > n", "m < n"])
def test_without_singular_values_the_steps_are_the_same(neurons, dtype, monkeypatch):
    def first(number):
        return run(hig_optax.adaptive_hig(residual), start(0, neurons, dtype), same(number, dtype))[
            1
        ]

    with jax.enable_x64(dtype == jnp.float64):
        monkeypatch.setattr(adaptive_step, "is_large", lambda at: True)
        by_eigenvectors = jax.device_get(first(8))
        monkeypatch.setattr(steady, "LARGE", 1)
        monkeypatch.setattr(steady, "SOLVED_SIDE", 1)
        by_cholesky = jax.device_get(first(8))
    # Steps magnify the rounding of J, in float32 1e-7 at a condition of some hundreds.
    tolerance = 2e-2 if dtype == jnp.float32 else 1e-6
    np.testing.assert_allclose(by_cholesky.loss, by_eigenvectors.loss, rtol=tolerance)
    np.testing.assert_allclose(by_cholesky.damping, by_eigenvectors.damping, rtol=1e-6)
    assert np.all(by_eigenvectors.spectrum.rank > 0)
    np.testing.assert_array_equal(by_cholesky.spectrum.rank, -1)
    assert np.all(by_cholesky.spectrum.gradient_cosine > 0.999)
    assert np.all(by_cholesky.spectrum.condition > 1)


def test_a_matrix_that_is_not_definite_in_rounding_is_damped_more():
    with jax.enable_x64(True):
        J = Dense(jnp.ones((5, 9)))
        condensed = gram.condense(J, jnp.zeros(9), jnp.ones(5), None)
        damped = jax.jit(cholesky.factorise)(condensed, jnp.float64(1e-18))
        found = cholesky.inverse_of(J, damped)(jnp.ones(5))
    assert damped.is_finite
    np.testing.assert_allclose(found, np.full(9, 1 / 9), rtol=1e-6)  # the pseudo-inverse


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_jacobian_that_is_not_finite_moves_nothing(bad, monkeypatch):
    monkeypatch.setattr(steady, "LARGE", 1)
    monkeypatch.setattr(steady, "SOLVED_SIDE", 1)
    opt = hig_optax.adaptive_hig(residual)
    w = start(0, 8, jnp.float32)
    state = opt.init(w)._replace(repeats=jnp.int32(5), count=jnp.int32(5))
    spoilt = w | {"a": w["a"].at[0].set(bad)}
    grads = jax.grad(loss_fn)(w, X)
    updates, after = jax.jit(opt.update)(grads, state, spoilt, batch=X)
    assert not any(np.any(x) for x in jax.tree.leaves(updates))
    assert not after.spectrum.is_finite
    assert after.damping == state.damping
    assert after.repeats == 0


def test_momentum_carries_on_the_step_that_was_taken():
    with jax.enable_x64(True):
        opt = hig_optax.adaptive_hig(residual)
        w = start(0, 8, jnp.float64)
        state, step, batch = opt.init(w), jax.jit(opt.update), X.astype(jnp.float64)
        for _ in range(5):
            updates, state = step(jax.grad(loss_fn)(w, batch), state, w, batch=batch)
            w = optax.apply_updates(w, updates)
        assert state.repeats >= FIXED_AFTER
        assert state.accepted
        jax.tree.map(
            lambda m, u: np.testing.assert_allclose(m, -u, rtol=1e-12), state.momentum, updates
        )


@pytest.mark.parametrize("by", ["eigenvectors", "cholesky"])
@pytest.mark.parametrize("shape", [(12, 40), (40, 12)], ids=["wide", "tall"])
def test_the_damped_inverse_in_a_float32_program(shape, by):
    """Four decades of singular values, damped at the rounding of J: held against float64."""
    J = planted(shape, np.logspace(0, -4, 12)).astype(np.float32)
    r = np.random.default_rng(1).normal(size=shape[0]).astype(np.float32)
    wide = J.astype(np.float64)
    damping = 1e-9 * np.trace(wide @ wide.T) / 12
    expected = np.linalg.solve(wide.T @ wide + damping * np.eye(shape[1]), wide.T @ r)

    @jax.jit
    def found(J, r):
        dense, zero = Dense(J), jnp.zeros(shape[1])
        if by == "cholesky":
            condensed = gram.condense(dense, zero, r, None)
            return cholesky.inverse_of(dense, cholesky.factorise(condensed, jnp.float32(1e-9)))(r)
        scaling = Scaling(jnp.float32(1e-9), jnp.float32(1), None, None, jnp.float32(0))
        numbers = Numbers(*map(jnp.float32, (-1.0, 0.0, 0.0, 0.0)))
        step = gram.direction(dense, zero, r, numbers, scaling=scaling)
        return step.inverse(r)

    assert relative_error(np.asarray(found(jnp.asarray(J), jnp.asarray(r))), expected) < 1e-6
