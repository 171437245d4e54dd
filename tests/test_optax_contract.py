"""Every optimizer of ours times every wrapper and every way to run it: works, or says what to do.

The optimizer by itself is the reference: a wrapper must give what its definition makes of the bare updates.
To add an optimizer, add a line to OPTIMIZERS; to add a wrapper, a function with ``@case``. The number of
combinations stands in the summary of the test run (see conftest.py).
"""

import dataclasses
import functools
import inspect
import warnings
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hig_optax
from hig_optax import baselines

LEARNING_RATE = 0.5


def residual(params, sample):
    """Three rows of different scale."""
    y = jnp.tanh(sample["x"] @ params["w"] + params["b"])
    return jnp.array([1.0, 0.3, 0.1], y.dtype) * (y - sample["y"])


@jax.jit
def loss(params, batch):
    return jnp.mean(jnp.sum(jax.vmap(residual, (None, 0))(params, batch) ** 2, axis=-1))


def make_params(seed=0):
    return {"w": 0.5 * jax.random.normal(jax.random.key(seed), (2, 3)), "b": jnp.zeros(3)}


def make_batch(seed=1):
    x = jax.random.normal(jax.random.key(seed), (4, 2))
    return {"x": x, "y": jnp.stack([x[:, 0] * x[:, 1], x[:, 0] ** 2, jnp.sin(x[:, 1])], axis=1)}


PARAMS, BATCH = make_params(), make_batch()
GRADS = jax.grad(loss)(PARAMS, BATCH)


@dataclasses.dataclass(frozen=True, eq=False)
class Ours:
    """An optimizer of ours: a factory of (learning rate, residual), and settings that choose its solver."""

    factory: Callable
    settings: dict

    def make(self, residual_fn=residual, **more):
        return self.factory(LEARNING_RATE, residual_fn, **(self.settings | more))

    @functools.cached_property
    def _bare(self):
        opt = self.make()
        return opt.init, jax.jit(lambda g, s, p, b: opt.update(g, s, p, batch=b))

    def bare(self, *, grads=None, params=None, state=None, batch=None):
        """(updates, state) of the optimizer without any wrapper: the reference, compiled once."""
        init, update = self._bare
        params = PARAMS if params is None else params
        state = init(params) if state is None else state
        return update(
            GRADS if grads is None else grads, state, params, BATCH if batch is None else batch
        )

    @property
    def differentiable_in_float32(self):
        return self.settings.get("solver") == "svd"


# All with rtol=1e-3: the bound of the docstring of scale_by_hig is then 10 ε 1e3^(3/2) = 4e-2 for two ways to
# sum in float32, in practice a tenth of it; Gauss-Newton has 10 ε 1e6, but this J has a condition of 50.
OPTIMIZERS = {
    "hig-svd": Ours(hig_optax.hig, {"solver": "svd", "rtol": 1e-3}),
    "hig-gram": Ours(hig_optax.hig, {"solver": "gram", "rtol": 1e-3}),
    "hig-krylov": Ours(hig_optax.hig, {"solver": "krylov", "num_matvecs": 4, "rtol": 1e-3}),
    "gauss_newton": Ours(baselines.gauss_newton, {"rtol": 1e-3}),
    "levenberg_marquardt": Ours(baselines.levenberg_marquardt, {"damping": 1e-2}),
}
FLOAT32 = 1e-3

CASES = {}


@pytest.fixture(autouse=True)
def _as_in_a_users_program():
    """Optax mixes dtypes, so promotion is the usual one; tiny programs need no optimizing compiler."""
    before = jax.config.read("jax_disable_most_optimizations")
    with jax.numpy_dtype_promotion("standard"):
        jax.config.update("jax_disable_most_optimizations", True)
        yield
        jax.config.update("jax_disable_most_optimizations", before)


def case(name):
    def add(function):
        assert name not in CASES
        CASES[name] = function
        return function

    return add


def vector(tree):
    return np.concatenate([np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(tree)])


def assert_same(found, expected, tolerance=FLOAT32):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    found, expected = vector(found), vector(expected)
    assert np.linalg.norm(expected) > 0
    assert np.linalg.norm(found - expected) <= tolerance * np.linalg.norm(expected)


def assert_same_avals(found, expected):
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert jnp.shape(x) == jnp.shape(y)
        assert jnp.result_type(x) == jnp.result_type(y)


