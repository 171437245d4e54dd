"""Residuals in blocks with batches of their own: the same as one residual of the whole batch, but cheaper."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from test_chunks import largest_array

import hig_optax
from hig_optax._inputs.columns import Columns
from hig_optax._inputs.settings import Settings
from hig_optax._jacobian.form import form
from hig_optax._jacobian.layout import lay_out
from hig_optax._jacobian.rows import residual_of

PARAMS = {"w": jnp.array([[0.3, -0.2, 0.4], [0.1, 0.5, -0.6]]), "b": jnp.array([0.1, -0.1, 0.2])}


def features(params, x):
    return jnp.tanh(x @ params["w"] + params["b"])


def interior(params, sample):
    """Two leaves, one of them complex: four rows, which a stacked tree orders leaf by leaf."""
    z = features(params, sample["x"])
    return {
        "z": jax.lax.complex(z[0], z[1]) - sample["y"],
        "more": jnp.stack([z[2], z[0] * z[1]]),
    }


def boundary(params, x):
    return 3.0 * features(params, x)[:1]


def mean(params, points):
    """Of all points at once."""
    return jnp.mean(jax.vmap(features, (None, 0))(params, points), axis=0)[:2]


BLOCKS = {"mean": mean, "interior": interior, "boundary": boundary}
AXES = {"mean": None, "interior": {"x": 0, "y": 0}, "boundary": 1}
X = jax.random.normal(jax.random.key(0), (7, 2))
BATCH = {
    "interior": {"x": X[:3], "y": jax.lax.complex(0 * X[:3, 0], X[:3, 0])},
    "boundary": X[3:].T,  # samples along the second axis
    "mean": X,
}


def rows_of(params, batch):
    """All rows at once, as a whole-batch residual would be written."""
    return {
        "interior": jax.vmap(interior, (None, 0))(params, batch["interior"]),
        "boundary": jax.vmap(boundary, (None, 1))(params, batch["boundary"]),
        "mean": mean(params, batch["mean"]),
    }


def loss_of(rows, batch):
    del batch
    return sum(jnp.sum(jnp.abs(x) ** 2) for x in jax.tree.leaves(rows))


GRADS = jax.grad(lambda p: loss_of(rows_of(p, BATCH), BATCH))(PARAMS)


def update(residual_fn, batch_axis, batch=BATCH, grads=GRADS, **settings):
    opt = hig_optax.scale_by_hig(residual_fn, batch_axis=batch_axis, **{"rtol": 1e-3, **settings})
    state = opt.init(PARAMS)
    updates, after = jax.jit(lambda b: opt.update(grads, state, PARAMS, batch=b))(batch)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, after)
    return updates, after.spectrum


@pytest.mark.parametrize("mode", ["reverse", "forward"])
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_rows_and_jacobian_are_those_of_the_whole_batch(mode, chunk_size):
    settings = Settings(BLOCKS, batch_axis=AXES)
    columns = Columns.of(PARAMS, None)
    residual = residual_of(settings, columns, BATCH)
    layout = lay_out(
        residual,
        columns.parts,
        jacobian=mode,
        chunk_size=chunk_size,
        dtype=jnp.dtype("float32"),
        is_condensed=False,
    )
    y, J = jax.jit(lambda: [form(layout)[0], form(layout)[1].matrix()])()
    chex.assert_trees_all_close(residual.unravel(y), rows_of(PARAMS, BATCH), rtol=1e-6)
    np.testing.assert_allclose(residual.evaluate(columns.parts, chunk_size), y, rtol=1e-6)
    expected = jax.jacrev(lambda parts: residual.evaluate(parts, None))(columns.parts)
    expected = np.concatenate([x.reshape(y.size, -1) for x in expected], axis=1)
    np.testing.assert_allclose(J, expected, atol=1e-6)


def network(p, x):
    return jnp.tanh(jnp.tanh(x @ p["A"] + p["b"]) @ p["B"]) @ p["C"]


def one_layer_more(p, x):
    """The same weights met with and without a derivative."""
    return jax.jvp(lambda x: network(p, x), (x,), (jnp.ones_like(x),))[1]


@pytest.mark.parametrize("chunk_size", [None, 3])
@pytest.mark.parametrize(
    ("inside", "outside"),
    [(network, network), (network, one_layer_more), (one_layer_more, one_layer_more)],
    ids=["factors", "factors and written out", "written out"],
)
@pytest.mark.parametrize("counts", [(7, 4), (500, 300)], ids=["wide", "tall"])
def test_two_blocks_are_one_function(counts, inside, outside, chunk_size):
    """Whatever of their J is kept in factors, held, or formed in chunks that do not divide."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        shapes = {"A": (3, 20), "b": (20,), "B": (20, 20), "C": (20, 2)}
        params = {k: jnp.asarray(rng.normal(size=s)) for k, s in shapes.items()}
        batch = {
            "inside": jnp.asarray(rng.normal(size=(counts[0], 3))),
            "outside": jnp.asarray(rng.normal(size=(counts[1], 3))),
        }
        blocks = {"inside": inside, "outside": lambda p, x: 2.0 * outside(p, x)}

        def whole(p, batch):
            rows = [jax.vmap(blocks[k], (None, 0))(p, batch[k]).ravel() for k in sorted(blocks)]
            return jnp.concatenate(rows)

        grads = jax.grad(lambda p: jnp.sum(whole(p, batch) ** 2))(params)
        one = hig_optax.scale_by_hig(whole, batch_axis=None, solver="svd", rtol=1e-2)
        two = hig_optax.scale_by_hig(blocks, solver="gram", rtol=1e-2, chunk_size=chunk_size)
        expected, found = jax.jit(
            lambda: [o.update(grads, o.init(params), params, batch=batch) for o in (one, two)]
        )()
    scale = max(np.abs(x).max() for x in jax.tree.leaves(expected[0]))
    # A Gram matrix squares the condition of what is kept: 1e4 times the rounding of float64.
    chex.assert_trees_all_close(found[0], expected[0], rtol=0, atol=1e-11 * scale)
    assert found[1].spectrum.rank == expected[1].spectrum.rank


