"""The matrix-free solver: exact once its subspace holds the row space, and never silently wrong before."""

import functools

import jax
import jax.numpy as jnp
import matrices
import numpy as np
import pytest
from matrices import SPECTRA, planted, relative_error

import hig_optax
from hig_optax._jacobian.leaves import Dense
from hig_optax._solvers.krylov import bidiagonalise
from hig_optax._solvers.subspace import krylov_direction

SHAPES = {"wide": (24, 90), "tall": (90, 24), "one row": (1, 9)}


def maps(J):
    return lambda v: J @ v, lambda u: u @ J


@jax.jit
def bidiagonal(J, start):
    return bidiagonalise(
        *maps(J), start, num_matvecs=40, columns=J.shape[1], orthogonal_columns=False
    )


@functools.partial(jax.jit, static_argnames=("k", "solver"))
def jitted(J, gradient, cotangent, exponent, rtol, *, k, solver):
    return krylov_direction(
        Dense(J),
        gradient,
        cotangent,
        num_matvecs=k,
        exponent=exponent,
        rtol=rtol,
        atol=0.0,
        damping=0.0,
        max_rank=None,
        solver=solver,
    )


def compute(J, g, k, *, with_cotangent=True, gradient=None, exponent=-0.5, rtol=1e-6, solver="svd"):
    gradient = J.T @ g if gradient is None else gradient
    cotangent = g if with_cotangent else None
    found = jitted(
        J, gradient, cotangent, J.dtype.type(exponent), J.dtype.type(rtol), k=k, solver=solver
    )
    return jax.tree.map(np.asarray, found)


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("shape", SHAPES)
def test_bidiagonalisation(shape, spectrum):
    J = planted(SHAPES[shape], SPECTRA[spectrum](min(SHAPES[shape])))
    with jax.enable_x64(True):
        B, V = map(np.asarray, bidiagonal(J, np.random.default_rng(1).normal(size=J.shape[0])))
    alive = np.linalg.norm(V, axis=1) > 0
    count = alive.sum()
    assert np.all(alive[:count]), "once exhausted, it stays so"
    assert count <= np.linalg.matrix_rank(J, tol=1e-12) + 1  # one more may be rounding, to be cut
    # The shorter side is orthonormal to rounding, the other one up to the condition, 1e4, times that.
    settled = V[: np.linalg.matrix_rank(J, tol=1e-12)][: count - 1]
    np.testing.assert_allclose(settled @ settled.T, np.eye(len(settled)), atol=1e-11)
    # J V = U B with U as orthonormal, so the Gram matrices are equal.
    size = len(settled)
    np.testing.assert_allclose((B.T @ B)[:size, :size], settled @ J.T @ J @ settled.T, atol=1e-11)
    row_space = np.linalg.pinv(J, rcond=1e-10) @ J
    np.testing.assert_allclose(settled @ row_space, settled, atol=1e-7)


@pytest.mark.parametrize("exponent", [0.0, -0.5, -1.0])
@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("with_cotangent", [True, False], ids=["cotangent", "gradient"])
def test_exact_once_the_row_space_is_exhausted(with_cotangent, shape, spectrum, exponent):
    J = planted(SHAPES[shape], SPECTRA[spectrum](min(SHAPES[shape])))
    g = np.random.default_rng(1).normal(size=J.shape[0])
    with jax.enable_x64(True):
        found = compute(J, g, 40, exponent=exponent, with_cotangent=with_cotangent)
    # From the gradient: its rounding, ε·(σ₁/σ)^(1-κ) = 2e-8 at κ = -1 and a condition of 1e4.
    tolerance = 1e-9 if with_cotangent else 1e-7
    assert relative_error(found.direction, matrices.direction(J, g, exponent)) < tolerance
    assert found.is_finite
    assert found.gradient_kept == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("num_matvecs", [3, 8, 12, 13, 16, 24, 40])
@pytest.mark.parametrize("with_cotangent", [True, False], ids=["cotangent", "gradient"])
def test_float32_is_never_far_from_float64(with_cotangent, num_matvecs):
    """Before, at and past the rank of 12, where rounding alone could open new directions."""
    J = planted((60, 200), np.logspace(0, -2, 12))
    g = np.random.default_rng(1).normal(size=60)
    with jax.enable_x64(True):
        exact = compute(J, g, num_matvecs, with_cotangent=with_cotangent)
    found = compute(
        J.astype(np.float32),
        g.astype(np.float32),
        num_matvecs,
        with_cotangent=with_cotangent,
        solver="gram",
    )
    # ε·(σ₁/σ_rank)^(1-κ) = 6e-8 · 1e3, times 10; the docstring of scale_by_hig allows for 50.
    assert relative_error(found.direction, exact.direction) < 6e-4
    assert found.rank == exact.rank == min(num_matvecs, 12)


