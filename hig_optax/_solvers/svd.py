"""The direction from a direct singular value decomposition of J, in the dtype of J."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from hig_optax._decompositions import qr, svd
from hig_optax._devices.devices import Devices
from hig_optax._float64 import dot
from hig_optax._jacobian.algebra import Jacobian
from hig_optax._solvers.formula import (
    Coordinates,
    Direction,
    Numbers,
    RowBlocks,
    Scaling,
    cosine,
    in_unit,
    inverse,
    shares_of,
    solve,
    told,
    unit_of,
)

# Rounding noise of a dependent row, in units of ε·σ₁: at most 5.6 over float32 and float64 matrices of
# rank r/2 from 8x20 to 600x600 (see test_factorisations.py), so 8 drops it and stays below the default rtol.
FLOOR_IN_EPS = 8


class Factors(NamedTuple):
    """J = U Σ Vᵀ, of devices with this one's share of the basis of the long side."""

    s: Float[Array, " r"]
    short: Float[Array, "p r"]
    """U where J has no more rows than columns, else V."""
    long: Float[Array, "q r"]
    """The other one."""
    is_wide: bool
    devices: Devices | None

    def of_long(self, x: Float[Array, " Q"]) -> Float[Array, " r"]:
        """Coefficients of a vector of the long side."""
        if self.devices is None:
            return dot(x, self.long)
        return self.devices.sum(dot(self.devices.own(x, length=self.long.shape[0]), self.long))

    def rows(self, g: Float[Array, " m"]) -> Float[Array, " r"]:
        """``g -> Uᵀ g``."""
        return dot(g, self.short) if self.is_wide else self.of_long(g)

    def columns(self, x: Float[Array, " n"]) -> Float[Array, " r"]:
        """``x -> Vᵀ x``."""
        return self.of_long(x) if self.is_wide else dot(x, self.short)

    def combine(self, c: Float[Array, " r"], *, size: int) -> Float[Array, " n"]:
        """``c -> V c``, `size` numbers."""
        if not self.is_wide:
            return dot(self.short, c)
        own = dot(self.long, c)
        return own if self.devices is None else self.devices.whole(own, size=size)


def direction(
    J: Jacobian,
    gradient: Float[Array, " n"],
    cotangent: Float[Array, " m"] | None,
    numbers: Numbers,
    *,
    scaling: Scaling | None = None,
    row_blocks: RowBlocks = (),
) -> Direction:
    """The direction V f(Σ) Uᵀ g, see `hig_optax._solvers.direction`.

    The error of a singular value is about ε·σ₁, whatever its size. For a float64 J nothing here is more
    accurate; for a float32 J the Gram matrix in float64 is (both held to figures in test_precision.py).
    """
    matrix = J.matrix()
    largest = jnp.max(jnp.abs(matrix), initial=0)
    unit, is_finite = unit_of(largest if J.devices is None else J.devices.largest(largest))
    x, x_unit, x_finite = in_unit(gradient)
    vector_unit, g = x_unit, None
    is_finite &= x_finite
    if cotangent is not None:
        g, vector_unit, g_finite = in_unit(cotangent)
        is_finite &= g_finite
    # A decomposition of NaN costs a full iteration, and what it returns depends on the backend.
    factors = factorise(jnp.where(is_finite, matrix / unit, 0), shape=J.shape, devices=J.devices)
    previous = None if scaling is None else scaling.previous
    coordinates = Coordinates(
        s=factors.s,
        floor=FLOOR_IN_EPS * float(jnp.finfo(J.dtype).eps),
        unit=unit,
        gradient=factors.columns(x) if g is None else None,
        cotangent=None if g is None else factors.rows(g),
        vector_unit=vector_unit,
        total=jnp.sum(jnp.square(x)),
        previous=None if previous is None else factors.columns(previous),
        is_finite=is_finite,
    )
    solved = solve(coordinates, numbers, scaling)
    found = factors.combine(solved.coefficients, size=J.shape[1]) * solved.size
    gradient_cosine = None if g is None else cosine(x, J.rmatvec(g))
    shares = {}
    if row_blocks:
        flat = factors.combine(inverse(factors.s) * solved.kept, size=J.shape[1])
        shares = shares_of(J.matvec(flat), row_blocks)
    return told(solved, found, gradient_cosine, shares, scaling)


def factorise(
    A: Float[Array, "M N"], *, shape: tuple[int, int] | None = None, devices: Devices | None = None
) -> Factors:
    """Decompose a matrix directly, after QR of its long side and of the triangle that is left.

    Args:
        A: (m, n), float32 or float64, finite; of several devices this one's share of the long side, zero
            where that is longer than the matrix.
        shape: (m, n), where A is a share.
        devices: Those that have the other shares.

    Returns:
        Factors with r = min(m, n).
    """
    m, n = shape or A.shape
    # Of a square J the columns are shared.
    is_wide = m < n if devices is None else m <= n
    long, s, short = _tall_svd(A.T if is_wide else A, devices)
    return Factors(s, short.T, long, is_wide, devices)


def _tall_svd(A: Float[Array, "k r"], devices: Devices | None) -> tuple[Array, Array, Array]:
    """SVD of a matrix with k >= r, rows over devices: (k, r), (r,), (r, r)."""
    # The first QR shrinks the iteration to r x r. The second one, of the transposed triangle, gathers the
    # large values in its upper corner, which keeps the iteration from smearing them over the small ones:
    # on the quantum dipole (448x9484, rtol 1e-5, float32) it brings the error of the half-inverse from
    # 1.1e-2 to 8.3e-3 and that of Gauss-Newton from 2.0e-2 to 1.2e-2; the float32 J itself leaves 6.8e-3
    # and 8.7e-3.
    Q, R = _tall_qr(A, devices)
    P, L = qr(R.T)
    U, s, Vt = svd(L.T)
    return dot(Q, U), s, dot(Vt, P.T)


def _tall_qr(A: Float[Array, "k r"], devices: Devices | None) -> tuple[Array, Array]:
    """QR of a matrix with rows over devices: this device's rows of Q, and R.

    Each device decomposes its own rows. Then devices meet in groups, of two where their number allows, and
    decompose what their triangles are on top of each other, until all have met.
    """
    Q, R = qr(A)
    for members, stride in devices.stages() if devices is not None else ():
        assert devices is not None
        of_group, R = qr(devices.of_group(R, members, stride))
        Q = dot(Q, devices.block_of_group(of_group, members, stride))
    return Q, R
