"""A state goes on only with the settings that it was made with."""

import jax
import jax.numpy as jnp
import optax
import pytest

import hig_optax
from hig_optax import baselines


def residual(params, sample):
    return params["w"] * sample["x"]


PARAMS = {"w": jnp.ones(3), "b": jnp.ones(2)}
BATCH = {"x": jnp.ones((4, 3))}
BOTH = {"momentum": 0.5, "patience": 2.0}


def adaptive(residual_fn=residual, **settings):
    return hig_optax.adaptive_hig(residual_fn, **(BOTH | settings))


def spring(residual_fn=residual, **settings):
    return baselines.spring(1.0, residual_fn, damping=0.1, **settings)


BLOCKS = {"a": residual, "b": residual}
W_ONLY = {"w": True, "b": False}
OTHERS = [
    (
        adaptive(momentum=0.0, patience=None),
        adaptive(patience=None),
        r"got None in state.momentum for {'b': \[\(2,\)\], 'w': \[\(3,\)\]}: momentum, or patience, was",
    ),
    (
        adaptive(patience=None),
        adaptive(momentum=0.0, patience=None),
        r"got {'b': \[\(2,\)\], 'w': \[\(3,\)\]} in state.momentum for None: momentum, or patience, was",
    ),
    (adaptive(patience=None), adaptive(), "got None in state.plateau for .*: patience was"),
    (adaptive(), adaptive(patience=None), "in state.plateau for None: patience was"),
    (
        adaptive(spectrum_size=3),
        adaptive(),
        r"got \[\(3,\)\] .* for \[\(64,\)\]: spectrum_size was",
    ),
    (
        adaptive(mask=W_ONLY),
        adaptive(),
        r"got {'b': \[\], 'w': \[\(3,\)\]} in state.momentum for {'b': \[\(2,\)\], 'w': \[\(3,\)\]}.*mask=",
    ),
    (
        adaptive(BLOCKS),
        adaptive(),
        "in state.spectrum.block_shares for {}: residual_fn, in other blocks",
    ),
    (
        spring(mask=W_ONLY),
        spring(),
        r"got {'b': \[\], 'w': \[\(3,\)\]} in state.momentum for {'b': \[\(2,\)\], 'w': \[\(3,\)\]}.*mask=",
    ),
    (spring(spectrum_size=3), spring(), r"got \[\(3,\)\] .* for \[\(64,\)\]: spectrum_size was"),
]


@pytest.mark.parametrize(("first", "second", "message"), OTHERS, ids=range(len(OTHERS)))
def test_a_state_of_other_settings(first, second, message):
    for update in (second.update, jax.jit(second.update)):
        with pytest.raises(ValueError, match=f"state must be one that .*{message}.*init"):
            update(PARAMS, first.init(PARAMS), PARAMS, batch=BATCH)


def test_a_state_of_other_parameters():
    opt = adaptive(lambda p, s: p["w"] * s["x"])
    with pytest.raises(
        ValueError,
        match=r"got {'b': .* in state.momentum for {'w': \[\(3,\)\]}.*the parameters",
    ):
        opt.update({"w": PARAMS["w"]}, opt.init(PARAMS), {"w": PARAMS["w"]}, batch=BATCH)


def test_the_state_of_something_else():
    chained = optax.chain(adaptive(), optax.scale(1.0))
    for state in (chained.init(PARAMS), hig_optax.scale_by_hig(residual).init(PARAMS), None):
        with pytest.raises(
            TypeError, match=r"state must be of type AdaptiveHigState, got .* chain"
        ):
            adaptive().update(PARAMS, state, PARAMS, batch=BATCH)


def test_numbers_may_change_from_step_to_step():
    """What is a number of the settings is none of the state: it may be another in every step."""
    _, state = adaptive().update(PARAMS, adaptive().init(PARAMS), PARAMS, batch=BATCH)
    other = adaptive(momentum=0.9, patience=7.0, exponent=-1.0, solver="svd")
    _, state = other.update(PARAMS, state, PARAMS, batch=BATCH)
    assert state.count == 2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex64"])
def test_the_momentum_is_a_tree_like_the_parameters(dtype):
    """Which Optax's own tools find; in at least float32, so that steps of a bfloat16 are not lost in it."""
    params = jax.tree.map(lambda x: x.astype(dtype), PARAMS)
    opt = adaptive(lambda p, s: (jnp.abs(p["w"]).sum() + jnp.abs(p["b"]).sum()) * s["x"])
    state = opt.init(params)
    assert jax.tree.structure(state.momentum) == jax.tree.structure(params)
    ones = optax.tree.map_params(opt, jnp.ones_like, state)
    raised = "float32" if dtype == "bfloat16" else dtype
    for leaf, like in zip(jax.tree.leaves(ones.momentum), jax.tree.leaves(params), strict=True):
        assert (leaf.shape, leaf.dtype) == (like.shape, raised)
        assert leaf.all()
    assert ones.damping == state.damping
