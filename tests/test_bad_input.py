"""What cannot work is refused while tracing, in words that name the argument and the remedy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hig_optax


def residual(params, sample):
    return params["w"] * sample["x"] - sample["y"]


PARAMS = {"w": jnp.ones(3)}
BATCH = {"x": jnp.ones((4, 3)), "y": jnp.zeros((4, 3))}


def by_message(case):
    return case[:40] if isinstance(case, str) else None


def update(*, params=PARAMS, grads=None, batch=BATCH, residual_fn=residual, **settings):
    opt = hig_optax.scale_by_hig(residual_fn, **settings)
    grads = jax.tree.map(jnp.ones_like, params) if grads is None else grads
    return jax.jit(opt.update)(grads, opt.init(params), params, batch=batch)


SETTINGS = [
    ({"rtol": 1.0}, ValueError, r"rtol must be in \[0, 1\), got 1.0"),
    ({"rtol": -1e-3}, ValueError, r"rtol must be in \[0, 1\), got -0.001"),
    ({"rtol": "small"}, TypeError, "rtol must be a real number or a scalar array, got 'small'"),
    (
        {"rtol": lambda step: 0.1},
        TypeError,
        r"rtol must be a real number or (.|\n)*inject_hyperparams",
    ),
    ({"rtol": jnp.ones(2)}, TypeError, r"rtol must be .* got an array of shape \(2,\)"),
    ({"rtol": True}, TypeError, "rtol must be a real number"),
    ({"atol": -1.0}, ValueError, "atol must be finite and not negative"),
    ({"damping": -1.0}, ValueError, "damping must be finite and not negative"),
    ({"damping": float("nan")}, ValueError, "damping must be finite"),
    ({"exponent": float("inf")}, ValueError, "exponent must be a finite number"),
    ({"exponent": 1j}, TypeError, "exponent must be a real number"),
    ({"exponent": None}, TypeError, "exponent must be a real number"),
    (
        {"solver": "lu"},
        ValueError,
        "solver must be one of 'auto', 'svd', 'gram', 'krylov', got 'lu'",
    ),
    (
        {"solver": "gram", "num_matvecs": 10},
        ValueError,
        'num_matvecs is the number of products .* got 10 with solver="gram"',
    ),
    ({"num_matvecs": 0}, ValueError, "num_matvecs must be at least 1"),
    (
        {"num_matvecs": jnp.int32(4)},
        TypeError,
        "num_matvecs must be a Python int.*static_args=hig_optax.STATIC_ARGS",
    ),
    ({"jacobian": "backward"}, ValueError, "jacobian must be one of 'auto', 'reverse', 'forward'"),
    ({"max_rank": 0}, ValueError, "max_rank must be at least 1 or None, got 0"),
    ({"max_rank": -1}, ValueError, "max_rank must be at least 1 or None, got -1"),
    ({"max_rank": 2.5}, TypeError, "max_rank must be a Python int, got 2.5"),
    ({"max_rank": True}, TypeError, "max_rank must be a Python int, got True"),
    ({"max_rank": jnp.float32(2)}, TypeError, "max_rank must be a Python int.* one integer"),
    ({"max_rank": jnp.ones(2, int)}, TypeError, "max_rank must be a Python int.* one integer"),
    ({"chunk_size": 0}, ValueError, "chunk_size must be at least 1"),
    ({"chunk_size": jnp.int32(4)}, TypeError, "chunk_size must be a Python int.*static_args"),
    ({"spectrum_size": None}, TypeError, "spectrum_size must be a Python int"),
    ({"spectrum_size": True}, TypeError, "spectrum_size must be a Python int"),
    ({"axis_name": 0}, TypeError, "axis_name must be a str"),
    ({"axis_name": ("data", None)}, TypeError, "axis_name must be a str"),
    ({"axis_name": jnp.zeros(2)}, TypeError, "axis_name must be a str.*static_args"),
    ({"batch_axis": 0.0}, TypeError, "batch_axis must be an int, None, or a tree of them"),
    ({"batch_axis": jnp.int32(0)}, TypeError, "batch_axis .* static_args=hig_optax.STATIC_ARGS"),
    ({"loss_fn": 3.0}, TypeError, "loss_fn must be a function"),
    (
        {"loss_fn": lambda rows: rows},
        TypeError,
        r"loss_fn must be a function of \(rows, batch\), got one of",
    ),
    (
        {"residual_fn": lambda p: p},
        TypeError,
        r"residual_fn must be a function of \(params, sample\)",
    ),
    (
        {"residual_fn": lambda p, s, t: p},
        TypeError,
        r"residual_fn must be a function of \(params, sample\)",
    ),
    ({"rtol": jnp.complex64(0.1)}, TypeError, "rtol must be a real number.*hyperparam_dtype"),
    ({"residual_fn": jnp.float32(1.0)}, TypeError, "residual_fn must be a function.*STATIC_ARGS"),
]


@pytest.mark.parametrize(("settings", "error", "message"), SETTINGS, ids=by_message)
@pytest.mark.parametrize("factory", ["scale_by_hig", "hig"])
def test_settings(factory, settings, error, message):
    settings = {"residual_fn": residual} | settings
    settings |= {"learning_rate": 1.0} if factory == "hig" else {}
    with pytest.raises(error, match=message):
        getattr(hig_optax, factory)(**settings)


RESIDUALS = [
    (lambda p, s: None, ValueError, "residual_fn must return the rows of a sample"),
    (lambda p, s: jnp.zeros((0,)), ValueError, "residual_fn must return the rows of a sample"),
    (lambda p, s: {"rows": []}, ValueError, "residual_fn must return the rows of a sample"),
    (lambda p, s: s["x"] - s["y"], ValueError, "residual_fn ignores its parameters"),
    (
        lambda p, s: jnp.sign(p["w"]).astype(int),
        TypeError,
        "floating-point rows, got int32 at the root",
    ),
    (
        lambda p, s: "rows",
        TypeError,
        "residual_fn must return arrays, got 'rows' of type str at the root",
    ),
    (
        lambda p, s: (p["w"] * s["x"], s["x"]),
        ValueError,
        r"rows and nothing beside them, got a tuple whose part \[1\] depends on no parameter",
    ),
    (lambda p, s: {"r": p["w"] > 0}, TypeError, r"floating-point rows, got bool at \['r'\]"),
]


@pytest.mark.parametrize(("residual_fn", "error", "message"), RESIDUALS, ids=by_message)
def test_residuals(residual_fn, error, message):
    with pytest.raises(error, match=message):
        update(residual_fn=residual_fn)


class Foreign:
    """As an array of PyTorch looks to JAX: it has a shape, and a dtype that NumPy does not know."""

    shape, ndim = (4, 3), 2

    class dtype:  # noqa: N801
        kind = "f"

    def __len__(self):
        return 4


FOREIGN = [
    (Foreign(), ".*dtype.*"),
    (np.array([[1, None]] * 4, object), "object"),
    (np.array(list("abcd")), "<U1"),
    (np.array(["2020-01-01"] * 4, "M8[D]"), r"datetime64\[D\]"),
    (np.array([1] * 4, "m8[s]"), r"timedelta64\[s\]"),
    (np.ma.masked_array(np.ones(4), [0, 1, 0, 1]), "float64"),
    (np.ones(4, [("a", "f4")]), r"\[\('a', '<f4'\)\]"),
]

BATCHES = [
    (
        {"x": jnp.ones((4, 3)), "y": jnp.zeros((5, 3))},
        {},
        r"same number of samples .*'x'.*4.*'y'.*5",
    ),
    ({"x": jnp.ones((0, 3)), "y": jnp.zeros((0, 3))}, {}, "batch must hold at least one sample"),
    ({}, {}, "batch must hold an array with a sample axis"),
    (None, {}, "batch must hold an array with a sample axis.*batch_axis=None"),
    (
        {"x": jnp.ones(()), "y": jnp.zeros((4, 3))},
        {},
        r"batch_axis=0 does not exist in batch\['x'\]",
    ),
    (BATCH | {"name": "ocean"}, {}, r"batch\['name'\] must be an array, got 'ocean' of type str"),
    (BATCH | {"run": object()}, {}, r"batch\['run'\] must be an array"),
    *(
        (BATCH | {"x": x}, {}, rf"batch\['x'\] must be an array, got one of dtype {dtype} of type")
        for x, dtype in FOREIGN
    ),
    (BATCH, {"batch_axis": 2}, r"batch_axis=2 does not exist in batch\['x'\] of shape \(4, 3\)"),
    (BATCH, {"batch_axis": {"x": 0}}, "batch_axis must be .* prefix of batch"),
    (BATCH, {"batch_axis": {"x": None, "y": None}}, "batch must hold an array with a sample axis"),
]


@pytest.mark.parametrize(("batch", "settings", "message"), BATCHES, ids=by_message)
def test_batches(batch, settings, message):
    opt = hig_optax.scale_by_hig(residual, **settings)
    with pytest.raises((ValueError, TypeError), match=message):
        opt.update(PARAMS, opt.init(PARAMS), PARAMS, batch=batch)


@pytest.mark.parametrize(("leaf", "dtype"), FOREIGN)
def test_foreign_arrays_before_a_step(leaf, dtype):
    batch = BATCH | {"x": leaf}
    with pytest.raises(TypeError, match=r"batch\['x'\] must be an array"):
        hig_optax.plan(residual, PARAMS, batch)
    opt = hig_optax.scale_by_hig(residual)
    with pytest.raises(TypeError, match=r"example_batch\['x'\] must be an array"):
        hig_optax.accumulate(opt, 2, batch)
    gathered = hig_optax.accumulate(opt, 2, BATCH)
    with pytest.raises(TypeError, match=r"^batch\['x'\] must be an array"):
        gathered.update(PARAMS, gathered.init(PARAMS), PARAMS, batch=batch)


def test_what_lies_beside_the_rows_of_frozen_parameters_may_be_constant():
    params = {"w": jnp.ones(3), "frozen": jnp.ones(3)}

    def rows(params, sample):
        return params["w"] * sample["x"], params["frozen"] * sample["x"]

    opt = hig_optax.scale_by_hig(rows, mask={"w": True, "frozen": False})
    _, state = opt.update(params, opt.init(params), params, batch=BATCH)
    assert state.spectrum.rank == 3


def test_donated_buffers_are_named_by_jax():
    """Parameters given away to one step and used in the next: JAX says so, nothing of ours comes first."""
    opt = hig_optax.scale_by_hig(residual)

    def update(params, batch):
        return opt.update(params, opt.init(params), params, batch=batch)[0]

    step = jax.jit(update, donate_argnums=0)
    params = jax.tree.map(jnp.copy, PARAMS)
    step(params, BATCH)
    with pytest.raises((RuntimeError, ValueError), match=r"deleted|donated"):
        step(params, BATCH)
    with pytest.raises((RuntimeError, ValueError), match=r"deleted|donated"):
        opt.update(PARAMS, opt.init(PARAMS), params, batch=BATCH)


def test_wrapped_in_flatten():
    opt = optax.flatten(hig_optax.scale_by_hig(residual))
    with pytest.raises(ValueError, match=r"one flat vector.*optax.flatten"):
        opt.update(PARAMS, opt.init(PARAMS), PARAMS, batch=BATCH)


@jax.custom_vjp
def double(x):
    return 2 * x


double.defvjp(lambda x: (double(x), None), lambda _, g: (2 * g,))


def doubled_until_large(x):
    return jax.lax.while_loop(lambda x: jnp.sum(x) < 10, lambda x: 2 * x, x)


def test_forward_mode_through_a_custom_vjp():
    with pytest.raises(ValueError, match='jacobian="forward" cannot pass through residual_fn'):
        update(residual_fn=lambda p, s: double(p["w"]) * s["x"], jacobian="forward")


def test_reverse_mode_through_a_dynamic_loop():
    def residual_fn(params, sample):
        return doubled_until_large(params["w"]) * sample["x"]

    with pytest.raises(ValueError, match=r'jacobian="reverse" cannot pass .*turns.*"forward" or'):
        update(residual_fn=residual_fn, jacobian="reverse")
    with pytest.raises(ValueError, match=r'solver="krylov" cannot pass .*turns.*"gram" or "svd"'):
        update(residual_fn=residual_fn, solver="krylov")
    found, _ = update(residual_fn=residual_fn)
    expected, _ = update(residual_fn=lambda p, s: 4 * p["w"] * s["x"])
    np.testing.assert_allclose(found["w"], expected["w"], rtol=1e-6)


@pytest.mark.parametrize(
    "settings", [{"jacobian": "forward"}, {"solver": "krylov", "num_matvecs": 3}]
)
def test_what_only_touches_the_batch_needs_no_rule(settings):
    def residual_fn(params, sample):
        hidden = double(jax.lax.stop_gradient(params["w"])) + doubled_until_large(
            double(sample["x"])
        )
        return params["w"] * hidden * jnp.array([1.0, 2.0, 4.0])

    found, state = update(residual_fn=residual_fn, **settings)
    expected, _ = update(residual_fn=residual_fn, jacobian="reverse", solver="svd")
    assert state.spectrum.rank == 3
    # Three products for three columns: the directions differ by rounding, at a condition of 4.
    np.testing.assert_allclose(found["w"], expected["w"], rtol=1e-5)


def with_notes(error):
    return "\n".join([str(error), *getattr(error, "__notes__", [])])


def test_a_whole_batch_residual_called_with_samples():
    """In JAX's words ("vmap was requested to map its argument along axis 0"), and a note of ours."""

    def whole(params, batch):
        return jax.vmap(lambda w, x: w * x, (None, 0))(params["w"], batch["scale"])

    batch = {"scale": jnp.ones(4)}
    with pytest.raises(ValueError, match="vmap") as info:
        update(residual_fn=whole, batch=batch)
    assert "one sample, of shapes {'scale': ()}" in with_notes(info.value)
    assert "pass batch_axis=None" in with_notes(info.value)
    update(residual_fn=whole, batch=batch, batch_axis=None)


