import jax
import jax.numpy as jnp
import matrices
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matrices import SHAPES, SPECTRA, planted, relative_error

from hig_optax._solvers.direction import half_inverse_direction

EXPONENTS = [1.0, 0.0, -0.5, -0.75, -1.0]

# The settings that may be traced are traced, so that one compilation serves all their values.
jitted = jax.jit(half_inverse_direction, static_argnames=("solver", "max_rank"))


def compute(J, g, *, with_cotangent=True, solver="gram", gradient=None, max_rank=None, **settings):
    """The direction as a function of NumPy arrays, in their dtype."""
    gradient = J.T @ g if gradient is None else gradient
    numbers = {"exponent": -0.5, "rtol": 0.0, "atol": 0.0, "damping": 0.0} | settings
    found = jitted(
        jnp.asarray(J),
        jnp.asarray(gradient),
        jnp.asarray(g) if with_cotangent else None,
        **{name: jnp.asarray(value, J.dtype) for name, value in numbers.items()},
        max_rank=max_rank,
        solver=solver,
    )
    return jax.tree.map(np.asarray, found)


@pytest.mark.parametrize("exponent", EXPONENTS)
@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("with_cotangent", [True, False], ids=["cotangent", "gradient"])
@pytest.mark.parametrize("solver", ["svd", "gram"])
def test_direction_is_the_formula(solver, with_cotangent, shape, spectrum, exponent):
    s = SPECTRA[spectrum](min(SHAPES[shape]))
    J = planted(SHAPES[shape], s)
    g = np.random.default_rng(1).normal(size=J.shape[0])
    with jax.enable_x64(True):
        found = compute(J, g, exponent=exponent, solver=solver, with_cotangent=with_cotangent)
        expected = matrices.direction(J, g, exponent)
        # Relative error of σ² from a Gram matrix is ε·(σ₁/σ)² <= 2e-8 on these spectra, of the rounding in
        # the gradient ε·(σ₁/σ)^(1-κ) <= 2e-8.
        assert relative_error(found.direction, expected) < (1e-7 if solver == "gram" else 3e-8)
        assert found.rank == np.count_nonzero(s)
        assert found.gradient_kept == pytest.approx(1)
        assert found.condition == pytest.approx(s[0] / s[s > 0].min(), rel=1e-6)
        if with_cotangent:
            assert found.gradient_cosine == pytest.approx(1)
        else:
            assert found.gradient_cosine is None


@pytest.mark.parametrize(
    "settings",
    [
        {"rtol": 1e-2},
        {"atol": 3e-3},
        {"max_rank": 5},
        {"damping": 1e-4},
        {"damping": 1e-4, "rtol": 1e-3},
    ],
    ids=str,
)
@pytest.mark.parametrize("exponent", [-0.5, -1.0])
@pytest.mark.parametrize("with_cotangent", [True, False], ids=["cotangent", "gradient"])
@pytest.mark.parametrize("solver", ["svd", "gram"])
def test_cut_and_damping(solver, with_cotangent, exponent, settings):
    J = planted((12, 40), np.logspace(0, -4, 12))
    g = np.random.default_rng(1).normal(size=12)
    with jax.enable_x64(True):
        found = compute(
            J, g, exponent=exponent, solver=solver, with_cotangent=with_cotangent, **settings
        )
        expected = matrices.direction(J, g, exponent, **settings)
        assert relative_error(found.direction, expected) < 1e-7  # as in the test above
        U, s, _ = np.linalg.svd(J)
        energy = (s * (U.T @ g)) ** 2
        rank = int(found.rank)
        assert found.gradient_kept == pytest.approx(energy[:rank].sum() / energy.sum(), rel=1e-9)
        # All but max_rank say where the cut was.
        assert rank == (s > float(found.cutoff)).sum() or rank == settings["max_rank"]


@given(
    m=st.integers(1, 7),
    n=st.integers(1, 7),
    exponent=st.sampled_from(EXPONENTS),
    solver=st.sampled_from(["svd", "gram"]),
    seed=st.integers(0, 99),
)
def test_identities(m, n, exponent, solver, seed):
    """κ = 1 is the vjp, κ = -1 the pseudo-inverse; rotated rows change nothing; cJ scales by c^κ."""
    rng = np.random.default_rng(seed)
    J, g = rng.normal(size=(m, n)), rng.normal(size=m)
    Q = np.linalg.qr(rng.normal(size=(m, m)))[0]
    # A Gram matrix leaves ε·cond² on the smallest value, which κ = -1 takes to the first power twice.
    tolerance = 1e-13 * np.linalg.cond(J) ** 2 * (1 + np.linalg.norm(np.linalg.pinv(J) @ g))
    with jax.enable_x64(True):
        base = compute(J, g, exponent=exponent, solver=solver).direction
        rotated = compute(Q @ J, Q @ g, exponent=exponent, solver=solver).direction
        scaled = compute(3 * J, g, exponent=exponent, solver=solver).direction
        np.testing.assert_allclose(rotated, base, rtol=0, atol=tolerance)
        np.testing.assert_allclose(scaled / 3.0**exponent, base, rtol=0, atol=tolerance)
        if exponent == 1:
            np.testing.assert_allclose(base, J.T @ g, rtol=0, atol=tolerance)
        if exponent == -1:
            np.testing.assert_allclose(base, np.linalg.pinv(J) @ g, rtol=0, atol=tolerance)


