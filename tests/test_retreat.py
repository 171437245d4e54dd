"""A step that a new batch shows to have done great harm is taken back."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hig_optax


def straight(w, sample):
    """One row: how far a product is from a target."""
    return sample["x"] @ w - sample["y"]


def batch_of(x, y):
    return {"x": jnp.asarray(x, jnp.float32), "y": jnp.asarray(y, jnp.float32)}


def one_more(w, state, batch, **settings):
    opt = hig_optax.adaptive_hig(straight, **settings)
    state = opt.init(w) if state is None else state
    updates, state = opt.update(None, state, w, batch=batch)
    return optax.apply_updates(w, updates), state


# The first batch moves the second weight by the third; the second batch reads it a thousandfold.
W = jnp.array([1.0, 1.0, 1.0])
FIRST = batch_of([[1.0, 1.0, 0.0]], [0.0])
HARMED = batch_of([[0.0, 1e4, 0.0]], [1e4])
# Far off as well, but not by the last step.
OUTLIER = batch_of([[0.0, 0.0, 1e4]], [-1e4])


def test_a_step_is_taken_back_for_samples_that_it_harmed():
    w, state = one_more(W, None, FIRST)
    assert bool(state.accepted)
    assert float(jnp.abs(w - W).max()) > 1e-3
    back, after = one_more(w, state, HARMED)
    np.testing.assert_allclose(back, W, rtol=1e-6)
    assert int(after.plateau.num_returns) == 1
    assert bool(after.accepted)
    np.testing.assert_allclose(after.trial_loss, 0, atol=1e-2 * after.loss)
    assert all(float(jnp.abs(x).max()) == 0 for x in jax.tree.leaves(after.momentum))
    # Nothing else is learnt of that batch, and it cannot be taken back again.
    np.testing.assert_array_equal(after.plateau.past, state.plateau.past)
    _, last = one_more(back, after, HARMED)
    assert int(last.plateau.num_returns) == 1


def test_an_outlier_is_no_reason():
    w, state = one_more(W, None, FIRST)
    _, after = one_more(w, state, OUTLIER)
    assert int(after.plateau.num_returns) == 0


def test_without_patience_nothing_is_taken_back():
    w, state = one_more(W, None, FIRST, patience=None)
    _, after = one_more(w, state, HARMED, patience=None)
    assert after.plateau is None


def test_an_overflow_by_the_last_step_is_taken_back_and_one_of_the_data_refused():
    def residual_fn(w, sample):
        # Overflows where the second weight is not as it was.
        return straight(w, sample) * jnp.exp(sample["steep"] * jnp.square(w[1] - 1))

    opt = hig_optax.adaptive_hig(residual_fn)
    state = opt.init(W)
    mild = FIRST | {"steep": jnp.zeros(1)}
    updates, state = opt.update(None, state, W, batch=mild)
    w = optax.apply_updates(W, updates)
    steep = FIRST | {"steep": jnp.full(1, 1e30)}
    updates, after = opt.update(None, state, w, batch=steep)
    np.testing.assert_allclose(optax.apply_updates(w, updates), W, rtol=1e-6)
    assert int(after.plateau.num_returns) == 1
    bad = batch_of([[jnp.nan, 1.0, 0.0]], [0.0]) | {"steep": jnp.zeros(1)}
    updates, after = opt.update(None, state, w, batch=bad)
    assert float(jnp.abs(updates).max()) == 0
    assert int(after.plateau.num_returns) == 0


def test_each_raises_the_least_damping():
    plateau = hig_optax.adaptive_hig(straight).init(W).plateau
    least = [
        float(plateau._replace(num_returns=jnp.int32(n)).least_damping(jnp.float32(1e-8)))
        for n in (0, 1, 2, 3, 9)
    ]
    np.testing.assert_allclose(least, [1e-8, 1e-4, 1e-3, 1e-2, 1e-2], rtol=1e-5)


def controlled(params, state):
    """An oscillator that runs away unless a network holds it: five positions and the last state."""

    def advance(x, _):
        hidden = x
        for weight, bias in params[:-1]:
            hidden = jnp.tanh(hidden @ weight + bias)
        force = (hidden @ params[-1][0] + params[-1][1])[0]
        speed = x[1] + 0.1 * (2 * x[0] + 0.3 * x[0] ** 3 - 0.2 * x[1] + force)
        position = x[0] + 0.1 * speed
        return jnp.stack([position, speed]), position

    last, positions = jax.lax.scan(advance, state, None, length=10)
    return jnp.concatenate([positions[::2], last[1:]])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_an_unstable_physics_does_not_explode(seed):
    """Without a way back one seed of six ended at infinity, and another at 1 on the way (600 steps)."""
    key = jax.random.key(seed)
    sizes = (2, 32, 32, 32, 1)
    params = [
        (jax.random.normal(k, (i, o)) / i**0.5, jnp.zeros(o))
        for k, i, o in zip(jax.random.split(key, 4), sizes[:-1], sizes[1:], strict=True)
    ]
    opt = hig_optax.adaptive_hig(controlled)

    def body(carry, i):
        params, state = carry
        batch = 0.7 * jax.random.normal(jax.random.fold_in(key, i), (16, 2))
        updates, state = opt.update(None, state, params, batch=batch)
        return (optax.apply_updates(params, updates), state), None

    start = (params, opt.init(params))
    (params, _), _ = jax.jit(lambda c: jax.lax.scan(body, c, jnp.arange(600)))(start)
    test = 0.7 * jax.random.normal(jax.random.key(999), (1000, 2))
    rows = jax.vmap(controlled, (None, 0))(params, test)
    assert float(jnp.mean(0.5 * jnp.sum(rows**2, 1))) < 0.02