def run(opt, *, grads=None, params=PARAMS, state=None, batch=BATCH, **extra):
    """One jitted update: (updates, state)."""
    state = opt.init(params) if state is None else state
    update = jax.jit(lambda g, s, p, b, e: opt.update(g, s, p, batch=b, **e))
    return update(GRADS if grads is None else grads, state, params, batch, extra)


def step(opt, params, state, batch=BATCH):
    grads = jax.grad(loss)(params, batch)
    updates, state = opt.update(grads, state, params, batch=batch)
    return optax.apply_updates(params, updates), state


def train(opt, steps=8, run=jax.jit, **extra):
    """Losses before and after some jitted steps, whose state keeps its shapes."""

    @run
    def one(params, state):
        grads = jax.grad(loss)(params, BATCH)
        updates, state = opt.update(grads, state, params, batch=BATCH, **extra)
        return optax.apply_updates(params, updates), state

    params, state = PARAMS, opt.init(PARAMS)
    for _ in range(steps):
        params, after = one(params, state)
        assert_same_avals(after, state)
        state = after
    return loss(PARAMS, BATCH), loss(params, BATCH)


def scaled(factor, tree):
    return jax.tree.map(lambda x: factor * x, tree)


# Wrappers that compose


@case("chain")
def _(ours):
    updates, state = run(optax.chain(ours.make(), optax.scale(0.5)))
    expected, bare_state = ours.bare()
    assert_same(updates, scaled(0.5, expected))
    assert_same_avals(state[0], bare_state)


@case("named_chain")
def _(ours):
    opt = optax.named_chain(("half", optax.scale(0.5)), ("ours", ours.make()))
    updates, state = run(opt)
    assert_same(updates, ours.bare(grads=scaled(0.5, GRADS))[0])
    assert optax.tree.get(state["ours"], "spectrum").rank > 0


@case("clip_by_global_norm before")
def _(ours):
    clip = optax.clip_by_global_norm(0.1 * optax.tree.norm(GRADS))
    updates, _ = run(optax.chain(clip, ours.make()))
    assert_same(updates, ours.bare(grads=scaled(0.1, GRADS))[0])


@case("clip_by_global_norm after")
def _(ours):
    updates, _ = run(optax.chain(ours.make(), optax.clip_by_global_norm(1e-2)))
    expected, _ = ours.bare()
    assert_same(updates, scaled(1e-2 / optax.tree.norm(expected), expected))


@case("add_decayed_weights after")
def _(ours):
    updates, _ = run(optax.chain(ours.make(), optax.add_decayed_weights(-0.1)))
    expected, _ = ours.bare()
    assert_same(updates, jax.tree.map(lambda u, p: u - 0.1 * p, expected, PARAMS))


def two_updates(opt):
    """Updates of the first and second step at the same parameters, for two gradients."""
    first, state = run(opt)
    return first, run(opt, grads=scaled(0.5, GRADS), state=state)[0]


@case("trace before")
def _(ours):
    _, second = two_updates(optax.chain(optax.trace(0.9), ours.make()))
    expected, state = ours.bare()
    expected, _ = ours.bare(grads=scaled(1.4, GRADS), state=state)
    assert_same(second, expected)


@case("trace after")
def _(ours):
    _, second = two_updates(optax.chain(ours.make(), optax.trace(0.9)))
    one, two = two_updates(ours.make())
    assert_same(second, jax.tree.map(lambda a, b: 0.9 * a + b, one, two))


@case("ema after")
def _(ours):
    _, second = two_updates(optax.chain(ours.make(), optax.ema(0.9, debias=False)))
    one, two = two_updates(ours.make())
    assert_same(second, jax.tree.map(lambda a, b: 0.09 * a + 0.1 * b, one, two))


@case("scale_by_adam after")
def _(ours):
    before, after = train(
        optax.chain(ours.make(), optax.scale(-1.0), optax.scale_by_adam(), optax.scale(-0.05))
    )
    assert after < before


@case("scale_by_schedule after")
def _(ours):
    opt = optax.chain(ours.make(), optax.scale_by_schedule(optax.linear_schedule(1.0, 0.0, 2)))
    _, second = two_updates(opt)
    assert_same(second, scaled(0.5, two_updates(ours.make())[1]))


@case("zero_nans before")
def _(ours):
    grads = GRADS | {"b": GRADS["b"].at[0].set(jnp.nan)}
    updates, _ = run(optax.chain(optax.zero_nans(), ours.make()), grads=grads)
    expected, _ = ours.bare(grads=GRADS | {"b": GRADS["b"].at[0].set(0)})
    assert_same(updates, expected)


