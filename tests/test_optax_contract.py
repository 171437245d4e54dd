"""Every optimizer of ours times every wrapper and every way to run it: works, or says what to do.

The optimizer by itself is the reference: a wrapper must give what its definition makes of the bare updates.
To add an optimizer, add a line to OPTIMIZERS; to add a wrapper, a function with ``@case``. The number of
combinations stands in the summary of the test run (see conftest.py).

Compiling is what these tests cost. A wrapper therefore runs op by op around an update that is compiled once
(`Ours.compiled`), as in a loop that jits no more than that; that a whole step compiles, wrappers included, is
what "chain" and the ways to run it show.
"""

import dataclasses
import functools
import inspect
import re
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


GRADIENT = jax.jit(jax.grad(loss))
FROZEN_B = {"w": True, "b": False}

# Settings that are numbers, and what they are changed to.
NUMBERS = {
    "learning_rate": 0.25,
    "rtol": 0.3,
    "atol": 0.3,
    "exponent": -0.4,
    "damping": 0.1,
    "momentum": 0.5,
    "max_relative_step": 0.02,
}


@dataclasses.dataclass(frozen=True, eq=False)
class Ours:
    """An optimizer of ours: its factory, and settings that choose its solver."""

    factory: Callable
    settings: dict

    def make(self, residual_fn=residual, **more):
        settings = {"learning_rate": LEARNING_RATE} | self.settings | more
        return self.factory(residual_fn=residual_fn, **settings)

    @functools.cached_property
    def compiled(self):
        """The optimizer with an update that is compiled once."""
        return compiled(self.make())

    @functools.cached_property
    def with_frozen_b(self):
        return compiled(self.make(mask=FROZEN_B))

    def bare(self, *, grads=None, params=None, state=None, batch=None):
        """(updates, state) of the optimizer without any wrapper: the reference."""
        params = PARAMS if params is None else params
        state = self.compiled.init(params) if state is None else state
        grads, batch = GRADS if grads is None else grads, BATCH if batch is None else batch
        return self.compiled.update(grads, state, params, batch=batch)

    @functools.cached_property
    def numbers(self):
        """Those of NUMBERS that it has, as they are set."""
        known = inspect.signature(self.factory).parameters
        usual = {name: known[name].default for name in NUMBERS if name in known}
        return (
            usual
            | {"learning_rate": LEARNING_RATE}
            | {name: value for name, value in self.settings.items() if name in NUMBERS}
        )

    @functools.cached_property
    def scheduled(self):
        """With a schedule for each of its numbers: the i-th changes at count i, for that step alone."""

        def schedule(i, name):
            return lambda count: jnp.where(count == i, NUMBERS[name], self.numbers[name])

        schedules = {name: schedule(i, name) for i, name in enumerate(self.numbers)}
        factory = optax.inject_hyperparams(self.factory, static_args=hig_optax.STATIC_ARGS)
        return compiled(factory(residual_fn=residual, **(self.settings | schedules)))

    @functools.cached_property
    def with_numbers(self):
        """``(numbers, state) -> updates`` with these numbers."""

        @jax.jit
        def update(numbers, state):
            opt = self.make(**numbers)
            return opt.update(GRADS, state, PARAMS, batch=BATCH)[0]

        return update

    @functools.cached_property
    def step(self):
        """``(params, state, batch) -> (params, state)``, compiled as a whole, its arguments given away."""
        opt = self.make()

        def step(params, state, batch):
            self.traces.append(1)
            return one_step(opt, params, state, batch)

        return jax.jit(step, donate_argnums=(0, 1))

    @functools.cached_property
    def traces(self):
        """One entry for each time that `step` was traced."""
        return []

    @functools.cached_property
    def loop(self):
        """``params -> (params, state)`` after two steps in a scan."""
        opt = self.make()

        def loop(params):
            start = (params, opt.init(params))
            return jax.lax.scan(lambda now, _: (one_step(opt, *now), None), start, length=2)[0]

        return loop

    @property
    def differentiable_in_float32(self):
        return self.settings.get("solver") == "svd"


