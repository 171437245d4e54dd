"""Factors of J by a direct singular value decomposition, in the dtype of J."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from hig_optax._float64 import dot
from hig_optax._types import Factors

# Rounding noise of a dependent row, in units of ε·σ₁: at most 5.6 over float32 and float64 matrices of
# rank r/2 from 8x20 to 600x600 (see test_factorisations.py), so 8 drops it and stays below the default rtol.
FLOOR_IN_EPS = 8


def factorise(J: Float[Array, "m n"]) -> Factors:
    """Decompose J directly, after QR of its long side and of the triangle that is left.

    The error of a singular value is about ε·σ₁, whatever its size. For a float64 J nothing here is more
    accurate; for a float32 J the Gram matrix in float64 is (both held to figures in test_precision.py).

    Args:
        J: (m, n), float32 or float64, finite.

    Returns:
        Factors with r = min(m, n).
    """
    m, n = J.shape
    if m < n:
        V, s, Ut = _tall_svd(J.T)
        U = Ut.T
    else:
        U, s, Vt = _tall_svd(J)
        V = Vt.T
    return Factors(
        s=s,
        floor=FLOOR_IN_EPS * float(jnp.finfo(J.dtype).eps),
        row_coefficients=lambda g: dot(g.vector, U),
        column_coefficients=lambda x: dot(x.vector, V),
        combine=lambda c: dot(V, c),
    )


def _tall_svd(A: Float[Array, "k r"]) -> tuple[Array, Array, Array]:
    """SVD of a matrix with k >= r: (k, r), (r,), (r, r)."""
    # The first QR shrinks the iteration to r x r. The second one, of the transposed triangle, gathers the
    # large values in its upper corner, which keeps the iteration from smearing them over the small ones:
    # on the quantum dipole (448x9484, rtol 1e-5, float32) it brings the error of the half-inverse from
    # 1.1e-2 to 8.3e-3 and that of Gauss-Newton from 2.0e-2 to 1.2e-2; the float32 J itself leaves 6.8e-3
    # and 8.7e-3.
    Q, R = jnp.linalg.qr(A)
    P, L = jnp.linalg.qr(R.T)
    U, s, Vt = jnp.linalg.svd(L.T)
    return dot(Q, U), s, dot(Vt, P.T)