def test_a_residual_of_samples_called_with_the_batch():
    def one(params, sample):
        return params["w"] @ sample["x"] - sample["y"]

    batch = {"x": jnp.ones((4, 3)), "y": jnp.zeros(4)}
    with pytest.raises(TypeError, match=r"dot_general|matmul") as info:
        update(residual_fn=one, batch=batch, batch_axis=None)
    told = with_notes(info.value)
    assert "the whole batch, of shapes {'x': (4, 3), 'y': (4,)}, since batch_axis=None" in told
    assert "batch_axis=0" in told
    update(residual_fn=one, batch=batch)


def test_in_a_residual_of_blocks_the_block_is_named():
    blocks = {"fine": residual, "broken": lambda p, s: p["missing"]}
    with pytest.raises(KeyError) as info:
        update(residual_fn=blocks, batch={"fine": BATCH, "broken": BATCH})
    assert "This is residual_fn['broken']." in with_notes(info.value)


def test_batch_not_passed():
    opt = hig_optax.scale_by_hig(residual)
    with pytest.raises(
        ValueError, match=r"batch must be passed.*opt.update\(grads, state, params, batch"
    ):
        opt.update(PARAMS, opt.init(PARAMS), PARAMS)


def test_names_of_the_last_version():
    with pytest.raises(
        AttributeError, match=r"has left the package: it is a recipe now.*opt\.update"
    ):
        _ = hig_optax.apply_gradients
    with pytest.raises(AttributeError, match="has no attribute 'adaptive_hgi'"):
        _ = hig_optax.adaptive_hgi