def compiled(opt):
    """An optimizer that compiles its update, and passes on the extra arguments that ours take."""
    jitted = jax.jit(opt.update)

    def update(updates, state, params=None, *, batch, all_params=None, **foreign):
        del foreign
        hidden = {} if all_params is None else {"all_params": all_params}
        return jitted(updates, state, params, batch=batch, **hidden)

    return optax.GradientTransformationExtraArgs(opt.init, update)


# All with rtol=1e-3: the bound of the docstring of scale_by_hig is then 10 ε 1e3^(3/2) = 4e-2 for two ways to
# sum in float32, in practice a tenth of it; Gauss-Newton has 10 ε 1e6, but this J has a condition of 50.
OPTIMIZERS = {
    "hig-svd": Ours(hig_optax.hig, {"solver": "svd", "rtol": 1e-3}),
    "hig-gram": Ours(hig_optax.hig, {"solver": "gram", "rtol": 1e-3}),
    "hig-krylov": Ours(hig_optax.hig, {"solver": "krylov", "num_matvecs": 4, "rtol": 1e-3}),
    "gauss_newton": Ours(baselines.gauss_newton, {"rtol": 1e-3}),
    "levenberg_marquardt": Ours(baselines.levenberg_marquardt, {"damping": 1e-2}),
    "adaptive_hig": Ours(
        hig_optax.adaptive_hig,
        {"exponent": -0.75, "momentum": 0.9, "max_relative_step": 5.0, "patience": 2},
    ),
}
FLOAT32 = 1e-3

CASES = {}


@pytest.fixture(autouse=True)
def _as_in_a_users_program():
    """Optax mixes dtypes, so promotion is the usual one."""
    with jax.numpy_dtype_promotion("standard"):
        yield


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
    """One update: (updates, state)."""
    state = opt.init(params) if state is None else state
    return opt.update(GRADS if grads is None else grads, state, params, batch=batch, **extra)


def one_step(opt, params, state, batch=BATCH):
    updates, state = opt.update(jax.grad(loss)(params, batch), state, params, batch=batch)
    return optax.apply_updates(params, updates), state


def train(opt, steps=8, hides=False):
    """Losses before and after some steps, whose state keeps its shapes."""
    params, state = PARAMS, opt.init(PARAMS)
    for _ in range(steps):
        hidden = {"all_params": params} if hides else {}
        grads = GRADIENT(params, BATCH)
        updates, after = run(opt, grads=grads, params=params, state=state, **hidden)
        params = optax.apply_updates(params, updates)
        assert_same_avals(after, state)
        state = after
    return loss(PARAMS, BATCH), loss(params, BATCH)


def scaled(factor, tree):
    return jax.tree.map(lambda x: factor * x, tree)


# Wrappers that compose


@case("chain")
def _(ours):
    clip = optax.clip_by_global_norm(0.1 * optax.tree.norm(GRADS))
    updates, state = run(compiled(optax.chain(clip, ours.make(), optax.scale(0.5))))
    expected, bare_state = ours.bare(grads=scaled(0.1, GRADS))
    assert_same(updates, scaled(0.5, expected))
    assert_same_avals(state[1], bare_state)


@case("named_chain")
def _(ours):
    opt = optax.named_chain(("half", optax.scale(0.5)), ("ours", ours.compiled))
    updates, state = run(opt)
    assert_same(updates, ours.bare(grads=scaled(0.5, GRADS))[0])
    assert optax.tree.get(state["ours"], "spectrum").rank > 0


@case("clip_by_global_norm before")
def _(ours):
    clip = optax.clip_by_global_norm(0.1 * optax.tree.norm(GRADS))
    updates, _ = run(optax.chain(clip, ours.compiled))
    assert_same(updates, ours.bare(grads=scaled(0.1, GRADS))[0])


@case("clip_by_global_norm after")
def _(ours):
    updates, _ = run(optax.chain(ours.compiled, optax.clip_by_global_norm(1e-2)))
    expected, _ = ours.bare()
    assert_same(updates, scaled(1e-2 / optax.tree.norm(expected), expected))


