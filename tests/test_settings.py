"""Every number that is a setting of any optimizer is looked at, once and alike in all of them."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hig_optax
from hig_optax import baselines


def residual(params, sample):
    return params["w"] * sample["x"] - sample["y"]


PARAMS = {"w": jnp.ones(3)}
GRADS = {"w": jnp.full(3, 0.5)}
BATCH = {"x": jnp.ones((4, 3)), "y": jnp.zeros((4, 3))}

FACTORIES = {
    "scale_by_hig": (hig_optax.scale_by_hig, {}),
    "hig": (hig_optax.hig, {"learning_rate": 1.0}),
    "gauss_newton": (baselines.gauss_newton, {"learning_rate": 1.0}),
    "levenberg_marquardt": (
        baselines.levenberg_marquardt,
        {"learning_rate": 1.0, "damping": 1e-2},
    ),
    "spring": (baselines.spring, {"learning_rate": 1.0, "damping": 1e-2}),
    "adaptive_hig": (
        hig_optax.adaptive_hig,
        {"momentum": 0.5, "max_relative_step": 0.1, "patience": 2.0},
    ),
    "adaptive_levenberg_marquardt": (baselines.adaptive_levenberg_marquardt, {}),
}
NUMBERS = {
    "learning_rate",
    "exponent",
    "rtol",
    "atol",
    "damping",
    "momentum",
    "max_step_norm",
    "max_relative_step",
    "patience",
}
CASES = [
    (factory, name)
    for factory, (make, _) in FACTORIES.items()
    for name in inspect.signature(make).parameters
    if name in NUMBERS
]
NO_NUMBERS = ["0.1", True, [0.1], 1j, jnp.ones(2), jnp.ones(1), np.ones((1, 1)), jnp.complex64(1)]


def make(factory, residual_fn=residual, **settings):
    function, usual = FACTORIES[factory]
    return function(residual_fn=residual_fn, **(usual | settings))


def step(opt, state=None):
    state = opt.init(PARAMS) if state is None else state
    return opt.update(GRADS, state, PARAMS, batch=BATCH)


def test_no_number_is_forgotten():
    """Settings that are numbers by their annotation."""
    for make, _ in FACTORIES.values():
        for name, parameter in inspect.signature(make).parameters.items():
            if "Scalar" in str(parameter.annotation) or "float" in str(parameter.annotation):
                assert name in NUMBERS


@pytest.mark.parametrize(("factory", "name"), CASES)
def test_what_is_no_number_is_refused(factory, name):
    for bad in NO_NUMBERS:
        with pytest.raises((TypeError, ValueError), match=f"{name} must be a .*number"):
            make(factory, **{name: bad})


@pytest.mark.parametrize(("factory", "name"), CASES)
def test_nan_is_refused(factory, name):
    for bad in (float("nan"), np.float32("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"{name} must be .*, got {bad}"):
            make(factory, **{name: bad})


@pytest.mark.parametrize(("factory", "name"), CASES)
def test_a_traced_number_that_is_none_gives_no_update(factory, name):
    @jax.jit
    def traced(number):
        opt = make(factory, **{name: number})
        return step(opt)

    for bad in (np.nan, np.inf):
        updates, state = traced(jnp.float32(bad))
        np.testing.assert_array_equal(updates["w"], 0)
        if (name, bad) == ("damping", np.inf):  # all directions are damped to nothing: a limit
            assert float(optax.tree.norm(updates)) == 0
            continue
        assert not optax.tree.get(state, "is_finite")
        assert optax.tree.get(state, "rank") == 0


WITH_RATE = sorted({factory for factory, name in CASES if name == "learning_rate"})


@pytest.mark.parametrize("factory", WITH_RATE)
def test_a_rate_that_is_none_at_all(factory):
    with pytest.raises(TypeError, match=r"learning_rate must be a real number .*or a schedule"):
        make(factory, learning_rate=None)
    with pytest.raises(TypeError, match=r"learning_rate must be a function of \(count\)"):
        make(factory, learning_rate=lambda: 0.1)


@pytest.mark.parametrize("factory", WITH_RATE)
def test_schedules_are_looked_at(factory):
    for bad in ("0.1", None, True, jnp.ones(3), jnp.ones(1), jnp.complex64(1)):
        opt = make(factory, learning_rate=lambda count, bad=bad: bad)
        with pytest.raises(TypeError, match=r"learning_rate\(count\) must be a real number"):
            step(opt)


@pytest.mark.parametrize("factory", WITH_RATE)
def test_a_schedule_that_is_nan_for_one_step(factory):
    """Inside jit that step is not taken and flagged; the next is as if it had not been tried."""
    opt = make(factory, learning_rate=lambda count: jnp.where(count == 0, jnp.nan, 0.5))
    update = jax.jit(lambda state: step(opt, state))
    updates, state = update(opt.init(PARAMS))
    assert not optax.tree.get(state, "is_finite")
    assert np.isnan(optax.tree.get(state, "condition"))
    np.testing.assert_array_equal(updates["w"], 0)
    updates, state = update(state)
    assert optax.tree.get(state, "is_finite")
    expected, _ = step(make(factory, learning_rate=0.5))
    np.testing.assert_allclose(updates["w"], expected["w"], rtol=1e-6)


def test_a_rate_at_which_the_step_overflows_is_flagged():
    updates, state = step(hig_optax.hig(3e38, lambda p, s: 1e-3 * residual(p, s)))
    assert not optax.tree.get(state, "is_finite")
    np.testing.assert_array_equal(updates["w"], 0)


@pytest.mark.parametrize("factory", ["spring", "adaptive_hig"])
def test_a_negative_bound_does_not_turn_the_step_round(factory):
    name = {"spring": "max_step_norm", "adaptive_hig": "max_relative_step"}[factory]
    updates, _ = jax.jit(lambda bound: step(make(factory, **{name: bound})))(jnp.float32(-1))
    np.testing.assert_array_equal(updates["w"], 0)
