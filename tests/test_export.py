"""Programs for platforms that this machine lacks: what is in them, and that the target chooses the solver."""

import re

import jax
import jax.numpy as jnp
import pytest
from jax import export

import hig_optax
from hig_optax._float64 import target_platform

EIGH = {"cuda": {"cusolver_syevd_ffi"}, "rocm": {"hipsolver_syevd_ffi"}, "tpu": {"Eigh"}}
# A singular value decomposition goes by way of a QR decomposition; XLA for TPUs makes it of an Eigh.
SVD = {
    "cuda": {"cusolver_geqrf_ffi", "cusolver_orgqr_ffi", "cusolver_gesvdj_ffi"},
    "rocm": {"hipsolver_geqrf_ffi", "hipsolver_orgqr_ffi", "hipsolver_gesvdj_ffi"},
    "tpu": {"Qr", "ProductOfElementaryHouseholderReflectors", "Eigh"},
}


def target(platform):
    """Within it, programs are traced for a platform."""
    device = jax.sharding.AbstractDevice(platform, num_cores=1, platform=platform)
    mesh = jax.sharding.AbstractMesh((1,), ("data",), abstract_device=device)
    return jax.sharding.use_abstract_mesh(mesh)


def residual(params, x):
    return jnp.tanh(x @ params["w"]) - x[:2]


def exported(platform, solver, dtype=jnp.float32):
    """(custom calls, whether there is float64) in the program of a jitted step."""
    opt = hig_optax.hig(0.1, residual, solver=solver)
    # Shapes alone: under an abstract mesh newer releases of JAX make no arrays.
    params = {"w": jax.ShapeDtypeStruct((3, 2), dtype)}
    batch = jax.ShapeDtypeStruct((5, 3), dtype)

    def step(params, state, batch):
        return opt.update(jax.tree.map(jnp.ones_like, params), state, params, batch=batch)

    arguments = params, jax.eval_shape(opt.init, params), batch
    text = export.export(jax.jit(step), platforms=[platform])(*arguments).mlir_module()
    return set(re.findall(r"custom_call @(\w+)", text)), "f64" in text


@pytest.mark.parametrize("platform", ["cuda", "rocm"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64, jnp.complex64, jnp.complex128])
def test_programs_for_gpus(platform, dtype):
    with jax.enable_x64(jnp.finfo(dtype).bits == 64):
        for solver in ("auto", "gram", "krylov"):
            assert exported(platform, solver, dtype) == (EIGH[platform], True)
        # Without an island of float64, there is none but where the parameters have it.
        is_wide = jnp.finfo(dtype).bits == 64
        calls, has_float64 = exported(platform, "svd", dtype)
        assert calls == SVD[platform]
        assert has_float64 == is_wide


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.complex64])
def test_programs_for_a_tpu_have_no_float64_where_the_target_is_named(dtype):
    with target("tpu"):
        for solver in ("auto", "svd", "krylov"):
            assert exported("tpu", solver, dtype) == (SVD["tpu"], False)
        with pytest.raises(ValueError, match="needs float64, which the backend 'tpu' lacks"):
            exported("tpu", "gram", dtype)


def test_a_target_that_is_not_named_is_the_machine_that_traces():
    # JAX tells a function that is traced nothing about the platforms of its export.
    assert target_platform() == jax.default_backend()
    assert exported("tpu", "auto") == (EIGH["tpu"], True)
    assert exported("tpu", "svd") == (SVD["tpu"], False)


def test_the_target_is_that_of_the_mesh_then_that_of_the_default_device():
    with jax.default_device("tpu"):
        assert target_platform() == "tpu"
        with target("cuda"):
            assert target_platform() == "cuda"
    with jax.default_device(jax.devices()[0]):
        assert target_platform() == jax.devices()[0].platform


def test_a_jitted_step_is_traced_anew_for_another_target():
    opt = hig_optax.hig(0.1, residual)
    params = {"w": jnp.ones((3, 2))}
    arguments = params, opt.init(params), params, jnp.ones((5, 3))
    step = jax.jit(lambda *xs: opt.update(*xs[:3], batch=xs[3]))
    assert "f64" in str(step.trace(*arguments).jaxpr)
    with target("tpu"):
        assert "f64" not in str(step.trace(*arguments).jaxpr)
    assert "f64" in str(step.trace(*arguments).jaxpr)