@case("add_decayed_weights after")
def _(ours):
    updates, _ = run(optax.chain(ours.compiled, optax.add_decayed_weights(-0.1)))
    expected, _ = ours.bare()
    assert_same(updates, jax.tree.map(lambda u, p: u - 0.1 * p, expected, PARAMS))


def two_updates(opt):
    """Updates of the first and second step at the same parameters, for two gradients."""
    first, state = run(opt)
    return first, run(opt, grads=scaled(0.5, GRADS), state=state)[0]


@case("trace before")
def _(ours):
    _, second = two_updates(optax.chain(optax.trace(0.9), ours.compiled))
    expected, state = ours.bare()
    expected, _ = ours.bare(grads=scaled(1.4, GRADS), state=state)
    assert_same(second, expected)


@case("trace after")
def _(ours):
    _, second = two_updates(optax.chain(ours.compiled, optax.trace(0.9)))
    one, two = two_updates(ours.compiled)
    assert_same(second, jax.tree.map(lambda a, b: 0.9 * a + b, one, two))


@case("ema after")
def _(ours):
    _, second = two_updates(optax.chain(ours.compiled, optax.ema(0.9, debias=False)))
    one, two = two_updates(ours.compiled)
    assert_same(second, jax.tree.map(lambda a, b: 0.09 * a + 0.1 * b, one, two))


@case("scale_by_adam after")
def _(ours):
    before, after = train(
        optax.chain(ours.compiled, optax.scale(-1.0), optax.scale_by_adam(), optax.scale(-0.05))
    )
    assert after < before


@case("scale_by_schedule after")
def _(ours):
    opt = optax.chain(ours.compiled, optax.scale_by_schedule(optax.linear_schedule(1.0, 0.0, 2)))
    _, second = two_updates(opt)
    assert_same(second, scaled(0.5, two_updates(ours.compiled)[1]))


@case("zero_nans before")
def _(ours):
    grads = GRADS | {"b": GRADS["b"].at[0].set(jnp.nan)}
    updates, _ = run(optax.chain(optax.zero_nans(), ours.compiled), grads=grads)
    expected, _ = ours.bare(grads=GRADS | {"b": GRADS["b"].at[0].set(0)})
    assert_same(updates, expected)


@case("keep_params_nonnegative after")
def _(ours):
    opt = optax.chain(ours.compiled, optax.keep_params_nonnegative())
    start = jax.tree.map(jnp.abs, PARAMS)
    updates, _ = run(opt, params=start)
    assert all(
        (x >= -1e-6).all() for x in jax.tree.leaves(optax.apply_updates(start, updates))
    )  # p + (-p) is zero to rounding


@case("reduce_on_plateau after")
def _(ours):
    opt = optax.chain(ours.compiled, optax.contrib.reduce_on_plateau(factor=0.5, patience=1))
    updates, _ = run(opt, value=jnp.float32(1.0))
    assert_same(updates, ours.bare()[0])


# Settings as schedules


def inject(name):
    def check(ours):
        if name not in ours.numbers:
            # Optax binds the arguments to the factory's signature and names the unexpected one.
            settings = {"learning_rate": LEARNING_RATE} | ours.settings
            factory = optax.inject_hyperparams(ours.factory, static_args=hig_optax.STATIC_ARGS)
            with pytest.raises(TypeError, match=name):
                factory(residual_fn=residual, **(settings | {name: 0.1}))
            return
        opt = ours.scheduled
        state = opt.init(PARAMS)
        for _ in range(list(ours.numbers).index(name)):
            _, state = run(opt, state=state)
        updates, after = run(opt, state=state)
        usual = ours.with_numbers(ours.numbers, state.inner_state)
        changed = ours.with_numbers(ours.numbers | {name: NUMBERS[name]}, state.inner_state)
        assert_same(updates, changed)
        change = np.linalg.norm(vector(changed) - vector(usual))
        assert change > 5 * FLOAT32 * np.linalg.norm(vector(usual))
        np.testing.assert_allclose(after.hyperparams[name], NUMBERS[name], rtol=1e-6)
        assert_same_avals(after, opt.init(PARAMS))

    return check


