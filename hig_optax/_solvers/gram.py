"""Factors of J from the eigenvalues of its Gram matrix, on the shorter side."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from hig_optax._float64 import dot
from hig_optax._jacobian.blocks import Blocks
from hig_optax._jacobian.shares import ColumnShare, RowShare
from hig_optax._types import Factors, Known

# An eigenvalue of the Gram matrix carries an error of about ε·σ₁², so a singular value below sqrt(ε)·σ₁
# is noise. Rank-deficient float64 matrices from 8x20 to 600x600 left at most 3.2 sqrt(ε)·σ₁ (see
# test_factorisations.py); 8 leaves room for other summation orders. In float64 that is 1.2e-7.
FLOOR_IN_SQRT_EPS = 8

# A float32 J decomposed in float64 has only its own rounding: dependent rows left 0.2 ε·σ₁ there, and
# differentiation through physics a few times that.
DATA_FLOOR_IN_EPS = 4


class RowGram(NamedTuple):
    """J with m <= n, of which only J Jᵀ is known.

    A vector of the column side must come with its image J x. In place of one that is asked for stands the
    vector of the row side from which Jᵀ makes it.
    """

    gram: Float[Array, "m m"]
    """J Jᵀ, divided by the square of `unit`."""

    unit: Float[Array, ""]
    """The size of the entries of J; not finite where J is not."""

    def zero_unless(self, condition: Bool[Array, ""]) -> "RowGram":
        """J, or zeros."""
        return RowGram(jnp.where(condition, self.gram, 0), jnp.where(condition, self.unit, 1))


class ColumnGram(NamedTuple):
    """J with m > n, of which only JᵀJ is known. A vector of the row side must come with its image Jᵀ g."""

    gram: Float[Array, "n n"]
    """JᵀJ, divided by the square of `unit`."""

    unit: Float[Array, ""]
    """The size of the entries of J; not finite where J is not."""

    def zero_unless(self, condition: Bool[Array, ""]) -> "ColumnGram":
        """J, or zeros."""
        return ColumnGram(jnp.where(condition, self.gram, 0), jnp.where(condition, self.unit, 1))


def factorise(
    J: Blocks | ColumnShare | RowShare | RowGram | ColumnGram, *, data_eps: float
) -> Factors:
    """Decompose J through the eigenvectors of J Jᵀ or Jᵀ J, whichever is smaller.

    The other side's vectors are never formed: Vᵀx = Σ⁻¹ Uᵀ J x and V c = Jᵀ U Σ⁻¹ c. Nor, on the row side,
    is J: its Gram matrix is summed up block by block.

    Args:
        J: (m, n), finite, entries of order one at most (divide by max |J| before), float64 unless the
            caller accepts that singular values below 1e-3 of the largest are lost in float32. Or one of its
            Gram matrices, which stands for J divided by its unit.
        data_eps: Machine epsilon of the precision in which J was computed.

    Returns:
        Factors with r = min(m, n).
    """
    if isinstance(J, RowGram):
        return _by_rows(J.gram, _image, lambda w: w / J.unit, data_eps)
    if isinstance(J, ColumnGram):
        return _by_columns(J.gram, _image, data_eps)
    if not isinstance(J, RowShare) and J.shape[0] <= J.shape[1]:
        return _by_rows(J.gram(), lambda x: J.matvec(x.vector), J.rmatvec, data_eps)
    assert not isinstance(J, ColumnShare), (
        "columns are shared where there are more of them than rows"
    )
    return _by_columns(J.column_gram(), lambda g: J.rmatvec(g.vector), data_eps)


def _by_rows(
    gram: Float[Array, "m m"],
    matvec: Callable[[Known], Array],
    rmatvec: Callable[[Array], Array],
    data_eps: float,
) -> Factors:
    s, U = _eigen(gram)
    inverse = _safe_inverse(s)
    return Factors(
        s=s,
        floor=_floor(gram, data_eps),
        row_coefficients=lambda g: dot(g.vector, U),
        column_coefficients=lambda x: inverse * dot(matvec(x), U),
        combine=lambda c: rmatvec(dot(U, inverse * c)),
    )


def _by_columns(
    gram: Float[Array, "n n"], rmatvec: Callable[[Known], Array], data_eps: float
) -> Factors:
    s, V = _eigen(gram)
    inverse = _safe_inverse(s)
    return Factors(
        s=s,
        floor=_floor(gram, data_eps),
        row_coefficients=lambda g: inverse * dot(rmatvec(g), V),
        column_coefficients=lambda x: dot(x.vector, V),
        combine=lambda c: dot(V, c),
    )


def _image(x: Known) -> Array:
    assert x.image is not None, "where only a Gram matrix is known, the image is needed"
    return x.image


def _floor(gram: Array, data_eps: float) -> float:
    eps = float(jnp.finfo(gram.dtype).eps)
    return max(FLOOR_IN_SQRT_EPS * eps**0.5, DATA_FLOOR_IN_EPS * data_eps)


def _eigen(gram: Float[Array, "r r"]) -> tuple[Float[Array, " r"], Float[Array, "r r"]]:
    """Square roots of the eigenvalues, descending, and the eigenvectors, of a semidefinite matrix."""
    eigenvalues, vectors = jnp.linalg.eigh(gram, symmetrize_input=False)
    # The smallest eigenvalues of a semidefinite matrix come out on either side of zero.
    return jnp.sqrt(jnp.maximum(eigenvalues[::-1], 0)), vectors[:, ::-1]


def _safe_inverse(s: Float[Array, " r"]) -> Float[Array, " r"]:
    return jnp.where(s > 0, 1 / jnp.where(s > 0, s, 1), 0)
