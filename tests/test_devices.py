"""One update on eight virtual devices: the same as on one, and what crosses between them."""

import itertools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hig_optax
from hig_optax import _traffic

pytestmark = pytest.mark.devices

P, NamedSharding = jax.sharding.PartitionSpec, jax.sharding.NamedSharding

SIZES = (3, 7, 2)
NUM_PARAMS = sum((a + 1) * b for a, b in itertools.pairwise(SIZES))


def init(key):
    keys = jax.random.split(key, len(SIZES) - 1)
    return [
        {"w": jax.random.normal(k, (a, b)) / a**0.5, "b": jnp.zeros(b)}
        for k, a, b in zip(keys, SIZES[:-1], SIZES[1:], strict=True)
    ]


def residual(params, sample):
    x = sample["x"]
    for layer in params[:-1]:
        x = jnp.tanh(x @ layer["w"] + layer["b"])
    return x @ params[-1]["w"] + params[-1]["b"] - sample["y"]


def not_factored(params, sample):
    """The same, written so that no product of a matrix is found."""
    params = jax.tree.map(lambda x: 1.0 * x, params)
    return residual(params, sample)


def rows_loss(rows, batch):
    return jnp.mean(jnp.sum(batch["weight"] * rows**2, axis=-1))


def loss_fn(params, batch):
    return rows_loss(jax.vmap(residual, (None, 0))(params, batch), batch)


def make_batch(size):
    x = jax.random.normal(jax.random.key(1), (size, 3))
    y = jnp.stack([x[:, 0] * x[:, 1], jnp.sin(x[:, 2])], axis=1)
    return {"x": x, "y": y, "weight": jnp.linspace(0.5, 1.5, size)[:, None]}