@case("keep_params_nonnegative after")
def _(ours):
    opt = optax.chain(ours.make(), optax.keep_params_nonnegative())
    start = jax.tree.map(jnp.abs, PARAMS)
    updates, _ = run(opt, params=start)
    assert all(
        (x >= -1e-6).all() for x in jax.tree.leaves(optax.apply_updates(start, updates))
    )  # p + (-p) is zero to rounding


@case("reduce_on_plateau after")
def _(ours):
    opt = optax.chain(ours.make(), optax.contrib.reduce_on_plateau(factor=0.5, patience=1))
    updates, _ = run(opt, value=jnp.float32(1.0))
    assert_same(updates, ours.bare()[0])


# Settings as schedules


def inject(name, value):
    def check(ours):
        factory = optax.inject_hyperparams(ours.factory, static_args=hig_optax.STATIC_ARGS)

        def make(value):
            settings = {"learning_rate": LEARNING_RATE} | ours.settings | {name: value}
            return factory(residual_fn=residual, **settings)

        if name not in inspect.signature(ours.factory).parameters:
            # Optax binds the arguments to the factory's signature and names the unexpected one.
            with pytest.raises(TypeError, match=name):
                make(value)
            return
        start = {"learning_rate": LEARNING_RATE} | ours.settings | {name: 2 * value}
        end = {"learning_rate": LEARNING_RATE} | ours.settings | {name: value}
        opt = make(optax.linear_schedule(2 * value, value, 1))
        one, state = run(opt)
        two, state = run(opt, state=state)
        for updates, settings in ((one, start), (two, end)):
            assert_same(updates, run(ours.factory(residual_fn=residual, **settings))[0])
        np.testing.assert_allclose(state.hyperparams[name], value, rtol=1e-6)
        assert_same_avals(run(opt, state=state)[1], state)

    return check


for _name, _value in {
    "learning_rate": 0.25,
    "rtol": 0.04,
    "atol": 0.01,
    "exponent": -0.4,
    "damping": 0.1,
}.items():
    case(f"inject_hyperparams {_name}")(inject(_name, _value))


@case("inject_hyperparams without static_args")
def _(ours):
    opt = optax.inject_hyperparams(ours.factory)
    settings = {"learning_rate": LEARNING_RATE, "residual_fn": residual} | ours.settings
    # Optax takes residual_fn for a schedule and calls it with the step.
    with pytest.raises(TypeError, match=r"residual\(\) missing 1 required|static_args"):
        opt(**settings).init(PARAMS)


# Wrappers that decide whether to step


@case("apply_if_finite")
def _(ours):
    opt = optax.apply_if_finite(ours.make(), max_consecutive_errors=3)
    updates, state = run(opt)
    assert_same(updates, ours.bare()[0])
    broken, state = run(opt, state=state, grads=GRADS | {"b": GRADS["b"] * jnp.nan})
    assert not vector(broken).any()
    assert_same(run(opt, state=state)[0], updates)


@case("conditionally_transform")
def _(ours):
    opt = optax.conditionally_transform(ours.make(), lambda count: count >= 1)
    one, state = run(opt)
    assert_same(one, GRADS)
    assert_same(run(opt, state=state)[0], ours.bare()[0])


@case("conditionally_mask")
def _(ours):
    opt = optax.conditionally_mask(ours.make(), lambda count: count >= 1)
    one, state = run(opt)
    assert not vector(one).any()
    assert_same(run(opt, state=state)[0], ours.bare()[0])


# Wrappers that keep parameters of their own


def lookahead(ours):
    params = optax.LookaheadParams.init_synced(PARAMS)

    def update(fast, batch):
        opt = optax.lookahead(fast, sync_period=2, slow_step_size=0.5)
        return opt.update(GRADS, opt.init(params), params, **batch)[0]

    return update


@case("lookahead, which passes no batch on")
def _(ours):
    update = lookahead(ours)
    with pytest.raises(ValueError, match=r"batch must be passed(.|\n)*functools.partial"):
        update(ours.make(), {})
    with pytest.raises(TypeError, match="unexpected keyword argument 'batch'"):
        update(ours.make(), {"batch": BATCH})


@case("lookahead around the bound update")
def _(ours):
    opt, update = ours.make(), lookahead(ours)

    @jax.jit
    def one(batch):
        bound = optax.GradientTransformation(opt.init, functools.partial(opt.update, batch=batch))
        return update(bound, {})

    assert_same(one(BATCH).fast, run(opt)[0])


