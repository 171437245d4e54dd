"""Parameters of every kind: containers, dtypes, hidden leaves. All give the update of plain arrays."""

import dataclasses
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import hig_optax
from hig_optax import baselines
from hig_optax._inputs.columns import Columns

BATCH = {"x": jnp.linspace(-1.0, 1.0, 5), "y": jnp.linspace(0.5, 2.0, 5)}


def rows(a, b, c, x):
    """Residual of y = a·x² + b·x + c, in two rows of different scale; a and b of shape (2,), c a scalar."""
    y = a * x**2 + b * x + c
    return y * jnp.array([1.0, 0.1], y.dtype)


def values(dtype=jnp.float32):
    a = jnp.array([0.3, -1.0], dtype)
    return a, jnp.array([0.7, 0.2], dtype), jnp.array(0.5, dtype)


class Named(NamedTuple):
    a: Any
    b: Any
    c: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Data:
    a: Any
    b: Any
    c: Any
    degree: int = dataclasses.field(default=2, metadata={"static": True})


@flax.struct.dataclass
class Struct:
    a: Any
    b: Any
    c: Any
    name: str = flax.struct.field(pytree_node=False, default="parabola")


class Module(nnx.Module):
    def __init__(self, a, b, c):
        self.a, self.b, self.c = nnx.Param(a), nnx.Param(b), nnx.Param(c)


def nnx_state(a, b, c):
    return nnx.state(Module(a, b, c), nnx.Param)


def equinox_arrays(a, b, c):
    """The arrays of a module with static fields and functions, as ``eqx.partition`` leaves them."""
    eqx = pytest.importorskip("equinox")

    class Parabola(eqx.Module):
        a: jax.Array
        b: jax.Array
        c: jax.Array
        activation: Any
        degree: int = eqx.field(static=True)

    return eqx.partition(Parabola(a, b, c, jnp.tanh, 2), eqx.is_inexact_array)[0]


def by_attribute(p):
    return p.a, p.b, p.c


# How to build the container, and how to read it.
CONTAINERS = {
    "dict": (lambda a, b, c: {"a": a, "b": b, "c": c}, lambda p: (p["a"], p["b"], p["c"])),
    "nested dict": (
        lambda a, b, c: {"x": {"a": a}, "y": {"z": {"b": b, "c": c}}},
        lambda p: (p["x"]["a"], p["y"]["z"]["b"], p["y"]["z"]["c"]),
    ),
    "list": (lambda a, b, c: [a, b, c], tuple),
    "tuple of lists": (lambda a, b, c: ([a, b], c), lambda p: (*p[0], p[1])),
    "with None": (lambda a, b, c: {"a": a, "none": None, "r": (b, c)}, lambda p: (p["a"], *p["r"])),
    "namedtuple": (Named, by_attribute),
    "dataclass": (Data, by_attribute),
    "flax.struct": (Struct, by_attribute),
    "nnx.State": (nnx_state, lambda p: tuple(p[k].get_value() for k in "abc")),
    "pure nnx": (
        lambda a, b, c: nnx.as_pure(nnx_state(a, b, c)),
        lambda p: tuple(p[k] for k in "abc"),
    ),
    "equinox": (equinox_arrays, by_attribute),
}


def update(build, read, parts, *, x64=False, dtype=jnp.float32, **settings):
    """Updates of the parts a, b and c held in a container, and the state."""

    def residual(params, sample):
        a, b, c = read(params)
        return rows(a, b, c, sample["x"].astype(a.dtype)) - sample["y"].astype(a.dtype)

    params = build(*parts)
    opt = hig_optax.scale_by_hig(residual, rtol=1e-3, **settings)
    grads = jax.grad(
        lambda p: jnp.sum(jnp.abs(jax.vmap(residual, (None, 0))(p, BATCH)) ** 2).astype(dtype)
    )(params)
    updates, state = jax.jit(opt.update)(grads, opt.init(params), params, batch=BATCH)
    assert jax.tree.structure(updates) == jax.tree.structure(params)
    for u, p in zip(jax.tree.leaves(updates), jax.tree.leaves(params), strict=True):
        assert (u.shape, u.dtype) == (p.shape, p.dtype)
    optax.apply_updates(params, updates)
    return read(updates), state


@pytest.mark.parametrize(("build", "read"), CONTAINERS.values(), ids=CONTAINERS)
def test_containers(build, read):
    found, state = update(build, read, values())
    expected, expected_state = update(lambda *p: p, lambda p: p, values())
    for x, y in zip(found, expected, strict=True):
        # Leaves in another order are columns in another order: float32 sums, at a condition of 30.
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)
    assert state.spectrum.rank == expected_state.spectrum.rank == 5