def test_params_not_passed():
    opt = hig_optax.scale_by_hig(residual)
    with pytest.raises(ValueError, match="params must be passed"):
        opt.update(PARAMS, opt.init(PARAMS), batch=BATCH)


PARAMETERS = [
    (
        {"w": jnp.ones(3, int)},
        {},
        TypeError,
        r"params must be .* got int32 at params\['w'\].*mask=",
    ),
    ({"w": jax.random.key(0)}, {}, TypeError, "params must be real or complex floating-point"),
    ({}, {}, ValueError, "params must hold at least one number"),
    ({"w": jnp.ones(0)}, {}, ValueError, "params must hold at least one number"),
    (PARAMS, {"mask": {"w": False}}, ValueError, "params must hold at least one number.*mask"),
    (
        PARAMS,
        {"mask": {"v": True}},
        ValueError,
        "mask must be a tree of bools that is a prefix of params",
    ),
    (
        {"w": jnp.ones(3), "activation": jnp.tanh},
        {},
        TypeError,
        r"params must be .* at params\['activation'\].*eqx\.filter",
    ),
    ({"w": "weights"}, {}, TypeError, "params must be .* got 'weights' of type str"),
    (PARAMS, {"mask": {"w": 1.0}}, TypeError, "mask must hold bools, got 1.0"),
    ({"w": optax.MaskedNode()}, {}, ValueError, "params must hold at least one number"),
]


