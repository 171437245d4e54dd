"""Weighted rows: blocks, padded batches, and what a weight of zero means."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hig_optax
from hig_optax import weighted_residual

PARAMS = {"w": jnp.array([[0.3, -0.2], [0.1, 0.5]]), "b": jnp.array([0.1, -0.1])}


def residual(params, sample):
    y = jnp.tanh(params["w"] @ sample["x"] + params["b"])
    return y - sample["y"]


def make_batch(size, seed=0):
    x = jax.random.normal(jax.random.key(seed), (size, 2))
    return {"x": x, "y": jnp.stack([x[:, 0] * x[:, 1], jnp.sin(x[:, 0])], axis=1)}


def update(residual_fn, loss, batch, **settings):
    opt = hig_optax.scale_by_hig(residual_fn, rtol=1e-4, **settings)
    grads = jax.grad(loss)(PARAMS, batch)
    return jax.jit(lambda b: opt.update(grads, opt.init(PARAMS), PARAMS, batch=b))(batch)


def assert_close(found, expected):
    # Sums over more rows, of which some are zero: float32 at a condition of about 10.
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-6)


def rows_of(residual_fn):
    return jax.vmap(residual_fn, (None, 0))


@pytest.mark.parametrize("solver", ["svd", "gram"])
@pytest.mark.parametrize("with_loss_fn", [True, False])
def test_weight_zero_is_leaving_out(with_loss_fn, solver):
    """A ragged batch of 5 samples, padded to 8 by copies of a sample with weight zero."""
    batch = make_batch(5)
    padded = jax.tree.map(lambda x: jnp.concatenate([x, x[:1], x[:1], x[:1]]), batch)
    padded["weight"] = jnp.array([1.0] * 5 + [0.0] * 3)
    weighted = weighted_residual(residual, lambda sample: sample["weight"])
    settings = {"solver": solver}
    if with_loss_fn:
        settings["loss_fn"] = lambda rows, batch: jnp.sum(rows**2)
    expected, state = update(
        residual, lambda p, b: jnp.sum(rows_of(residual)(p, b) ** 2), batch, **settings
    )
    found, padded_state = update(
        weighted, lambda p, b: jnp.sum(rows_of(weighted)(p, b) ** 2), padded, **settings
    )
    assert_close(found, expected)
    assert padded_state.spectrum.rank == state.spectrum.rank
    assert_close(padded_state.spectrum.singular_values, state.spectrum.singular_values)


def test_a_ragged_last_batch_does_not_recompile():
    weighted = weighted_residual(residual, lambda sample: sample["weight"])
    opt = hig_optax.hig(0.1, weighted)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(params, state, batch):
        def loss(p):
            return jnp.sum(rows_of(weighted)(p, batch) ** 2) / jnp.sum(batch["weight"])

        updates, state = opt.update(jax.grad(loss)(params), state, params, batch=batch)
        return jax.tree.map(jnp.add, params, updates), state

    params, state = PARAMS, opt.init(PARAMS)
    for kept in (4, 4, 1):
        batch = make_batch(4) | {"weight": (jnp.arange(4) < kept).astype(jnp.float32)}
        params, state = step(params, state, batch)


def blocks(params, batch):
    """Blocks with batches of their own: 6 samples inside, 2 on the boundary."""
    return {
        "interior": rows_of(residual)(params, batch["interior"]),
        "boundary": rows_of(residual)(params, batch["boundary"])[:, 0],
    }


BLOCKS = {"interior": make_batch(6), "boundary": make_batch(2, seed=1)}


def total(residual_fn):
    return lambda p, b: sum(jnp.sum(x**2) for x in jax.tree.leaves(residual_fn(p, b)))


def test_blocks_of_other_lengths_equal_scaling_by_hand():
    def by_hand(params, batch):
        rows = blocks(params, batch)
        return {"interior": 0.5 * rows["interior"], "boundary": 3.0 * rows["boundary"]}

    weighted = weighted_residual(blocks, {"interior": 0.25, "boundary": 9.0})
    found, _ = update(weighted, total(weighted), BLOCKS, batch_axis=None)
    expected, _ = update(by_hand, total(by_hand), BLOCKS, batch_axis=None)
    assert_close(found, expected)


def test_a_block_of_weight_zero_is_left_out():
    def interior(params, batch):
        return rows_of(residual)(params, batch["interior"])

    weighted = weighted_residual(blocks, {"interior": 1, "boundary": 0})
    found, state = update(weighted, total(weighted), BLOCKS, batch_axis=None)
    expected, expected_state = update(interior, total(interior), BLOCKS, batch_axis=None)
    assert_close(found, expected)
    assert state.spectrum.rank == expected_state.spectrum.rank


def test_weights_of_the_samples_of_a_whole_batch():
    weight = jnp.array([1.0, 0.0, 4.0, 1.0, 0.0, 1.0])
    whole = weighted_residual(
        lambda p, b: {"r": rows_of(residual)(p, b)}, lambda b: {"r": b["weight"]}
    )
    single = weighted_residual(residual, lambda s: s["weight"])
    batch = make_batch(6) | {"weight": weight}
    found, _ = update(whole, total(whole), batch, batch_axis=None)
    expected, _ = update(single, lambda p, b: jnp.sum(rows_of(single)(p, b) ** 2), batch)
    assert_close(found, expected)


def test_complex_and_low_precision_rows_keep_their_dtype():
    rows = {"z": jnp.array([1j, 2.0], jnp.complex64), "h": jnp.ones(2, jnp.bfloat16)}
    weighted = weighted_residual(lambda p, s: rows, {"z": 4.0, "h": np.float32(9.0)})(None, None)
    np.testing.assert_array_equal(weighted["z"], 2 * rows["z"])
    assert weighted["h"].dtype == jnp.bfloat16
    assert float(weighted["h"][0]) == 3


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        (-1.0, ValueError, "weights must be finite and not negative, got -1.0"),
        ({"a": float("nan")}, ValueError, "weights must be finite and not negative"),
        ("heavy", TypeError, "weights must be numbers, arrays, or a function"),
        (True, TypeError, "weights must be numbers"),
    ],
)
def test_bad_weights(weights, error, message):
    with pytest.raises(error, match=message):
        weighted_residual(residual, weights)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("rows", "residual_fn must return arrays, got 'rows' of type str at the root"),
        ({"a": object()}, r"residual_fn must return arrays, got <object .* at \['a'\]"),
        ([1, 2], r"floating-point rows, got int32 at \[0\]"),
    ],
)
def test_rows_that_are_no_arrays_are_told_by_the_optimizer(rows, message):
    weighted = weighted_residual(lambda p, s: rows, 1.0)
    with pytest.raises(TypeError, match=message):
        update(weighted, lambda p, b: jnp.sum(p["w"]), make_batch(2))


def test_weights_that_do_not_fit_the_rows():
    sample = jax.tree.map(lambda x: x[0], make_batch(1))
    with pytest.raises(ValueError, match="tree of numbers that is a prefix of the rows"):
        weighted_residual(residual, {"a": 1.0})(PARAMS, sample)
    with pytest.raises(ValueError, match=r"leading axes of their rows, got shape \(3,\)"):
        weighted_residual(residual, jnp.ones(3))(PARAMS, sample)
    with pytest.raises(TypeError, match=r"weights must be numbers, arrays, .*got 'heavy'"):
        weighted_residual(residual, lambda sample: "heavy")(PARAMS, sample)
    with pytest.raises(TypeError, match="residual_fn must be a function"):
        weighted_residual(None, 1.0)
