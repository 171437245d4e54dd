"""The adaptive Levenberg-Marquardt beside that of optimistix, on full-batch least squares in float64."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optimistix
import pytest

from hig_optax import baselines

TIMES = np.linspace(0.0, 3.0, 12)


def valley(w, _):
    """Rosenbrock's; a minimum of 0 at (1, 1)."""
    return jnp.stack([10 * (w[1] - w[0] ** 2), 1 - w[0]])


def decays(w, t):
    """Two exponentials, fitted to data that no two exponentials have."""
    return (
        w[0] * jnp.exp(-w[1] * t) + w[2] * jnp.exp(-w[3] * t) - 1 / (1 + t) - 0.1 * jnp.sin(9 * t)
    )


def helical_valley(w, _):
    """Fletcher and Powell's, on the side where the angle is continuous; 0 at (1, 0, 0)."""
    angle = jnp.arctan2(w[1], w[0]) / (2 * jnp.pi)
    return jnp.stack([10 * (w[2] - 10 * angle), 10 * (jnp.hypot(w[0], w[1]) - 1), w[2]])


PROBLEMS = {
    "valley": (valley, [-1.2, 1.0], np.zeros(1)),
    "decays": (decays, [1.0, 2.0, 0.5, 0.3], TIMES),
    "helical valley": (helical_valley, [-1.0, 0.5, 0.0], np.zeros(1)),
}
STEPS = 120


def loss_of(residual, w, batch):
    return jnp.sum(jax.vmap(residual, (None, 0))(w, batch) ** 2) / 2


def ours(residual, w, batch):
    opt = baselines.adaptive_levenberg_marquardt(residual)

    def body(carry, _):
        w, state = carry
        loss, grads = jax.value_and_grad(loss_of, 1)(residual, w, batch)
        updates, state = opt.update(grads, state, w, batch=batch)
        return (optax.apply_updates(w, updates), state), loss

    return jax.jit(lambda w: jax.lax.scan(body, (w, opt.init(w)), length=STEPS)[1])(w)


def theirs(residual, w, batch):
    solver = optimistix.LevenbergMarquardt(rtol=1e-12, atol=1e-12)

    def fn(w, batch):
        return jax.vmap(residual, (None, 0))(w, batch), None

    out = jax.eval_shape(lambda w: fn(w, batch)[0], w)
    state = solver.init(fn, w, batch, {}, out, None, frozenset())

    @eqx.filter_jit
    def step(w, state):
        w, state, _ = solver.step(fn, w, batch, {}, state, frozenset())
        return w, state, loss_of(residual, w, batch)

    losses = [float(loss_of(residual, w, batch))]
    for _ in range(STEPS):
        w, state, loss = step(w, state)
        losses.append(float(loss))
    return losses


@pytest.mark.parametrize("name", PROBLEMS)
def test_same_minimum_in_a_comparable_number_of_steps(name):
    residual, start, batch = PROBLEMS[name]
    with jax.enable_x64(True):
        w, batch = jnp.asarray(start), jnp.asarray(batch)
        found, expected = np.asarray(ours(residual, w, batch)), theirs(residual, w, batch)
    scale, least = found[0], min(expected)
    assert abs(min(found) - least) <= 1e-9 * scale
    reached = [np.argmax(np.asarray(x) <= least + 1e-6 * scale) for x in (found, expected)]
    # They start from other dampings and move them otherwise: within a factor of two is alike.
    assert 0 < reached[0] <= 2 * reached[1], reached