def test_an_equinox_module_with_functions_for_leaves():
    """Whole it is refused with the leaf's name; its arrays alone are what the message says to use."""
    eqx = pytest.importorskip("equinox")

    class Model(eqx.Module):
        w: jax.Array
        activation: Any

    model = Model(jnp.ones(2), jnp.tanh)

    def residual(m, s):
        return m.activation(m.w * s)

    with pytest.raises(TypeError, match=r"params must be .*at params\.activation.*eqx\.filter"):
        hig_optax.scale_by_hig(residual).init(model)
    arrays = eqx.filter(model, eqx.is_inexact_array)
    batch = jnp.stack([jnp.linspace(0.0, 1.0, 3), jnp.linspace(1.0, 0.5, 3)], axis=1)
    opt = hig_optax.scale_by_hig(lambda a, s: residual(eqx.combine(a, model), s))
    found, _ = opt.update(arrays, opt.init(arrays), arrays, batch=batch)
    plain = hig_optax.scale_by_hig(lambda w, s: jnp.tanh(w * s))
    expected, _ = plain.update(model.w, plain.init(model.w), model.w, batch=batch)
    np.testing.assert_allclose(found.w, expected, rtol=1e-6)
    assert found.activation is None


def test_a_single_scalar():
    opt = hig_optax.hig(1.0, lambda p, s: p * s - 2 * s, exponent=-1.0)
    batch = jnp.array([1.0, 2.0])
    for params in (jnp.float32(0.5), 0.5):
        gradient = jnp.sum((params - 2) * batch**2)
        updates, state = opt.update(gradient, opt.init(params), params, batch=batch)
        np.testing.assert_allclose(updates, 1.5, rtol=1e-6)
        assert jnp.shape(updates) == ()
        assert optax.tree.get(state, "rank") == 1


@pytest.mark.parametrize(
    "dtypes",
    [
        *[(name,) * 3 for name in ("float64", "float32", "bfloat16", "float16")],
        ("float64", "float32", "bfloat16"),
        ("bfloat16", "float32", "float32"),
    ],
    ids=lambda d: "-".join(d),
)
def test_dtypes(dtypes):
    """Each leaf gets its update in its own dtype; J is as precise as its least precise column."""

    def residual(params, sample):
        a, b, c = (x.astype(jnp.float64) for x in params)
        y = rows(a, b, c, sample["x"].astype(jnp.float64))
        return y - sample["y"].astype(jnp.float64)

    def gradient(params):
        return jax.grad(lambda p: jnp.sum(jax.vmap(residual, (None, 0))(p, BATCH) ** 2))(params)

    with jax.enable_x64(True):
        params = tuple(x.astype(d) for x, d in zip(values(), dtypes, strict=True))
        exact = tuple(x.astype(jnp.float64) for x in params)
        opt = hig_optax.scale_by_hig(residual, rtol=1e-3)
        grads = gradient(exact)
        expected, _ = opt.update(grads, opt.init(exact), exact, batch=BATCH)
        low = tuple(g.astype(p.dtype) for g, p in zip(grads, params, strict=True))
        state = opt.init(params)
        found, after = jax.jit(opt.update)(low, state, params, batch=BATCH)
        assert tuple(str(x.dtype) for x in found) == dtypes
        for x, y in zip(jax.tree.leaves(after), jax.tree.leaves(state), strict=True):
            assert x.dtype == y.dtype
        eps = max(float(jnp.finfo(d).eps) for d in dtypes)
        # The gradient came in with ε of its dtype in every direction, magnified by condition^(1-κ) ~ 30^1.5.
        scale = max(float(jnp.abs(x).max()) for x in expected)
        for x, y in zip(found, expected, strict=True):
            np.testing.assert_allclose(x.astype(jnp.float64), y, rtol=0, atol=50 * eps * scale)