@pytest.mark.parametrize(("params", "settings", "error", "message"), PARAMETERS, ids=by_message)
def test_parameters(params, settings, error, message):
    with pytest.raises(error, match=message):
        hig_optax.scale_by_hig(residual, **settings).init(params)


GRADIENTS = [
    ({"v": jnp.ones(3)}, ValueError, "updates must have the structure of params"),
    (
        {"w": jnp.ones(4)},
        ValueError,
        r"updates must have the shapes of params, got \(4,\) for \(3,\)",
    ),
    ({"w": jnp.ones(3, jnp.complex64)}, TypeError, "updates must be complex where params are"),
    ({"w": jnp.ones(3, int)}, TypeError, "updates must be floating-point arrays, got int32"),
]


@pytest.mark.parametrize(("grads", "error", "message"), GRADIENTS, ids=by_message)
def test_gradients(grads, error, message):
    with pytest.raises(error, match=message):
        update(grads=grads)


@pytest.mark.parametrize(
    "loss_fn",
    [
        lambda rows, batch: rows,
        lambda rows, batch: jax.lax.complex(jnp.sum(rows), 0.0),
        lambda rows, batch: None,
        lambda rows, batch: (jnp.sum(rows), rows),
    ],
)
def test_loss_that_is_no_real_scalar(loss_fn):
    with pytest.raises(ValueError, match="loss_fn must return a real scalar array, got"):
        update(loss_fn=loss_fn)


