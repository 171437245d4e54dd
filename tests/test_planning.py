"""What a step will cost, and which solver `auto` takes: all from shapes."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hig_optax
from hig_optax._inputs.settings import Settings
from hig_optax._planning import planning

MIB = 2**20


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def residual_fn(params, sample):
    x, y = sample
    return jnp.tanh(x @ params["w"]) @ params["v"] - y


def unfactored(params, sample):
    """The same, its matrices not recognised as such."""
    return residual_fn(jax.tree.map(lambda w: 1.0 * w, params), sample)


def shapes(samples, hidden=64, out=4):
    return (
        {"w": shape(8, hidden), "v": shape(hidden, out)},
        (shape(samples, 8), shape(samples, out)),
    )


def test_settings_have_the_defaults_of_the_optimizer():
    # The others are those of some optimizers only.
    others = ("residual_fn", "is_damped", "may_hold", "rows_per_sample")
    own = {f.name: f.default for f in dataclasses.fields(Settings) if f.name not in others}
    signature = inspect.signature(hig_optax.scale_by_hig)
    assert own == {n: p.default for n, p in signature.parameters.items() if n != "residual_fn"}


def test_a_plan_of_a_small_step():
    plan = hig_optax.plan(residual_fn, *shapes(16))
    assert (plan.rows, plan.columns, plan.jacobian) == (64, 768, "reverse")
    assert plan.settings == {"solver": "gram", "chunk_size": None}
    assert {option.solver for option in plan.options} == {"gram", "svd", "krylov"}
    assert all(option.flops > 0 and option.peak_bytes > 0 for option in plan.options)
    lines = str(plan).splitlines()
    assert lines[0] == "64 rows x 768 columns, reverse mode, budget 4 GiB"
    assert lines[2].startswith("* gram           all")
    assert lines[-1] == "* exact, and J is small"


def test_the_exact_solver_then_chunks_then_krylov_then_an_error():
    args = unfactored, *shapes(512)  # m = 2048, n = 768: 8 JJᵀ... of n² entries: 19 MiB and more
    whole = hig_optax.plan(*args, memory_budget=2**34)
    assert whole.settings == {"solver": "gram", "chunk_size": None}
    assert whole.reason == "exact, and it fits"
    chunked = hig_optax.plan(*args, memory_budget=whole.chosen.peak_bytes - 1)
    assert chunked.chosen.solver == "gram"
    assert chunked.chosen.chunk_size < 512
    assert chunked.chosen.peak_bytes < whole.chosen.peak_bytes
    krylov = hig_optax.plan(*args, memory_budget=planning.FIXED + 8 * MIB)
    assert krylov.chosen.solver == "krylov"
    assert "unsettled" in krylov.reason
    with pytest.raises(
        ValueError, match="memory_budget=1000 is too little for a step of 2048 rows"
    ) as e:
        hig_optax.plan(*args, memory_budget=1000)
    least = int(str(e.value).split("it takes at least ")[1].split(",")[0])
    fits = hig_optax.plan(*args, memory_budget=least)
    assert fits.chosen.peak_bytes == least


def test_settings_are_kept_to():
    args = residual_fn, *shapes(16)
    plan = hig_optax.plan(*args, solver="svd", chunk_size=4, memory_budget=2**30)
    assert plan.settings == {"solver": "svd", "chunk_size": 4}
    assert plan.reason == "the solver that was asked for"
    assert len(plan.options) == 1
    more = hig_optax.plan(residual_fn, *shapes(512), solver="krylov", num_matvecs=40)
    less = hig_optax.plan(residual_fn, *shapes(512), solver="krylov", num_matvecs=20)
    assert 1.8 < more.chosen.flops / less.chosen.flops < 2.5  # and the small matrix
    with pytest.raises(
        TypeError, match="plan takes the settings of scale_by_hig, got learning_rate"
    ):
        hig_optax.plan(*args, learning_rate=1.0)


def test_a_residual_without_forward_rule_has_no_krylov():
    @jax.custom_vjp
    def adjoint(x):
        return x

    adjoint.defvjp(lambda x: (x, None), lambda _, g: (g,))
    plan = hig_optax.plan(lambda p, s: adjoint(residual_fn(p, s)), *shapes(16))
    assert {option.solver for option in plan.options} == {"gram", "svd"}


def test_num_matvecs_is_for_krylov_alone(monkeypatch):
    """Given with `auto`, it must not be refused where another solver is weighed or taken."""
    monkeypatch.setattr(planning, "SMALL_JACOBIAN", 0)
    plan = hig_optax.plan(residual_fn, *shapes(16), num_matvecs=7)
    assert plan.chosen.solver == "gram"
    opt = hig_optax.scale_by_hig(residual_fn, num_matvecs=7)
    params, batch = shapes(16)
    jax.eval_shape(lambda p, b: opt.update(p, opt.init(p), p, batch=b), params, batch)


@pytest.mark.parametrize("make", [hig_optax.scale_by_hig, hig_optax.adaptive_hig])
def test_auto_takes_what_the_plan_says(make, monkeypatch):
    """With the budget of the plan small enough, `auto` is krylov; nothing runs to find that out."""
    monkeypatch.setattr(planning, "SMALL_JACOBIAN", 0)
    monkeypatch.setattr(planning, "AUTO_MEMORY", planning.FIXED + MIB // 2)
    params, batch = (
        jax.tree.map(lambda x: jnp.ones(x.shape) / x.shape[0], tree) for tree in shapes(64)
    )
    plan = hig_optax.plan(unfactored, params, batch)
    assert plan.chosen.solver == "krylov"

    def loss(w):
        return jnp.mean(jax.vmap(unfactored, (None, 0))(w, batch) ** 2)

    def update(**settings):
        opt, gradient = make(unfactored, **settings), jax.grad(loss)(params)
        return jax.jit(lambda: opt.update(gradient, opt.init(params), params, batch=batch)[0])()

    chosen, auto = update(**plan.settings), update()
    jax.tree.map(np.testing.assert_array_equal, chosen, auto)
    assert any(leaf.any() for leaf in jax.tree.leaves(auto))


def test_auto_takes_the_least_where_nothing_fits(monkeypatch):
    monkeypatch.setattr(planning, "SMALL_JACOBIAN", 0)
    monkeypatch.setattr(planning, "AUTO_MEMORY", 1)
    plan = hig_optax.plan(residual_fn, *shapes(64))
    assert plan.chosen.peak_bytes == min(o.peak_bytes for o in plan.options if o.solver != "svd")
    assert plan.reason == "the least: nothing fits"


def test_a_million_parameters_and_65536_rows():
    """No array of this size is ever made."""
    params, batch = shapes(4096, hidden=42_000, out=16)
    plan = hig_optax.plan(residual_fn, params, batch)
    assert (plan.rows, plan.columns) == (65536, 1_008_000)
    assert plan.chosen.solver == "krylov"
    assert plan.chosen.peak_bytes < plan.memory_budget
