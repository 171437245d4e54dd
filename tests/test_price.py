"""What a step by J costs beside one by products, and which of the two is taken then."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hig_optax
from hig_optax._inputs.columns import Columns
from hig_optax._inputs.settings import Settings
from hig_optax._planning.cost import cost_of
from hig_optax._planning.planning import DEAR
from hig_optax._planning.price import price_of
from hig_optax._solvers.step import layout_of

ROWS = 4
RNG = np.random.default_rng(0)
PARAMS = {
    "a": jnp.asarray(RNG.normal(size=(6, 40)), jnp.float32),
    "b": jnp.asarray(RNG.normal(size=40), jnp.float32),
    "c": jnp.asarray(RNG.normal(size=(40, ROWS)) / 6, jnp.float32),
}


def network(p, x):
    return jnp.tanh(x @ p["a"] + p["b"]) @ p["c"]


def curve(x):
    return jnp.stack([jnp.sin(x.sum()), x[0] * x[1], jnp.cos(x[2]), x[3] ** 2])


def cheap(p, x):
    return network(p, x) - curve(x)


def mean_loss(p, batch, residual=cheap):
    return jnp.mean(jnp.sum(jax.vmap(residual, (None, 0))(p, batch) ** 2, -1)) / 2


def batch_of(i, samples=80):
    return jax.random.normal(jax.random.fold_in(jax.random.key(1), i), (samples, 6))


def price(residual, samples=80, batch_axis=0):
    settings = Settings(residual_fn=residual, is_damped=True, batch_axis=batch_axis)
    return price_of(layout_of(settings, Columns.of(PARAMS, None), batch_of(0, samples)))


def test_many_rows_of_a_cheap_network_are_dear():
    """320 rows, 440 parameters: their eigenvectors alone take more than 40 passes of the network."""
    assert price(cheap) > DEAR


def test_physics_that_costs_more_makes_products_dear():
    turn = jnp.eye(ROWS) + 0.1 * jnp.eye(ROWS, k=1)

    def written_out(p, x):
        y = cheap(p, x)
        for _ in range(50):
            y = jnp.sin(turn @ y)
        return y

    def in_a_loop(p, x):
        return jax.lax.scan(lambda y, _: (jnp.sin(turn @ y), None), cheap(p, x), length=50)[0]

    assert price(in_a_loop) < price(written_out) < price(cheap)
    assert price(in_a_loop) < 1  # it waits for its turns, however little they compute


def test_turns_of_loops_are_counted():
    def inner(y, _):
        return jax.lax.scan(lambda y, _: (jnp.sin(y), None), y, length=5)[0], None

    def nested(y):
        return jax.lax.scan(inner, y, length=3)[0]

    assert cost_of(jax.make_jaxpr(nested)(jnp.ones(2))).turns == 3 * (1 + 5)


def test_nobody_asks_for_a_small_j_or_a_whole_batch():
    assert price(cheap, samples=60) is None

    def whole(p, batch):
        return jax.vmap(cheap, (None, 0))(p, batch)

    assert price(whole, batch_axis=None) is None


def trained(batches, number, opt=None, residual=cheap):
    opt = hig_optax.adaptive_hig(residual) if opt is None else opt

    def body(carry, i):
        p, state = carry
        batch = batches(i)
        grads = jax.grad(mean_loss)(p, batch, residual)
        updates, state = opt.update(grads, state, p, batch=batch)
        return (optax.apply_updates(p, updates), state), state

    return jax.jit(lambda p: jax.lax.scan(body, (p, opt.init(p)), jnp.arange(number)))(PARAMS)


def test_products_where_batches_change_and_j_where_they_do_not():
    _, states = trained(lambda i: batch_of(jnp.where(i < 4, i, 4)), 16)
    # Two steps in a row have to find the loss as the one before had left it.
    is_fixed = np.asarray(states.repeats >= 2)
    np.testing.assert_array_equal(is_fixed, np.arange(16) >= 6)
    np.testing.assert_array_equal(states.spectrum.rank == -1, is_fixed)
    np.testing.assert_array_equal(states.spectrum.full_rank, np.where(is_fixed, 320, 20))
    assert np.all(states.spectrum.rank[:6] == 20)
    loss = np.asarray(states.loss)
    assert loss[-1] < 1e-4 * loss[6]
    assert np.all(loss[5:-1] >= loss[6:])


def test_the_step_on_a_fixed_batch_is_that_of_the_exact_solver():
    """Once the batch is known to stay, J decides the step, as with ``solver="gram"``."""
    (p, state), _ = trained(lambda i: batch_of(0), 4)
    batch, grads = batch_of(0), jax.grad(mean_loss)(p, batch_of(0))

    def step(solver):
        opt = hig_optax.adaptive_hig(cheap, solver=solver)
        return jax.jit(lambda p: opt.update(grads, state, p, batch=batch))(p)

    (by_price, one), (exact, other) = step("auto"), step("gram")
    assert one.spectrum.rank == other.spectrum.rank == -1
    for name in ("full_rank", "condition", "gradient_cosine"):
        a, b = getattr(one.spectrum, name), getattr(other.spectrum, name)
        np.testing.assert_allclose(a, b, rtol=1e-4)
    length = float(optax.tree.norm(exact))
    # Both are rounded in float32, and J is formed in another order.
    difference = float(optax.tree.norm(jax.tree.map(jnp.subtract, by_price, exact)))
    assert difference < 1e-3 * length


@pytest.mark.parametrize("solver", ["auto", "gram", "krylov"])
def test_a_batch_that_stays_the_same_says_nothing_of_others(solver):
    opt = hig_optax.adaptive_hig(cheap, solver=solver)
    _, states = trained(lambda i: batch_of(0), 60, opt)
    assert np.all(states.plateau.num_batches <= 2)
    assert np.all(states.plateau.scale == 1)
    assert np.all(states.loss[1:] <= states.loss[:-1])


def test_large_batches_hold_j_until_noise_is_seen():
    """2000 samples of one row: J is worth its price while steps are not too long for the next batch."""

    def one(p, x):
        return network(p, x)[0] - jnp.sin(x.sum())

    wide = {"a": jnp.ones((6, 260)), "b": jnp.arange(260.0), "c": jnp.ones((260, 1))}
    opt, batch = hig_optax.adaptive_hig(one), batch_of(0, 2000)
    settings = Settings(residual_fn=one, is_damped=True)
    assert price_of(layout_of(settings, Columns.of(wide, None), batch)) > DEAR

    @jax.jit
    def kind(scale):
        state = opt.init(wide)
        state = state._replace(plateau=state.plateau._replace(scale=scale))
        return opt.update(None, state, wide, batch=batch)[1].spectrum.rank

    assert (kind(jnp.float32(1)), kind(jnp.float32(0.4))) == (-1, 20)


def test_seeds_side_by_side():
    batch = batch_of(0)
    opt = hig_optax.adaptive_hig(cheap)

    def steps(p):
        def body(carry, _):
            p, state = carry
            updates, state = opt.update(jax.grad(mean_loss)(p, batch), state, p, batch=batch)
            return (optax.apply_updates(p, updates), state), state.loss

        return jax.lax.scan(body, (p, opt.init(p)), None, length=5)[1]

    seeds = jax.tree.map(lambda x: jnp.stack([x, 0.9 * x]), PARAMS)
    together = jax.jit(jax.vmap(steps))(seeds)
    alone = [jax.jit(steps)(jax.tree.map(lambda x, i=i: x[i], seeds)) for i in range(2)]
    np.testing.assert_allclose(together, alone, rtol=1e-2)


@pytest.mark.parametrize(
    "settings", [{"solver": "gram"}, {"exponent": -0.5}, {"bad_samples": "drop"}]
)
def test_settings_that_leave_no_choice(settings):
    """A solver that is given holds; with an exponent or samples to drop J is not held beside products."""
    _, states = trained(lambda i: batch_of(0), 5, hig_optax.adaptive_hig(cheap, **settings))
    is_exact = settings.get("solver") == "gram"
    assert (states.spectrum.full_rank[-1] == 320) == is_exact
    assert np.all(states.loss[1:] <= states.loss[:-1])
