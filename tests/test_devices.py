"""One update on eight virtual devices: the same as on one, and what crosses between them."""

import itertools
import math
import re

import golden_data
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matrices import relative_error

import hig_optax
from hig_optax._planning import traffic

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


# Ways through the code: residual, and settings of scale_by_hig.
WAYS = {
    "svd": (not_factored, {"solver": "svd"}),
    "gram": (not_factored, {"solver": "gram"}),
    "chunks": (not_factored, {"solver": "gram", "chunk_size": 1}),
    "factored": (residual, {"solver": "gram"}),
    "krylov": (not_factored, {"solver": "krylov", "num_matvecs": 5, "loss_fn": rows_loss}),
}


def optimizer(way, **settings):
    if way == "adaptive":
        return hig_optax.adaptive_hig(residual, loss_fn=rows_loss, solver="svd", **settings)
    fun, own = WAYS[way]
    return hig_optax.scale_by_hig(fun, rtol=1e-2, **own | settings)


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


def planned(way, params, batch):
    """The collectives of a step, from shapes alone: of `plan`, and of its jaxpr where there is none."""
    if way == "adaptive":
        opt = optimizer(way)
        step = stepped(opt)
        return traffic.collectives(jax.make_jaxpr(step)(params, opt.init(params), batch, params))
    fun, own = WAYS[way]
    plan = hig_optax.plan(fun, params, batch, rtol=1e-2, **own)
    assert plan.devices == 8
    assert (plan.rows, plan.columns) == (32, 44)
    return plan.chosen.collectives


@pytest.mark.usefixtures("compiled_as_for_users")
@pytest.mark.parametrize("way", EXCHANGED)
def test_eight_devices_give_the_same_update_and_send_what_the_plan_says(way):
    """16 samples of 2 rows, 44 parameters."""
    opt = optimizer(way)
    plain = arguments(opt, 16)
    params, _, batch, _ = spread = sharded(make_mesh(8), plain)
    compiled = stepped(opt).lower(*spread).compile()
    assert_same(compiled(*spread), stepped(opt)(*plain))

    sent, counted = collectives(compiled.as_text()), planned(way, params, batch)
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


@pytest.mark.parametrize(
    ("name", "dtype", "settings"),
    [
        ("linear", jnp.float64, {"solver": "svd"}),
        ("linear", jnp.float64, {"solver": "krylov", "num_matvecs": 32}),
        ("nonlinear", jnp.float64, {"solver": "gram"}),
        ("nonlinear", jnp.float32, {"solver": "gram"}),
    ],
    ids=lambda x: getattr(x, "__name__", str(x)),
)
def test_golden_directions_on_eight_devices(name, dtype, settings):
    """As they are on one (test_golden.py): the largest error of these in float64 is 3e-13."""
    golden, problem = golden_data.load(name), golden_data.problem(name)

    def rows_loss(rows, batch):
        return jnp.mean(jax.vmap(problem.sample_loss)(rows, batch))

    def loss(params, batch):
        return rows_loss(jax.vmap(problem.residual, (None, 0))(params, batch), batch)

    rtol = float(golden["rcond"])
    opt = hig_optax.scale_by_hig(problem.residual, loss_fn=rows_loss, rtol=rtol, **settings)
    params = golden_data.params(problem, golden, dtype)
    batch = golden_data.batch(problem, golden, dtype)
    batch = jax.device_put(batch, NamedSharding(make_mesh(8), P("data")))
    with jax.enable_x64(dtype == jnp.float64):
        grads = jax.jit(jax.grad(loss))(params, batch)
        updates, _ = stepped(opt)(params, opt.init(params), batch, grads)
    # In float32 thrice the error of the authors' own code, see test_golden.py.
    bound = 1e-10 if dtype == jnp.float64 else 3 * 3.6e-6
    assert relative_error(golden_data.flat(updates), golden["upd_f64_k0.5"]) < bound


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


def test_inside_a_shard_map_beside_an_axis_that_it_leaves_explicit():
    """Over which the parameters are sharded, and the updates with them."""
    plain = arguments(optimizer("gram"), 16)
    opt = optimizer("gram", axis_name="data")
    mesh = make_mesh(4, "Explicit", ("data", "model"))
    params, state, batch, grads = plain
    split = NamedSharding(mesh, P(None, "model"))
    params[1]["w"], grads[1]["w"] = jax.device_put((params[1]["w"], grads[1]["w"]), split)
    batch = jax.device_put(batch, NamedSharding(mesh, P("data")))

    step = jax.shard_map(
        lambda params, state, batch, grads: opt.update(grads, state, params, batch=batch),
        mesh=mesh,
        in_specs=(P(), P(), P("data"), P()),
        out_specs=P(),
        axis_names={"data"},
        check_vma=False,
    )
    found = jax.jit(step)(params, state, batch, grads)
    assert_same(found, stepped(optimizer("gram"))(*plain))
    assert found[0][1]["w"].sharding.is_equivalent_to(split, 2)


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