def laplacian(p, x):
    """Of the network by two derivatives along each axis, as in a PINN."""
    directions = jnp.eye(3, dtype=x.dtype)

    def second(e):
        return jax.jvp(lambda y: jax.jvp(lambda z: network(p, z), (y,), (e,))[1], (x,), (e,))[1]

    return jax.vmap(second)(directions).sum(0)


WIDE = {"A": (3, 100), "b": (100,), "B": (100, 100), "C": (100, 2)}


def shaped(sizes, sharding=None):
    """Batches of three numbers a sample."""
    return [jax.ShapeDtypeStruct((size, 3), jnp.float64, sharding=sharding) for size in sizes]


@pytest.mark.usefixtures("compiled_as_for_users")
@pytest.mark.parametrize("chunk_size", [None, 16])
@pytest.mark.parametrize("fun", [network, laplacian], ids=["factors", "written out"])
def test_two_blocks_cost_what_one_function_does(fun, chunk_size):
    """320 samples of 2 rows, 10600 parameters: as 200 and 120 of them in two blocks, within a tenth."""

    def cost(residual_fn, batch):
        opt = hig_optax.scale_by_hig(residual_fn, solver="gram", chunk_size=chunk_size)
        state = jax.eval_shape(opt.init, params)
        step = jax.jit(opt.update).lower(params, state, params, batch=batch).compile()
        plan = hig_optax.plan(residual_fn, params, batch, solver="gram", chunk_size=chunk_size)
        return plan.chosen.flops, plan.chosen.peak_bytes, step.memory_analysis().temp_size_in_bytes

    with jax.enable_x64(True):
        params = {k: jax.ShapeDtypeStruct(s, jnp.float64) for k, s in WIDE.items()}
        inside, outside, whole = shaped((200, 120, 320))
        one = cost(fun, whole)
        two = cost({"inside": fun, "outside": fun}, {"inside": inside, "outside": outside})
    flops, counted, measured = np.array(two) / one
    assert flops < 1.1
    assert measured < 1.1
    # In chunks the plan counts one strip of J more than the compiler holds.
    assert counted < (1.1 if chunk_size is None else 1.15)


@pytest.mark.parametrize("chunk_size", [None, 16])
@pytest.mark.parametrize("fun", [network, laplacian], ids=["factors", "written out"])
def test_on_devices_too_two_blocks_cost_what_one_function_does(fun, chunk_size):
    """Counted for each of eight devices, which receive as much."""

    def cost(residual_fn, batch):
        plan = hig_optax.plan(residual_fn, params, batch, solver="gram", chunk_size=chunk_size)
        assert plan.devices == 8
        return plan.chosen.flops, plan.chosen.peak_bytes, plan.chosen.received_bytes

    mesh = jax.sharding.AbstractMesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    over = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    with jax.enable_x64(True):
        params = {k: jax.ShapeDtypeStruct(s, jnp.float64) for k, s in WIDE.items()}
        inside, outside, whole = shaped((200, 120, 320), over)
        one = cost(fun, whole)
        two = cost({"inside": fun, "outside": fun}, {"inside": inside, "outside": outside})
    np.testing.assert_allclose(two, one, rtol=0.02)


