"""What "auto" stands for on a batch, by what is known of it while tracing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hig_optax
from hig_optax._optimizers.recipe import DECIDED, LARGE_STEP, OPEN, STEADY, Choices

AUTO = Choices(*["auto"] * 3)


@pytest.mark.parametrize(("rows", "columns", "expected"), [(100, 200, OPEN), (200, 100, DECIDED)])
def test_rows_decide_on_a_batch_that_changes(rows, columns, expected):
    found = AUTO.on(jnp.array(False), is_large=False, rows=rows, columns=columns)
    assert found.max_relative_step == expected.max_relative_step
    assert float(found.exponent) == expected.exponent
    assert AUTO.on(jnp.array(True), is_large=False, rows=rows, columns=columns).exponent == -1


@pytest.mark.parametrize(
    ("is_steady", "rows", "least"), [(False, 6, 1e-8), (False, 7, 1e-10), (True, 6, 1e-16)]
)
def test_the_least_damping_goes_by_rows_and_by_whether_the_batch_is_the_same(
    is_steady, rows, least
):
    found = AUTO.on(jnp.array(is_steady), is_large=False, rows=rows, columns=7)
    np.testing.assert_allclose(found.least_damping, least)


@pytest.mark.parametrize("rows", [256, 4096])
def test_a_large_batch_has_a_bound_of_its_own(rows):
    found = AUTO.on(jnp.array(True), is_large=True, rows=rows, columns=300)
    assert found.max_relative_step == LARGE_STEP
    np.testing.assert_allclose(found.momentum, STEADY.momentum)


def test_what_is_given_holds_on_every_batch():
    given = AUTO._replace(momentum=0.5, max_relative_step=None)
    for is_large in (False, True):
        found = given.on(jnp.array(is_large), is_large=is_large, rows=512, columns=600)
        assert (found.momentum, found.max_relative_step) == (0.5, None)


@pytest.mark.parametrize(("samples", "rows", "is_large"), [(256, 1, True), (16, 20, False)])
def test_a_batch_is_large_by_its_samples(samples, rows, is_large):
    """16 samples of 20 rows have more rows, but a step that fits them whole fits no others."""
    x = np.random.default_rng(0).normal(size=(samples, 3)).astype(np.float32)

    def residual(w, x):
        return jnp.tanh(x @ w["a"] + w["b"]) @ w["c"] - jnp.sin(x.sum())

    w = {
        "a": jnp.asarray(np.random.default_rng(1).normal(size=(3, 60)), jnp.float32),
        "b": jnp.linspace(-1.0, 1.0, 60),
        "c": jnp.asarray(np.random.default_rng(2).normal(size=(60, rows)) / 8, jnp.float32),
    }
    opt = hig_optax.adaptive_hig(residual, rows_per_sample=None)
    _, state = jax.jit(lambda w: opt.update(None, opt.init(w), w, batch=x))(w)
    assert (int(state.spectrum.rank) == -1) == is_large
    assert state.accepted