def growth(number, **settings):
    """Bytes by which what a device holds grows with each parameter: compiled, and planned. m = 512."""

    def residual(params, sample):
        w = 1.0 * params["w"]
        return jnp.stack([jnp.sum(jnp.sin(w * sample)), jnp.sum(jnp.cos(w) * sample)])

    mesh = make_mesh(number)
    opt = hig_optax.scale_by_hig(residual, rtol=1e-3, **settings)
    batch = jax.ShapeDtypeStruct((256,), jnp.float64, sharding=NamedSharding(mesh, P("data")))

    def held(num_params):
        alike = NamedSharding(mesh, P())
        params = {"w": jax.ShapeDtypeStruct((num_params,), jnp.float64, sharding=alike)}
        state = jax.eval_shape(opt.init, params)
        step = jax.jit(lambda p, s, b: opt.update(p, s, p, batch=b))
        compiled = step.lower(params, state, batch).compile().memory_analysis().temp_size_in_bytes
        plan = hig_optax.plan(residual, params, batch, rtol=1e-3, **settings)
        return np.array([compiled, plan.chosen.peak_bytes])

    return (held(16_000) - held(8_000)) / 8_000


@pytest.mark.usefixtures("compiled_as_for_users")
@pytest.mark.parametrize(
    ("settings", "most", "numbers"),
    [
        ({"solver": "gram", "chunk_size": 4}, 1.2, (2, 8)),
        (
            {"solver": "gram"},
            2.7,
            (8,),
        ),  # with JAX 0.10 2.0; 0.12 holds strips apart, an eighth each: 2.63
        ({"solver": "svd"}, 3.1, (2,)),  # on eight 2.0
    ],
    ids=["chunks", "gram", "svd"],
)
def test_each_device_holds_its_share(settings, most, numbers):
    """In numbers: of J m/d a parameter."""
    for number in numbers:
        compiled, planned = growth(number, **settings) / (512 / number * 8)
        assert compiled < most
        # Of a share that is decomposed the plan counts two copies where XLA takes three; it adds a quarter.
        # No plan counts on holding less than J, which XLA brought about on eight.
        assert 0.8 < planned / max(compiled, 1) < 1.7


@pytest.mark.parametrize("size", [(16, 8), (13, 7), (30, 22)], ids=str)
@pytest.mark.parametrize("chunk_size", [None, 1])
@pytest.mark.parametrize("fun", [residual, not_factored], ids=lambda f: f.__name__)
def test_blocks_are_spread_like_one_function(fun, chunk_size, size):
    """In factors or written out, held or in chunks, 44 parameters; numbers of samples that do not divide."""
    blocks = {"inside": fun, "outside": lambda p, s: 0.5 * fun(p, s | {"x": s["x"] + 1})}
    opt = hig_optax.scale_by_hig(blocks, solver="gram", rtol=1e-2, chunk_size=chunk_size)
    params = init(jax.random.key(0))
    batch = dict(zip(blocks, map(make_batch, size), strict=True))
    grads = jax.grad(loss_fn)(params, batch["inside"])
    plain = (params, opt.init(params), batch, grads)
    expected = stepped(opt)(*plain)
    with jax.set_mesh(make_mesh(8)):
        compiled = stepped(opt).lower(*plain).compile()
        assert_same(compiled(*plain), expected)
    gathered = [size for kind, size in collectives(compiled.as_text()) if kind == "all-gather"]
    assert all(x < 2 * sum(size) * 44 * 8 for x in gathered)


@pytest.mark.parametrize("chunk_size", [None, 1])
@pytest.mark.parametrize("fun", [residual, not_factored], ids=lambda f: f.__name__)
def test_two_blocks_on_eight_devices_are_one_function(fun, chunk_size):
    """The update of all samples in one batch, to 1e-12; and no device gets J whole."""
    blocks = {"inside": fun, "outside": fun}
    inside, outside = make_batch(16), jax.tree.map(lambda x: 0.5 * x, make_batch(8))
    whole = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), inside, outside)
    settings = {"solver": "gram", "rtol": 0.1, "chunk_size": chunk_size}
    params = init(jax.random.key(0))
    grads = jax.grad(loss_fn)(params, whole)

    def update(residual_fn, batch):
        opt = hig_optax.scale_by_hig(residual_fn, **settings)
        given = (params, opt.init(params), batch, grads)
        compiled = stepped(opt).lower(*given).compile()
        return jax.device_get(compiled(*given)[0]), compiled.as_text()

    expected, _ = update(fun, whole)
    with jax.set_mesh(make_mesh(8)):
        found, text = update(blocks, {"inside": inside, "outside": outside})
    scale = max(np.abs(x).max() for x in jax.tree.leaves(expected))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * scale)
    m, n = 2 * 24, 44
    sizes = [size for kind, size in collectives(text) if kind == "all-gather"]
    assert sizes
    assert max(sizes) < 8 * m * n


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
