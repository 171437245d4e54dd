"""Step sizes chosen by Optax around plain `hig`: line searches, schedules, plateaus, skipped steps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hig_optax

X = jax.random.normal(jax.random.key(0), (16,))
BATCH = (X, jnp.sin(2 * X))
PARAMS = {"in": jnp.linspace(-1.0, 1.0, 5), "shift": jnp.zeros(5), "out": 0.1 * jnp.ones(5)}


def residual(w, sample):
    x, y = sample
    return jnp.tanh(w["in"] * x + w["shift"]) @ w["out"] - y


def loss(params, batch):
    """Named as Optax hands things on: it gives `value_fn` the extra arguments that it has names for."""
    return jnp.mean(jax.vmap(residual, (None, 0))(params, batch) ** 2)


DIRECTION = hig_optax.scale_by_hig(residual, rtol=1e-4)


@pytest.mark.parametrize(
    "search",
    [
        optax.scale_by_backtracking_linesearch(15),
        optax.scale_by_zoom_linesearch(15, initial_guess_strategy="one"),
    ],
    ids=["backtracking", "zoom"],
)
def test_line_search(search):
    """The direction points uphill: a sign before the search, none after."""
    opt = optax.chain(DIRECTION, optax.scale(-1.0), search)

    def body(carry, _):
        w, state = carry
        with jax.numpy_dtype_promotion("standard"):  # the searches mix int32 and float32
            value, grads = jax.value_and_grad(loss)(w, BATCH)
            updates, state = opt.update(
                grads, state, w, batch=BATCH, value=value, grad=grads, value_fn=loss
            )
        return (optax.apply_updates(w, updates), state), value

    _, losses = jax.jit(lambda w: jax.lax.scan(body, (w, opt.init(w)), length=30))(PARAMS)
    assert np.all(np.diff(losses) <= 1e-6 * losses[:-1])
    assert losses[-1] < 1e-2 * losses[0]


def train(opt, steps, batches=None, **extra):
    """Parameters and states after each step."""
    w, state = PARAMS, opt.init(PARAMS)

    @jax.jit
    def step(w, state, batch):
        value, grads = jax.value_and_grad(loss)(w, batch)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = opt.update(grads, state, w, batch=batch, value=value)
        return optax.apply_updates(w, updates), state

    seen = [(w, state)]
    for i in range(steps):
        w, state = step(w, state, BATCH if batches is None else batches[i])
        seen.append((w, state))
    return seen


def test_reduce_on_plateau_lowers_the_rate_when_the_loss_stalls():
    """At rate 0 nothing improves, so the plateau is certain."""
    plateau = optax.contrib.reduce_on_plateau(factor=0.5, patience=2, rtol=1e-3)
    stalled = train(optax.chain(hig_optax.hig(0.0, residual), plateau), 7)
    scales = [float(state[-1].scale) for _, state in stalled]
    assert scales[0] == 1.0
    assert scales[-1] <= 0.25
    moving = train(optax.chain(hig_optax.hig(0.3, residual, rtol=1e-4), plateau), 7)
    assert loss(moving[-1][0], BATCH) < 0.8 * loss(PARAMS, BATCH)


def test_schedule_is_the_rate_of_each_step():
    schedule = optax.piecewise_constant_schedule(0.4, {1: 0.5})
    (w0, _), (w1, _), (w2, _) = train(hig_optax.hig(schedule, residual, rtol=1e-2), 2)
    for before, after, rate in ((w0, w1, 0.4), (w1, w2, 0.2)):
        grads = jax.grad(loss)(before, BATCH)
        opt = hig_optax.scale_by_hig(residual, rtol=1e-2)
        direction, _ = opt.update(grads, opt.init(before), before, batch=BATCH)
        np.testing.assert_allclose(
            after["out"] - before["out"], -rate * direction["out"], rtol=2e-3, atol=1e-5
        )


def test_apply_if_finite_skips_what_was_not_finite():
    """HIG itself returns zeros then; the wrapper sees the bad gradient and counts nothing of it."""
    bad = (X.at[0].set(jnp.nan), BATCH[1])
    opt = optax.apply_if_finite(hig_optax.hig(0.3, residual), max_consecutive_errors=5)
    (_, _), (w1, s1), (w2, s2), (w3, s3) = train(opt, 3, [BATCH, bad, BATCH])
    np.testing.assert_array_equal(w2["in"], w1["in"])
    assert not optax.tree.get(s2, "spectrum").is_finite or int(s2.total_notfinite) == 1
    assert bool(s1.last_finite)
    assert bool(s3.last_finite)
    assert not np.array_equal(w3["in"], w2["in"])
