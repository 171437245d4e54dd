"""Trees to real vectors and back, batches to samples, and the Jacobian of the rows."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hig_optax
from hig_optax._inputs.batch import take_apart
from hig_optax._inputs.real_view import RealView
from hig_optax._inputs.residual import trace_rows
from hig_optax._jacobian.differentiate import Differentiator
from hig_optax._jacobian.rows import Block

TREE = {
    "a": jnp.arange(6.0).reshape(2, 3),
    "b": (jnp.float32(7.0), jnp.array([1 + 2j, 3 - 4j])),
    "c": jnp.arange(2, dtype=jnp.bfloat16),
}


def test_real_view_round_trip():
    view = RealView.of(TREE)
    vector = view.ravel(TREE, jnp.float32)
    assert vector.shape == (view.size,) == (6 + 1 + 4 + 2,)
    np.testing.assert_array_equal(vector[7:11], [1, 3, 2, -4])  # real parts, then imaginary parts
    back = view.unravel(vector)
    assert jax.tree.structure(back) == jax.tree.structure(TREE)
    for x, y in zip(jax.tree.leaves(back), jax.tree.leaves(TREE), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)
    assert view.merge(view.split(TREE))["c"].dtype == jnp.float32


def test_real_view_dtypes():
    with jax.enable_x64(True):
        view = RealView.of({"a": jnp.zeros(2, jnp.float64), "b": jnp.zeros(2, jnp.complex64)})
        assert view.lowest_dtype == jnp.float32
        assert view.highest_dtype == jnp.float64


def test_take_apart_moves_the_sample_axis_and_shares():
    batch = {
        "x": jnp.zeros((3, 5)),
        "t": jnp.zeros((5, 2)),
        "k": jax.random.split(jax.random.key(0), 5),
        "c": 1.5,
    }
    samples = take_apart(batch, {"x": 1, "t": 0, "k": -1, "c": None})
    assert samples.size == 5
    one = samples.assemble([x[0] for x in samples.mapped])
    assert jax.tree.map(jnp.shape, one) == {"x": (3,), "t": (2,), "k": (), "c": ()}
    assert one["c"] == 1.5


@pytest.mark.parametrize("batch_axis", [0, {"x": 0, "none": None, "shared": None}])
def test_none_leaves_of_a_batch_stay(batch_axis):
    batch = {"x": jnp.arange(3.0), "none": None, "shared": jnp.arange(3.0)}
    samples = take_apart(batch, batch_axis)
    one = samples.assemble([x[1] for x in samples.mapped])
    assert one["none"] is None
    assert one["x"] == 1
    assert jnp.ndim(one["shared"]) == (0 if batch_axis == 0 else 1)


def residual(params, sample):
    """Rows as a tree, real and complex, from real and complex parameters."""
    z = params["w"] @ sample["x"] + params["b"]
    return {"real": jnp.tanh(jnp.real(z)), "complex": z * sample["scale"]}


PARAMS = {
    "w": jax.random.normal(jax.random.key(0), (2, 3)).astype(jnp.complex64),
    "b": jnp.array([1j, 2.0]),
}
BATCH = {
    "x": jax.random.normal(jax.random.key(1), (5, 3)).astype(jnp.complex64),
    "scale": jnp.linspace(0.5, 2, 5).astype(jnp.complex64),
}


def build(mode="reverse", chunk_size=None, batch_axis=0):
    view = RealView.of(PARAMS)
    samples = take_apart(BATCH, batch_axis)

    def rows_of(parts, entries):
        params, sample = view.merge(parts), samples.assemble(entries)
        return (
            residual(params, sample)
            if batch_axis == 0
            else jax.vmap(residual, (None, 0))(params, sample)
        )

    rows = trace_rows(rows_of, view.split(PARAMS), samples.example)
    block = Block(None, rows, samples, samples.size)
    way = Differentiator(block, view.split(PARAMS), mode, jnp.dtype(jnp.float32))
    if samples.size is None:
        found = way.whole_batch(chunk_size)
    else:
        found = way.samples(samples.mapped, range(len(way.columns)), chunk_size)
    return found.y, found.side_by_side()


def test_jacobian_is_the_derivative_by_real_and_imaginary_parts():
    view = RealView.of(PARAMS)

    def stacked(vector):
        def rows(sample):
            out = residual(view.unravel(vector), sample)
            z = out["complex"]
            return jnp.concatenate([jnp.real(z), jnp.imag(z), out["real"]])

        return jax.vmap(rows)(BATCH).reshape(-1)

    vector = view.ravel(PARAMS, jnp.float32)
    y, J = build()
    np.testing.assert_allclose(y, stacked(vector), rtol=1e-6)
    # Two evaluation orders in float32.
    np.testing.assert_allclose(J, jax.jacrev(stacked)(vector), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["reverse", "forward"])
@pytest.mark.parametrize("chunk_size", [None, 1, 2, 5, 7])
def test_modes_and_chunks_agree(mode, chunk_size):
    y, J = build(mode, chunk_size)
    reference_y, reference_J = build()
    np.testing.assert_allclose(y, reference_y, rtol=1e-6)
    np.testing.assert_allclose(J, reference_J, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["reverse", "forward"])
@pytest.mark.parametrize("chunk_size", [None, 4, 100])
def test_whole_batch_is_the_same_up_to_the_order_of_rows(mode, chunk_size):
    y, J = build(mode, chunk_size, batch_axis=None)
    reference_y, reference_J = build()
    assert y.shape == reference_y.shape
    np.testing.assert_allclose(J.T @ y, reference_J.T @ reference_y, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.sort(y), np.sort(reference_y), rtol=1e-6)


def trace(fun):
    return trace_rows(lambda columns, entries: fun(columns[0]), (jnp.ones(3),), ())


def through_a_reference(x):
    ref = jax.new_ref(jnp.zeros(3))
    ref[...] = 2 * x
    return ref[...]


def test_rows_that_depend_through_calls_and_loops_are_seen():
    for fun in (
        jax.jit(jnp.sin),
        jax.checkpoint(jnp.sin),
        jax.nn.relu,
        lambda x: jax.lax.scan(lambda c, _: (c + x, c), jnp.zeros(3), length=3)[1],
        lambda x: jax.lax.cond(True, jnp.sin, jnp.cos, x),
        lambda x: {"a": jnp.ones(2), "b": x[0]},
        through_a_reference,
    ):
        assert trace(fun).view.size > 0


def test_rows_that_ignore_the_columns_are_refused():
    constant = jnp.ones(3)
    for fun in (
        lambda x: constant,
        lambda x: jax.jit(lambda x, c: 2 * c)(x, constant),
        lambda x: jax.checkpoint(lambda x, c: jnp.sin(c))(x, constant),
    ):
        with pytest.raises(ValueError, match="residual_fn ignores its parameters"):
            trace(fun)


@jax.custom_vjp
def double(x):
    return 2 * x


double.defvjp(lambda x: (double(x), None), lambda _, g: (2 * g,))


def doubled_until_large(x):
    return jax.lax.while_loop(lambda x: jnp.sum(x) < 10, lambda x: 2 * x, x)


CONSTANT = jnp.ones(3)
REVERSE_ONLY = [
    double,
    lambda x: jax.lax.scan(lambda c, _: (double(c), None), x, length=2)[0],
    lambda x: jax.lax.cond(x[0] > 0, double, jnp.sin, x),
    lambda x: jax.jit(lambda x, c: double(x * c))(x, CONSTANT),
]
FORWARD_ONLY = [
    doubled_until_large,
    lambda x: jax.jit(lambda x, c: doubled_until_large(x * c))(x, CONSTANT),
]
BOTH_WAYS = [
    lambda x: x * double(CONSTANT),
    lambda x: x + double(jax.lax.stop_gradient(x)),
    lambda x: x * double(jnp.argmax(x).astype(jnp.float32)),
    lambda x: jax.lax.scan(lambda c, _: (c + x * double(CONSTANT), None), x, length=2)[0],
    lambda x: jax.lax.cond(x[0] > 0, lambda x: x * double(CONSTANT), jnp.sin, x),
    lambda x: jax.jit(lambda x, c: x * double(c))(x, CONSTANT),
    lambda x: jax.checkpoint(lambda x, c: x * double(c))(x, CONSTANT),
    lambda x: x * doubled_until_large(CONSTANT),
    lambda x: x + doubled_until_large(jax.lax.stop_gradient(x)),
    lambda x: x * doubled_until_large(double(CONSTANT)),
]


@pytest.mark.parametrize(
    ("funs", "has_custom_vjp", "is_forward_only"),
    [(REVERSE_ONLY, True, False), (FORWARD_ONLY, False, True), (BOTH_WAYS, False, False)],
    ids=["reverse only", "forward only", "both"],
)
def test_rules_are_missed_only_where_parameters_need_them(funs, has_custom_vjp, is_forward_only):
    for fun in funs:
        rows = trace(fun)
        assert (rows.has_custom_vjp, rows.is_forward_only) == (has_custom_vjp, is_forward_only)
        if not has_custom_vjp:  # JAX agrees
            jax.jacfwd(fun)(jnp.ones(3))
        if not is_forward_only:
            jax.jacrev(fun)(jnp.ones(3))


def test_rows_that_neither_mode_can_differentiate():
    def called_back(x):
        return jax.pure_callback(np.sin, jax.ShapeDtypeStruct((3,), jnp.float32), x)

    why = r"reverse mode fails \(.*lax\.while_loop.*\), and so does forward mode \(a jax.custom_vjp"
    for fun in (lambda x: doubled_until_large(double(x)), lambda x: double(doubled_until_large(x))):
        with pytest.raises(ValueError, match=f"residual_fn cannot be differentiated: {why}.*scan"):
            trace(fun)
    with pytest.raises(ValueError, match=r"cannot be differentiated: .*callbacks do not support"):
        trace(called_back)
    assert trace(lambda x: x * called_back(CONSTANT)).view.size == 3


def test_custom_vjp_is_found_wherever_it_hides():
    assert trace(jax.jit(lambda x: jax.checkpoint(double)(x))).has_custom_vjp
    assert trace(lambda x: jax.lax.map(double, x)).has_custom_vjp
    assert not trace(jax.nn.relu).has_custom_vjp


def stateful_network():
    nnx = pytest.importorskip("flax.nnx")

    class Network(nnx.Module):
        def __init__(self, rngs):
            self.inner = nnx.Linear(1, 8, rngs=rngs)
            self.norm = nnx.BatchNorm(8, rngs=rngs)
            self.outer = nnx.Linear(8, 1, rngs=rngs)

        def __call__(self, x):
            return self.outer(jnp.tanh(self.norm(self.inner(x))))

    return nnx, Network(nnx.Rngs(0))


@pytest.mark.parametrize("is_split_whole", [False, True])
def test_a_module_whose_state_is_left_out_is_told(is_split_whole):
    with jax.numpy_dtype_promotion("standard"):
        nnx, model = stateful_network()
        graphdef, params, rest = nnx.split(model, nnx.Param, ...)
        states = (rest,) if is_split_whole else ()
        opt = hig_optax.adaptive_hig(lambda p, x: nnx.merge(graphdef, p, *states)(x) - x)
        with pytest.raises(Exception) as caught:
            opt.update(params, opt.init(params), params, batch=jnp.ones((4, 1)))
        assert any("copy=True" in note for note in caught.value.__notes__)


def test_a_module_with_statistics_trains_on_a_copy_of_its_state():
    with jax.numpy_dtype_promotion("standard"):
        nnx, model = stateful_network()
        model.eval()
        graphdef, params, rest = nnx.split(model, nnx.Param, ...)

        def residual_fn(p, x):
            return nnx.merge(graphdef, p, rest, copy=True)(x) - jnp.sin(3 * x)

        def loss(p):
            return jnp.mean(jax.vmap(residual_fn, (None, 0))(p, X) ** 2)

        X, opt = jnp.linspace(-1, 1, 16)[:, None], hig_optax.adaptive_hig(residual_fn)
        state, first = opt.init(params), loss(params)
        for _ in range(5):
            updates, state = opt.update(jax.grad(loss)(params), state, params, batch=X)
            params = optax.apply_updates(params, updates)
        assert loss(params) < 0.5 * first
