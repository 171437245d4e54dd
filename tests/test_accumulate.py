"""Micro-batches: the step of their concatenation, whatever the optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hig_optax

SAMPLES, EVERY = 4, 3


def residual_fn(params, sample):
    x, y = sample["x"], sample["y"]
    return sample["scale"] * (jnp.tanh(x @ params["w"]) @ params["v"] - y)


AXES = {"x": 0, "y": 1, "scale": None}


def rows(params, batch):
    return jax.vmap(residual_fn, (None, AXES))(params, batch)


def loss_of_rows(rows, batch):
    return jnp.mean(jnp.sum(rows**2, axis=-1))


def loss_fn(params, batch):
    return loss_of_rows(rows(params, batch), batch)


OPTIMIZERS = {
    "svd": {"solver": "svd"},
    "gram": {"solver": "gram"},
    "gram in chunks": {"solver": "gram", "chunk_size": SAMPLES},
    "krylov": {"solver": "krylov", "num_matvecs": 6, "chunk_size": SAMPLES},
    "loss_fn": {"solver": "gram", "loss_fn": loss_of_rows},
    "adaptive": {"solver": "gram", "loss_fn": loss_of_rows, "chunk_size": SAMPLES},
}


def optimizer(name):
    settings = OPTIMIZERS[name] | {"batch_axis": AXES}
    if name == "adaptive":
        return hig_optax.adaptive_hig(residual_fn, **settings)
    return optax.chain(
        optax.clip_by_global_norm(1.0), hig_optax.hig(0.1, residual_fn, rtol=1e-3, **settings)
    )


def problem(seed=0):
    rng = np.random.default_rng(seed)
    f = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    params = {"w": f(3, 10), "v": f(10, 2)}
    batch = {"x": f(SAMPLES * EVERY, 3), "y": f(2, SAMPLES * EVERY), "scale": jnp.float32(2.0)}
    return params, batch


def micro_batches(batch):
    """(EVERY, ...) per leaf, in the order of the samples."""
    return {
        "x": batch["x"].reshape(EVERY, SAMPLES, 3),
        "y": batch["y"].reshape(2, EVERY, SAMPLES).transpose(1, 0, 2),
        "scale": jnp.broadcast_to(batch["scale"], EVERY),
    }


def first(tree):
    return jax.tree.map(lambda x: x[0], tree)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_micro_batches_are_their_concatenation(name):
    """Two steps, in a scan over micro-batches, beside two steps on whole batches."""
    params, batch = problem()
    inside = optimizer(name)
    small = micro_batches(batch)
    opt = hig_optax.accumulate(inside, EVERY, first(small), batch_axis=AXES)

    def move(opt, carry, batch):
        params, state = carry
        updates, state = opt.update(jax.grad(loss_fn)(params, batch), state, params, batch=batch)
        moved = optax.tree.norm(updates)
        return (optax.apply_updates(params, updates), state), moved

    @jax.jit
    def both(params, batch, small):
        twice = jax.tree.map(lambda x: jnp.concatenate([x, x]), small)
        whole = jax.tree.map(lambda x: jnp.stack([x, x]), batch)
        found = jax.lax.scan(lambda c, b: move(opt, c, b), (params, opt.init(params)), twice)
        wanted = jax.lax.scan(lambda c, b: move(inside, c, b), (params, inside.init(params)), whole)
        return found, wanted

    ((found, state), moved), ((wanted, wanted_state), _) = both(params, batch, small)
    for key in params:
        # The gradient is summed in another order: ε, times (σ₁/σ_rank)^(1-κ) <= 1e4 without loss_fn.
        np.testing.assert_allclose(found[key], wanted[key], rtol=1e-4, atol=1e-5)
        assert np.abs(wanted[key] - params[key]).max() > 1e-4
    np.testing.assert_array_equal(moved > 0, [False, False, True] * 2)
    assert state.num_waiting == 0
    spectrum, whole = (optax.tree.get(s, "spectrum") for s in (state, wanted_state))
    assert spectrum.rank == whole.rank > 0
    np.testing.assert_allclose(
        spectrum.singular_values, whole.singular_values, rtol=1e-3, atol=1e-5
    )


def test_a_sum_over_samples_is_not_averaged():
    params, batch = problem()
    inside = hig_optax.scale_by_hig(residual_fn, batch_axis=AXES, rtol=1e-3)
    small = micro_batches(batch)
    opt = hig_optax.accumulate(inside, EVERY, first(small), batch_axis=AXES, reduction="sum")

    def total(params, batch):
        return jnp.sum(rows(params, batch) ** 2)

    state = opt.init(params)
    update = jax.jit(lambda s, b: opt.update(jax.grad(total)(params, b), s, params, batch=b))
    for i in range(EVERY):
        updates, state = update(state, jax.tree.map(lambda x, i=i: x[i], small))
    wanted, _ = jax.jit(
        lambda b: inside.update(jax.grad(total)(params, b), inside.init(params), params, batch=b)
    )(batch)
    np.testing.assert_allclose(updates["w"], wanted["w"], rtol=1e-3, atol=1e-3)


def test_shared_leaves_must_be_the_same():
    params, batch = problem()
    small = micro_batches(batch)
    small["scale"] = small["scale"].at[1].set(3.0)
    opt = hig_optax.accumulate(optimizer("gram"), EVERY, first(small), batch_axis=AXES)
    state = opt.init(params)
    update = jax.jit(lambda s, b: opt.update(jax.grad(loss_fn)(params, b), s, params, batch=b))
    for i in range(EVERY):
        updates, state = update(state, jax.tree.map(lambda x, i=i: x[i], small))
    assert not optax.tree.get(state, "spectrum").is_finite
    assert optax.tree.norm(updates) == 0


def test_shapes_suffice_and_random_keys_are_kept():
    def noisy(w, sample):
        return w * sample["x"] + jax.random.normal(sample["key"])

    keys = jax.random.split(jax.random.key(0), 4)
    batch = {"x": jnp.arange(4.0), "key": keys}
    inside = hig_optax.hig(1.0, noisy)
    opt = hig_optax.accumulate(inside, 2, jax.tree.map(lambda x: x[:2], batch))
    w, g = jnp.float32(1.0), jnp.float32(1.0)
    state = opt.init(w)
    for i in (0, 2):
        part = jax.tree.map(lambda x, i=i: x[i : i + 2], batch)
        updates, state = opt.update(g, state, w, batch=part)
    wanted, _ = inside.update(g, inside.init(w), w, batch=batch)
    np.testing.assert_allclose(updates, wanted, rtol=1e-6)
    assert jnp.array_equal(
        jax.random.key_data(state.batches["key"].ravel()), jax.random.key_data(keys)
    )
    shapes = {"x": jax.ShapeDtypeStruct((2,), jnp.float32)}
    assert hig_optax.accumulate(inside, 2, shapes).init(w).batches["x"].shape == (2, 2)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"every": 0}, ValueError, "every must be at least 1"),
        ({"every": 2.0}, TypeError, "every must be a Python int"),
        ({"batch_axis": None}, ValueError, "accumulate cannot join the batches of a residual"),
        ({"reduction": "max"}, ValueError, "reduction must be one of 'mean', 'sum'"),
    ],
)
def test_bad_settings(arguments, error, message):
    settings = {"every": 2, "example_batch": jnp.ones(2)} | arguments
    with pytest.raises(error, match=message):
        hig_optax.accumulate(hig_optax.hig(1.0, lambda w, x: w * x), **settings)


@pytest.mark.parametrize("batch", [jnp.ones(3), jnp.ones(2, int), (jnp.ones(2),)])
def test_a_micro_batch_of_another_shape(batch):
    opt = hig_optax.accumulate(hig_optax.hig(1.0, lambda w, x: w * x), 2, jnp.ones(2))
    w = jnp.float32(1.0)
    with pytest.raises(
        ValueError, match="batch must have the structure, shapes and dtypes of example_batch"
    ):
        opt.update(w, opt.init(w), w, batch=batch)