for _name in NUMBERS:
    case(f"inject_hyperparams {_name}")(inject(_name))


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
    opt = compiled(optax.apply_if_finite(ours.make(), max_consecutive_errors=3))
    updates, state = run(opt)
    assert_same(updates, ours.bare()[0])
    broken, state = run(opt, state=state, grads=GRADS | {"b": GRADS["b"] * jnp.nan})
    assert not vector(broken).any()
    assert_same(run(opt, state=state)[0], ours.bare(state=state.inner_state)[0])


@case("conditionally_transform")
def _(ours):
    opt = compiled(optax.conditionally_transform(ours.make(), lambda count: count >= 1))
    one, state = run(opt)
    assert_same(one, GRADS)
    assert_same(run(opt, state=state)[0], ours.bare()[0])


@case("conditionally_mask")
def _(ours):
    opt = compiled(optax.conditionally_mask(ours.make(), lambda count: count >= 1))
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
    with pytest.raises(ValueError, match=r"batch must be passed(.|\n)*hig_optax.with_batch"):
        update(ours.make(), {})
    with pytest.raises(TypeError, match="unexpected keyword argument 'batch'"):
        update(ours.make(), {"batch": BATCH})


@case("lookahead around the bound update")
def _(ours):
    opt = ours.compiled
    bound = optax.GradientTransformation(opt.init, functools.partial(opt.update, batch=BATCH))
    assert_same(lookahead(ours)(bound, {}).fast, ours.bare()[0])


@case("schedule_free")
def _(ours):
    opt = optax.contrib.schedule_free(ours.compiled, learning_rate=LEARNING_RATE, b1=0.9)
    before, after = train(opt, steps=20)
    assert after < before
    # The first step of schedule-free is the bare one: x = z there.
    assert_same(run(opt)[0], ours.bare()[0])


# Part of the parameters

LABELS = {"w": "ours", "b": "other"}


@case("masked")
def _(ours):
    opt = optax.masked(ours.compiled, FROZEN_B)
    updates, state = run(opt, all_params=PARAMS)
    expected, _ = run(ours.with_frozen_b)
    assert_same(updates["w"], expected["w"])
    np.testing.assert_array_equal(updates["b"], GRADS["b"])
    assert_same_avals(state, opt.init(PARAMS))


@case("masked without all_params")
def _(ours):
    opt = optax.masked(ours.make(), FROZEN_B)
    with pytest.raises(ValueError, match=r"MaskedNode(.|\n)*all_params=params(.|\n)*mask="):
        run(opt)


@case("partition with adam")
def _(ours):
    opt = optax.partition({"ours": ours.compiled, "other": optax.adam(1e-3)}, LABELS)
    updates, _ = run(opt, all_params=PARAMS)
    expected, _ = run(ours.with_frozen_b)
    adam = optax.adam(1e-3)
    assert_same(updates["w"], expected["w"])
    assert_same(updates["b"], adam.update(GRADS["b"], adam.init(PARAMS["b"]))[0])
    before, after = train(opt, hides=True)
    assert after < before


@case("partition without all_params")
def _(ours):
    opt = optax.partition({"ours": ours.make(), "other": optax.set_to_zero()}, LABELS)
    with pytest.raises(ValueError, match=r"MaskedNode(.|\n)*all_params=params(.|\n)*mask="):
        run(opt)


@case("mask=")
def _(ours):
    updates, _ = run(ours.with_frozen_b)
    assert vector(updates["w"]).any()
    assert not vector(updates["b"]).any()
    opt = ours.make(mask=lambda params: FROZEN_B)
    assert_same_avals(jax.eval_shape(opt.init, PARAMS), ours.with_frozen_b.init(PARAMS))


@case("flatten")
def _(ours):
    with pytest.raises(ValueError, match=r"one flat vector(.|\n)*optax.flatten"):
        run(optax.flatten(ours.make()))


# Line searches


def batch_loss(params, batch):
    return loss(params, batch)


