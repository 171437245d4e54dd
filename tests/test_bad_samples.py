"""Samples whose rows or derivatives are not finite: counted, left out on demand, and out at weight 0."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hig_optax
from hig_optax import baselines

SIZE = 12
BAD = {"input": 3, "row": 0, "derivative": SIZE - 1}
GOOD = np.setdiff1d(np.arange(SIZE), list(BAD.values()))


@pytest.fixture(autouse=True)
def _in_float64():
    with jax.enable_x64(True):
        yield


def residual(params, sample):
    """Two rows of a network, and one whose derivative is NaN where `at` is zero."""
    error = jnp.tanh(sample["x"] @ params["w"]) @ params["v"] - sample["y"]
    distance = jnp.linalg.norm(sample["at"] * (1.0 + params["b"]))
    return jnp.concatenate([error, 0.1 * distance[None]])


def rows_loss(rows, batch):
    """Of no mean over the samples: those that are left out are as if they were not there."""
    del batch
    return jnp.sum(rows**2) / 8


def loss(params, batch, fun=residual):
    return rows_loss(jax.vmap(fun, (None, 0))(params, batch), batch)


def make_params(width=6):
    rng = np.random.default_rng(0)
    shapes = {"w": (2, width), "v": (width, 2), "b": (2,)}
    return {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}


def make_batch(*, with_bad):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(SIZE, 2))
    batch = {
        "x": x,
        "y": np.stack([x[:, 0] * x[:, 1], np.sin(x[:, 1])], 1),
        "at": np.ones((SIZE, 2)),
    }
    if with_bad:
        batch["x"][BAD["input"]] = np.nan
        batch["y"][BAD["row"], 1] = np.inf
        batch["at"][BAD["derivative"]] = 0.0
    return jax.tree.map(jnp.asarray, batch)


def good_ones(batch):
    return jax.tree.map(lambda x: x[GOOD], batch)


def train(opt, params, batch, steps=2, loss=loss):
    state = opt.init(params)

    @jax.jit
    def step(params, state):
        grads = jax.grad(loss)(params, batch)
        updates, state = opt.update(grads, state, params, batch=batch)
        return optax.apply_updates(params, updates), state

    for _ in range(steps):
        params, state = step(params, state)
    return params, state


def assert_close(found, expected, tolerance):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def forward_only(fun):
    """The same rows, with a loop of no turns that reverse mode cannot pass."""

    def looped(params, sample):
        same = jax.lax.while_loop(lambda p: jnp.sum(p["v"]) > 1e9, lambda p: p, params)
        return fun(same, sample)

    return looped


OPTIMIZERS = {
    "hig": lambda **kw: hig_optax.hig(0.5, residual, loss_fn=rows_loss, rtol=1e-3, **kw),
    "adaptive_hig": lambda **kw: hig_optax.adaptive_hig(residual, **kw),
    "adaptive_hig, loss_fn": lambda **kw: hig_optax.adaptive_hig(residual, loss_fn=rows_loss, **kw),
    "adaptive_hig, forward": lambda **kw: hig_optax.adaptive_hig(forward_only(residual), **kw),
    "spring": lambda **kw: baselines.spring(0.5, residual, damping=1e-2, **kw),
}
WAYS = {
    "gram": {"solver": "gram"},
    "svd": {"solver": "svd"},
    "krylov": {"solver": "krylov", "num_matvecs": 12},
    "gram in chunks": {"solver": "gram", "chunk_size": 5},
    "krylov in chunks": {"solver": "krylov", "num_matvecs": 12, "chunk_size": 5},
}
# A Gram matrix of a float64 J leaves ε·(σ₁/σ_r)² = 2e-10 at rtol=1e-3, the others less; two steps on.
TOLERANCE = 1e-8
CASES = [
    *(("adaptive_hig", way) for way in WAYS),
    ("adaptive_hig, loss_fn", "svd"),
    ("adaptive_hig, forward", "gram"),
    ("hig", "gram"),
    ("hig", "krylov"),
    ("spring", "gram"),
    ("spring", "krylov"),
]


@pytest.mark.parametrize(("name", "way"), CASES)
def test_dropped_samples_are_as_if_they_were_not_there(name, way):
    batch, params = make_batch(with_bad=True), make_params()
    make, settings = OPTIMIZERS[name], WAYS[way]
    found, state = train(make(bad_samples="drop", **settings), params, batch)
    expected, _ = train(make(**settings), params, good_ones(batch))
    assert_close(found, expected, TOLERANCE)
    spectrum = optax.tree.get(state, "spectrum")
    assert spectrum.num_bad_samples == len(BAD)
    assert spectrum.is_finite
    assert spectrum.rank > 0
    assert np.isnan(
        spectrum.gradient_cosine
    )  # of the incoming gradient there is nothing to compare
    if "adaptive" in name:
        assert state.accepted
        np.testing.assert_allclose(
            state.loss, train(make(**settings), params, good_ones(batch))[1].loss, rtol=TOLERANCE
        )


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", BAD)
def test_bad_samples_are_counted_and_refused_by_default(kind, way):
    good, bad, params = make_batch(with_bad=False), make_batch(with_bad=True), make_params()
    here = np.arange(SIZE) == BAD[kind]
    batch = jax.tree.map(lambda g, b: jnp.where(here[:, None], b, g), good, bad)
    found, state = train(OPTIMIZERS["adaptive_hig"](**WAYS[way]), params, batch, steps=1)
    assert_close(found, params, 0)
    assert state.spectrum.num_bad_samples == 1
    assert not state.spectrum.is_finite
    _, state = train(OPTIMIZERS["adaptive_hig"](**WAYS[way]), params, good, steps=1)
    assert state.spectrum.num_bad_samples == 0
    assert state.spectrum.is_finite


def test_with_all_samples_finite_dropping_changes_nothing():
    batch, params = make_batch(with_bad=False), make_params()
    for make in OPTIMIZERS.values():
        found, state = train(make(bad_samples="drop"), params, batch)
        assert_close(found, train(make(), params, batch)[0], TOLERANCE)
        spectrum = optax.tree.get(state, "spectrum")
        assert spectrum.num_bad_samples == 0
        np.testing.assert_allclose(spectrum.gradient_cosine, 1, rtol=1e-6)


def test_with_all_samples_bad_nothing_moves():
    params = make_params()
    for name in make_batch(with_bad=False):  # a NaN in the targets leaves derivatives finite
        batch = make_batch(with_bad=False)
        batch[name] = jnp.full_like(batch[name], 0.0 if name == "at" else jnp.nan)
        for make in OPTIMIZERS.values():
            found, state = train(make(bad_samples="drop"), params, batch, steps=1)
            assert_close(found, params, 0)
            spectrum = optax.tree.get(state, "spectrum")
            assert not spectrum.is_finite
            assert spectrum.num_bad_samples == SIZE


def test_a_gradient_that_is_nan_for_another_reason_is_refused():
    batch, params = make_batch(with_bad=False), make_params()
    opt = hig_optax.adaptive_hig(residual, bad_samples="drop")
    grads = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), params)
    updates, state = opt.update(grads, opt.init(params), params, batch=batch)
    assert_close(updates, jax.tree.map(jnp.zeros_like, params), 0)
    assert not state.spectrum.is_finite
    assert state.spectrum.num_bad_samples == 0


def test_layers_in_factors():
    """Wide enough that the matrices of both layers stay in factors."""
    batch, params = make_batch(with_bad=True), make_params(64)
    make = OPTIMIZERS["adaptive_hig"]
    found, state = train(make(bad_samples="drop", solver="gram"), params, batch)
    expected, _ = train(make(solver="gram"), params, good_ones(batch))
    assert_close(found, expected, TOLERANCE)
    assert state.spectrum.num_bad_samples == len(BAD)


def test_frozen_leaves_stay():
    batch, params = make_batch(with_bad=True), make_params()
    mask = {"w": True, "v": False, "b": True}
    make = OPTIMIZERS["hig"]
    found, _ = train(make(bad_samples="drop", mask=mask), params, batch)
    expected, _ = train(make(mask=mask), params, good_ones(batch))
    assert_close(found, expected, TOLERANCE)
    assert_close(found["v"], params["v"], 0)


@pytest.mark.parametrize("way", ["gram", "svd", "krylov"])
def test_blocks(way):
    residuals = {"inside": residual, "edge": lambda p, x: p["v"][0] * x - 1.0}
    edge, params = jnp.array([1.0, jnp.nan, 2.0]), make_params()
    batch = {"inside": make_batch(with_bad=True), "edge": edge}
    good = {"inside": good_ones(batch["inside"]), "edge": edge[jnp.array([0, 2])]}

    def of_blocks(params, batch):
        each = [jax.vmap(f, (None, 0))(params, batch[k]) for k, f in residuals.items()]
        return sum(jnp.sum(x**2) for x in each)

    def make(**settings):
        return hig_optax.adaptive_hig(residuals, **WAYS[way], **settings)

    found, state = train(make(bad_samples="drop"), params, batch, loss=of_blocks)
    assert_close(found, train(make(), params, good, loss=of_blocks)[0], TOLERANCE)
    assert state.spectrum.num_bad_samples == len(BAD) + 1


@pytest.mark.parametrize("wrap", [lambda f: f, forward_only], ids=["reverse", "forward"])
def test_of_a_whole_batch_rows_are_dropped(wrap):
    batch, params = make_batch(with_bad=False), make_params()
    batch["y"] = batch["y"].at[BAD["row"], 1].set(jnp.nan)

    def whole(params, batch):
        return jax.vmap(residual, (None, 0))(params, batch)

    def without(params, batch):
        return jnp.delete(whole(params, batch).ravel(), 3 * BAD["row"] + 1)

    def trained(fun, **settings):
        opt = hig_optax.adaptive_hig(wrap(fun), batch_axis=None, **settings)
        return train(opt, params, batch, loss=lambda p, batch: jnp.sum(fun(p, batch) ** 2))

    found, state = trained(whole, bad_samples="drop")
    expected, _ = trained(without)
    assert_close(found, expected, TOLERANCE)
    assert state.spectrum.num_bad_samples == 1


def test_random_keys_and_what_all_samples_share():
    keys, params = jax.random.split(jax.random.key(0), SIZE), make_params()

    def noisy(params, sample):
        rows, key, scale = sample
        return scale * (residual(params, rows) + 0.1 * jax.random.normal(key, (3,)))

    batch, axes = (make_batch(with_bad=True), keys, jnp.array(2.0)), (0, 0, None)
    good = (good_ones(batch[0]), keys[GOOD], batch[2])

    def of_noisy(params, batch):
        return jnp.sum(jax.vmap(noisy, (None, axes))(params, batch) ** 2)

    def make(**settings):
        return hig_optax.adaptive_hig(noisy, batch_axis=axes, **settings)

    found, _ = train(make(bad_samples="drop"), params, batch, loss=of_noisy)
    assert_close(found, train(make(), params, good, loss=of_noisy)[0], TOLERANCE)


def test_micro_batches():
    batch, params = make_batch(with_bad=True), make_params()
    half = SIZE // 2
    parts = [jax.tree.map(lambda x, s=s: x[s : s + half], batch) for s in (0, half)]
    inside = hig_optax.adaptive_hig(residual, bad_samples="drop")
    opt = hig_optax.accumulate(inside, 2, parts[0], reduction="sum")
    state, found = opt.init(params), params
    for part in parts:
        updates, state = opt.update(jax.grad(loss)(found, part), state, found, batch=part)
        found = optax.apply_updates(found, updates)
    expected, _ = train(OPTIMIZERS["adaptive_hig"](), params, good_ones(batch), steps=1)
    assert_close(found, expected, TOLERANCE)
    assert state.inner_state.spectrum.num_bad_samples == len(BAD)


def test_a_loss_whose_derivative_is_nan_at_rows_of_zero():
    batch, params = make_batch(with_bad=True), make_params()

    def of_lengths(rows, batch):
        return jnp.sum(jnp.linalg.norm(rows, axis=-1))

    def make(**settings):
        return hig_optax.hig(0.5, residual, loss_fn=of_lengths, rtol=1e-3, **settings)

    found, _ = train(make(bad_samples="drop"), params, batch)
    assert_close(found, train(make(), params, good_ones(batch))[0], TOLERANCE)


def test_an_ensemble_and_a_scan():
    batch = make_batch(with_bad=True)
    ensemble = jax.tree.map(lambda x: jnp.stack([x, 1.1 * x]), make_params())
    opt = hig_optax.adaptive_hig(residual, bad_samples="drop")

    def steps(params):
        def body(carry, _):
            params, state = carry
            updates, state = opt.update(jax.grad(loss)(params, batch), state, params, batch=batch)
            return (optax.apply_updates(params, updates), state), state.spectrum.num_bad_samples

        (params, _), numbers = jax.lax.scan(body, (params, opt.init(params)), length=2)
        return params, numbers

    found, numbers = jax.jit(jax.vmap(steps))(ensemble)
    assert (numbers == len(BAD)).all()
    expected, _ = train(opt, jax.tree.map(lambda x: x[1], ensemble), good_ones(batch))
    assert_close(jax.tree.map(lambda x: x[1], found), expected, TOLERANCE)


@pytest.mark.devices
@pytest.mark.parametrize(
    ("name", "way"), [*(("adaptive_hig", w) for w in WAYS), ("adaptive_hig, forward", "gram")]
)
def test_over_devices(name, way):
    """Eight devices for twelve samples: on one of them both are bad, and the last one is padding."""
    batch, params = make_batch(with_bad=True), make_params()
    batch["x"] = batch["x"].at[2].set(jnp.nan)
    good = jax.tree.map(lambda x: x[np.setdiff1d(GOOD, 2)], batch)
    mesh = jax.make_mesh((8,), ("b",), axis_types=(jax.sharding.AxisType.Auto,))
    # What "auto" means follows from the rows that are handed over, and here those that are left are fewer
    # than the parameters.
    fixed = {"exponent": -0.5, "momentum": 0.5, "max_relative_step": None, "patience": None}
    make = functools.partial(OPTIMIZERS[name], **fixed)
    with jax.set_mesh(mesh):
        found, state = train(make(bad_samples="drop", **WAYS[way]), params, batch)
        _, refused = train(make(**WAYS[way]), params, batch, steps=1)
    assert_close(found, train(make(**WAYS[way]), params, good)[0], TOLERANCE)
    assert state.spectrum.num_bad_samples == refused.spectrum.num_bad_samples == len(BAD) + 1


def test_dropping_needs_a_loss():
    for make in (hig_optax.scale_by_hig, lambda f, **kw: hig_optax.hig(1.0, f, **kw)):
        with pytest.raises(ValueError, match="needs loss_fn"):
            make(residual, bad_samples="drop")
    with pytest.raises(ValueError, match="bad_samples must be one of 'refuse', 'drop'"):
        hig_optax.adaptive_hig(residual, bad_samples="skip")


def test_it_stays_what_it_is_under_inject_hyperparams():
    wrapped = optax.inject_hyperparams(hig_optax.hig, static_args=hig_optax.STATIC_ARGS)
    opt = wrapped(learning_rate=0.5, residual_fn=residual, loss_fn=rows_loss, bad_samples="drop")
    _, state = train(opt, make_params(), make_batch(with_bad=True), steps=1)
    assert optax.tree.get(state, "spectrum").is_finite


WEIGHTED = [
    (name, way) for name, way in CASES if name != "adaptive_hig, loss_fn" and "chunks" not in way
]


@pytest.mark.parametrize(("name", "way"), WEIGHTED)
def test_at_weight_zero_a_sample_is_out_whatever_it_holds(name, way):
    """Rows, derivatives, and the gradient of the user's own loss, with no setting that says so."""
    weighted = hig_optax.weighted_residual(residual, lambda sample: sample["weight"])
    batch, params = make_batch(with_bad=True), make_params()
    batch["weight"] = jnp.ones(SIZE).at[np.array(list(BAD.values()))].set(0.0)
    make = {
        "hig": lambda **kw: hig_optax.hig(0.5, weighted, rtol=1e-3, **kw),
        "adaptive_hig": lambda **kw: hig_optax.adaptive_hig(weighted, **kw),
        "adaptive_hig, forward": lambda **kw: hig_optax.adaptive_hig(forward_only(weighted), **kw),
        # λ goes with the number of samples, which weights do not change
        "spring": lambda **kw: baselines.spring(0.5, weighted, damping=0.12 / SIZE, **kw),
    }[name]
    expected_of = {
        "hig": lambda **kw: hig_optax.hig(0.5, residual, rtol=1e-3, **kw),
        "adaptive_hig": lambda **kw: hig_optax.adaptive_hig(residual, **kw),
        "adaptive_hig, forward": lambda **kw: hig_optax.adaptive_hig(forward_only(residual), **kw),
        "spring": lambda **kw: baselines.spring(0.5, residual, damping=0.12 / GOOD.size, **kw),
    }[name]

    def of_weighted(params, batch):
        return loss(params, batch, weighted)

    found, state = train(make(**WAYS[way]), params, batch, loss=of_weighted)
    assert np.isfinite(of_weighted(params, batch))
    assert_close(found, train(expected_of(**WAYS[way]), params, good_ones(batch))[0], TOLERANCE)
    spectrum = optax.tree.get(state, "spectrum")
    assert spectrum.num_bad_samples == 0
    if name != "hig":
        np.testing.assert_allclose(spectrum.gradient_cosine, 1, rtol=1e-6)


def test_a_block_of_weight_zero_is_out_whatever_its_derivatives():
    def only(params, sample):
        return params["w"] * sample

    batch, params = jnp.arange(1.0, 4.0), {"w": jnp.array(2.0)}
    blocks = {"good": only, "bad": lambda p, x: jnp.sqrt(p["w"] - p["w"]) * x}
    weighted = hig_optax.weighted_residual(blocks, {"good": 1.0, "bad": 0})
    opt = hig_optax.adaptive_hig(weighted)
    both = {"good": batch, "bad": batch}

    def of_both(params, batch):
        each = [jax.vmap(f, (None, 0))(params, batch[k]) for k, f in weighted.items()]
        return sum(jnp.sum(x**2) for x in each)

    found, state = train(opt, params, both, steps=1, loss=of_both)
    assert state.accepted
    assert found["w"] < params["w"]