@case("schedule_free")
def _(ours):
    opt = optax.contrib.schedule_free(ours.make(), learning_rate=LEARNING_RATE, b1=0.9)
    before, after = train(opt, steps=20)
    assert after < before
    # The first step of schedule-free is the bare one: x = z there.
    assert_same(run(opt)[0], ours.bare()[0])


# Part of the parameters

LABELS = {"w": "ours", "b": "other"}


@case("masked")
def _(ours):
    opt = optax.masked(ours.make(), {"w": True, "b": False})
    updates, state = run(opt, all_params=PARAMS)
    expected, _ = run(ours.make(mask={"w": True, "b": False}))
    assert_same(updates["w"], expected["w"])
    np.testing.assert_array_equal(updates["b"], GRADS["b"])
    assert_same_avals(state, opt.init(PARAMS))


@case("masked without all_params")
def _(ours):
    opt = optax.masked(ours.make(), {"w": True, "b": False})
    with pytest.raises(ValueError, match=r"MaskedNode(.|\n)*all_params=params(.|\n)*mask="):
        run(opt)


@case("partition with adam")
def _(ours):
    opt = optax.partition({"ours": ours.make(), "other": optax.adam(1e-3)}, LABELS)
    updates, _ = run(opt, all_params=PARAMS)
    expected, _ = run(ours.make(mask={"w": True, "b": False}))
    adam = optax.adam(1e-3)
    assert_same(updates["w"], expected["w"])
    assert_same(updates["b"], adam.update(GRADS["b"], adam.init(PARAMS["b"]))[0])
    before, after = train(opt, all_params=PARAMS)
    assert after < before


@case("partition without all_params")
def _(ours):
    opt = optax.partition({"ours": ours.make(), "other": optax.set_to_zero()}, LABELS)
    with pytest.raises(ValueError, match=r"MaskedNode(.|\n)*all_params=params(.|\n)*mask="):
        run(opt)


@case("mask=")
def _(ours):
    updates, _ = run(ours.make(mask=lambda params: {"w": True, "b": False}))
    assert vector(updates["w"]).any()
    assert not vector(updates["b"]).any()


@case("flatten")
def _(ours):
    with pytest.raises(ValueError, match=r"one flat vector(.|\n)*optax.flatten"):
        run(optax.flatten(ours.make()))


# Line searches


@case("backtracking line search")
def _(ours):
    opt = optax.chain(
        ours.make(), optax.scale_by_backtracking_linesearch(max_backtracking_steps=10)
    )

    def value_fn(params, batch):
        return loss(params, batch)

    @jax.jit
    def update(params, state):
        value, grad = jax.value_and_grad(loss)(params, BATCH)
        extra = {"value": value, "grad": grad, "value_fn": value_fn, "batch": BATCH}
        updates, state = opt.update(grad, state, params, **extra)
        return optax.apply_updates(params, updates), state

    params, state = PARAMS, opt.init(PARAMS)
    for _ in range(3):
        after, state = update(params, state)
        assert loss(after, BATCH) < loss(params, BATCH)
        params = after


@case("zoom line search")
def _(ours):
    opt = optax.chain(ours.make(), optax.scale_by_zoom_linesearch(max_linesearch_steps=5))

    @jax.jit
    def update(params, state):
        value, grad = jax.value_and_grad(loss)(params, BATCH)
        extra = {"value": value, "grad": grad, "value_fn": loss, "batch": BATCH}
        updates, state = opt.update(grad, state, params, **extra)
        return optax.apply_updates(params, updates), state

    after, _ = update(PARAMS, opt.init(PARAMS))
    assert loss(after, BATCH) < loss(PARAMS, BATCH)


@case("line search whose value_fn takes no batch")
def _(ours):
    opt = optax.chain(ours.make(), optax.scale_by_backtracking_linesearch(max_backtracking_steps=3))

    def update(params):
        extra = {"value": loss(params, BATCH), "grad": GRADS, "batch": BATCH}
        extra["value_fn"] = lambda params: loss(params, BATCH)
        return opt.update(GRADS, opt.init(params), params, **extra)

    with pytest.raises(
        TypeError, match=r"not consumed by `value_fn`: \['batch'\]"
    ):  # Optax's words
        jax.eval_shape(update, PARAMS)


# The state