BACKTRACKING = optax.scale_by_backtracking_linesearch(max_backtracking_steps=10)
ZOOM = optax.scale_by_zoom_linesearch(max_linesearch_steps=5)
SEARCHES = {
    "backtracking": jax.jit(BACKTRACKING.update, static_argnames="value_fn"),
    "zoom": jax.jit(ZOOM.update, static_argnames="value_fn"),
}


def searched(ours, search, name, steps):
    """Losses of steps along the updates of ours, as long as the search says; it compiles once for all."""
    opt = optax.chain(
        ours.compiled, optax.GradientTransformationExtraArgs(search.init, SEARCHES[name])
    )
    params, state, losses = PARAMS, opt.init(PARAMS), [loss(PARAMS, BATCH)]
    for _ in range(steps):
        grad = GRADIENT(params, BATCH)
        extra = {"value": losses[-1], "grad": grad, "value_fn": batch_loss}
        updates, state = run(opt, grads=grad, params=params, state=state, **extra)
        params = optax.apply_updates(params, updates)
        losses.append(loss(params, BATCH))
    return losses


@case("backtracking line search")
def _(ours):
    losses = searched(ours, BACKTRACKING, "backtracking", 3)
    assert losses == sorted(losses, reverse=True)


@case("zoom line search")
def _(ours):
    before, after = searched(ours, ZOOM, "zoom", 1)
    assert after < before


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
    _, state = run(optax.chain(optax.identity(), optax.chain(ours.compiled)))
    spectrum = optax.tree.get(state, "spectrum")
    assert spectrum.is_finite
    assert optax.tree.get(state, "rank") == spectrum.rank > 0


@case("optax.tree.map_params on the state")
def _(ours):
    opt = ours.make()
    _, state = ours.bare()
    mapped = optax.tree.map_params(opt, lambda x: x * 0, state, transform_non_params=lambda x: x)
    assert jax.tree.structure(mapped) == jax.tree.structure(state)
    assert optax.tree.get(mapped, "rank") == optax.tree.get(state, "rank")


@case("eval_shape of init")
def _(ours):
    opt = ours.make()
    shapes = jax.eval_shape(opt.init, PARAMS)
    assert jax.tree.structure(shapes) == jax.tree.structure(opt.init(PARAMS))
    assert_same_avals(shapes, ours.bare()[1])


@case("state through flatten and unflatten")
def _(ours):
    _, state = ours.bare()
    leaves, treedef = jax.tree.flatten(jax.device_get(state))
    restored = jax.tree.unflatten(treedef, [jnp.asarray(x) for x in leaves])
    np.testing.assert_array_equal(
        vector(ours.bare(state=restored)[0]), vector(ours.bare(state=state)[0])
    )


# Ways to run it


@case("cond")
def _(ours):
    opt = ours.make()

    @jax.jit
    def maybe(flag, params, state):
        return jax.lax.cond(flag, lambda: one_step(opt, params, state), lambda: (params, state))

    state = opt.init(PARAMS)
    np.testing.assert_array_equal(vector(maybe(False, PARAMS, state)[0]), vector(PARAMS))
    assert_same(maybe(True, PARAMS, state)[0], optax.apply_updates(PARAMS, ours.bare()[0]))


def stepped(ours, params, steps):
    """Parameters and state after some steps of a Python loop."""
    params, state = jax.tree.map(jnp.copy, params), ours.make().init(params)
    for _ in range(steps):
        params, state = ours.step(params, state, BATCH)
    return params, state


@case("scan")
def _(ours):
    params, state = stepped(ours, PARAMS, 2)
    found, found_state = jax.jit(ours.loop)(PARAMS)
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
            return (*one_step(opt, *carry[:2]), carry[2] + 1)

        return jax.lax.while_loop(go_on, body, (params, opt.init(params), 0))[0]

    assert_same(loop(PARAMS), stepped(ours, PARAMS, 3)[0])


@case("fori_loop")
def _(ours):
    opt = ours.make()

    @jax.jit
    def loop(params):
        start = (params, opt.init(params))
        return jax.lax.fori_loop(0, 3, lambda _, now: one_step(opt, *now), start)[0]

    assert_same(loop(PARAMS), stepped(ours, PARAMS, 3)[0])