def make_mesh(number, axes="Auto", names=("data",)):
    shape = (number,) if len(names) == 1 else (2, number // 2)
    return jax.make_mesh(
        shape,
        names,
        axis_types=(jax.sharding.AxisType[axes],) * len(names),
        devices=jax.devices()[:number],
    )


def optimizer(solver, *, rtol=1e-2, **settings):
    """Of a problem for each way through the code; `solver` names the way."""
    if solver == "adaptive":
        return hig_optax.adaptive_hig(residual, loss_fn=rows_loss, solver="svd", **settings)
    fun = residual if solver == "factored" else not_factored
    if solver == "krylov":
        settings |= {"num_matvecs": 5, "loss_fn": rows_loss}
    solver = "gram" if solver == "factored" else solver
    return hig_optax.scale_by_hig(fun, solver=solver, rtol=rtol, **settings)


def stepped(opt):
    """With the gradient as an argument, so that nothing but the update sends anything."""

    def step(params, state, batch, grads):
        return opt.update(grads, state, params, batch=batch)

    return jax.jit(step)


def arguments(opt, size):
    params, batch = init(jax.random.key(0)), make_batch(size)
    return params, opt.init(params), batch, jax.grad(loss_fn)(params, batch)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def sharded(mesh, arguments):
    """The batch over the first axis of the mesh, all else alike on all devices."""
    params, state, batch, grads = arguments
    alike, split = (NamedSharding(mesh, spec) for spec in (P(), P(mesh.axis_names[0])))
    return jax.device_put((params, state, batch, grads), (alike, alike, split, alike))


def assert_same(found, expected):
    """To 1e-10 of the direction; cut at 1e-2, even a Gram matrix magnifies rounding by less than 1e5."""
    (updates, state), (expected_updates, expected_state) = jax.device_get((found, expected))
    scale = max(np.abs(x).max() for x in jax.tree.leaves(expected_updates))
    for a, b in zip(jax.tree.leaves(updates), jax.tree.leaves(expected_updates), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-10 * scale)
    for (name, a), b in zip(
        jax.tree.leaves_with_path(state.spectrum),
        jax.tree.leaves(expected_state.spectrum),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9, err_msg=str(name))


BYTES = {"f64": 8, "f32": 4, "s32": 4, "u32": 4, "pred": 1}


def collectives(text):
    """What a compiled program sends: (kind, bytes of its result) in order of the text."""
    found = []
    kinds = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
    for shapes, kind in re.findall(rf"= (.*?) ({kinds})(?:-start)?\(", text):
        size = sum(
            BYTES[dtype] * math.prod(int(n) for n in dims.split(",") if n)
            for dtype, dims in re.findall(r"(\w+)\[([\d,]*)\]", shapes)
        )
        found.append((kind, size))
    return found


def by_kind(found):
    """Bytes of each kind of collective, how often they run in a loop left aside."""
    total = {}
    for kind, size in found:
        total[kind] = total.get(kind, 0) + size
    return total


# How many of the 44 columns of J are exchanged: of the factored one those of biases and of the small matrix.
EXCHANGED = {"svd": 44, "gram": 44, "chunks": 44, "factored": 23, "krylov": 0, "adaptive": 44}


@pytest.mark.usefixtures("compiled_as_for_users")
@pytest.mark.parametrize("way", EXCHANGED)
def test_eight_devices_give_the_same_update_and_send_what_was_counted(way):
    """16 samples of 2 rows, 44 parameters."""
    opt = optimizer("gram", chunk_size=1) if way == "chunks" else optimizer(way)
    plain = arguments(opt, 16)
    spread = sharded(make_mesh(8), plain)
    compiled = stepped(opt).lower(*spread).compile()
    assert_same(compiled(*spread), stepped(opt)(*plain))

    sent = collectives(compiled.as_text())
    counted = _traffic.collectives(jax.make_jaxpr(stepped(opt))(*spread))
    assert by_kind(sent) == by_kind((x.kind, x.result_bytes) for x in counted)
    assert {x.devices for x in counted} == {8}
    # J is never gathered: a device's own rows are sent once, to be columns.
    assert all(size < 32 * 44 * 8 for kind, size in sent if kind == "all-gather")
    exchanged = [x.times * x.result_bytes for x in counted if x.kind == "all-to-all"]
    assert sum(exchanged) == 32 * math.ceil(EXCHANGED[way] / 8) * 8


@pytest.mark.parametrize("way", ["svd", "factored"])
def test_explicit_axes(way):
    opt = optimizer(way)
    plain = arguments(opt, 16)
    assert_same(stepped(opt)(*sharded(make_mesh(8, "Explicit"), plain)), stepped(opt)(*plain))


@pytest.mark.parametrize(
    ("way", "number"), [("svd", 1), ("svd", 2), ("svd", 6), ("factored", 2), ("factored", 4)]
)
def test_any_number_of_devices_and_of_samples(way, number):
    """13 samples of 2 rows, 44 parameters: nothing divides evenly."""
    opt = optimizer(way)
    plain = arguments(opt, 13)
    expected = stepped(opt)(*plain)
    with jax.set_mesh(make_mesh(number)):
        assert_same(stepped(opt)(*plain), expected)


@pytest.mark.parametrize(("way", "size"), [("svd", 30), ("gram", 30), ("svd", 22)])
def test_at_least_as_many_rows_as_parameters(way, size):
    opt = optimizer(way)
    params, state, batch, grads = plain = arguments(opt, size)
    expected = stepped(opt)(*plain)
    batch = jax.device_put(batch, NamedSharding(make_mesh(4), P()))
    assert_same(stepped(opt)(params, state, batch, grads), expected)


def test_chunks_beside_factored_matrices():
    """Three of the nine samples that a device has at once; one of the 18 is padding."""
    plain = arguments(optimizer("factored"), 17)
    expected = stepped(optimizer("factored"))(*plain)
    with jax.set_mesh(make_mesh(2)):
        assert_same(stepped(optimizer("factored", chunk_size=4))(*plain), expected)


@pytest.mark.parametrize("axes", ["Auto", "Explicit"])
def test_sharded_parameters_keep_their_shardings(axes):
    """Some leaves over one axis of the mesh, some over the other, some over none."""
    opt = optimizer("factored")
    params, state, batch, grads = plain = arguments(opt, 16)
    mesh = make_mesh(4, axes, ("data", "model"))
    specs = [{"w": P(None, None), "b": P()}, {"w": P(None, "model"), "b": P("data")}]
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
    params, grads = jax.device_put((params, grads), (shardings, shardings))
    batch = jax.device_put(batch, NamedSharding(mesh, P("data")))

    @jax.jit
    def step(params, state, batch, grads):
        updates, state = opt.update(grads, state, params, batch=batch)
        return updates, state, jax.tree.map(jnp.add, params, updates)

    *found, new = step(params, state, batch, grads)
    assert_same(tuple(found), stepped(opt)(*plain))
    for tree in (found[0], new):
        for x, like in zip(jax.tree.leaves(tree), jax.tree.leaves(params), strict=True):
            assert x.sharding.is_equivalent_to(like.sharding, x.ndim), (x.sharding, like.sharding)


@pytest.mark.parametrize("way", ["gram", "krylov", "adaptive"])
def test_inside_a_shard_map_of_the_user(way):
    plain = arguments(optimizer(way), 16)
    opt = optimizer(way, axis_name="data")

    def local(params, state, batch, _):
        grads = jax.lax.pmean(jax.grad(loss_fn)(params, batch), "data")
        return opt.update(grads, state, params, batch=batch)

    step = jax.shard_map(
        local,
        mesh=make_mesh(4),
        in_specs=(P(), P(), P("data"), P()),
        out_specs=P(),
        check_vma=False,
    )
    assert_same(jax.jit(step)(*plain), stepped(optimizer(way))(*plain))


def test_an_update_can_be_differentiated():
    opt = optimizer("gram")
    plain = arguments(opt, 8)

    @jax.jit
    def sensitivity(params, state, batch, grads):
        def size(batch):
            updates, _ = opt.update(grads, state, params, batch=batch)
            return sum(jnp.sum(x**2) for x in jax.tree.leaves(updates))

        return jax.grad(size)(batch)

    found = jax.device_get(sensitivity(*sharded(make_mesh(4), plain)))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9),
        found,
        jax.device_get(sensitivity(*plain)),
    )