@pytest.mark.parametrize("with_cotangent", [True, False], ids=["cotangent", "gradient"])
@pytest.mark.parametrize("solver", ["svd", "gram"])
@pytest.mark.parametrize("scale", [1e-9, 1e9, 2.0**-60, 2.0**60])
def test_scale_of_the_jacobian_in_float32(scale, solver, with_cotangent):
    J = planted((12, 40), np.logspace(0, -3, 12)).astype(np.float32)
    g = np.random.default_rng(1).normal(size=12).astype(np.float32)
    base = compute(J, g, solver=solver, with_cotangent=with_cotangent)
    scaled = compute(
        (J * scale).astype(np.float32), g, solver=solver, with_cotangent=with_cotangent
    )
    assert scaled.rank == base.rank == 12
    # Two float32 roundings of J and of the gradient apart, magnified by (σ₁/σ_r)^(3/2) = 3e4.
    error = relative_error(
        np.asarray(scaled.direction, np.float64) / scale**-0.5, np.asarray(base.direction)
    )
    assert error < 3e4 * 1.2e-7


@pytest.mark.parametrize("solver", ["svd", "gram"])
def test_noise_is_not_inverted_without_a_cut(solver):
    """Dependent rows at rtol=0: rounding noise of 1e-8 σ₁ would come back as a huge step."""
    J = np.repeat(planted((6, 30), np.ones(6)), 2, axis=0).astype(np.float32)
    g = np.random.default_rng(0).normal(size=12).astype(np.float32)
    found = compute(J, g, exponent=-1.0, solver=solver, with_cotangent=True)
    assert found.rank == 6
    assert found.cutoff > 0
    assert np.linalg.norm(found.direction) < 10 * np.linalg.norm(g)


@pytest.mark.parametrize("solver", ["svd", "gram"])
@pytest.mark.parametrize("with_cotangent", [True, False], ids=["cotangent", "gradient"])
def test_zero_jacobian_and_zero_gradient(solver, with_cotangent):
    zero = compute(
        np.zeros((3, 4), np.float32),
        np.ones(3, np.float32),
        solver=solver,
        with_cotangent=with_cotangent,
    )
    assert zero.is_finite
    assert zero.rank == 0
    assert zero.condition == np.inf
    assert zero.gradient_kept == 1
    np.testing.assert_array_equal(zero.direction, 0)
    flat = compute(
        planted((3, 4), np.ones(3)).astype(np.float32),
        np.zeros(3, np.float32),
        solver=solver,
        with_cotangent=with_cotangent,
    )
    assert flat.is_finite
    assert flat.rank == 3
    assert flat.gradient_kept == 1
    np.testing.assert_array_equal(flat.direction, 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["J", "gradient", "cotangent"])
@pytest.mark.parametrize("solver", ["svd", "gram"])
def test_not_finite_is_flagged(solver, where, bad):
    arrays = {
        "J": np.eye(3, 4, dtype=np.float32),
        "gradient": np.ones(4, np.float32),
        "cotangent": np.ones(3, np.float32),
    }
    arrays[where].flat[1] = bad
    found = compute(arrays["J"], arrays["cotangent"], gradient=arrays["gradient"], solver=solver)
    assert not found.is_finite


def test_agreement_is_the_cosine():
    J, g = planted((3, 5), np.ones(3)), np.ones(3)
    with jax.enable_x64(True):
        for gradient, expected in [(J.T @ g, 1.0), (-2 * J.T @ g, -1.0), (np.zeros(5), 0.0)]:
            found = compute(J, g, gradient=gradient)
            assert found.gradient_cosine == pytest.approx(expected)
            np.testing.assert_allclose(found.direction, matrices.direction(J, g, -0.5), atol=1e-12)
        both_zero = compute(J, np.zeros(3), gradient=np.zeros(5))
        assert both_zero.gradient_cosine == 1


def test_gradient_outside_the_row_space_is_dropped():
    J, g = planted((3, 5), np.ones(3)), np.ones(3)
    outside = np.linalg.svd(J)[2][-1] * np.sqrt(3.0)  # as long as the gradient itself
    with jax.enable_x64(True):
        found = compute(J, g, gradient=J.T @ g + outside, with_cotangent=False)
        np.testing.assert_allclose(found.direction, matrices.direction(J, g, -0.5), atol=1e-12)
        assert found.gradient_kept == pytest.approx(0.5)


@pytest.mark.parametrize("solver", ["svd", "gram"])
@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e-3, 1e20])
def test_report_and_damping_at_any_scale_in_float32(scale, solver):
    """Squares of these numbers overflow or vanish in float32; shares, cosines and ratios do not."""
    J = planted((4, 9), np.logspace(0, -1, 4))
    g = np.ones(4)
    for c, d in ((scale, 1.0), (1.0, scale)):
        A, b = (c * J).astype(np.float32), (d * g).astype(np.float32)
        found = compute(
            A,
            b,
            gradient=-(J.T @ g).astype(np.float32) * np.float32(c * d),
            solver=solver,
            max_rank=2,
        )
        assert found.gradient_cosine == pytest.approx(-1, abs=1e-5)
        U, s, _ = np.linalg.svd(J)
        energy = (s * (U.T @ g)) ** 2
        assert found.gradient_kept == pytest.approx(energy[:2].sum() / energy.sum(), rel=1e-4)
    # With λ far above σ² the direction of κ = -1 is Jᵀg/λ.
    A = (1e-20 * J).astype(np.float32)
    found = compute(A, g.astype(np.float32), damping=1.0, exponent=-1.0, solver=solver)
    np.testing.assert_allclose(found.direction, A.T @ g.astype(np.float32), rtol=1e-3)
    assert found.is_finite


def test_a_cut_of_nan_is_flagged():
    found = compute(np.eye(3, 4, dtype=np.float32), np.ones(3, np.float32), rtol=np.nan)
    assert not found.is_finite