@case("donated buffers")
def _(ours):
    params, state = stepped(ours, PARAMS, 3)
    assert loss(params, BATCH) < loss(PARAMS, BATCH)
    ours.step(params, state, BATCH)
    with pytest.raises((RuntimeError, ValueError), match=r"delete|donate"):
        ours.step(params, state, BATCH)  # the buffers that the call before took


@case("vmap over an ensemble")
def _(ours):
    opt = ours.make()
    ensemble = jax.vmap(make_params)(jnp.arange(3))
    one = functools.partial(one_step, opt)
    found, state = jax.jit(jax.vmap(one))(ensemble, jax.vmap(opt.init)(ensemble))
    for i in range(3):
        expected, _ = stepped(ours, make_params(i), 1)
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
        expected, _ = ours.bare(batch=make_batch(i))
        assert_same(jax.tree.map(lambda x, i=i: x[i], updates), expected)


@case("vmap over scans")
def _(ours):
    found, _ = jax.vmap(ours.loop)(jax.vmap(make_params)(jnp.arange(2)))
    for i in range(2):
        expected, _ = stepped(ours, make_params(i), 2)
        assert_same(jax.tree.map(lambda x, i=i: x[i], found), expected)


@case("params by keyword, foreign extra arguments")
def _(ours):
    opt = ours.make()

    def update(params, **foreign):
        return opt.update(GRADS, opt.init(params), params=params, batch=BATCH, **foreign)

    # The same program, down to its text.
    foreign = {"value": 1.0, "grad": GRADS, "step": 3}
    programs = [jax.make_jaxpr(functools.partial(update, **f))(PARAMS) for f in ({}, foreign)]
    assert len({re.sub("0x[0-9a-f]+", "", str(program)) for program in programs}) == 1


@case("with_extra_args_support")
def _(ours):
    opt = ours.make()
    assert optax.with_extra_args_support(opt) is opt


@case("no retrace")
def _(ours):
    params, state = stepped(ours, PARAMS, 1)
    for seed in range(3):
        params, state = ours.step(params, state, make_batch(seed))
    assert len(ours.traces) == 1


@case("jax.checkpoint in the residual")
def _(ours):
    updates, _ = run(compiled(ours.make(jax.checkpoint(residual))))
    assert_same(updates, ours.bare()[0])


@case("jit in the residual")
def _(ours):
    updates, _ = run(compiled(ours.make(jax.jit(residual))))
    assert_same(updates, ours.bare()[0])


def after_a_step(opt, batch):
    def value(scale, params):
        params = scaled(scale, params)
        params, _ = one_step(opt, params, opt.init(params), batch)
        return loss(params, batch)

    return value


def assert_differentiates(value, params, h, rtol):
    compiled = jax.jit(jax.value_and_grad(value))
    numerical = (compiled(1 + h, params)[0] - compiled(1 - h, params)[0]) / (2 * h)
    np.testing.assert_allclose(compiled(1.0, params)[1], numerical, rtol=rtol)


@case("gradient through an update, float64")
def _(ours):
    with jax.enable_x64(True):
        params, batch = jax.tree.map(lambda x: x.astype(jnp.float64), (PARAMS, BATCH))
        value = after_a_step(ours.make(), batch)
        # Central differences: h² and ε/h, magnified by a condition of some 1e2.
        assert_differentiates(value, params, h=1e-6, rtol=1e-5)


@case("gradient through an update, float32")
def _(ours):
    value = after_a_step(ours.make(), BATCH)
    if ours.differentiable_in_float32:
        # Central differences in float32 with so large an h: a few per cent.
        assert_differentiates(value, PARAMS, h=1e-2, rtol=5e-2)
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
        updates, _ = run(compiled(ours.make()))
    assert_same(updates, ours.bare()[0])


@case("warnings are errors")
def _(ours):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opt = ours.make()
        jax.make_jaxpr(functools.partial(one_step, opt))(PARAMS, opt.init(PARAMS))


@pytest.mark.parametrize("ours", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("check", CASES.values(), ids=CASES)
def test_contract(ours, check):
    check(ours)