def held(num_params, number, **settings):
    """Bytes that a compiled step takes on each device besides its arguments, m = 512."""

    def residual(params, sample):
        w = 1.0 * params["w"]
        return jnp.stack([jnp.sum(jnp.sin(w * sample)), jnp.sum(jnp.cos(w) * sample)])

    mesh = make_mesh(number)
    opt = hig_optax.scale_by_hig(residual, rtol=1e-3, **settings)
    params = {
        "w": jax.ShapeDtypeStruct((num_params,), jnp.float64, sharding=NamedSharding(mesh, P()))
    }
    batch = jax.ShapeDtypeStruct((256,), jnp.float64, sharding=NamedSharding(mesh, P("data")))
    state = jax.eval_shape(opt.init, params)
    step = jax.jit(lambda p, s, b: opt.update(p, s, p, batch=b))
    return step.lower(params, state, batch).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.usefixtures("compiled_as_for_users")
def test_each_device_holds_its_share():
    """J takes m/d numbers of each device a parameter: what memory grows by with the parameters."""
    for number in (2, 8):
        grown = held(16_000, number, chunk_size=4) - held(8_000, number, chunk_size=4)
        per_parameter = 512 / number * 8
        assert grown / 8_000 < 1.2 * per_parameter


def of_the_whole_batch():
    def residual_fn(params, batch):
        return jax.vmap(not_factored, (None, 0))(params, batch)

    settings = {"solver": "krylov", "num_matvecs": 8, "rtol": 1e-2}
    return hig_optax.scale_by_hig(residual_fn, batch_axis=None, **settings), lambda batch: batch


def in_blocks():
    """The rows of all samples, and a penalty on the weights that needs none."""
    opt = hig_optax.scale_by_hig(
        {"data": not_factored, "decay": lambda params, _: 0.1 * params[0]["w"]},
        batch_axis={"data": 0, "decay": None},
        rtol=1e-2,
    )
    return opt, lambda batch: {"data": batch, "decay": None}


@pytest.mark.parametrize(
    ("case", "axes"),
    [(of_the_whole_batch, "Explicit"), (in_blocks, "Explicit"), (in_blocks, "Auto")],
)
def test_a_residual_of_the_whole_batch_is_left_to_the_compiler(case, axes):
    opt, wrapped = case()
    plain = arguments(opt, 16)

    def step(params, state, batch, grads):
        return opt.update(grads, state, params, batch=wrapped(batch))

    found = jax.jit(step)(*sharded(make_mesh(4, axes), plain))
    assert_same(found, jax.jit(step)(*plain))