# Three times what was measured, for another summation order. The svd solver has 1.4e-2 at 1e-6.
@pytest.mark.parametrize(
    ("rtol", "error"), [(1e-2, 7e-6), (1e-3, 6e-5), (1e-4, 6e-4), (1e-6, 8e-2)]
)
def test_seven_decades_in_float32(rtol, error):
    """The spectrum of test_precision.py, with more products than there are rows."""
    J = planted((96, 400), np.logspace(0, -7, 96))
    g = np.random.default_rng(1).normal(size=96)
    single = [x.astype(np.float32) for x in (J, g)]
    found = compute(*single, 120, rtol=rtol, solver="gram")
    assert relative_error(found.direction, matrices.direction(J, g, -0.5, rtol=rtol)) < error
    assert found.rank == np.count_nonzero(np.logspace(0, -7, 96) > rtol)
    with jax.enable_x64(True):
        exact = compute(J, g, 120, rtol=rtol)
    assert relative_error(exact.direction, matrices.direction(J, g, -0.5, rtol=rtol)) < 2e-10


def test_what_lies_outside_the_row_space_is_dropped():
    J = planted((24, 90), np.logspace(0, -1.5, 24))
    g, rng = np.random.default_rng(1).normal(size=24), np.random.default_rng(2)
    foreign = rng.normal(size=90)
    foreign -= np.linalg.pinv(J) @ (J @ foreign)
    x = J.T @ g + foreign * np.linalg.norm(J.T @ g) / np.linalg.norm(foreign)
    with jax.enable_x64(True):
        for k in (4, 10, 24, 40):
            clean = compute(J, g, k, with_cotangent=False)
            found = compute(J, g, k, with_cotangent=False, gradient=x)
            assert relative_error(found.direction, clean.direction) < 1e-9
            assert found.gradient_kept == pytest.approx(clean.gradient_kept / 2, rel=1e-6)


def promised(J, g, direction):
    """Share of ½‖g‖² by which the best length of a direction lowers ½‖g - J·step‖²."""
    image = J @ direction
    return (g @ image) ** 2 / ((image @ image) * (g @ g))