@case("optax.tree.get on the state")
def _(ours):
    _, state = run(optax.chain(optax.identity(), optax.chain(ours.make())))
    spectrum = optax.tree.get(state, "spectrum")
    assert spectrum.is_finite
    assert optax.tree.get(state, "rank") == spectrum.rank > 0


@case("optax.tree.map_params on the state")
def _(ours):
    opt = ours.make()
    _, state = run(opt)
    mapped = optax.tree.map_params(opt, lambda x: x * 0, state, transform_non_params=lambda x: x)
    assert jax.tree.structure(mapped) == jax.tree.structure(state)
    assert optax.tree.get(mapped, "rank") == optax.tree.get(state, "rank")


@case("eval_shape of init")
def _(ours):
    opt = ours.make()
    shapes = jax.eval_shape(opt.init, PARAMS)
    assert jax.tree.structure(shapes) == jax.tree.structure(opt.init(PARAMS))
    assert_same_avals(shapes, run(opt)[1])


@case("state through flatten and unflatten")
def _(ours):
    opt = ours.make()
    _, state = run(opt)
    leaves, treedef = jax.tree.flatten(jax.device_get(state))
    restored = jax.tree.unflatten(treedef, [jnp.asarray(x) for x in leaves])
    np.testing.assert_array_equal(
        vector(run(opt, state=restored)[0]), vector(run(opt, state=state)[0])
    )


# Ways to run it


@case("cond")
def _(ours):
    opt = ours.make()

    @jax.jit
    def maybe(flag, params, state):
        return jax.lax.cond(flag, lambda: step(opt, params, state), lambda: (params, state))

    state = opt.init(PARAMS)
    np.testing.assert_array_equal(vector(maybe(False, PARAMS, state)[0]), vector(PARAMS))
    assert_same(maybe(True, PARAMS, state)[0], optax.apply_updates(PARAMS, ours.bare()[0]))


@case("scan")
def _(ours):
    opt = ours.make()

    @jax.jit
    def loop(params):
        return jax.lax.scan(
            lambda carry, _: (step(opt, *carry), None), (params, opt.init(params)), length=3
        )[0]

    params, state = PARAMS, opt.init(PARAMS)
    for _ in range(3):
        params, state = jax.jit(functools.partial(step, opt))(params, state)
    found, found_state = loop(PARAMS)
    assert_same(found, params)
    assert_same_avals(found_state, state)


@case("while_loop")
def _(ours):
    opt = ours.make()

    @jax.jit
    def loop(params):
        def go_on(carry):
            return carry[2] < 3

        def body(carry):
            return (*step(opt, *carry[:2]), carry[2] + 1)

        return jax.lax.while_loop(go_on, body, (params, opt.init(params), 0))[0]

    assert loss(loop(PARAMS), BATCH) < loss(PARAMS, BATCH)


@case("fori_loop")
def _(ours):
    opt = ours.make()
    params = jax.jit(
        lambda p: jax.lax.fori_loop(0, 3, lambda _, c: step(opt, *c), (p, opt.init(p)))[0]
    )(PARAMS)
    assert loss(params, BATCH) < loss(PARAMS, BATCH)


@case("donated buffers")
def _(ours):
    opt = ours.make()
    one = jax.jit(functools.partial(step, opt), donate_argnums=(0, 1))
    params, state = jax.tree.map(jnp.copy, PARAMS), opt.init(PARAMS)
    for _ in range(3):
        params, state = one(params, state)
    assert loss(params, BATCH) < loss(PARAMS, BATCH)
    assert jax.tree.leaves(one(params, state))[0].shape == PARAMS["b"].shape
    with pytest.raises((RuntimeError, ValueError), match=r"delete|donate"):
        one(params, state)  # the buffers that the call before took


@case("vmap over an ensemble")
def _(ours):
    opt = ours.make()
    ensemble = jax.vmap(make_params)(jnp.arange(3))
    one = functools.partial(step, opt)
    found, state = jax.jit(jax.vmap(one))(ensemble, jax.vmap(opt.init)(ensemble))
    for i in range(3):
        member = make_params(i)
        expected, _ = jax.jit(one)(member, opt.init(member))
        assert_same(jax.tree.map(lambda x, i=i: x[i], found), expected)
    assert optax.tree.get(state, "rank").shape == (3,)


