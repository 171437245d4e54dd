"""States and reports print in a line or two, whatever they hold; nothing that is not there is looked at."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hig_optax
from hig_optax import baselines

BATCH = jnp.linspace(0.5, 1.5, 3)


def residual_fn(w, x):
    return w["a"] * x + w["b"] - x**2


OPTIMIZERS = {
    "adaptive": hig_optax.adaptive_hig(residual_fn),
    "scale_by_hig": hig_optax.scale_by_hig(residual_fn),
    "spring": baselines.spring(0.1, residual_fn, damping=1e-3),
    "accumulate": hig_optax.accumulate(hig_optax.hig(0.1, residual_fn), 2, BATCH),
}


def stepped(opt, jit=lambda f: f):
    w = {"a": jnp.ones(()), "b": jnp.zeros((2,))}
    return jit(lambda w: opt.update(w, opt.init(w), w, batch=BATCH)[1])(w)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_states_are_short_and_still_trees(name):
    state = stepped(OPTIMIZERS[name])
    text = repr(state)
    assert len(text) < 700
    assert "0., 0., 0." not in text
    assert f"{type(state).__name__}(" in text
    again = jax.tree.map(lambda x: x, state)
    assert type(again) is type(state)
    assert repr(again) == text


def test_a_spectrum_shows_its_values_without_the_padding():
    state = stepped(OPTIMIZERS["adaptive"])
    text = repr(state.spectrum)
    values = np.asarray(state.spectrum.singular_values)
    shown = ", ".join(f"{x:.3g}" for x in values[: np.count_nonzero(values)])
    assert f"singular_values=[{shown}]" in text
    assert "rank=3 of 3" in text
    assert "block_shares" not in text
    assert "<td>rank</td><td>3</td>" in state.spectrum._repr_html_()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_traced_stacked_and_donated_states_are_shown_by_shapes(name):
    seen = []
    opt = OPTIMIZERS[name]
    stepped(opt, lambda f: jax.jit(lambda w: (lambda s: (seen.append(repr(s)), s)[1])(f(w))))
    stacked = jax.tree.map(lambda x: jnp.stack([x] * 3), stepped(opt))
    assert "[64]" in seen[0]
    assert "[3, 64]" in repr(stacked)
    donated = stepped(opt)
    for leaf in jax.tree.leaves(donated):
        leaf.delete()
    assert "[64]" in repr(donated)


def test_shapes_in_place_of_arrays_are_shown():
    state = jax.eval_shape(lambda: stepped(OPTIMIZERS["adaptive"]))
    assert "float32[64]" in repr(state.spectrum)


def test_blocks_are_told_apart():
    opt = hig_optax.adaptive_hig({"in": lambda w, x: w * x, "out": lambda w, x: w - x})
    w, batch = jnp.ones(()), {"in": BATCH, "out": BATCH}
    _, state = opt.update(w, opt.init(w), w, batch=batch)
    assert "block_shares={in: 0." in repr(state.spectrum)


def test_a_plan_is_a_line_and_in_a_notebook_a_table():
    w = {"a": jnp.ones(()), "b": jnp.zeros((2,))}
    plan = hig_optax.plan(residual_fn, w, BATCH)
    assert repr(plan).startswith("Plan(6 x 3, gram, chunk_size=None, ")
    html = plan._repr_html_()
    assert html.count("<tr>") == 1 + len(plan.options)
    assert f"<td>{plan.chosen.solver} (chosen)</td>" in html