@pytest.mark.parametrize("exponent", [0.0, -0.5, -1.0])
@pytest.mark.parametrize("with_cotangent", [True, False], ids=["cotangent", "gradient"])
def test_unsettled_is_what_the_second_half_of_the_products_brought(with_cotangent, exponent):
    J = planted((60, 200), np.logspace(0, -1.5, 60))
    g = np.random.default_rng(1).normal(size=60)
    with jax.enable_x64(True):
        for k in (2, 8, 9, 16, 32):
            found, half = (
                compute(J, g, count, with_cotangent=with_cotangent, exponent=exponent)
                for count in (k, k // 2)
            )
            whole, first = promised(J, g, found.direction), promised(J, g, half.direction)
            expected = np.clip((whole - first) / whole, 0, 1)
            if with_cotangent:
                expected = min(expected, 1 - whole)
            np.testing.assert_allclose(found.unsettled, expected, rtol=1e-6, atol=1e-9)


def test_unsettled_says_what_twice_the_products_would_add():
    J = planted((60, 200), np.logspace(0, -1.5, 60))
    g = np.random.default_rng(1).normal(size=60)
    with jax.enable_x64(True):
        found = {k: compute(J, g, k, exponent=-1.0) for k in (1, 2, 4, 8, 16, 32, 64, 128)}
    told = {k: float(x.unsettled) for k, x in found.items()}
    decreases = {k: promised(J, g, x.direction) for k, x in found.items()}
    # Of a single product nothing is known but what it leaves.
    assert told[1] == pytest.approx(1 - decreases[1])
    for k in (1, 2, 4, 8, 16, 32):
        added = 1 - decreases[k] / decreases[2 * k]
        assert added * (1 - 1e-9) < told[k] < 2 * added
    # The subspace is exhausted at 60: no product can add to it.
    assert told[64] == told[128] == 0


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_extreme_units(scale):
    J = planted((24, 90), np.logspace(0, -1, 24)).astype(np.float32)
    g = np.random.default_rng(1).normal(size=24).astype(np.float32)
    plain = compute(J, g, 30, solver="gram")
    scaled = compute(J * np.float32(scale), g, 30, solver="gram")
    assert scaled.rank == plain.rank == 24
    assert scaled.gradient_cosine == pytest.approx(1, abs=1e-5)
    few, few_scaled = (
        compute(x, g, 8, solver="gram").unsettled for x in (J, J * np.float32(scale))
    )
    assert 0 < few == pytest.approx(few_scaled, abs=1e-4)
    assert relative_error(scaled.direction, plain.direction * scale**-0.5) < 1e-5


def test_nothing_and_nan():
    J = planted((6, 9), np.ones(6)).astype(np.float32)
    for with_cotangent in (True, False):
        still = compute(J, np.zeros(6, np.float32), 4, with_cotangent=with_cotangent, solver="gram")
        assert still.is_finite
        assert not still.direction.any()
        assert still.gradient_kept == 1
        assert still.unsettled == 0
        broken = J.copy()
        broken[2, 3] = np.nan
        found = compute(broken, np.ones(6, np.float32), 4, with_cotangent=with_cotangent)
        assert not found.is_finite


def residual(w, x):
    return jnp.tanh(w["a"] @ x) * w["b"]


def problem(dtype=jnp.float32):
    rng = np.random.default_rng(0)
    w = {"a": jnp.asarray(rng.normal(size=(3, 5)), dtype), "b": jnp.asarray(rng.normal(), dtype)}
    return w, jnp.asarray(rng.normal(size=(7, 5)), dtype)


def loss_fn(rows, _batch):
    return jnp.sum(rows**2) / 2


def loss(w, batch):
    return loss_fn(jax.vmap(residual, (None, 0))(w, batch), batch)


@pytest.mark.parametrize("settings", [{}, {"chunk_size": 3}, {"chunk_size": 7}])
def test_as_an_optimizer_it_is_the_exact_one(settings):
    with jax.enable_x64(True):
        w, batch = problem(jnp.float64)
        grads = jax.grad(loss)(w, batch)

        def direction(**settings):
            opt = hig_optax.scale_by_hig(residual, loss_fn=loss_fn, rtol=1e-9, **settings)
            return jax.jit(opt.update)(grads, opt.init(w), w, batch=batch)

        updates, state = direction(solver="krylov", num_matvecs=21, **settings)
        expected, reference = direction(solver="svd")
    for a, b in zip(jax.tree.leaves(updates), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8)
    assert state.spectrum.rank == reference.spectrum.rank
    assert state.spectrum.gradient_cosine == pytest.approx(1)
    np.testing.assert_allclose(
        state.spectrum.singular_values, reference.spectrum.singular_values, rtol=1e-6, atol=1e-9
    )


def test_one_trace_under_scan_and_vmap():
    w, batch = problem()
    opt = hig_optax.hig(0.1, residual, loss_fn=loss_fn, solver="krylov", num_matvecs=5)

    def train(w):
        def step(carry, _):
            w, state = carry
            updates, state = opt.update(jax.grad(loss)(w, batch), state, w, batch=batch)
            return (jax.tree.map(jnp.add, w, updates), state), loss(w, batch)

        return jax.lax.scan(step, (w, opt.init(w)), length=30)[1]

    one = jax.jit(train)(w)
    many = jax.jit(jax.vmap(train))(jax.tree.map(lambda x: jnp.stack([x, 2 * x]), w))
    assert one[-1] < 0.1 * one[0]
    np.testing.assert_allclose(many[0], one, rtol=1e-3)


def test_unsettled_of_steps_that_choose_their_own_length():
    """Rows that cannot vanish, under scan; side by side as alone."""

    def to_targets(w, x):
        return residual(w, x[:5]) - x[5:]

    w, _ = problem()
    batch = jnp.asarray(np.random.default_rng(3).normal(size=(7, 8)), jnp.float32)

    def told(w, num_matvecs):
        opt = hig_optax.adaptive_hig(to_targets, solver="krylov", num_matvecs=num_matvecs)

        def step(carry, _):
            w, state = carry
            updates, state = opt.update(None, state, w, batch=batch)
            return (jax.tree.map(jnp.add, w, updates), state), state.spectrum.unsettled

        return jax.lax.scan(step, (w, opt.init(w)), length=4)[1]

    few, enough = (functools.partial(told, num_matvecs=k) for k in (2, 16))
    one = jax.jit(few)(w)
    many = jax.jit(jax.vmap(few))(jax.tree.map(lambda x: jnp.stack([x, 2 * x]), w))
    np.testing.assert_allclose(many[0], one, rtol=1e-3, atol=1e-5)
    # The first step had 0.46 of the loss, with 16 products 0.55.
    assert np.all((one > 0.1) & (one < 1))
    assert np.all(jax.jit(enough)(w) < 0.01)
    assert np.all(np.isnan(jax.jit(few)({"a": w["a"], "b": jnp.nan})))


def test_whole_batch_and_shared_leaves():
    w, batch = problem()
    whole = hig_optax.scale_by_hig(
        lambda w, x: jax.vmap(residual, (None, 0))(w, x),
        loss_fn=loss_fn,
        batch_axis=None,
        solver="krylov",
    )
    each = hig_optax.scale_by_hig(residual, loss_fn=loss_fn, solver="krylov")
    grads = jax.grad(loss)(w, batch)
    a, _ = whole.update(grads, whole.init(w), w, batch=batch)
    b, _ = each.update(grads, each.init(w), w, batch=batch)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4)


def test_a_residual_without_a_forward_rule_is_refused():
    @jax.custom_vjp
    def solve(x):
        return x**2

    solve.defvjp(lambda x: (x**2, x), lambda x, g: (2 * x * g,))
    opt = hig_optax.scale_by_hig(lambda w, x: solve(w * x), solver="krylov")
    w, batch = jnp.ones(2), jnp.ones((3, 2))
    with pytest.raises(
        ValueError, match=r'solver="krylov" cannot pass through residual_fn.* Use solver="gram"'
    ):
        opt.update(w, opt.init(w), w, batch=batch)