@case("vmap over batches")
def _(ours):
    opt = ours.make()
    batches = jax.vmap(make_batch)(jnp.arange(2))
    updates, _ = jax.jit(jax.vmap(lambda b: opt.update(GRADS, opt.init(PARAMS), PARAMS, batch=b)))(
        batches
    )
    for i in range(2):
        expected, _ = run(opt, batch=make_batch(i))
        assert_same(jax.tree.map(lambda x, i=i: x[i], updates), expected)


@case("vmap over scans")
def _(ours):
    opt = ours.make()

    def loop(seed):
        params = make_params(seed)
        return jax.lax.scan(
            lambda carry, _: (step(opt, *carry), None), (params, opt.init(params)), length=2
        )[0][0]

    found = jax.vmap(loop)(jnp.arange(2))
    expected = jax.lax.map(loop, jnp.arange(2))
    assert_same(found, expected)


@case("params by keyword, foreign extra arguments")
def _(ours):
    opt = ours.make()

    @jax.jit
    def update(params):
        foreign = {"value": 1.0, "grad": GRADS, "step": 3}
        return opt.update(GRADS, opt.init(params), params=params, batch=BATCH, **foreign)[0]

    assert_same(update(PARAMS), ours.bare()[0])


@case("with_extra_args_support")
def _(ours):
    opt = ours.make()
    assert optax.with_extra_args_support(opt) is opt


@case("no retrace")
def _(ours):
    opt, traces = ours.make(), []

    @jax.jit
    def one(params, state, batch):
        traces.append(1)
        return step(opt, params, state, batch)

    params, state = PARAMS, opt.init(PARAMS)
    for seed in range(4):
        params, state = one(params, state, make_batch(seed))
    assert len(traces) == 1


@case("jax.checkpoint in the residual")
def _(ours):
    updates, _ = run(ours.make(jax.checkpoint(residual)))
    assert_same(updates, ours.bare()[0])


@case("jit in the residual")
def _(ours):
    updates, _ = run(ours.make(jax.jit(residual)))
    assert_same(updates, ours.bare()[0])


def after_a_step(opt, batch):
    def value(scale, params):
        params = scaled(scale, params)
        grads = jax.grad(loss)(params, batch)
        updates, _ = opt.update(grads, opt.init(params), params, batch=batch)
        return loss(optax.apply_updates(params, updates), batch)

    return value


@case("gradient through an update, float64")
def _(ours):
    with jax.enable_x64(True):
        params, batch = jax.tree.map(lambda x: x.astype(jnp.float64), (PARAMS, BATCH))
        value = jax.jit(after_a_step(ours.make(), batch))
        h = 1e-6
        numerical = (value(1 + h, params) - value(1 - h, params)) / (2 * h)
        # Central differences: h² and ε/h, magnified by a condition of some 1e2.
        np.testing.assert_allclose(jax.jit(jax.grad(value))(1.0, params), numerical, rtol=1e-5)


@case("gradient through an update, float32")
def _(ours):
    value = jax.jit(after_a_step(ours.make(), BATCH))
    if ours.differentiable_in_float32:
        h = 1e-2
        numerical = (value(1 + h, PARAMS) - value(1 - h, PARAMS)) / (2 * h)
        # Central differences in float32 with so large an h: a few per cent.
        np.testing.assert_allclose(jax.jit(jax.grad(value))(1.0, PARAMS), numerical, rtol=5e-2)
    else:
        with pytest.raises(TypeError, match=r"cannot be differentiated(.|\n)*solver=\"svd\""):
            jax.grad(value)(1.0, PARAMS)


@case("float64")
def _(ours):
    expected, _ = ours.bare()
    with jax.enable_x64(True):
        params, batch, grads = jax.tree.map(lambda x: x.astype(jnp.float64), (PARAMS, BATCH, GRADS))
        updates, _ = ours.bare(grads=grads, params=params, batch=batch)
        assert {x.dtype for x in jax.tree.leaves(updates)} == {jnp.dtype("float64")}
        assert_same(updates, expected)


@case("debug_nans")
def _(ours):
    # Not the cached reference: a step compiled without debug_nans may report a NaN for "not measured".
    with jax.debug_nans(True):
        updates, _ = run(ours.make())
    assert_same(updates, ours.bare()[0])


@case("warnings are errors")
def _(ours):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opt = ours.make()
        jax.make_jaxpr(functools.partial(step, opt))(PARAMS, opt.init(PARAMS))


@pytest.mark.parametrize("ours", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("check", CASES.values(), ids=CASES)
def test_contract(ours, check):
    check(ours)