def test_wrapped_in_masked_or_partition():
    params = {"w": jnp.ones(3), "b": jnp.ones(3)}
    for wrapped in (
        optax.masked(hig_optax.scale_by_hig(residual), {"w": True, "b": False}),
        optax.partition(
            {"h": hig_optax.scale_by_hig(residual), "z": optax.set_to_zero()}, {"w": "h", "b": "z"}
        ),
    ):
        state = wrapped.init(params)
        with pytest.raises(
            ValueError, match=r"MaskedNode.*all_params=params.*scale_by_hig\(..., mask"
        ):
            wrapped.update(params, state, params, batch=BATCH)
        with pytest.raises(ValueError, match="all_params must have the structure of params"):
            wrapped.update(params, state, params, batch=BATCH, all_params=[1.0])


def test_inside_shard_map_and_pmap():
    """One device is enough for the axes to be there."""
    mesh = jax.make_mesh(
        (1,), ("d",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:1]
    )
    P = jax.sharding.PartitionSpec
    opt = hig_optax.scale_by_hig(residual)

    def local(batch):
        return opt.update(PARAMS, opt.init(PARAMS), PARAMS, batch=batch)[0]

    where = "inside shard_map or pmap over .* where each device would"

    def step(**settings):
        return jax.shard_map(local, mesh=mesh, in_specs=P("d"), out_specs=P(), **settings)

    for check_vma in (True, False):
        with pytest.raises(ValueError, match=where):
            step(check_vma=check_vma)(BATCH)
    with pytest.raises(ValueError, match=where):
        jax.pmap(local)(jax.tree.map(lambda x: x[None], BATCH))
    opt = hig_optax.scale_by_hig(residual, axis_name="other")
    with pytest.raises(ValueError, match="axis_name must name axes of the shard_map or pmap"):
        step(check_vma=False)(BATCH)
    opt = hig_optax.scale_by_hig(residual, axis_name="d")
    with pytest.raises(ValueError, match=r"checks what varies over its axes.*check_vma=False"):
        step(check_vma=True)(BATCH)
    opt = hig_optax.scale_by_hig(residual, axis_name="d", batch_axis=None)
    with pytest.raises(ValueError, match=r"residual_fn, or a block of it, takes the whole batch"):
        step(check_vma=False)(BATCH)


def test_an_axis_that_no_mesh_has():
    opt = hig_optax.scale_by_hig(residual, axis_name="data")
    with pytest.raises(ValueError, match=r"axis_name must name axes of a mesh.*there is no mesh"):
        opt.update(PARAMS, opt.init(PARAMS), PARAMS, batch=BATCH)


NOT_FINITE = [np.nan, np.inf, -np.inf]


