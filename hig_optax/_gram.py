"""Factors of J from the eigenvalues of its Gram matrix, on the shorter side."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from hig_optax._blocks import Blocks, symmetric_product
from hig_optax._float64 import dot
from hig_optax._types import Factors

# An eigenvalue of the Gram matrix carries an error of about ε·σ₁², so a singular value below sqrt(ε)·σ₁
# is noise. Rank-deficient float64 matrices from 8x20 to 600x600 left at most 3.2 sqrt(ε)·σ₁ (see
# test_factorisations.py); 8 leaves room for other summation orders. In float64 that is 1.2e-7.
FLOOR_IN_SQRT_EPS = 8

# A float32 J decomposed in float64 has only its own rounding: dependent rows left 0.2 ε·σ₁ there, and
# differentiation through physics a few times that.
DATA_FLOOR_IN_EPS = 4


def factorise(J: Blocks, *, data_eps: float) -> Factors:
    """Decompose J through the eigenvectors of J Jᵀ or Jᵀ J, whichever is smaller.

    The other side's vectors are never formed: Vᵀx = Σ⁻¹ Uᵀ J x and V c = Jᵀ U Σ⁻¹ c. Nor, on the row side,
    is J: its Gram matrix is summed up block by block.

    Args:
        J: (m, n), finite, entries of order one at most (divide by max |J| before), float64 unless the
            caller accepts that singular values below 1e-3 of the largest are lost in float32.
        data_eps: Machine epsilon of the precision in which J was computed.

    Returns:
        Factors with r = min(m, n).
    """
    floor = max(
        FLOOR_IN_SQRT_EPS * float(jnp.finfo(J.dtype).eps) ** 0.5, DATA_FLOOR_IN_EPS * data_eps
    )
    m, n = J.shape
    if m <= n:
        s, U = _eigen(J.gram())
        inverse = _safe_inverse(s)
        return Factors(
            s=s,
            floor=floor,
            row_coefficients=lambda g: dot(g, U),
            column_coefficients=lambda x: inverse * dot(J.matvec(x), U),
            combine=lambda c: J.rmatvec(dot(U, inverse * c)),
        )
    s, V = _eigen(symmetric_product(J.written_out().T))
    inverse = _safe_inverse(s)
    return Factors(
        s=s,
        floor=floor,
        row_coefficients=lambda g: inverse * dot(J.rmatvec(g), V),
        column_coefficients=lambda x: dot(x, V),
        combine=lambda c: dot(V, c),
    )


def _eigen(gram: Float[Array, "r r"]) -> tuple[Float[Array, " r"], Float[Array, "r r"]]:
    """Square roots of the eigenvalues, descending, and the eigenvectors, of a semidefinite matrix."""
    eigenvalues, vectors = jnp.linalg.eigh(gram, symmetrize_input=False)
    # The smallest eigenvalues of a semidefinite matrix come out on either side of zero.
    return jnp.sqrt(jnp.maximum(eigenvalues[::-1], 0)), vectors[:, ::-1]


def _safe_inverse(s: Float[Array, " r"]) -> Float[Array, " r"]:
    return jnp.where(s > 0, 1 / jnp.where(s > 0, s, 1), 0)