def test_complex_and_real_leaves_together():
    """Against the version with real parts and imaginary parts for parameters, written by hand."""
    batch = {"x": jnp.linspace(-1.0, 1.0, 4), "y": jnp.linspace(0.5, 2.0, 4)}

    def residual(params, sample):
        z = params["z"] * jax.lax.complex(sample["x"], 0.5 * sample["x"]) + params["c"].astype(
            jnp.complex64
        )
        return z - sample["y"].astype(jnp.complex64)

    def real_residual(params, sample):
        re, im, x = params["re"], params["im"], sample["x"]
        y = re * x - im * 0.5 * x + params["c"] - sample["y"]
        return jnp.stack([y, re * 0.5 * x + im * x])

    params = {"z": jnp.array([0.3 - 0.7j, 1j], jnp.complex64), "c": jnp.float32(0.2)}
    real = {"re": jnp.real(params["z"]), "im": jnp.imag(params["z"]), "c": params["c"]}

    def total(residual):
        return lambda p: jnp.sum(jnp.abs(jax.vmap(residual, (None, 0))(p, batch)) ** 2)

    grads = jax.tree.map(jnp.conj, jax.grad(total(residual))(params))
    opt, real_opt = hig_optax.scale_by_hig(residual), hig_optax.scale_by_hig(real_residual)
    found, state = opt.update(grads, opt.init(params), params, batch=batch)
    real_grads = jax.grad(total(real_residual))(real)
    expected, real_state = real_opt.update(real_grads, real_opt.init(real), real, batch=batch)
    np.testing.assert_allclose(
        found["z"], jax.lax.complex(expected["re"], expected["im"]), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(found["c"], expected["c"], rtol=1e-5, atol=1e-6)
    assert state.spectrum.rank == real_state.spectrum.rank


# Leaves that a wrapper hides

PARAMS = {"a": jnp.array([0.3, -1.0]), "b": jnp.array([0.7, 0.2]), "c": jnp.float32(0.5)}


def residual(params, sample):
    return rows(params["a"], params["b"], params["c"], sample["x"]) - sample["y"]


GRADS = jax.grad(lambda p: jnp.sum(jax.vmap(residual, (None, 0))(p, BATCH) ** 2))(PARAMS)


def test_hidden_leaves_are_constants_of_the_residual():
    expected, _ = (
        opt := hig_optax.scale_by_hig(residual, mask={"a": True, "b": False, "c": True})
    ).update(GRADS, opt.init(PARAMS), PARAMS, batch=BATCH)
    labels = {"a": "hig", "b": "frozen", "c": "hig"}
    opt = optax.partition(
        {"hig": hig_optax.scale_by_hig(residual), "frozen": optax.set_to_zero()}, labels
    )
    state = opt.init(PARAMS)
    found, after = jax.jit(opt.update)(GRADS, state, PARAMS, batch=BATCH, all_params=PARAMS)
    np.testing.assert_allclose(found["a"], expected["a"], rtol=1e-6)
    np.testing.assert_allclose(found["c"], expected["c"], rtol=1e-6)
    np.testing.assert_array_equal(found["b"], 0)
    assert jax.tree.structure(after) == jax.tree.structure(state)


def test_a_whole_subtree_may_be_hidden_and_of_low_precision():
    params = {"net": PARAMS, "scale": jnp.float32(2.0), "frozen": [jnp.bfloat16(1.0)]}
    seen = []

    def scaled(p, s):
        seen.append(p["frozen"][0].dtype)
        return p["scale"] * p["frozen"][0] * residual(p["net"], s)

    grads = jax.tree.map(jnp.ones_like, params)
    opt = optax.masked(
        hig_optax.scale_by_hig(scaled), {"net": True, "scale": False, "frozen": False}
    )
    found, _ = opt.update(grads, opt.init(params), params, batch=BATCH, all_params=params)
    inner = hig_optax.scale_by_hig(lambda p, s: 2 * residual(p, s))
    expected, _ = inner.update(grads["net"], inner.init(PARAMS), PARAMS, batch=BATCH)
    np.testing.assert_allclose(found["net"]["b"], expected["b"], rtol=1e-5)
    assert set(seen) == {jnp.dtype(jnp.float32)}


def test_mask_within_masked():
    opt = optax.masked(
        hig_optax.hig(1.0, residual, mask={"a": True, "b": False, "c": True}),
        {"a": True, "b": True, "c": False},
    )
    found, _ = opt.update(GRADS, opt.init(PARAMS), PARAMS, batch=BATCH, all_params=PARAMS)
    alone = hig_optax.hig(1.0, residual, mask={"a": True, "b": False, "c": False})
    expected, _ = alone.update(GRADS, alone.init(PARAMS), PARAMS, batch=BATCH)
    np.testing.assert_allclose(found["a"], expected["a"], rtol=1e-6)
    np.testing.assert_array_equal(found["b"], 0)
    np.testing.assert_array_equal(found["c"], GRADS["c"])


def test_all_params_of_another_structure():
    opt = optax.masked(hig_optax.scale_by_hig(residual), {"a": True, "b": False, "c": True})
    state = opt.init(PARAMS)
    with pytest.raises(ValueError, match="all_params must have the structure of params"):
        opt.update(GRADS, state, PARAMS, batch=BATCH, all_params={"a": PARAMS["a"]})
    with pytest.raises(ValueError, match=r"MaskedNode(.|\n)*all_params=params"):
        opt.update(GRADS, state, PARAMS, batch=BATCH, all_params=PARAMS | {"b": optax.MaskedNode()})


def test_all_params_are_ignored_where_nothing_is_hidden():
    opt = hig_optax.scale_by_hig(residual)
    state = opt.init(PARAMS)
    found, _ = opt.update(GRADS, state, PARAMS, batch=BATCH, all_params="ignored")
    expected, _ = opt.update(GRADS, state, PARAMS, batch=BATCH)
    np.testing.assert_array_equal(found["a"], expected["a"])


def test_columns_see_only_what_is_not_hidden():
    columns = Columns.of({"a": optax.MaskedNode(), "b": jnp.ones(3)}, None)
    assert columns.view.size == 3


# Leaves that are frozen

ANYTHING = {
    "a": PARAMS["a"],
    "b": jnp.tanh,
    "c": "a string",
    "i": jnp.array([3, 2**24 + 1]),
    "n": 7,
}
ONLY_A = {"a": True, "b": False, "c": False, "i": False, "n": False}
FACTORIES = {
    "hig": lambda f, **k: hig_optax.hig(0.1, f, **k),
    "adaptive_hig": hig_optax.adaptive_hig,
    "spring": lambda f, **k: baselines.spring(1.0, f, damping=0.1, **k),
}


def residual_of_anything(params, sample):
    return params["b"](params["a"] * sample["x"]) * params["i"][0].astype(jnp.float32)


def with_gradient(params, gradient):
    """As `jax.grad` and a user's own hand give it: what cannot be differentiated stands for itself."""
    return params | {"a": gradient, "i": np.zeros(2, jax.dtypes.float0)}


def assert_moves_a_alone(updates, params):
    numbers = {name: updates[name] for name in ("a", "i", "n")}
    moved = optax.apply_updates({name: params[name] for name in numbers}, numbers)
    assert np.abs(moved["a"] - params["a"]).min() > 0
    np.testing.assert_array_equal(moved["i"], params["i"])  # int32 beyond what float32 counts
    assert moved["n"] == 7


@pytest.mark.parametrize("accumulated", [False, True])
@pytest.mark.parametrize("factory", FACTORIES)
def test_frozen_leaves_may_be_anything(factory, accumulated):
    opt = FACTORIES[factory](residual_of_anything, mask=ONLY_A)
    batch = {"x": BATCH["x"][:4]}
    if accumulated:
        opt = hig_optax.accumulate(opt, 2, {"x": BATCH["x"][:2]})

    def steps(a):
        """Within jit the rest is closed over."""
        params = ANYTHING | {"a": a}
        updates, state = params, opt.init(params)
        for part in [batch] if not accumulated else [{"x": batch["x"][:2]}, {"x": batch["x"][2:]}]:
            updates, state = opt.update(with_gradient(params, a), state, params, batch=part)
        return updates

    updates = steps(ANYTHING["a"])
    assert_moves_a_alone(updates, ANYTHING)
    for name in ("b", "c"):
        assert updates[name] == 0
    jitted = jax.jit(steps)(ANYTHING["a"])
    np.testing.assert_allclose(jitted["a"], updates["a"], rtol=1e-5)
    assert jitted["i"].dtype == jnp.int32


@pytest.mark.parametrize("accumulated", [False, True])
def test_what_passes_through_may_be_anything(accumulated):
    opt = hig_optax.scale_by_hig(residual_of_anything, mask=ONLY_A)
    if accumulated:
        opt = hig_optax.accumulate(opt, 1, {"x": BATCH["x"]})
    grads = with_gradient(ANYTHING, ANYTHING["a"])
    updates, _ = opt.update(grads, opt.init(ANYTHING), ANYTHING, batch={"x": BATCH["x"]})
    if not accumulated:  # where it branches, only arrays can come out
        assert updates["b"] is jnp.tanh
        assert updates["c"] == "a string"
    assert_moves_a_alone(updates, ANYTHING | {"n": 0})


@pytest.mark.parametrize("factory", [*FACTORIES, "scale_by_hig"])
def test_the_remedy_for_integer_leaves(factory):
    """``mask=`` and ``jax.grad(allow_int=True)``, in a jitted step that ends in `optax.apply_updates`."""
    params = {"w": jnp.array([0.5, 2.0]), "steps": jnp.array([1, 2**24 + 1])}
    mask = {"w": True, "steps": False}

    def residual_fn(params, sample):
        return params["w"] * sample * params["steps"][0].astype(jnp.float32)

    def loss_fn(params, batch):
        return jnp.sum(jax.vmap(residual_fn, (None, 0))(params, batch) ** 2)

    with pytest.raises(TypeError, match=r"got int32 at params\['steps'\].*leave it out with mask="):
        hig_optax.hig(1.0, residual_fn).init(params)
    if factory == "scale_by_hig":
        opt = optax.chain(hig_optax.scale_by_hig(residual_fn, mask=mask), optax.scale(-0.1))
    else:
        opt = FACTORIES[factory](residual_fn, mask=mask)

    @jax.jit
    def step(params, state, batch):
        grads = jax.grad(loss_fn, allow_int=True)(params, batch)
        updates, state = opt.update(grads, state, params, batch=batch)
        return optax.apply_updates(params, updates), state

    batch = jnp.array([[1.0, 2.0], [2.0, -1.0]])
    with jax.numpy_dtype_promotion("standard"):  # Optax adds floats to integers
        after, _ = step(params, opt.init(params), batch)
    assert loss_fn(after, batch) < loss_fn(params, batch)
    assert after["steps"].dtype == jnp.int32
    if factory != "scale_by_hig":  # which hands zeros on to Optax; times a rate they are float32
        np.testing.assert_array_equal(after["steps"], params["steps"])


@pytest.mark.parametrize("make", [hig_optax.scale_by_hig, hig_optax.adaptive_hig])
def test_numpy_parameters_in_float64_are_taken_as_jax_takes_them(make):
    """Without x64 they are float32, in `jax.jit` and outside of it, without a warning (an error here)."""
    w, batch = np.ones(3), np.arange(1.0, 3.0, dtype=np.float32)
    opt = make(lambda w, x: w * x - 1)
    state = opt.init(w)
    for update in (opt.update, jax.jit(opt.update)):
        updates, after = update(w, state, w, batch=batch)
        assert updates.dtype == jnp.float32
        assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)