@pytest.mark.parametrize("bad", NOT_FINITE)
@pytest.mark.parametrize("where", ["params", "grads", "batch"])
@pytest.mark.parametrize("solver", ["svd", "gram"])
@pytest.mark.parametrize("with_loss_fn", [True, False])
def test_values_that_are_not_finite_leave_the_parameters_alone(with_loss_fn, solver, where, bad):
    values = {
        "params": {"w": jnp.ones(3), "frozen": jnp.ones(2)},
        "grads": {"w": jnp.ones(3), "frozen": jnp.ones(2)},
        "batch": BATCH,
    }
    leaf = "x" if where == "batch" else "w"
    values[where] = values[where] | {leaf: values[where][leaf].at[..., 0].set(bad)}
    updates, state = update(
        **values,
        mask={"w": True, "frozen": False},
        solver=solver,
        loss_fn=(lambda rows, batch: jnp.sum(rows**2)) if with_loss_fn else None,
    )
    assert not state.spectrum.is_finite
    assert state.spectrum.rank == 0
    assert np.isnan(state.spectrum.condition)
    for leaf in jax.tree.leaves(updates):
        np.testing.assert_array_equal(leaf, 0)


def test_nan_in_a_gradient_that_passes_through_is_flagged():
    params = {"w": jnp.ones(3), "frozen": jnp.ones(2)}
    updates, state = update(
        params=params,
        grads=params | {"frozen": jnp.array([jnp.nan, 1.0])},
        mask={"w": True, "frozen": False},
    )
    assert not state.spectrum.is_finite
    np.testing.assert_array_equal(updates["frozen"], 0)


def test_overflow_of_the_update_is_flagged():
    """A Jacobian of 1e-30 asks for a step of 1e45, which float32 does not have."""
    updates, state = update(
        residual_fn=lambda p, s: 1e-30 * p["w"] * s["x"],
        loss_fn=lambda r, b: jnp.sum(r) * 1e15,
        exponent=-1.0,
    )
    assert not state.spectrum.is_finite
    np.testing.assert_array_equal(updates["w"], 0)


def test_rank_zero_is_finite_and_does_nothing():
    updates, state = update(residual_fn=lambda p, s: jax.lax.stop_gradient(p["w"]) * s["x"])
    assert state.spectrum.is_finite
    assert state.spectrum.rank == 0
    assert state.spectrum.condition == np.inf
    np.testing.assert_array_equal(updates["w"], 0)


TRACED = {"rtol": 1e-4, "atol": 0.0, "damping": 0.0, "exponent": -0.5}
OUT_OF_RANGE = [
    # A cut above every singular value, or a number that is none: nothing is done.
    *[({name: value}, 0.0) for name in ("rtol", "atol") for value in (np.nan, np.inf)],
    ({"rtol": 2.0}, 0.0),
    *[({name: np.nan}, 0.0) for name in ("damping", "exponent")],
    ({"damping": np.inf}, 0.0),
    ({"damping": -1e9}, 0.0),  # (σ² + λ)^((κ-1)/2) of a negative number
    # A negative cut is none.
    ({"rtol": -0.5}, None),
    ({"atol": -1.0}, None),
]


def test_traced_settings_out_of_range_are_never_silently_wrong():
    """What is refused as a number gives, where only the value tells, no update or what the limit means."""

    @jax.jit
    def step(traced):
        opt = hig_optax.scale_by_hig(residual, **traced)
        return opt.update(PARAMS, opt.init(PARAMS), PARAMS, batch=BATCH)

    as_usual, _ = step(TRACED)
    assert np.abs(as_usual["w"]).min() > 0
    for changed, expected in OUT_OF_RANGE:
        updates, _ = step(TRACED | changed)
        expected = as_usual["w"] if expected is None else np.zeros(3)
        np.testing.assert_array_equal(updates["w"], expected, err_msg=str(changed))


@pytest.mark.parametrize("in_jit", [False, True])
def test_multi_steps_is_refused(in_jit):
    opt = optax.MultiSteps(hig_optax.hig(1.0, lambda w, x: w * x), every_k_schedule=2)
    w, batch = jnp.ones(2), jnp.ones((3, 2))
    update = jax.jit(opt.update) if in_jit else opt.update
    with pytest.raises(
        ValueError, match=r"inside optax\.MultiSteps, which averages .* chunk_size="
    ):
        update(w, opt.init(w), w, batch=batch)