def test_the_jacobian_of_blocks_is_formed_in_chunks_too():
    params = {
        "A": jnp.ones((3, 50)),
        "B": jnp.ones((50, 50)),
        "C": jnp.ones((50, 2)),
        "b": jnp.ones(50),
    }
    batch = {"inside": jnp.ones((40, 3)), "outside": jnp.ones((20, 3))}
    # Scaled weights are no parameters: nothing stays in factors.
    scaled = lambda p, x: network({k: 2.0 * v for k, v in p.items()}, x)  # noqa: E731
    blocks = {"inside": scaled, "outside": scaled}

    def largest(chunk_size):
        opt = hig_optax.scale_by_hig(blocks, solver="gram", chunk_size=chunk_size)
        update = functools.partial(opt.update, batch=batch)
        return largest_array(jax.make_jaxpr(update)(params, opt.init(params), params).jaxpr)

    m, n = 120, 2800
    assert largest(2) < m * n / 4 < largest(None)


@pytest.mark.parametrize(
    "settings",
    [
        {"solver": "gram"},
        {"solver": "svd", "loss_fn": loss_of},
        {"solver": "krylov", "num_matvecs": 9, "loss_fn": loss_of, "chunk_size": 2},
    ],
    ids=lambda settings: settings["solver"],
)
def test_the_direction_is_that_of_the_whole_batch(settings):
    found, spectrum = update(BLOCKS, AXES, **settings)
    expected, whole = update(rows_of, None, **{**settings, "chunk_size": None})
    # Sums in another order, at a condition of about 20.
    chex.assert_trees_all_close(found, expected, rtol=1e-3, atol=1e-5)
    assert spectrum.rank == whole.rank > 6
    np.testing.assert_allclose(spectrum.gradient_kept, whole.gradient_kept, rtol=1e-5)
    assert whole.block_shares == {}
    assert set(spectrum.block_shares) == set(BLOCKS)
    np.testing.assert_allclose(sum(spectrum.block_shares.values()), 1, rtol=1e-5)
    expected = shares_by_hand(max_rank=None)
    for name, share in spectrum.block_shares.items():
        np.testing.assert_allclose(share, expected[name], rtol=1e-3)


def shares_by_hand(max_rank):
    """‖(U Vᵀx)_block‖² / ‖Vᵀx‖² in float64 NumPy, with the rows one block after another."""
    flat, unravel = ravel_pytree(PARAMS)
    real = jax.jit(
        lambda p: {
            name: jnp.concatenate(
                [jnp.stack([x.real, x.imag]).ravel() for x in jax.tree.leaves(rows)]
            )
            for name, rows in rows_of(unravel(p), BATCH).items()
        }
    )
    J = {name: np.asarray(j, float) for name, j in jax.jacrev(real)(flat).items()}
    U, s, Vh = np.linalg.svd(np.concatenate(list(J.values())), full_matrices=False)
    kept = slice(0, max_rank or np.sum(s > 1e-3 * s[0]))
    coefficients = Vh[kept] @ np.asarray(ravel_pytree(GRADS)[0], float)
    image, start, shares = U[:, kept] @ coefficients, 0, {}
    for name, j in J.items():
        shares[name] = np.sum(image[start : start + len(j)] ** 2) / np.sum(coefficients**2)
        start += len(j)
    return shares


def test_shares_are_those_of_what_was_kept():
    _, spectrum = update(BLOCKS, AXES, max_rank=2)
    expected = shares_by_hand(max_rank=2)
    for name, share in spectrum.block_shares.items():
        np.testing.assert_allclose(share, expected[name], rtol=1e-4)


def test_shares_of_blocks_that_share_nothing():
    """Each block has a parameter of its own: its share is that of the squared gradient."""
    blocks = {"a": lambda p, x: p["a"] * x, "b": lambda p, x: p["b"] * x}
    opt = hig_optax.scale_by_hig(blocks)
    params = {"a": jnp.float32(1.0), "b": jnp.float32(2.0)}
    batch = {"a": jnp.ones(5), "b": jnp.ones(2)}
    grads = {"a": jnp.float32(3.0), "b": jnp.float32(-1.0)}
    update = jax.jit(opt.update)
    _, state = update(grads, opt.init(params), params, batch=batch)
    assert {k: round(float(x), 5) for k, x in state.spectrum.block_shares.items()} == {
        "a": 0.9,
        "b": 0.1,
    }
    _, state = update(jax.tree.map(jnp.zeros_like, grads), state, params, batch=batch)
    assert (state.spectrum.gradient_kept, sum(state.spectrum.block_shares.values())) == (1, 0)
    _, state = update({**grads, "a": jnp.float32(np.nan)}, state, params, batch=batch)
    assert all(np.isnan(x) for x in state.spectrum.block_shares.values())


