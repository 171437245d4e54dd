"""The two direct solvers, held to what a direction asks of them; a new solver joins SOLVERS."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matrices import SHAPES, SPECTRA, planted

from hig_optax._solvers import gram as gram_solver
from hig_optax._solvers import svd
from hig_optax._solvers.formula import inverse


class ByGram:
    """J by the eigenvectors of its Gram matrix, as the direction uses them."""

    def __init__(self, A, data_eps=2.3e-16):
        self.A, self.is_wide = A, A.shape[0] <= A.shape[1]
        S = A if self.is_wide else A.T
        self.at = gram_solver.eigen(S @ S.T, jnp.ones(()))
        self.s, self.floor = self.at.s, gram_solver.floor(A.dtype, data_eps)

    def rows(self, g):
        return g @ self.at.Q if self.is_wide else inverse(self.s) * ((g @ self.A) @ self.at.Q)

    def columns(self, x):
        return inverse(self.s) * ((self.A @ x) @ self.at.Q) if self.is_wide else x @ self.at.Q

    def combine(self, c, *, size):
        found = gram_solver.back(self.at, c, by_rows=self.is_wide)
        return found @ self.A if self.is_wide else found


def gram(A, data_eps=2.3e-16):
    return ByGram(A, data_eps)


SOLVERS = {"svd": svd.factorise, "gram": gram}


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_factors_in_float64(solver, shape, spectrum):
    s = SPECTRA[spectrum](min(SHAPES[shape]))
    A = planted(SHAPES[shape], s)
    rng = np.random.default_rng(1)
    g, x = rng.normal(size=A.shape[0]), rng.normal(size=A.shape[1])
    with jax.enable_x64(True):
        factors = SOLVERS[solver](jnp.asarray(A))
        floor = factors.floor if solver == "gram" else svd.FLOOR_IN_EPS * 2.3e-16
        kept = np.asarray(factors.s) > floor * factors.s[0]
        c = jnp.where(kept, factors.rows(jnp.asarray(g)), 0)
        d = jnp.where(kept, factors.columns(jnp.asarray(x)), 0)
        from_c = factors.combine(c * factors.s, size=A.shape[1])
        projected = factors.combine(d, size=A.shape[1])
        # The Gram matrix leaves an absolute error of ε·σ₁² on σ², so of ε·σ₁²/σ on a kept σ: here
        # 2e-16/1e-4 with room for the size of the matrix; a zero comes out as sqrt(ε)·σ₁.
        tolerance = 1e-13 if solver == "svd" else 1e-10
        np.testing.assert_allclose(np.asarray(factors.s)[kept], s[: kept.sum()], atol=tolerance)
        assert np.all(np.asarray(factors.s)[~kept] <= floor)
        assert kept.sum() == np.count_nonzero(s)
        # V Σ Uᵀ g = Jᵀ g, and V Vᵀ x is the projection on the row space.
        np.testing.assert_allclose(from_c, A.T @ g, atol=1e-11)
        # The pseudo-inverse divides rounding by the smallest kept value, 1e-4, once more for a Gram.
        row_space = np.linalg.pinv(A, rcond=1e-10) @ A @ x
        np.testing.assert_allclose(projected, row_space, atol=1e-11 if solver == "svd" else 1e-7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(8, 20), (32, 1444), (256, 30), (300, 300)])
@pytest.mark.parametrize("condition", [1.0, 1e3])
@pytest.mark.parametrize("solver", SOLVERS)
def test_noise_of_dependent_rows_stays_below_the_floor(solver, shape, condition, dtype):
    """Half of the singular values are exactly zero before rounding; none may pass for a real one."""
    r = min(shape) // 2
    A = planted(shape, np.logspace(0, -np.log10(condition), r)).astype(dtype)
    with jax.enable_x64(True):
        if solver == "gram":
            factors = gram(jnp.asarray(A, jnp.float64), data_eps=float(np.finfo(dtype).eps))
            floor = factors.floor
        else:
            factors = svd.factorise(jnp.asarray(A))
            floor = svd.FLOOR_IN_EPS * np.finfo(dtype).eps
        assert int((factors.s > floor * factors.s[0]).sum()) == r
        assert floor < 1e-6  # below the default rtol, which must mean what it says
