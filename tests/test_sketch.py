"""Fewer rows in place of those of each sample: exact where they span what its rows can do, else a descent."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hig_optax
from hig_optax._inputs.columns import Columns
from hig_optax._inputs.settings import Settings
from hig_optax._jacobian.rows import residual_of
from hig_optax._jacobian.sketch import rows_left
from hig_optax._optimizers.plateau import Plateau
from hig_optax._planning.price import price_of
from hig_optax._solvers.step import layout_of

ALIKE = {"momentum": 0.5, "max_relative_step": None, "patience": None}
T = jnp.linspace(0.1, 2.0, 40)
X = jnp.linspace(-1.0, 1.0, 6)


def start(seed, dtype=jnp.float64):
    a, b, c = jax.random.split(jax.random.key(seed), 3)
    return {
        "w": jax.random.normal(a, (9, 1), dtype),
        "v": jax.random.normal(b, (3, 9), dtype) / 3,
        "b": jax.random.normal(c, (9,), dtype),
    }


def controlled(p, x):
    """Forty rows that three numbers decide."""
    c = p["v"] @ jnp.tanh(p["w"][:, 0] * x + p["b"])
    t = T.astype(c.dtype)
    return c[0] * jnp.sin(t * (1 + 0.1 * c[1])) + c[2] * t - x * t**2


def free(p, x):
    """Forty rows, each of which the parameters move in its own way, more or less."""
    t = T.astype(x.dtype)
    return (jnp.tanh(t[:, None] * p["w"][:, 0] * x + p["b"]) @ p["v"].T)[:, 0] - jnp.sin(3 * t * x)


def mean_loss(rows, batch):
    del batch
    return jnp.mean(jnp.sum(rows**2, axis=-1))


def stepped(opt, p, batch, residual_fn, number=1, damping=1e-2):
    def loss(p):
        return mean_loss(jax.vmap(residual_fn, (None, 0))(p, batch), batch)

    state, update, updates = opt.init(p), jax.jit(opt.update), None
    state = state._replace(damping=jnp.full_like(state.damping, damping))
    for _ in range(number):
        updates, state = update(jax.grad(loss)(p), state, p, batch=batch)
        p = optax.apply_updates(p, updates)
    return updates, state, loss(p)


@pytest.mark.parametrize("loss_fn", [None, mean_loss], ids=["rows", "loss_fn"])
@pytest.mark.parametrize("chunk_size", [None, 4])
def test_a_sketch_that_holds_the_range_changes_nothing(loss_fn, chunk_size):
    with jax.enable_x64(True):
        p, batch = start(0), X.astype(jnp.float64)
        found = [
            stepped(
                # The mean of σ², in whose unit λ is, is over 45 columns or over 30 rows.
                hig_optax.adaptive_hig(
                    controlled,
                    rows_per_sample=k,
                    loss_fn=loss_fn,
                    chunk_size=chunk_size,
                    exponent=-0.5,
                    **ALIKE,
                ),
                p,
                batch,
                controlled,
                damping=1e-2 * (45 if k is None else 30),
            )
            for k in (None, 5)
        ]
        (whole, _, _), (sketched, state, _) = found
        # 6 samples of 3 numbers decide 18 directions of 45.
        assert int(state.spectrum.rank) <= 18
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-10), sketched, whole
        )


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("loss_fn", [None, lambda rows, batch: mean_loss(rows, batch) ** 0.5])
def test_the_gradient_is_exact_and_the_loss_falls_whatever_is_left_out(seed, loss_fn):
    with jax.enable_x64(True):
        p, batch = start(seed), X.astype(jnp.float64)
        opt = hig_optax.adaptive_hig(free, rows_per_sample=2, loss_fn=loss_fn)
        before = mean_loss(jax.vmap(free, (None, 0))(p, batch), batch)
        _, state, after = stepped(opt, p, batch, free)
        assert abs(state.spectrum.gradient_cosine - 1) < 1e-12
        assert state.accepted
        assert after < before


def test_blocks_are_sketched_one_by_one():
    with jax.enable_x64(True):
        p, batch = start(1), {"a": X.astype(jnp.float64), "b": X[:4].astype(jnp.float64)}
        blocks = {"a": controlled, "b": lambda p, x: controlled(p, x)[:3] * 2}

        def loss(p):
            rows = {k: jax.vmap(f, (None, 0))(p, batch[k]) for k, f in blocks.items()}
            return sum(jnp.sum(r**2) for r in rows.values())

        whole, sketched = (
            opt.update(jax.grad(loss)(p), opt.init(p), p, batch=batch)
            for opt in (
                hig_optax.adaptive_hig(
                    blocks,
                    rows_per_sample=k,
                    exponent=-0.5,
                    **ALIKE,
                )
                for k in (None, 6)
            )
        )
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-10),
            sketched[0],
            whole[0],
        )
        for name, share in sketched[1].spectrum.block_shares.items():
            np.testing.assert_allclose(share, whole[1].spectrum.block_shares[name], rtol=1e-6)


@jax.custom_vjp
def reverse_only(c):
    return jnp.sin(jnp.outer(T.astype(c.dtype), c)).sum(axis=1)


reverse_only.defvjp(
    lambda c: (reverse_only(c), c),
    lambda c, w: (
        jnp.einsum("t,ti,t->i", w, jnp.cos(jnp.outer(T.astype(c.dtype), c)), T.astype(c.dtype)),
    ),
)


def test_rows_without_a_forward_rule():
    def residual_fn(p, x):
        c = p["v"] @ jnp.tanh(p["w"][:, 0] * x + p["b"])
        return reverse_only(c) - T.astype(c.dtype) * x

    with jax.enable_x64(True):
        p, batch = start(2), X.astype(jnp.float64)
        opt = hig_optax.adaptive_hig(residual_fn, rows_per_sample=4)
        before = mean_loss(jax.vmap(residual_fn, (None, 0))(p, batch), batch)
        _, state, after = stepped(opt, p, batch, residual_fn, number=20)
        assert abs(state.spectrum.gradient_cosine - 1) < 1e-10
        assert after < 0.1 * before


def left(residual_fn, batch, params, wanted="auto", **settings):
    columns = Columns.of(params, None)
    residual = residual_of(Settings(residual_fn=residual_fn, **settings), columns, batch)
    return rows_left(residual, columns.view.size, wanted)


def many(rows):
    return lambda p, x: jnp.sum(p) * x * jnp.ones(rows)


@pytest.mark.parametrize(
    ("rows", "samples", "columns", "number"),
    [
        (128, 16, 2376, 8),
        (160, 64, 5000, 8),
        (160, 6, 5000, 21),
        (4, 512, 5000, None),  # rows of a sample are few
        (128, 16, 300, None),  # the other side of J is short
        (40, 8, 5000, None),  # J is small
    ],
)
def test_how_many_rows_are_left(rows, samples, columns, number):
    assert left(many(rows), jnp.ones(samples), jnp.ones(columns)) == (number,)
    assert left(many(rows), jnp.ones(samples), jnp.ones(columns), None) == (None,)
    assert left(many(rows), jnp.ones(samples), jnp.ones(columns), 3) == (3,)


def test_residuals_of_the_whole_batch_keep_all_rows():
    def whole(p, batch):
        return jnp.sum(p) * jnp.ones(5000) * batch[0]

    assert left(whole, jnp.ones(16), jnp.ones(3000), batch_axis=None) == (None,)


def test_a_sketch_that_is_dear_gives_way_to_products():
    """64 fields of 64 rows and a network of 25,000 parameters, in which a product costs next to nothing."""
    p, batch = {"w": jnp.ones((64, 388)) / 64}, jnp.ones((64, 64))
    turn = jnp.eye(64) + 0.1 * jnp.eye(64, k=1)

    def cheap(p, x):
        return jnp.tanh(x @ p["w"])[:64] - x

    def dear(p, x):
        return jax.lax.scan(lambda y, _: (jnp.sin(turn @ y), None), cheap(p, x), length=100)[0]

    def price(fun):
        settings = Settings(residual_fn=fun, rows_per_sample="auto", is_damped=True)
        return price_of(layout_of(settings, Columns.of(p, None), batch))

    assert price(cheap) > 20
    assert price(dear) < 5
    opt = hig_optax.adaptive_hig(cheap)
    _, state = opt.update(
        jax.grad(lambda p: mean_loss(jax.vmap(cheap, (None, 0))(p, batch), batch))(p),
        opt.init(p),
        p,
        batch=batch,
    )
    assert int(state.spectrum.rank) <= 20


def test_a_sample_that_is_not_finite_is_told():
    with jax.enable_x64(True):
        p, batch = start(3), X.astype(jnp.float64).at[2].set(jnp.nan)
        opt = hig_optax.adaptive_hig(controlled, rows_per_sample=5)
        grads = jax.tree.map(jnp.ones_like, p)
        updates, state = opt.update(grads, opt.init(p), p, batch=batch)
        assert not state.spectrum.is_finite
        assert all(not u.any() for u in jax.tree.leaves(updates))


def test_seeds_side_by_side():
    p = jax.vmap(lambda seed: jax.tree.map(lambda x: x + 0.1 * seed, start(4, jnp.float32)))(
        jnp.arange(3.0)
    )
    opt = hig_optax.adaptive_hig(controlled, rows_per_sample=5)

    def one(p):
        def loss(p):
            return mean_loss(jax.vmap(controlled, (None, 0))(p, X), X)

        return opt.update(jax.grad(loss)(p), opt.init(p), p, batch=X)[0]

    together = jax.jit(jax.vmap(one))(p)
    for i in range(3):
        alone = jax.jit(one)(jax.tree.map(lambda x, i=i: x[i], p))
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=2e-3, atol=1e-5),
            together,
            alone,
        )


@pytest.mark.parametrize(
    ("value", "error"), [(0, ValueError), (2.5, TypeError), ("all", TypeError)]
)
def test_bad_numbers_of_rows(value, error):
    with pytest.raises(error, match="rows_per_sample"):
        hig_optax.adaptive_hig(controlled, rows_per_sample=value)


@pytest.mark.devices
@pytest.mark.parametrize("samples", [16, 13])
@pytest.mark.parametrize("loss_fn", [None, mean_loss], ids=["rows", "loss_fn"])
def test_on_devices_as_on_one(samples, loss_fn):
    with jax.enable_x64(True):
        p, batch = start(5), jnp.linspace(-1.0, 1.0, samples)
        opt = hig_optax.adaptive_hig(controlled, rows_per_sample=5, loss_fn=loss_fn)
        alone, of_one, _ = stepped(opt, p, batch, controlled, number=3)
        mesh = jax.make_mesh((8,), ("data",))
        with jax.set_mesh(mesh):
            together, of_all, _ = stepped(opt, p, batch, controlled, number=3)
        np.testing.assert_allclose(of_all.loss, of_one.loss, rtol=1e-8)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8), together, alone
        )


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"rows_per_sample": 4}, True),
        ({"rows_per_sample": None}, False),
        ({"solver": "krylov"}, True),
    ],
)
def test_what_counts_as_progress_of_steps_by_a_part_of_the_rows_or_of_j(
    monkeypatch, settings, expected
):
    """The control of noise is told that a step is made of a sketch, or of products."""
    told, seen = [], Plateau.seen

    def listening(self, *args, is_partial):
        told.append(is_partial)
        return seen(self, *args, is_partial=is_partial)

    monkeypatch.setattr(Plateau, "seen", listening)
    opt, p, batch = (
        hig_optax.adaptive_hig(controlled, **settings),
        start(0, jnp.float32),
        jnp.linspace(-1, 1, 24),
    )
    jax.eval_shape(lambda p: opt.update(None, opt.init(p), p, batch=batch), p)
    assert told == [expected]