def test_a_block_of_weight_zero_is_left_out():
    weighted = hig_optax.weighted_residual(BLOCKS, {"interior": 1, "boundary": 0, "mean": 4.0})
    two = hig_optax.weighted_residual({k: BLOCKS[k] for k in ("interior", "mean")}, 1.0)
    two["mean"] = lambda params, points: 2.0 * mean(params, points)

    def grads(residual_fn):
        def loss(params):
            inside = jax.vmap(residual_fn["interior"], (None, 0))(params, BATCH["interior"])
            return loss_of([inside, residual_fn["mean"](params, BATCH["mean"])], None)

        return jax.grad(loss)(PARAMS)

    found, spectrum = update(weighted, AXES, grads=grads(weighted))
    without = [{k: x for k, x in tree.items() if k != "boundary"} for tree in (AXES, BATCH)]
    expected, expected_spectrum = update(two, *without, grads=grads(two))
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-6)
    assert spectrum.rank == expected_spectrum.rank
    assert spectrum.block_shares["boundary"] == 0


def test_ragged_blocks_train_in_one_compilation():
    """Blocks of 4 and 2 samples, padded where fewer come, by a recipe of a few lines."""
    padded = {
        name: lambda params, sample, name=name: BLOCKS[name](params, sample["own"])
        for name in ("interior", "boundary")
    }
    weighted = hig_optax.weighted_residual(padded, lambda sample: sample["weight"])
    opt = hig_optax.adaptive_hig(weighted)

    def loss(params, batch):
        rows = {k: jax.vmap(f, (None, 0))(params, batch[k]) for k, f in weighted.items()}
        return loss_of(rows, batch)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(params, state, batch):
        value, grads = jax.value_and_grad(loss)(params, batch)
        updates, state = opt.update(grads, state, params, batch=batch)
        return optax.apply_updates(params, updates), state, value

    def pad(tree, size):
        real = jax.tree.leaves(tree)[0].shape[0]
        own = jax.tree.map(lambda x: x[jnp.minimum(jnp.arange(size), real - 1)], tree)
        return {"own": own, "weight": (jnp.arange(size) < real).astype(jnp.float32)}

    params, state, values = PARAMS, opt.init(PARAMS), []
    for inside, outside in 4 * ((4, 2), (3, 2), (4, 1)):
        x = X[:inside]
        batch = {
            "interior": pad({"x": x, "y": jax.lax.complex(0 * x[:, 0], x[:, 0])}, 4),
            "boundary": pad(X[:outside], 2),
        }
        params, state, value = step(params, state, batch)
        values.append(float(value))
    assert values[-3] < 0.5 * values[0]
    assert set(state.spectrum.block_shares) == {"interior", "boundary"}


def bad(error, message, residual_fn=BLOCKS, batch=BATCH, axes=AXES):
    opt = hig_optax.scale_by_hig(residual_fn, batch_axis=axes)
    with pytest.raises(error, match=message) as caught:
        jax.eval_shape(lambda b: opt.update(GRADS, opt.init(PARAMS), PARAMS, batch=b), batch)
    return caught.value


def test_blocks_that_do_not_fit():
    bad(ValueError, "batch must hold a batch for each block of residual_fn, .*got", batch=X)
    without = {k: x for k, x in BATCH.items() if k != "mean"}
    bad(ValueError, r"batch must hold a batch for each block.*got \['bound", batch=without)
    bad(ValueError, "batch_axis must name the blocks of residual_fn", axes={"interior": 0})
    error = bad(ValueError, "at least one sample", batch=BATCH | {"boundary": jnp.zeros((2, 0))})
    assert "This is batch['boundary']." in error.__notes__
    wrong = BLOCKS | {"boundary": lambda params, x: None}
    error = bad(ValueError, "must return the rows of a sample", residual_fn=wrong)
    assert "This is residual_fn['boundary']." in error.__notes__
    for blocks in ({}, {0: interior}):
        with pytest.raises(ValueError, match=r"a dict .name: function. with at least one block"):
            hig_optax.scale_by_hig(blocks)
    with pytest.raises(TypeError, match=r"residual_fn\['a'\] must be a function of \(params, sam"):
        hig_optax.scale_by_hig({"a": lambda params: params})
    with pytest.raises(ValueError, match="weights must be given for the blocks of residual_fn"):
        hig_optax.weighted_residual(BLOCKS, {"interior": 1.0})
