"""JAX's debug switches: a healthy step raises under none of them, and is the same."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hig_optax
from hig_optax import baselines

SWITCHES = {
    "debug_nans": lambda: jax.debug_nans(True),
    "debug_infs": lambda: jax.debug_infs(True),
    "disable_jit": lambda: jax.disable_jit(True),
    "rank_promotion": lambda: jax.numpy_rank_promotion("raise"),
    "dtype_promotion": lambda: jax.numpy_dtype_promotion("strict"),
    "transfer_guard": lambda: jax.transfer_guard("disallow"),
}
OPTIMIZERS = {
    "gram": lambda f: hig_optax.hig(0.1, f, solver="gram"),
    "svd": lambda f: hig_optax.hig(0.1, f, solver="svd"),
    "krylov": lambda f: hig_optax.hig(0.1, f, solver="krylov", num_matvecs=4),
    "adaptive_hig": lambda f: hig_optax.adaptive_hig(f, bad_samples="drop"),
    "adaptive_hig, krylov": lambda f: hig_optax.adaptive_hig(f, solver="krylov", num_matvecs=4),
    "spring": lambda f: baselines.spring(0.1, f, damping=1e-2),
}
PARAMS = {
    "w": np.linspace(0.5, 1.5, 6, dtype=np.float32).reshape(2, 3),
    "b": np.ones(3, np.float32),
}
X = np.linspace(-1.0, 1.0, 16, dtype=np.float32).reshape(8, 2)


def residual(params, x):
    return jnp.tanh(x @ params["w"] + params["b"]) - x.sum()


def step(opt, params, state, batch):
    def loss(params):
        return jnp.sum(jax.vmap(residual, (None, 0))(params, batch) ** 2)

    return opt.update(jax.grad(loss)(params), state, params, batch=batch)


@functools.cache
def without_switches(optimizer):
    opt = OPTIMIZERS[optimizer](residual)
    params, batch = jax.tree.map(jnp.asarray, (PARAMS, X))
    return jax.jit(lambda *args: step(opt, *args))(params, opt.init(params), batch)[0]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("switch", SWITCHES)
def test_a_healthy_step(switch, optimizer):
    expected = without_switches(optimizer)
    opt = OPTIMIZERS[optimizer](residual)
    params, batch = jax.tree.map(jnp.asarray, (PARAMS, X))
    state = opt.init(params)
    jax.clear_caches()
    fun = jax.jit(lambda *args: step(opt, *args))
    with SWITCHES[switch]():
        found, state = fun(params, state, batch)
        jax.block_until_ready(fun(params, state, batch))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        # Without jit sums are taken in another order: ε of float32 times a condition of 1e2.
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("solver", ["gram", "svd", "krylov"])
def test_rank_zero_is_no_inf_to_look_for(solver):
    """`condition` is inf there, which `jax_debug_infs` would take for a fault."""
    opt = hig_optax.hig(0.1, residual, solver=solver, atol=1e6)
    params, batch = jax.tree.map(jnp.asarray, (PARAMS, X))
    with jax.debug_infs(True):
        _, state = jax.jit(lambda *args: step(opt, *args))(params, opt.init(params), batch)
    spectrum = optax.tree.get(state, "spectrum")
    assert spectrum.rank == 0
    assert spectrum.is_finite