def _nnx_problem():
    model = Module(jnp.ones(2), jnp.ones(3), jnp.ones(1))
    graphdef = nnx.graphdef(model)

    def residual_fn(params, x):
        m = nnx.merge(graphdef, params)
        return jnp.concatenate([m.a * x, m.b * x, m.c * x]) - 0.5

    def loss(model, batch):
        return jnp.sum(jnp.concatenate([model.a, model.b, model.c])[:, None] * batch) ** 2

    return model, residual_fn, jnp.arange(1.0, 4.0), loss


NNX_MASKS = {
    "State of Param": lambda state: jax.tree.map(lambda x: x.size != 2, state),
    "State of bools": lambda state: nnx.State({"a": False, "b": True, "c": True}),
    "function": lambda state: lambda params: jax.tree.map(lambda x: x.size != 2, params),
}


@pytest.mark.parametrize("mask", NNX_MASKS)
def test_a_mask_under_nnx_optimizer(mask):
    model, residual_fn, batch, loss = _nnx_problem()
    marks = NNX_MASKS[mask](nnx.state(model, nnx.Param))
    optimizer = nnx.Optimizer(model, hig_optax.hig(0.1, residual_fn, mask=marks), wrt=nnx.Param)
    optimizer.update(model, nnx.grad(loss)(model, batch), batch=batch)
    np.testing.assert_array_equal(model.a.get_value(), 1)
    assert (model.b.get_value() != 1).all()
    assert (model.c.get_value() != 1).all()


def test_labels_under_nnx_optimizer_are_a_function():
    def labels(params):
        return jax.tree.map(lambda x: "hig" if x.size != 2 else "sgd", params)

    model, residual_fn, batch, loss = _nnx_problem()
    by = {"hig": hig_optax.hig(0.1, residual_fn), "sgd": optax.sgd(0.0)}
    optimizer = nnx.Optimizer(model, optax.partition(by, labels), wrt=nnx.Param)
    all_params = nnx.state(model, nnx.Param)
    optimizer.update(model, nnx.grad(loss)(model, batch), batch=batch, all_params=all_params)
    np.testing.assert_array_equal(model.a.get_value(), 1)
    assert (model.b.get_value() != 1).all()
